"""`regress`, `show` and `doctor`; and the miniature's baseline, which a broken ψ must turn red."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

from semclip_eval import cli
from semclip_eval.mini.build import BUILDERS
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.results.regression import COLUMNS, read_baseline
from semclip_eval.run import execute
from tests.fakes import SEMCLIP, config

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "results" / "baselines" / "mini.csv"


class NegatedRelevance(OpenClipRelevance):
    """A ψ that prefers what fits the question least: what the regression must notice."""

    def score(self, requests):
        return [tuple(-score for score in scores) for scores in super().score(requests)]


def test_the_regression_asks_only_benchmarks_that_have_a_miniature() -> None:
    """A benchmark without data of its own (custom) would fail in every sweep over all of them."""
    specification = importlib.util.spec_from_file_location("regression_script", ROOT / "scripts" / "regression.py")
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    asked = {*script.OTHERS.split(","), "vstar", "hrbench8k"}
    own = {name for name in BUILDERS if name not in ("vstar-train", "vstar-dev")}
    assert asked == own
    assert "exclude=custom" in (ROOT / "Makefile").read_text(encoding="utf-8")


def regress(*arguments: object) -> int:
    return cli.main(["regress", *map(str, arguments)])


@pytest.fixture
def baseline(tmp_path):
    """A finished run and a baseline that was written from it."""
    folder = execute(config(tmp_path / "runs", selector=SEMCLIP, benchmark__count=30))
    assert regress(tmp_path / "runs", tmp_path / "baseline.csv", "--write") == 0
    return folder, tmp_path / "baseline.csv"


def edit(path: Path, quantity: str, **cells: str) -> None:
    rows = read_baseline(path)
    for row in rows:
        if (row["category"], row["quantity"]) == ("all", quantity):
            row.update(cells)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_a_run_agrees_with_its_own_baseline(baseline):
    folder, path = baseline
    assert regress(folder, path) == 0
    assert regress(folder.parents[4], path) == 0


@pytest.mark.parametrize(("shift", "code"), [(0.02, 0), (0.04, 1), (-0.02, 0), (-0.04, 1)])
def test_the_tolerance_is_what_the_baseline_states(baseline, shift, code):
    folder, path = baseline
    accuracy = next(row for row in read_baseline(path) if (row["category"], row["quantity"]) == ("all", "accuracy"))
    edit(path, "accuracy", value=str(float(accuracy["value"]) + shift), tolerance="0.03")
    assert regress(folder, path) == code


def test_what_moved_is_in_the_table(baseline, capsys):
    folder, path = baseline
    edit(path, "visual_tokens_mean", value="21")
    assert regress(folder, path) == 1
    out = capsys.readouterr().out
    assert "visual_tokens_mean" in out
    assert "1 of" in out


def test_a_run_that_is_missing_does_not_agree(baseline, capsys):
    folder, path = baseline
    edit(path, "accuracy", selector="oracle")
    assert regress(folder.parents[4], path) == 1
    assert "missing" in capsys.readouterr().out


def test_a_run_that_the_baseline_does_not_know_is_refused(baseline, tmp_path, capsys):
    _, path = baseline
    other = execute(config(tmp_path / "other", benchmark__count=30))
    assert regress(other, path) == 2
    assert "no row for this run" in capsys.readouterr().err


def test_writing_again_keeps_a_tolerance_that_someone_chose(baseline):
    folder, path = baseline
    edit(path, "accuracy", tolerance="0.2")
    assert regress(folder, path, "--write") == 0
    tolerances = {(row["category"], row["quantity"]): row["tolerance"] for row in read_baseline(path)}
    assert tolerances["all", "accuracy"] == "0.2"


def test_measures_are_in_it_and_few_units_may_move_by_one(tmp_path, capsys):
    """Ten groups: one of them is ten points. Two subjects stand aside, which are no categories."""
    benchmark = {"_target_": "tests.test_report.GroupedBenchmark", "name": "grouped", "count": 30}
    folder, path = execute(config(tmp_path / "runs", benchmark=benchmark)), tmp_path / "baseline.csv"
    assert regress(folder, path, "--write") == 0
    rows = {(row["category"], row["quantity"]): row for row in read_baseline(path)}
    assert rows["all", "accuracy"]["tolerance"] == rows["one", "accuracy"]["tolerance"] == "0.1"
    assert rows["all", "visual_tokens_mean"]["tolerance"] == "0"
    assert {category for category, _ in rows} == {"all", "one"}
    edit(path, "plain_accuracy", value=str(float(rows["all", "plain_accuracy"]["value"]) + 0.2))
    capsys.readouterr()
    assert regress(folder, path) == 1
    assert "plain_accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["", "high"])
def test_a_number_that_is_none_is_named_with_its_line(baseline, value, capsys):
    folder, path = baseline
    edit(path, "accuracy", tolerance=value)
    assert regress(folder, path) == 2
    assert "baseline.csv, line" in " ".join(capsys.readouterr().err.split())


def test_an_empty_baseline_could_never_disagree(baseline, capsys):
    folder, path = baseline
    path.write_text(",".join(COLUMNS) + "\n")
    assert regress(folder, path) == 2
    assert "no rows" in capsys.readouterr().err


def mini_semclip(output: Path, *overrides: str) -> Path:
    """The semclip run that the committed baseline knows."""
    common = ["profile=mini", "benchmark=vstar", "selector=semclip", "run.limit=120", f"run.output_dir={output}"]
    assert cli.main([*common, *overrides]) == 0
    (summary,) = output.glob("*/*/*/*/*/summary.csv")
    return summary.parent


def test_the_committed_baseline_holds_and_a_negated_psi_turns_it_red(tmp_path, capsys):
    assert regress(mini_semclip(tmp_path / "sound"), BASELINE) == 0
    broken = mini_semclip(tmp_path / "broken", "psi._target_=tests.test_regression.NegatedRelevance")
    assert regress(broken, BASELINE) == 1
    out = capsys.readouterr().out
    assert "hit_rate" in out
    assert "accuracy" in out


def test_show_prints_a_run_and_one_question_of_it(tmp_path, capsys):
    folder = execute(config(tmp_path, selector=SEMCLIP, benchmark__broken=["q3"], run__max_error_rate=1))
    capsys.readouterr()
    assert cli.main(["show", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "semclip" in out
    assert "q3.png: no image" in out
    assert cli.main(["show", str(folder), "--question", "q4"]) == 0
    out = capsys.readouterr().out
    for words in ("What is number 4?", "three", "overview", "crop", "target boxes"):
        assert words in out
    assert cli.main(["show", str(folder), "--question", "q44"]) == 2
    assert "q44" in capsys.readouterr().err


def test_doctor_says_what_is_there(capsys):
    assert cli.main(["doctor", "--offline"]) == 0
    out = capsys.readouterr().out
    for words in ("semclip-eval", "torch", "profile=mini", "profile=full", "GiB", "not tried"):
        assert words in out
