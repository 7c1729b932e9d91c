"""`semclip-eval push`: to a Hub in miniature, and back into `datasets` and our own report."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from semclip_eval import cli
from semclip_eval.report.runs import read_results
from semclip_eval.run import execute
from tests.fakes import SEMCLIP, config
from tests.hub_server import TOKEN, Hub, serving

GROUPED = {"_target_": "tests.test_report.GroupedBenchmark", "name": "grouped", "count": 12}
SPOKEN = {"_target_": "tests.test_export.Spoken", "name": "spoken", "count": 8}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Options and generated answers, with an error: the shapes that one table must hold."""
    folder = tmp_path_factory.mktemp("results")
    execute(config(folder, benchmark=GROUPED))
    execute(config(folder, benchmark=GROUPED, selector=SEMCLIP))
    broken = {"benchmark__broken": ["q3"], "run__max_error_rate": 1.0}
    execute(config(folder, benchmark=SPOKEN, selector=SEMCLIP, **broken))
    return folder


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    from huggingface_hub import constants, hf_api

    with serving() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(
            hf_api.HfApi.__init__, "__defaults__", (running.url, *hf_api.HfApi.__init__.__defaults__[1:])
        )
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield running
        assert running.unknown == [], "endpoints that the Hub has and this one does not"


