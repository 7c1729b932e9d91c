"""`--json`: one valid document on standard output that says what the table says; notices and errors on stderr."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from semclip_eval import cli
from semclip_eval.console import out as console
from semclip_eval.json_output import plain, typed_row
from semclip_eval.results.columns import NUMERIC_NAMES
from semclip_eval.results.summary import read_rows, read_summary
from semclip_eval.run import execute
from tests.fakes import FULL_CROP, SEMCLIP, config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "json.md"


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Three finished runs of 30 questions, one of which ended in an error in each."""
    folder = tmp_path_factory.mktemp("runs")
    common = {"benchmark__count": 30, "benchmark__broken": ["q3"], "run__max_error_rate": 1.0}
    sections = {"no_crop": None, "semclip": SEMCLIP, "full_crop": FULL_CROP}
    return {
        name: execute(config(folder, **common, **({"selector": section} if section else {})))
        for name, section in sections.items()
    }


@pytest.fixture
def said(capsys, monkeypatch):
    """Run a verb; its exit code, its document and its table (wide enough for every cell), and both stderrs."""
    monkeypatch.setattr(console, "_width", 300)

    def run(*arguments: object) -> tuple[int, Any, str]:
        words = list(map(str, arguments))
        capsys.readouterr()
        code = cli.main(words)
        table = capsys.readouterr().out
        assert cli.main([*words, "--json"]) == code
        return code, json.loads(capsys.readouterr().out, parse_constant=no_constant), table

    return run


def row_of(table: str, start: str) -> str:
    (line,) = [line for line in table.splitlines() if line.startswith(f"{start} ")]
    return line


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"[+-]?\d+(?:\.\d+)?", text)]


def test_compare_says_what_its_table_says(runs, said):
    code, document, table = said("compare", runs["semclip"], runs["no_crop"], runs["full_crop"])
    assert code == 0
    assert document["reference"]["selector"] == document["reference"]["name"] == "no_crop"
    assert document["reference"]["run_dir"] == str(runs["no_crop"])
    assert [run["name"] for run in document["runs"]] == ["semclip", "full_crop"]
    assert {document[name] for name in ("benchmark", "mode")} == {"drawn", "accuracy"}
    for run in document["runs"]:
        before, after, difference, low, high = numbers(
            re.search(r"\S+ → \S+ +\S+ \[\S+, \S+\]", row_of(table, run["name"]))[0]
        )
        assert row_of(table, run["name"]).split()[1] == str(run["n_units"]) == "29"
        shown = [run[f"{name}"] for name in ("reference_accuracy", "accuracy", "difference")]
        shown += [run["difference_ci_low"], run["difference_ci_high"]]
        for cell, value in zip((before, after, difference, low, high), shown, strict=True):
            assert cell == pytest.approx(100 * value, abs=0.0501)
        counts = f"{len(run['only_reference'])}/{len(run['only_run'])}"
        assert counts in row_of(table, run["name"]).split()
        assert f"×{run['visual_tokens_ratio']:.2f}" in table
        # The same from the records, by hand.
        scores = {name: by_id(runs[name]) for name in ("no_crop", run["name"])}
        better = [i for i, score in scores[run["name"]].items() if i != "q3" and score > scores["no_crop"][i]]
        assert run["only_run"] == better
        assert (run["n"], run["n_left_out"]) == (29, 1)
        discordant = len(run["only_reference"]) + len(run["only_run"])
        tail = sum(math.comb(discordant, k) for k in range(min(len(run["only_reference"]), len(better)) + 1))
        assert run["p"] == pytest.approx(min(1.0, 2 * tail / 2**discordant))


def by_id(folder: Path) -> dict[str, float]:
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["question_id"]: record["score"] for record in map(json.loads, lines)}


def test_show_says_what_the_files_and_the_table_say(runs, said):
    code, document, table = said("show", runs["semclip"])
    assert (code, document["finished"], document["n_records"]) == (0, True, 30)
    row = read_summary(runs["semclip"])
    assert list(document["summary"]) == list(row)
    for name, cell in row.items():
        value = document["summary"][name]
        if cell == "":
            assert value is None, name
        elif name in NUMERIC_NAMES:
            assert isinstance(value, (int, float)), name
            assert value == float(cell)
        elif name == "uses_truth":
            assert value is False
        else:
            assert value == cell
    assert [each["category"] for each in document["categories"]] == [
        each["category"] for each in read_rows(runs["semclip"] / "categories.csv")
    ]
    for category in document["categories"]:
        if category["breakdown"] in ("category", "all"):
            assert f"{100 * category['accuracy']:.1f} (" in row_of(table, category["category"])
    assert document["errors"] == [{"question_id": "q3", "type": "QuestionError", "message": "q3.png: no image"}]
    assert document["summary"]["e2e_ms_p50"] is None, "nothing was timed"


