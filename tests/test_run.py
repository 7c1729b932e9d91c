"""The runner: files, resume, refusals, error records; checked against counts by hand and the files themselves."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from semclip_eval import session
from semclip_eval.errors import ConfigError, DataError, RunFailed
from semclip_eval.plan import make_plan
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.results.columns import SUMMARY_NAMES
from semclip_eval.results.records import LARGE, SampleWriter, arrange_samples, lock, read_samples
from semclip_eval.results.summary import read_rows
from semclip_eval.run import execute
from semclip_eval.selectors.base import SelectionInput, Selector, overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Answer, Selection, View
from tests import fakes
from tests.fakes import FULL_CROP, ORACLE, SEMCLIP, ComputedVLM, TextReader, config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _nothing_loaded():
    session._loaded.clear()
    yield
    session._loaded.clear()


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_run_writes_what_the_contract_names(tmp_path):
    folder = execute(config(tmp_path, selector=SEMCLIP))
    assert folder.relative_to(tmp_path).parts[:4] == ("test", "drawn", "computed", "semclip")
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml", "environment.json", "samples.jsonl", "summary.csv", "categories.csv",
    }  # fmt: skip
    records = lines(folder)
    assert [record["question_id"] for record in records] == [f"q{index}" for index in range(10)]
    contract = (
        "question_id category image_id question options truth answer choice option_losses score status error views "
        "target_boxes target_coverage visual_tokens text_tokens new_tokens latency_ms"
    ).split()
    assert set(contract) <= set(records[0])
    assert [view["kind"] for view in records[0]["views"]] == ["overview", "crop"]
    assert set(records[0]["views"][1]) == {"kind", "box", "psi"}


def test_the_summary_is_what_one_counts_in_the_samples(tmp_path):
    folder = execute(config(tmp_path, selector=SEMCLIP, benchmark__count=40))
    records = lines(folder)
    (row,) = read_rows(folder / "summary.csv")
    assert list(row) == list(SUMMARY_NAMES)
    right = sum(record["score"] for record in records)
    assert float(row["accuracy"]) == pytest.approx(right / 40)
    assert (int(row["n"]), int(row["n_scored"]), int(row["n_error"])) == (40, 40, 0)
    hits = [record["target_coverage"] >= 0.5 for record in records]
    assert 0 < sum(hits) < 40
    assert float(row["hit_rate"]) == pytest.approx(sum(hits) / 40)
    assert float(row["chance_accuracy"]) == 0.25
    assert float(row["visual_tokens_mean"]) == 20.0
    assert (row["e2e_ms_p50"], row["peak_memory_mib"], row["new_tokens_mean"]) == ("", "", "")
    categories = {line["category"]: line for line in read_rows(folder / "categories.csv")}
    even = [record["score"] for record in records if record["category"] == "even"]
    # Ten of sixty by ten of forty pixels: a fifth of the image's side.
    assert list(categories) == ["even", "odd", "even, 10 % or more", "odd, 10 % or more", "all"]
    assert [line["breakdown"] for line in categories.values()] == ["category"] * 2 + ["target_size"] * 2 + ["all"]
    assert float(categories["even"]["accuracy"]) == pytest.approx(sum(even) / len(even))
    assert read_rows(tmp_path / "runs.csv") == [row]


def test_no_crop_has_neither_psi_nor_crops_nor_hit_rate(tmp_path):
    folder = execute(config(tmp_path))
    (row,) = read_rows(folder / "summary.csv")
    assert (row["psi"], row["crops"], row["hit_rate"]) == ("", "", "")
    assert make_plan(config(tmp_path, crops__rows=3)).folder == folder


def test_batch_size_and_workers_change_no_byte_of_the_answers(tmp_path):
    texts = set()
    for size, workers in [(1, 0), (3, 0), (3, 2), (16, 2)]:
        changes = {"run__batch_size": size, "run__num_workers": workers, "selector": SEMCLIP, "benchmark__count": 17}
        texts.add((execute(config(tmp_path / f"{size}{workers}", **changes)) / "samples.jsonl").read_text())
    assert len(texts) == 1


def test_a_finished_run_is_reported_and_not_touched(tmp_path, capsys):
    folder = execute(config(tmp_path))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    loads = ComputedVLM.loads
    session._loaded.clear()
    assert execute(config(tmp_path)) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert ComputedVLM.loads == loads, "a finished run must not load weights again"
    assert "finished already" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "change",
    [
        {"run__seed": 1},
        {"run__limit": 5},
        {"run__batch_size": 2},
        {"benchmark__revision": "2"},
        {"selector": FULL_CROP},
        {"run__mode": "latency"},
    ],
)
def test_a_changed_config_is_another_run(tmp_path, change):
    assert make_plan(config(tmp_path, **change)).run_id != make_plan(config(tmp_path)).run_id


@pytest.mark.parametrize(
    "change",
    [
        {"run__num_workers": 0},
        {"run__resume": False},
        {"run__max_error_rate": 0.5},
        {"run__warmup": 1},
        {"run__new_tokens": 3},
        {"profile": {"name": "test", "announcement": "said in other words"}},
        {"benchmark__description": "another"},
    ],
)
def test_what_changes_no_answer_changes_no_run_id(tmp_path, change):
    assert make_plan(config(tmp_path, **change)).run_id == make_plan(config(tmp_path)).run_id


def test_in_latency_mode_the_length_counts_and_the_batch_does_not(tmp_path):
    def identity(**changes):
        return make_plan(config(tmp_path, run__mode="latency", **changes)).run_id

    assert identity(run__batch_size=4) == identity()
    assert identity(run__new_tokens=3) != identity()


def test_local_files_count_by_their_content_not_by_their_path(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("same")
    one, two = (make_plan(config(tmp_path, model__path=str(tmp_path / name))).run_id for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "weights").write_text("more")
    assert make_plan(config(tmp_path, model__path=str(tmp_path / "two"))).run_id != one


@pytest.mark.parametrize("name", ["../../x", "a/b", ".hidden", ""])
def test_a_name_that_would_leave_its_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"model\.name="):
        make_plan(config(tmp_path, model__name=name))


def test_a_section_that_nothing_reads_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"benchmrk: nothing reads it\. Did you mean 'benchmark'"):
        make_plan(config(tmp_path, benchmrk={"path": "x"}))


def test_more_crops_than_the_scheme_has_are_refused_before_weights_are_loaded(tmp_path):
    loads = ComputedVLM.loads
    with pytest.raises(ConfigError, match=r"selector\.top_k=5: the crop scheme has 4 candidates"):
        execute(config(tmp_path, selector={**SEMCLIP, "top_k": 5}))
    assert ComputedVLM.loads == loads


def test_models_stay_loaded_across_jobs(tmp_path):
    loads = ComputedVLM.loads
    for selector in (SEMCLIP, FULL_CROP, ORACLE):
        execute(config(tmp_path, selector=selector))
    assert ComputedVLM.loads == loads + 1
    execute(config(tmp_path, model__name="another"))
    assert ComputedVLM.loads == loads + 2
    assert len(read_rows(tmp_path / "runs.csv")) == 4


def test_a_torn_line_is_cut_off_and_asked_again(tmp_path):
    whole = (execute(config(tmp_path / "a")) / "samples.jsonl").read_bytes()
    plan = make_plan(config(tmp_path / "b"))
    plan.folder.mkdir(parents=True)
    (plan.folder / "samples.jsonl").write_bytes(whole[: len(whole) // 2])
    assert (execute(config(tmp_path / "b")) / "samples.jsonl").read_bytes() == whole


@pytest.mark.parametrize("size", [1, 4])
def test_killed_at_any_moment_the_same_command_ends_with_the_same_file(tmp_path, size):
    """A real process, killed with SIGKILL several times, against one that was never stopped."""
    changes = {"benchmark__count": 24, "run__batch_size": size, "selector": SEMCLIP}
    whole = (execute(config(tmp_path / "whole", **changes, model__delay_s=0.02)) / "samples.jsonl").read_bytes()
    killed = config(tmp_path / "killed", **changes, model__delay_s=0.02)
    samples = make_plan(killed).folder / "samples.jsonl"
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from semclip_eval.run import execute; execute({killed!r})"
    )
    for stop_after in (3, 9, 15):
        process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if samples.exists() and samples.read_bytes().count(b"\n") >= stop_after:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = samples.read_bytes()
        assert kept.count(b"\n") >= stop_after
        assert whole.startswith(kept[: kept.rfind(b"\n") + 1])
    assert (execute(killed) / "samples.jsonl").read_bytes() == whole


def test_interrupted_it_keeps_everything_and_returns_130(tmp_path):
    slow = config(tmp_path, benchmark__count=200, model__delay_s=0.02)
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from unittest.mock import patch\n"
        "from semclip_eval import cli, launch, run\n"
        f"with patch.object(launch, 'launch', lambda arguments: run.execute({slow!r})): sys.exit(cli.main(['x=y']))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    samples = make_plan(slow).folder / "samples.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (samples.exists() and samples.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "kept" in stderr
    assert "Traceback" not in stderr
    assert len(read_samples(samples.parent)) >= 2


def test_a_run_folder_that_is_held_is_refused(tmp_path):
    with lock(make_plan(config(tmp_path)).folder), pytest.raises(ConfigError, match="held by another process"):
        execute(config(tmp_path))
    execute(config(tmp_path))


def test_one_missing_image_is_an_error_record_and_no_wrong_answer(tmp_path):
    folder = execute(config(tmp_path, benchmark__broken=["q3"], run__max_error_rate=0.2, run__batch_size=4))
    record = next(record for record in lines(folder) if record["question_id"] == "q3")
    assert (record["status"], record["score"], record["choice"]) == ("error", None, None)
    assert record["error"] == {"type": "QuestionError", "message": "q3.png: no image"}
    (row,) = read_rows(folder / "summary.csv")
    assert (row["n"], row["n_scored"], row["n_error"]) == ("10", "9", "1")
    others = [record["score"] for record in lines(folder) if record["status"] == "ok"]
    assert float(row["accuracy"]) == pytest.approx(sum(others) / 9, abs=1e-6)


def test_too_many_errors_fail_the_run_after_its_end(tmp_path):
    with pytest.raises(RunFailed, match=r"1 of 10 .*max_error_rate.*q3.*no image") as caught:
        execute(config(tmp_path, benchmark__broken=["q3"]))
    assert caught.value.exit_code == 1
    assert len(read_rows(tmp_path / "runs.csv")) == 1


def test_what_breaks_a_batch_costs_only_the_question_at_fault(tmp_path):
    folder = execute(config(tmp_path, model__poison="number 6?", run__batch_size=5, run__max_error_rate=1))
    errors = [record for record in lines(folder) if record["status"] == "error"]
    assert [(record["question_id"], record["error"]["type"]) for record in errors] == [("q6", "ArithmeticError")]


def test_errors_can_be_asked_again_and_the_file_is_in_order_then(tmp_path):
    broken = config(tmp_path, benchmark__broken=["q3"], run__max_error_rate=1)
    folder = execute(broken)
    # The image is back under the same config: what a repaired disk looks like.
    original = fakes.DrawnBenchmark.__init__
    try:
        repaired = functools.wraps(original)(lambda self, **keys: original(self, **{**keys, "broken": ()}))
        fakes.DrawnBenchmark.__init__ = repaired
        assert execute(broken) == folder
        assert lines(folder)[3]["status"] == "error", "without being asked nothing is repeated"
        broken["run"]["retry_errors"] = True
        assert execute(broken) == folder
    finally:
        fakes.DrawnBenchmark.__init__ = original
    assert [record["question_id"] for record in lines(folder)] == [f"q{index}" for index in range(10)]
    assert {record["status"] for record in lines(folder)} == {"ok"}
    assert read_rows(folder / "summary.csv")[0]["n_error"] == "0"


def test_records_are_arranged_line_by_line_and_the_last_of_a_question_counts(tmp_path):
    written = [f'{{"question_id": "{name}", "n": {number}}}\n' for number, name in enumerate("cabac")]
    (tmp_path / "samples.jsonl").write_text("".join(written) + '{"question_id": "d", "torn')
    arrange_samples(tmp_path, ["a", "b", "c"])
    assert (tmp_path / "samples.jsonl").read_text() == written[3] + written[2] + written[4]
    arrange_samples(tmp_path, ["c", "a"])
    assert (tmp_path / "samples.jsonl").read_text() == written[4] + written[3]
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]


def test_tables_are_made_without_what_takes_most_memory(tmp_path):
    folder = execute(config(tmp_path, selector=SEMCLIP))
    whole, small = read_samples(folder), read_samples(folder, LARGE)
    assert all(record["candidates"] for record in whole)
    assert small == [{key: value for key, value in record.items() if key not in LARGE} for record in whole]


def test_starting_over_keeps_the_earlier_records_aside(tmp_path):
    whole = (execute(config(tmp_path / "a")) / "samples.jsonl").read_bytes()
    plan = make_plan(config(tmp_path / "b"))
    plan.folder.mkdir(parents=True)
    half = whole[: whole.rfind(b"\n", 0, len(whole) // 2) + 1]
    (plan.folder / "samples.jsonl").write_bytes(half)
    execute(config(tmp_path / "b", run__resume=False))
    assert (plan.folder / "samples.previous.jsonl").read_bytes() == half
    assert (plan.folder / "samples.jsonl").read_bytes() == whole


def test_starting_over_twice_loses_neither_set(tmp_path):
    plan = make_plan(config(tmp_path))
    plan.folder.mkdir(parents=True)
    line = '{{"question_id": "q0", "status": "ok", "score": {}}}\n'
    for score in (0, 1):
        (plan.folder / "samples.jsonl").write_text(line.format(score))
        (plan.folder / "summary.csv").unlink(missing_ok=True)
        execute(config(tmp_path, run__resume=False))
    kept = sorted(plan.folder.glob("samples.previous*.jsonl"))
    assert {path.read_text() for path in kept} == {line.format(0), line.format(1)}


def half_done(tmp_path, **changes):
    """A run folder with half of its records and the environment of the process that made them."""
    whole = execute(config(tmp_path / "whole", **changes))
    plan = make_plan(config(tmp_path / "half", **changes))
    plan.folder.mkdir(parents=True)
    text = (whole / "samples.jsonl").read_text().splitlines(keepends=True)
    (plan.folder / "samples.jsonl").write_text("".join(text[:5]))
    environment = json.loads((whole / "environment.json").read_text())
    return plan.folder, environment


def test_a_resumed_run_keeps_its_beginning_and_says_what_changed(tmp_path, capsys):
    folder, environment = half_done(tmp_path)
    environment["sessions"][0] |= {"started_at": "2020-01-01T00:00:00+00:00", "git_commit": "somewhere-else"}
    (folder / "environment.json").write_text(json.dumps(environment))
    execute(config(tmp_path / "half"))
    (row,) = read_rows(folder / "summary.csv")
    sessions = json.loads((folder / "environment.json").read_text())["sessions"]
    assert row["started_at"] == "2020-01-01T00:00:00+00:00"
    assert row["wall_s"] == ""
    assert [session["git_commit"] == "somewhere-else" for session in sessions] == [True, False]
    assert "git_commit somewhere-else ->" in " ".join(capsys.readouterr().err.split())


def test_latencies_of_two_machines_do_not_share_a_row(tmp_path):
    folder, environment = half_done(tmp_path, run__mode="latency")
    environment["sessions"][0]["device"] = "another GPU"
    (folder / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(ConfigError, match="another GPU -> cpu"):
        execute(config(tmp_path / "half", run__mode="latency"))


def test_an_empty_summary_is_not_a_finished_run(tmp_path):
    folder = execute(config(tmp_path))
    (folder / "summary.csv").write_text("")
    execute(config(tmp_path))
    assert read_rows(folder / "summary.csv")[0]["n"] == "10"


def test_half_a_surrogate_pair_in_the_data_does_not_end_the_run(tmp_path, monkeypatch):
    original = fakes.DrawnBenchmark._question

    def broken_text(self, index):
        return dataclasses.replace(original(self, index), text="half a pair: \ud83d")

    monkeypatch.setattr(fakes.DrawnBenchmark, "_question", broken_text)
    assert read_samples(execute(config(tmp_path)))[0]["question"] == "half a pair: \ud83d"


def test_records_of_other_questions_are_refused(tmp_path):
    plan = make_plan(config(tmp_path))
    plan.folder.mkdir(parents=True)
    (plan.folder / "samples.jsonl").write_text('{"question_id": "stranger", "status": "ok", "score": 1}\n')
    with pytest.raises(ConfigError, match="stranger"):
        execute(config(tmp_path))


def test_an_oracle_needs_boxes(tmp_path):
    with pytest.raises(ConfigError, match="selector=oracle"):
        execute(config(tmp_path, selector=ORACLE, benchmark__boxes=False))


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written .*run\.output_dir"):
        execute(config(tmp_path / "file"))


def test_a_full_disk_ends_the_run_in_one_line_and_loses_nothing(tmp_path):
    """A real process that may write files of a few kilobytes only: the write in the middle of a record fails."""
    whole = (execute(config(tmp_path / "whole")) / "samples.jsonl").read_bytes()
    small = config(tmp_path / "small")
    program = (
        f"import resource, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole) // 2}, {len(whole)}))\n"
        "from unittest.mock import patch\n"
        "from semclip_eval import cli, launch, run\n"
        f"with patch.object(launch, 'launch', lambda arguments: run.execute({small!r})): sys.exit(cli.main(['x=y']))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    assert "samples.jsonl: cannot be written (File too large)" in process.stderr
    samples = make_plan(small).folder / "samples.jsonl"
    kept = samples.read_bytes()
    assert kept.count(b"\n") >= 3
    assert whole.startswith(kept[: kept.rfind(b"\n") + 1])
    execute(small)
    assert samples.read_bytes() == whole


def test_latency_mode_times_every_stage_and_batches_nothing(tmp_path):
    folder = execute(config(tmp_path, run__mode="latency", run__batch_size=4, model__delay_s=0.01, selector=SEMCLIP))
    (row,) = read_rows(folder / "summary.csv")
    assert row["batch_size"] == "1"
    for record in lines(folder):
        times = record["latency_ms"]
        assert times["vision"] >= 10
        stages = sum(times[name] for name in ("load", "select", "prepare", "vision", "prefill", "decode"))
        assert stages <= times["e2e"] + 0.01
        assert times["ttft"] == pytest.approx(times["e2e"] - times["decode"], abs=0.01)
        assert "tpot" not in times
    assert float(row["vision_ms_p50"]) >= 10
    assert row["tpot_ms_p50"] == ""
    assert 0 < float(row["stages_share"]) <= 1


def test_latency_mode_fixes_the_length_and_scores_no_forced_answer(tmp_path):
    folder = execute(config(tmp_path, run__mode="latency", run__new_tokens=7, benchmark__protocol="letter"))
    (row,) = read_rows(folder / "summary.csv")
    assert (row["new_tokens_mean"], row["accuracy"], row["n_scored"], row["n_error"]) == ("7", "", "0", "0")
    assert row["tpot_ms_p50"] != ""


def test_random_weights_are_named_in_the_table(tmp_path, capsys):
    execute(config(tmp_path, model__load_format="dummy"))
    assert "computed (random weights)" in capsys.readouterr().out
    execute(config(tmp_path))
    assert "random weights" not in capsys.readouterr().out


def test_what_psi_could_not_read_is_said(tmp_path, capsys):
    execute(config(tmp_path, selector=SEMCLIP, psi__text="question_and_options"))
    assert "ψ read only the first 4 tokens of 10 of 10 texts" in " ".join(capsys.readouterr().err.split())
    execute(config(tmp_path, selector=SEMCLIP))
    assert "ψ read only" not in capsys.readouterr().err


def test_a_line_that_is_no_record_is_named(tmp_path):
    writer_folder = tmp_path
    SampleWriter(writer_folder).close()
    (tmp_path / "samples.jsonl").write_text('{"question_id": "a", "status": "ok", "score": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"samples\.jsonl, line 2"):
        read_samples(tmp_path)


class Unfinished(Selector):
    """Chooses the first candidate with a score of NaN for question q1, an infinite one for q2."""

    name = "unfinished"
    needs = frozenset({"candidates"})

    def __init__(self, name: str = "unfinished") -> None:
        self.name = name

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        scores = {"q1": math.nan, "q2": -math.inf}
        return [
            Selection((overview(item.image), View("crop", item.candidates[0], scores.get(item.question_id, 0.5))))
            for item in inputs
        ]


class Overflowing(ComputedVLM):
    """Gives one question the losses NaN and infinity."""

    def _answer(self, prepared: Any) -> Answer:
        answer = super()._answer(prepared)
        if "number 3" in prepared.prompt.text:
            return Answer(option_losses=(math.nan, 1.0, math.inf, 2.0))
        return answer


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_number_that_is_not_finite_costs_its_question_and_nothing_else(tmp_path: Path, batch_size: int) -> None:
    changes: dict[str, Any] = {
        "selector": {"_target_": "tests.test_run.Unfinished", "name": "unfinished"},
        "model___target_": "tests.test_run.Overflowing",
        "run__batch_size": batch_size,
        "run__max_error_rate": 1.0,
    }
    folder = execute(config(tmp_path, **changes))
    records = {record["question_id"]: record for record in read_samples(folder)}
    broken = {name: record for name, record in records.items() if record["status"] == "error"}
    assert set(broken) == {"q1", "q2", "q3"}
    assert "psi is nan" in broken["q1"]["error"]["message"]
    assert broken["q1"]["error"]["type"] == "NotFiniteError"
    assert "psi is -inf" in broken["q2"]["error"]["message"]
    assert broken["q3"]["option_losses"] is None
    assert broken["q3"]["views"] is not None  # what is known of the question stays
    (row,) = read_rows(folder / "summary.csv")
    assert (row["n"], row["n_error"]) == (str(len(records)), "3")
    assert execute(config(tmp_path, **changes)) == folder  # and at every resume


class Hoarder(TextReader):
    """A ψ from outside that keeps its scores by image and text, whatever the run's mode, and counts its work."""

    work: ClassVar[list[str]] = []

    def __init__(self, name: str = "hoarder", text: str = "question") -> None:
        super().__init__(name, text)
        self.kept: dict[tuple[str, str], tuple[float, ...]] = {}

    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        for request in requests:
            if (request.image_id, request.text) not in self.kept:
                type(self).work.append(request.text)
                self.kept[request.image_id, request.text] = super().score([request])[0]
        return [self.kept[request.image_id, request.text] for request in requests]


def test_in_latency_mode_a_psi_with_a_cache_of_its_own_works_for_every_question(tmp_path, capsys):
    psi = {"_target_": "tests.test_run.Hoarder", "name": "hoarder", "text": "question"}
    for folder in ("once", "again"):  # two jobs of one process: the second finds nothing of the first
        Hoarder.work.clear()
        session_mode = {"run__mode": "latency", "run__warmup": 3, "run__limit": 5}
        execute(config(tmp_path / folder, selector=SEMCLIP, psi=psi, **session_mode))
        assert len(Hoarder.work) == 3 + 5
        assert "psi=hoarder" in capsys.readouterr().err
    Hoarder.work.clear()
    execute(config(tmp_path / "accuracy", selector=SEMCLIP, psi=psi, run__limit=5))
    assert "psi=hoarder" not in capsys.readouterr().err
