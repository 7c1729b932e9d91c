"""`run.track`: finished runs in TensorBoard, Weights & Biases and MLflow, each with the real package, offline.

Those three tests are skipped where the package is not installed; what all trackers share is tested with one of our own.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from semclip_eval import cli, trackers
from semclip_eval.errors import ConfigError
from semclip_eval.results.summary import read_rows, read_summary
from semclip_eval.run import execute
from semclip_eval.trackers.base import TrackedRun, Tracker, tracked_run
from tests.fakes import SEMCLIP, config

GROUPED = {"_target_": "tests.test_report.GroupedBenchmark", "name": "grouped", "count": 30}


class Remembered(Tracker):
    """Keeps what it is given; fails where it is told to."""

    runs: ClassVar[list[TrackedRun]] = []
    fails: ClassVar[bool] = False

    def write(self, run: TrackedRun) -> str:
        if self.fails:
            raise ConnectionError("no network\nat all")
        self.runs.append(run)
        return "nowhere"


@pytest.fixture
def remembered(monkeypatch) -> type[Remembered]:
    monkeypatch.setitem(trackers.TRACKERS, "remembered", ("tests.test_trackers.Remembered", "json"))
    monkeypatch.setattr(Remembered, "runs", [])
    return Remembered


def numbers_of(folder: Path) -> dict[str, float]:
    """What a tracker must show, from the files by hand."""
    row = read_summary(folder)
    texts = {"run_id", "profile", "benchmark", "split", "protocol", "model", "selector", "crops", "psi", "uses_truth"}
    texts |= {"mode", "metric", "device", "dtype", "attn", "package_version", "git_commit", "started_at"}
    texts |= {name for name in row if name.endswith(("_revision", "_training"))}
    numbers = {name: float(cell) for name, cell in row.items() if cell and name not in texts}
    for line in read_rows(folder / "categories.csv"):
        cells = {name: float(cell) for name, cell in list(line.items())[3:] if cell}
        if line["breakdown"] == "all":
            numbers |= {name: value for name, value in cells.items() if name not in row}
        else:
            numbers |= {f"{line['breakdown']}/{line['category']}/{name}": value for name, value in cells.items()}
    return numbers


def test_a_tracker_gets_every_number_of_the_files_and_none_that_was_not_measured(remembered, tmp_path):
    folder = execute(config(tmp_path, benchmark=GROUPED, selector=SEMCLIP, run__track=["remembered"]))
    (run,) = remembered.runs
    assert run.metrics == numbers_of(folder)
    assert {"accuracy", "plain_accuracy", "category/one/accuracy", "subject/art/n"} <= set(run.metrics)
    assert "e2e_ms_p50" not in run.metrics
    assert run.texts["selector"] == "semclip"
    assert run.settings["selector.top_k"] == 1
    assert run.name == f"grouped computed semclip {folder.name}"


def test_it_is_no_part_of_the_runs_identity_and_a_finished_run_can_be_tracked_later(remembered, tmp_path):
    folder = execute(config(tmp_path))
    before = (folder / "samples.jsonl").read_bytes(), (folder / "summary.csv").read_bytes()
    assert not (folder / trackers.NOTES).exists()
    assert execute(config(tmp_path, run__track=["remembered"])) == folder
    assert execute(config(tmp_path, run__track="remembered")) == folder, "one name is as good as a list"
    assert len(remembered.runs) == 1, "what has not changed is not written twice"
    assert ((folder / "samples.jsonl").read_bytes(), (folder / "summary.csv").read_bytes()) == before
    assert json.loads((folder / trackers.NOTES).read_text())["remembered"]["place"] == "nowhere"


def test_a_run_whose_errors_were_retried_is_written_again(remembered, tmp_path):
    broken = {"benchmark__broken": ["q3"], "run__max_error_rate": 1.0, "run__track": ["remembered"]}
    execute(config(tmp_path, **broken))
    execute(config(tmp_path, **broken, run__retry_errors=True))
    assert [run.metrics["n_error"] for run in remembered.runs] == [1, 1], "asked again, at another time"


def test_a_tracker_that_fails_is_a_warning_and_tried_again(remembered, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Remembered, "fails", True)
    folder = execute(config(tmp_path, run__track=["remembered"]))
    assert "run.track=remembered" in (error := " ".join(capsys.readouterr().err.split()))
    assert "ConnectionError: no network at all" in error
    assert (folder / "summary.csv").is_file()
    monkeypatch.setattr(Remembered, "fails", False)
    (folder / trackers.NOTES).write_text("{ torn")
    execute(config(tmp_path, run__track=["remembered"]))
    assert len(remembered.runs) == 1


@pytest.mark.parametrize("name", sorted(trackers.TRACKERS))
def test_a_missing_package_is_refused_before_anything_is_asked(name, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "_is_installed", lambda package: False)
    with pytest.raises(ConfigError, match=rf"run\.track={name}: .*semclip-eval\[{name}\]"):
        execute(config(tmp_path, run__track=[name]))
    assert not list(tmp_path.iterdir())
    pyproject = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\n{name} = ["{trackers.TRACKERS[name][1]}' in pyproject, "an extra of that name"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("run.track=[tensorbord]", ["run.track=tensorbord", "Did you mean 'tensorboard'?"]),
        ("run.track=7", ["run.track=7", "list"]),
        ("run.track=[7]", ["run.track=[7]", "list"]),
        ("run.track=null", ["run.track=None", "list"]),
    ],
)
def test_a_wrong_name_is_refused(value, words, tmp_path, capsys):
    assert cli.main([value, "profile=mini", "run.limit=2", f"run.output_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_a_key_on_the_command_line_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "a-key-of-some-length")
    assert cli.main(["profile=mini", "model.name=a-key-of-some-length"]) == 2
    assert "WANDB_API_KEY" in capsys.readouterr().err


def tracked(tmp_path: Path, name: str) -> tuple[Path, TrackedRun]:
    """A finished run that was written to the tracker."""
    folder = execute(config(tmp_path / "runs", selector=SEMCLIP, run__track=[name]))
    assert name in json.loads((folder / trackers.NOTES).read_text())
    return folder, tracked_run(folder)


def near(metrics: dict[str, float]) -> Any:
    return pytest.approx(metrics, rel=1e-6)


def test_tensorboard_reads_the_event_file(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, run = tracked(tmp_path, "tensorboard")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    written = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert {tag: values[0].value for tag, values in written.items()} == near(run.metrics)
    assert all(len(values) == 1 and values[0].step == 0 for values in written.values())
    assert "config/text_summary" in events.Tags()["tensors"]
    (folder / trackers.NOTES).unlink()
    execute(config(tmp_path / "runs", selector=SEMCLIP, run__track=["tensorboard"]))
    assert len(list((folder / "tensorboard").iterdir())) == 1, "an earlier file would be a second point at step 0"


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB) behind a header of seven bytes."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def test_wandb_keeps_the_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, run = tracked(tmp_path, "wandb")
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    summary: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert {name: summary[name] for name in run.metrics} == near(run.metrics)
    assert summary["selector"] == "semclip"
    assert settings["run_id"] == folder.name
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    content = json.loads(table.read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert [row["category"] for row in rows] == [row["category"] for row in run.rows]
    assert [row["accuracy"] for row in rows] == [row["accuracy"] for row in run.rows]


def test_mlflow_has_metrics_parameters_and_files(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    mlflow.set_tracking_uri(None)
    _, run = tracked(tmp_path, "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("semclip-eval")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", run.name)
    allowed = {"".join(c for c in name if c.isalnum() or c in "/_.- :"): value for name, value in run.metrics.items()}
    assert found.data.metrics == near(allowed)
    assert found.data.params["selector.top_k"] == "1"
    assert found.data.tags["selector"] == "semclip"
    names = {each.path for each in client.list_artifacts(found.info.run_id)}
    assert names == {"summary.csv", "categories.csv", "config.yaml"}
