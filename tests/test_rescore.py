"""Stored answers under another rule: a run beside the old one, and nothing but the reading changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semclip_eval import cli, session
from semclip_eval.results.records import read_samples
from semclip_eval.results.summary import read_rows, read_summary
from semclip_eval.scoring.yes_no import parse_officially, parse_yes_no

ANSWERS = [
    "Yes",
    "no.",
    "Maybe",
    "<think>no</think>Yes",
    "There is no dog",
    "NO",
    "Yes and no",
    "yes",
    "not sure",
    "No",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    session._loaded.clear()
    command = ["profile=mini", "benchmark=pope", "selector=no_crop", "run.limit=10", f"run.output_dir={tmp_path}"]
    assert cli.main(command) == 0
    (summary,) = tmp_path.glob("*/*/*/*/*/summary.csv")
    samples = summary.parent / "samples.jsonl"
    records = [json.loads(line) for line in samples.read_text().splitlines()]
    for record, answer in zip(records, ANSWERS, strict=True):
        reading = parse_yes_no(answer)
        read = reading.option is not None
        record.update(answer=answer, choice=reading.option, status="ok" if read else "unparsed",
                      reason="" if read else reading.how, score=float(reading.option == record["truth"]))  # fmt: skip
    samples.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return summary.parent


def rescored(folder: Path, *overrides: str) -> Path:
    before = set(folder.parent.iterdir())
    assert cli.main(["rescore", str(folder), *overrides]) == 0
    (new,) = set(folder.parent.iterdir()) - before
    return new


def test_only_the_reading_changes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = (folder / "samples.jsonl").read_bytes()
    new = rescored(folder, "benchmark.parser=official")
    assert (folder / "samples.jsonl").read_bytes() == old
    changed = 0
    for before, after in zip(read_samples(folder), read_samples(new), strict=True):
        choice = parse_officially(before["answer"]).option
        assert (after["choice"], after["score"]) == (choice, float(choice == before["truth"]))
        moving = ("choice", "score", "status", "reason")
        assert {key: before[key] for key in before if key not in moving} == {
            key: after[key] for key in after if key not in moving
        }
        changed += any(before[key] != after[key] for key in ("choice", "score", "status"))
    row = read_summary(new)
    assert row["protocol"] == "yes_no/official"
    assert row["run_id"] == new.name
    assert float(row["accuracy"]) == pytest.approx(sum(record["score"] for record in read_samples(new)) / 10)
    assert row["visual_tokens_mean"] == read_summary(folder)["visual_tokens_mean"]
    assert {line["run_id"] for line in read_rows(tmp_path / "runs.csv")} == {folder.name, new.name}
    out = " ".join(capsys.readouterr().out.split())
    assert f"The rule alone moves {changed} of 10 answers" in out
    assert "'Maybe' unparsed (in doubt) → yes" in out
    assert json.loads((new / "environment.json").read_text())["rescored_from"] == folder.name
    # The same rule again finds the run that is there; and the rule of old gives the old numbers back.
    assert cli.main(["rescore", str(folder), "benchmark.parser=official"]) == 0
    back = rescored(new, "benchmark.parser=strict")
    assert [record["score"] for record in read_samples(back)] == [record["score"] for record in read_samples(folder)]
    assert cli.main(["report", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no rule is changed"),
        (["benchmark.parser=strict"], "benchmark.parser=official"),
        (["model.name=x"], "nothing else"),
        (["benchmark.parser"], "nothing else"),
        (["benchmark.parser=wild"], "benchmark.parser=wild: must be strict or official"),
        (["benchmark.nonsense=1"], "benchmark.nonsense"),
        (["benchmark.path=mini://vstar"], "holds no table"),
    ],
)
def test_what_cannot_be_rescored_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    capsys.readouterr()
    before = set(folder.parent.iterdir())
    assert cli.main(["rescore", str(folder), *words]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert said in err
    assert "Traceback" not in err
    assert set(folder.parent.iterdir()) == before


def test_a_rule_that_would_ask_in_other_words_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session._loaded.clear()
    assert cli.main(["profile=mini", "selector=no_crop", "run.limit=4", f"run.output_dir={tmp_path}"]) == 0
    (summary,) = tmp_path.glob("*/*/*/*/*/summary.csv")
    assert cli.main(["rescore", str(summary.parent), "benchmark.protocol=letter"]) == 2
    assert cli.main(["rescore", str(tmp_path / "nowhere"), "benchmark.parser=official"]) == 2


def test_the_official_rule_says_where_it_meets_thoughts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "summary.csv").unlink()
    capsys.readouterr()
    replayed = ["profile=mini", "benchmark=pope", "benchmark.parser=official", "model=replay", "run.limit=10",
                f"model.path={folder / 'samples.jsonl'}", f"run.output_dir={folder.parents[4]}"]  # fmt: skip
    assert cli.main(replayed) == 0
    assert "1 of 10 answers hold marked thoughts" in " ".join(capsys.readouterr().err.split())
