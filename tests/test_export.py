"""`semclip-eval export`: what lmms-eval's and inspect_ai's own readers make of a run; skipped where they are missing.

What needs no other package is tested in any case: the keys, the numbers, and what is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from semclip_eval import cli
from semclip_eval.results.summary import read_summary
from semclip_eval.run import execute
from semclip_eval.types import Answer, Prompt, Question, Score
from tests.fakes import SEMCLIP, DrawnBenchmark, config

GROUPED = {"_target_": "tests.test_report.GroupedBenchmark", "name": "grouped", "count": 30}


class Spoken(DrawnBenchmark):
    """Generated answers: `hm` is right where the number is even, half right where it can be divided by three."""

    protocols = ("short_answer",)

    def prompt(self, question: Question) -> Prompt:
        return Prompt(f"{question.text} ψ \ud800", max_new_tokens=4)

    def score(self, question: Question, answer: Answer) -> Score:
        number = int(question.id[1:])
        if number == 5:
            return Score(0.0, "unparsed", reason="says nothing")
        return Score(1.0 if number % 2 == 0 else 0.5 if number % 3 == 0 else 0.0)

    def _question(self, index: int) -> Question:
        question = super()._question(index)
        references = ("hm", "um") if index % 2 else "hm"
        return Question(**{**question.__dict__, "options": (), "truth": references, "target_boxes": ()})


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def loads(text: str) -> Any:
    return json.loads(text, parse_constant=no_constant)


@pytest.fixture(scope="module")
def choices(tmp_path_factory) -> Path:
    """A run over options by likelihood, with an error."""
    broken = {"benchmark__count": 12, "benchmark__broken": ["q3"], "run__max_error_rate": 1.0}
    return execute(config(tmp_path_factory.mktemp("choices"), selector=SEMCLIP, **broken))


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """A run of generated answers, one of which cannot be read."""
    section = {"_target_": "tests.test_export.Spoken", "name": "spoken", "count": 12, "protocol": "short_answer"}
    return execute(config(tmp_path_factory.mktemp("spoken"), benchmark=section))


def records_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["question_id"]: record for record in map(json.loads, lines)}


def exported(folder: Path, kind: str, output: Path) -> Path:
    assert cli.main(["export", str(folder), "--format", kind, "--output", str(output)]) == 0
    return output


def lmms(folder: Path, tmp_path: Path) -> tuple[Path, list[dict[str, Any]], dict[str, Any]]:
    file = exported(folder, "lmms-eval", tmp_path / "new" / "here_samples_drawn.jsonl")
    samples = [loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return file, samples, loads(file.with_name("here_results.json").read_text(encoding="utf-8"))


def test_lmms_evals_samples_are_the_scored_records(choices, tmp_path, capsys):
    _, samples, results = lmms(choices, tmp_path)
    assert "1 of 12 questions have no score" in " ".join(capsys.readouterr().err.split())
    records = records_of(choices)
    assert [sample["question_id"] for sample in samples] == [name for name in records if name != "q3"]
    for sample in samples:
        record = records[sample["question_id"]]
        assert sample["doc_id"] == int(sample["question_id"][1:])
        assert sample["target"] == record["options"][record["truth"]]
        assert sample["filtered_resps"] == record["options"][record["choice"]]
        assert (sample["score"], sample["input"]) == (record["score"], record["question"])
        assert sample["token_counts"] == [{"input_tokens": record["visual_tokens"] + record["text_tokens"]}]
        assert sample["views"] == record["views"]
        assert (sample["target"] == sample["filtered_resps"]) == (sample["score"] == 1)
    row = read_summary(choices)
    values = results["results"]["drawn"]
    assert values["accuracy,none"] == float(row["accuracy"])
    assert values["accuracy_ci_low,none"] == float(row["accuracy_ci_low"])
    assert values["hit_rate,none"] == float(row["hit_rate"])
    assert results["n-samples"]["drawn"] == {"original": 12, "effective": 11}
    assert (results["configs"]["drawn"]["output_type"], results["model_name"]) == ("multiple_choice", "computed")
    hashes = "".join(f"sample_{place}{sample['doc_hash']}" for place, sample in enumerate(samples))
    assert results["task_hashes"]["drawn"] == hashlib.sha256(hashes.encode()).hexdigest()


def test_lmms_evals_own_loader_finds_scores_and_results(choices, spoken, tmp_path):
    loader = pytest.importorskip("lmms_eval.baselines.loader")
    for number, folder in enumerate((choices, spoken)):
        file, _, results = lmms(folder, tmp_path / str(number))
        scores, aggregated = loader.load_baseline(str(file), "drawn")
        records = list(records_of(folder).values())
        expected = {place: record["score"] for place, record in enumerate(records) if record["score"] is not None}
        assert scores == expected
        assert aggregated == results


def test_generated_answers_have_their_text_and_partial_credit(spoken, tmp_path):
    _, samples, results = lmms(spoken, tmp_path)
    assert [sample["score"] for sample in samples[:6]] == [1, 0, 1, 0.5, 1, 0]
    assert [sample["target"] for sample in samples[:2]] == ["hm", "['hm', 'um']"]
    assert {sample["filtered_resps"] for sample in samples} == {"hm"}
    assert samples[5]["status"] == "unparsed"
    assert samples[0]["token_counts"][0]["output_tokens"] == 4
    assert results["configs"]["spoken"]["output_type"] == "generate_until"
    log = loads(exported(spoken, "inspect", tmp_path / "log.json").read_text(encoding="utf-8"))
    assert [sample["target"] for sample in log["samples"][:2]] == ["hm", ["hm", "um"]]
    assert log["samples"][5]["scores"]["accuracy"] == {
        "value": 0,
        "answer": "hm",
        "explanation": "unparsed: says nothing",
    }


def test_inspect_opens_the_log(choices, spoken, tmp_path):
    pytest.importorskip("inspect_ai")
    from inspect_ai.log import read_eval_log, read_eval_log_samples

    for folder in (choices, spoken):
        file = exported(folder, "inspect", tmp_path / f"{folder.name}.json")
        log = read_eval_log(str(file))
        row, records = read_summary(folder), records_of(folder)
        assert (log.status, log.eval.task, log.eval.model) == ("success", row["benchmark"], "semclip-eval/computed")
        assert log.eval.task_args["selector"] == row["selector"]
        (score,) = log.results.scores
        assert score.metrics["accuracy"].value == float(row["accuracy"])
        assert score.metrics["accuracy_ci_high"].value == float(row["accuracy_ci_high"])
        assert (score.scored_samples, log.results.total_samples) == (int(row["n_scored"]), int(row["n"]))
        assert [sample.id for sample in log.samples] == list(records)
        for sample in log.samples:
            record = records[sample.id]
            if record["status"] == "error":
                assert sample.scores is None
                assert record["error"]["message"] in sample.error.message
                continue
            assert sample.scores["accuracy"].value == record["score"]
            assert sample.metadata["views"] == record["views"]
            if record["options"]:
                assert sample.target == "ABCD"[record["truth"]]
                assert sample.scores["accuracy"].answer == "ABCD"[record["choice"]]
                assert sample.output.completion == record["options"][record["choice"]]
            else:
                assert sample.output.completion == sample.messages[-1].text == record["answer"]
        errors = int(row["n_error"])
        assert len(list(read_eval_log_samples(str(file), all_samples_required=False))) == int(row["n"]), errors


@pytest.mark.parametrize(("kind", "ending"), [("lmms-eval", ".jsonl"), ("inspect", ".json")])
def test_the_same_run_gives_the_same_bytes_and_its_measures(kind, ending, tmp_path):
    folder = execute(config(tmp_path / "runs", benchmark=GROUPED))
    first = exported(folder, kind, tmp_path / f"first{ending}").read_bytes()
    assert exported(folder, kind, tmp_path / f"second{ending}").read_bytes() == first
    loads(first.decode().splitlines()[0] if ending == ".jsonl" else first.decode())
    text = (tmp_path / ("first_results.json" if ending == ".jsonl" else f"first{ending}")).read_text(encoding="utf-8")
    assert "plain_accuracy" in text
    assert (folder / "summary.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "inspct", "--output", "x.json"], ["inspct", "Did you mean 'inspect'?"]),
        (["--format", "inspect", "--output", "x.jsonl"], ["x.jsonl", ".json"]),
        (["--format", "lmms-eval", "--output", "x.json"], ["x.json", ".jsonl"]),
        (["--format", "inspect", "--output", "/proc/none/x.json"], ["/proc/none/x.json", "cannot be written"]),
    ],
)
def test_what_cannot_be_exported_is_refused(choices, arguments, words, capsys):
    assert cli.main(["export", str(choices), *arguments]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_an_unfinished_run_is_refused(choices, tmp_path, capsys):
    (tmp_path / "samples.jsonl").write_bytes((choices / "samples.jsonl").read_bytes())
    assert cli.main(["export", str(tmp_path), "--format", "inspect", "--output", str(tmp_path / "x.json")]) == 2
    assert "summary.csv" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