def test_show_of_a_question_is_its_record(runs, said):
    code, document, table = said("show", runs["semclip"], "--question", "q4")
    assert code == 0
    lines = (runs["semclip"] / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    (record,) = [each for each in map(json.loads, lines) if each["question_id"] == "q4"]
    assert document["question"].pop("hit") is (record["target_coverage"] >= 0.5)
    assert document["question"] == record
    for loss in record["option_losses"]:
        assert f"{loss:.4f}" in table


def test_an_unfinished_run_is_said_to_be_one(runs, tmp_path, capsys):
    (tmp_path / "samples.jsonl").write_bytes((runs["semclip"] / "samples.jsonl").read_bytes())
    assert cli.main(["show", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["finished"], document["summary"], document["categories"]) == (False, None, [])
    assert "not finished" in captured.err


def test_regress_says_every_number_and_which_moved(runs, said, tmp_path):
    results, baseline = runs["no_crop"].parents[4], tmp_path / "baseline.csv"
    code, document, _ = said("regress", results, baseline, "--write")
    assert (code, document) == (0, {"baseline": str(baseline), "runs_written": 3})
    code, document, table = said("regress", results, baseline)
    assert (code, document["agrees"], document["n_moved"]) == (0, True, 0)
    assert table.startswith(f"{document['n']} numbers agree")
    rows = read_rows(baseline)
    assert len(rows) == document["n"] == len(document["numbers"])
    text = baseline.read_text(encoding="utf-8")
    baseline.write_text(text.replace(",all,visual_tokens_mean,", ",all,views_mean,", 1), encoding="utf-8")
    code, document, table = said("regress", results, baseline)
    assert (code, document["agrees"]) == (1, False)
    (moved,) = [number for number in document["numbers"] if not number["agrees"]]
    assert table.startswith(f"{document['n_moved']} of {document['n']} numbers")
    assert (moved["quantity"], moved["category"]) == ("views_mean", "all")
    for value in (moved["expected"], moved["measured"]):
        assert f" {value:.6g} " in table
    assert isinstance(moved["n"], int)


def test_a_missing_number_is_null(runs, said, tmp_path):
    baseline = tmp_path / "baseline.csv"
    assert cli.main(["regress", str(runs["semclip"]), str(baseline), "--write"]) == 0
    baseline.write_text(baseline.read_text().replace(",all,n_error,", ",all,e2e_ms_p50,"))
    code, document, table = said("regress", runs["semclip"], baseline)
    assert (code, [number["measured"] for number in document["numbers"] if not number["agrees"]]) == (1, [None])
    assert "missing" in table


@pytest.mark.parametrize("cell", ["nan", "inf"])
def test_a_baseline_of_what_is_no_finite_number_is_refused(runs, tmp_path, cell, capsys):
    """An infinite tolerance would agree with anything."""
    baseline = tmp_path / "baseline.csv"
    assert cli.main(["regress", str(runs["semclip"]), str(baseline), "--write"]) == 0
    header, first, *rest = baseline.read_text().splitlines()
    baseline.write_text("\n".join([header, f"{first.rpartition(',')[0]},{cell}", *rest]) + "\n")
    capsys.readouterr()
    assert cli.main(["regress", str(runs["semclip"]), str(baseline), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"tolerance='{cell}'" in captured.err


def test_list_and_doctor_and_choose(runs, said):
    code, document, table = said("list", "selector", "psi")
    assert (code, list(document)) == (0, ["selector", "psi"])
    for group, entries in document.items():
        assert f"{group}=" in table.splitlines()
        for entry in entries:
            assert re.search(rf"^  {entry['name']} +{re.escape(entry['description'])}$", table, flags=re.M)
    code, document, table = said("doctor", "--offline")
    assert code == 0
    assert f"torch {document['packages']['torch']}" in table
    assert f"{document['cores']} cores" in table
    assert document["hub"] == {"tried": False, "reachable": None, "reason": None}
    assert document["profiles"]["mini"]["can_run"] is True
    code, document, table = said("choose", runs["no_crop"].parents[4])
    (choice,) = document
    assert (code, choice["best"]["name"] in table, f"{100 * choice['best']['accuracy']:.1f} %" in table) == (0, True, 1)


@pytest.mark.parametrize("verb", ["show", "compare", "regress"])
def test_an_error_stays_on_stderr_with_its_code(verb, capsys, tmp_path):
    assert cli.main([verb, str(tmp_path / "none"), str(tmp_path / "none"), "--json"][: 2 if verb == "show" else 3]) == 2
    plainly = capsys.readouterr()
    arguments = [verb, str(tmp_path / "none"), *([] if verb == "show" else [str(tmp_path / "none")]), "--json"]
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == plainly.err


def test_what_is_not_finite_is_null():
    document = plain({"a": [math.nan, (math.inf, 1.5)], "b": None, "c": {"d": -math.inf}})
    assert document == {"a": [None, [None, 1.5]], "b": None, "c": {"d": None}}
    row = typed_row({"run_id": "123", "n": "40", "accuracy": "", "uses_truth": "true", "f1": "0.5", "category": "7"})
    assert row == {"run_id": "123", "n": 40, "accuracy": None, "uses_truth": True, "f1": 0.5, "category": "7"}


def test_the_page_names_every_key(runs, capsys):
    """docs/json.md is complete: every key that a verb prints, but for columns and records (docs/files.md)."""
    page = PAGE.read_text(encoding="utf-8")
    commands = [
        ["compare", runs["no_crop"], runs["semclip"]],
        ["show", runs["semclip"]],
        ["doctor", "--offline"],
        ["choose", runs["no_crop"].parents[4]],
        ["list"],
    ]
    for command in commands:
        capsys.readouterr()
        assert cli.main([*map(str, command), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        for key in keys(document):
            assert re.search(rf"`{re.escape(key)}`", page), f"{command[0]}: {key}"


def keys(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    own = set(value)
    return own.union(*(keys(inner) for key, inner in value.items() if key not in ("summary", "categories", "packages")))