def refused(capsys, *arguments: object) -> str:
    """The message of a push that is refused: one or two lines."""
    capsys.readouterr()
    assert cli.main(["push", *map(str, arguments)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("semclip-eval: ")]
    assert len(error) == 1
    assert "Traceback" not in error[0]
    return error[0]


def unpacked(hub: Hub, repo: str, folder: Path) -> Path:
    for name, content in hub.repositories[repo]["files"].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_what_was_pushed_loads_and_is_a_results_folder(hub, results, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from datasets import load_dataset

    assert cli.main(["push", str(results), "me/mine"]) == 0
    assert capsys.readouterr().out.strip() == f"{hub.url}/datasets/me/mine"
    assert hub.repositories["me/mine"]["private"] is True
    folder = unpacked(hub, "me/mine", tmp_path / "repository")

    samples = load_dataset(str(folder), split="test", cache_dir=str(tmp_path / "cache")).to_list()
    runs = {run.id: run for run in read_results(results)[0]}
    assert len(samples) == sum(len(run.records) for run in runs.values()) == 32
    for sample in samples:
        run = runs[sample["run_id"]]
        record = next(each for each in run.records if str(each["question_id"]) == sample["question_id"])
        for key in ("score", "status", "choice", "visual_tokens", "option_losses", "target_boxes", "image_size"):
            assert sample[key] == record[key], key
        assert (sample["selector"], sample["benchmark"]) == (run.selector, run.row["benchmark"])
        assert sample["truth"] == (record["truth"] if record["options"] else None)
        truths = record["truth"] if isinstance(record["truth"], list) else [record["truth"]]
        assert sample["references"] == ([record["options"][record["truth"]]] if record["options"] else truths)
        assert [view["box"] for view in sample["views"] or ()] == [view["box"] for view in record["views"] or ()]
        assert {k: v for k, v in (sample["tags"] or {}).items() if v is not None} == record["tags"]
    table = load_dataset(str(folder), "runs", split="test", cache_dir=str(tmp_path / "cache")).to_list()
    assert {row["run_id"]: row["accuracy"] for row in table} == {
        name: pytest.approx(float(run.row["accuracy"])) for name, run in runs.items()
    }
    # The same runs, as our own verbs read them.
    assert [run.row for run in read_results(folder)[0]] == [run.row for run in runs.values()]
    assert not [name for name in hub.repositories["me/mine"]["files"] if name.startswith("images/")]


def test_the_card_names_tables_accuracies_and_commands(hub, results):
    assert cli.main(["push", str(results), "mine"]) == 0  # NAME alone: one's own
    text = hub.repositories["me/mine"]["files"]["README.md"].decode()
    header = yaml.safe_load(text.split("---")[1])
    assert [each["config_name"] for each in header["configs"]] == ["samples", "runs"]
    assert "semclip-eval" in header["tags"]
    for run in read_results(results)[0]:
        assert f"{100 * float(run.row['accuracy']):.1f}" in text
    base = "profile=test benchmark={} model=computed run.seed=0"
    commands = text.split("```sh")[1].split("```")[0].strip().splitlines()
    assert sorted(commands) == sorted([
        f"semclip-eval -m {base.format('grouped')} selector=semclip,no_crop crops=grid2x2 psi=reader",
        f"semclip-eval {base.format('spoken')} selector=semclip crops=grid2x2 psi=reader",
    ])  # fmt: skip


def test_a_dry_run_lists_files_and_asks_nobody(hub, results, capsys):
    assert cli.main(["push", str(results), "me/mine", "--dry-run"]) == 0
    listed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    sizes = {name: int(size.replace(",", "")) for size, name in listed}
    run = read_results(results)[0][0]
    place = f"{run.folder.relative_to(results).as_posix()}/samples.jsonl"
    assert sizes[place] == (run.folder / "samples.jsonl").stat().st_size
    assert {"README.md", "runs.csv", f"samples/{run.id}.parquet"} <= set(sizes)
    total = sizes.pop(f"bytes in {len(sizes) - 1} files")
    assert total == sum(sizes.values())
    assert hub.asked == []


def test_images_only_where_asked_for(hub, results, capsys):
    import pyarrow.parquet as parquet

    assert cli.main(["push", str(results), "me/mine", "--images", "--public"]) == 0
    assert hub.repositories["me/mine"]["private"] is False
    files = hub.repositories["me/mine"]["files"]
    (grouped,) = [name for name in files if name.startswith("images/grouped")]
    rows = parquet.read_table(io.BytesIO(files[grouped])).to_pylist()
    run = next(run for run in read_results(results)[0] if run.row["benchmark"] == "grouped")
    assert {row["image_id"] for row in rows} == {record["image_id"] for record in run.records}
    image = Image.open(io.BytesIO(rows[0]["image"]["bytes"]))
    assert list(image.size) == run.records[0]["image_size"]
    assert "q3 is left out" in capsys.readouterr().err, "of the question that ended in an error"


def test_pushed_again_it_is_the_same_repository_and_runs_are_let_go_of_only_when_told(hub, results, tmp_path, capsys):
    assert cli.main(["push", str(results), "me/mine"]) == 0
    before = dict(hub.repositories["me/mine"]["files"])
    assert cli.main(["push", str(results), "me/mine"]) == 0
    assert hub.repositories["me/mine"]["files"] == before
    other = tmp_path / "other"
    execute(config(other, benchmark=GROUPED))
    assert "--replace" in refused(capsys, other, "me/mine")
    assert hub.repositories["me/mine"]["files"] == before
    assert cli.main(["push", str(other), "me/mine", "--replace"]) == 0
    assert sum(name.startswith("samples/") for name in hub.repositories["me/mine"]["files"]) == 1


def test_what_stands_in_the_way_is_said_in_one_line(hub, results, tmp_path, capsys, monkeypatch):
    hub.add("me/novel", {"chapter1.txt": b"It was"})
    hub.add("me/readme", {"README.md": b"mine"})
    hub.add("me/open", {}, private=False)
    hub.add("me/closed", {})
    assert "chapter1.txt" in refused(capsys, results, "me/novel")
    assert "README.md" in refused(capsys, results, "me/readme")
    assert "add --public" in refused(capsys, results, "me/open")
    assert "leave out --public" in refused(capsys, results, "me/closed", "--public")
    assert "OWNER/NAME" in refused(capsys, results, "a/b/c")
    assert "no such folder" in refused(capsys, tmp_path / "none", "me/mine")
    hub.refuses["/api/repos/create"] = 403
    assert "no right to write" in refused(capsys, results, "them/theirs")
    hub.refuses = {"/commit/": 500}
    assert "HTTP 500" in refused(capsys, results, "me/closed")
    hub.refuses = {}
    assert all(
        set(known["files"]) <= {".gitattributes", "chapter1.txt", "README.md"} for known in hub.repositories.values()
    )
    monkeypatch.setenv("HF_TOKEN", "hf_another_one")
    assert "does not know the token" in refused(capsys, results, "me/mine")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "hf auth login" in refused(capsys, results, "me/mine")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refused(capsys, results, "me/mine")


def test_a_key_in_a_file_is_never_pushed(hub, tmp_path, capsys, monkeypatch):
    folder = execute(config(tmp_path / "runs", benchmark=GROUPED))
    key = "sk-the-key-of-an-endpoint"
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(environment | {"note": key}))
    monkeypatch.setenv("OPENAI_API_KEY", key)
    error = refused(capsys, tmp_path / "runs", "me/mine")
    assert "environment.json" in error
    assert "OPENAI_API_KEY" in error
    assert key not in error
    assert hub.asked == []
