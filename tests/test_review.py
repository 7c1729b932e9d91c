"""review: costs, fronts and corrected tests against the runs' own files and naive versions, on small runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semclip_eval import cli
from semclip_eval.results.comparison import compare
from semclip_eval.results.pareto import front
from semclip_eval.results.summary import read_rows
from semclip_eval.scoring.statistics import detectable_difference

COSTS = {"front_tokens": "visual_tokens_mean", "front_forwards": "forwards_mean", "front_ms": "e2e_ms_p50"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    run = ["experiment=review", "profile=mini", f"run.output_dir={folder}"]
    chosen = "selector=no_crop,semclip,gate,random_crop,oracle"
    assert cli.main([*run, chosen, "run.limit=24", "run.batch_size=8"]) == 0
    assert cli.main([*run, "selector=no_crop,semclip", "run.limit=2", "run.mode=latency"]) == 0
    return folder


def reviewed(results: Path, capsys: Any, *options: str) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["review", str(results), "--json", *options]) == 0
    records = json.loads(capsys.readouterr().out)
    return {f"{record['selector']} {record['differs_in']}".strip(): record for record in records}


def run_folder(results: Path, run_id: str) -> Path:
    (summary,) = results.glob(f"*/*/*/*/{run_id}/summary.csv")
    return summary.parent


def test_the_experiment_runs_each_selector_at_its_budgets(results: Path, capsys: Any) -> None:
    rows = reviewed(results, capsys)
    budgets = {f"semclip top_k={k}" for k in (1, 2, 4)}
    assert set(rows) == {"no_crop", "gate", "random_crop", "oracle", *budgets}
    # One crop more is one view more: the budget reached the selector.
    assert [rows[f"semclip top_k={k}"]["visual_tokens_mean"] for k in (1, 2, 4)] == ["98", "147", "245"]


def test_rows_say_what_the_runs_say(results: Path, capsys: Any) -> None:
    written = {row["run_id"]: row for row in read_rows(results / "runs.csv")}
    timed = {row["selector"]: row for row in written.values() if row["mode"] == "latency"}
    for record in reviewed(results, capsys).values():
        row = written[record["run_id"]]
        for name in ("accuracy", "accuracy_ci_low", "visual_tokens_mean", "encoded_tokens_mean", "forwards_mean", "n"):
            assert record[name] == row[name]
        assert record["uses_truth"] == ("true" if record["selector"] == "oracle" else "false")
    rows = reviewed(results, capsys)
    assert rows["no_crop"]["e2e_ms_p50"] == float(timed["no_crop"]["e2e_ms_p50"])
    assert rows["gate"]["e2e_ms_p50"] is None


def test_fronts_are_what_no_other_run_beats_and_the_oracle_stands_on_none(results: Path, capsys: Any) -> None:
    rows = reviewed(results, capsys)
    for column, cost in COSTS.items():
        points = {
            name: (float(row[cost]), float(row["accuracy"]))
            for name, row in rows.items()
            if row["uses_truth"] == "false" and row[cost] is not None
        }
        naive = {
            name
            for name, (price, accuracy) in points.items()
            if not any(
                other_price <= price and other >= accuracy and (other_price, other) != (price, accuracy)
                for other_price, other in points.values()
            )
        }
        assert {name for name, row in rows.items() if row[column]} == naive
        assert naive


def test_tests_are_those_of_compare_corrected_over_all_of_them(results: Path, capsys: Any) -> None:
    rows = reviewed(results, capsys)
    reference = rows.pop("semclip top_k=1")
    assert reference["verdict"] == "reference"
    folders = [run_folder(results, row["run_id"]) for row in (reference, *rows.values())]
    pairs = compare(folders, reference=str(folders[0])).pairs
    for row, pair in zip(rows.values(), pairs, strict=True):
        assert row["reference_run_id"] == reference["run_id"]
        assert (row["n_better"], row["n_worse"], row["n_paired"]) == (
            len(pair.only_other), len(pair.only_reference), pair.n_units,
        )  # fmt: skip
        assert row["mcnemar_p"] == pytest.approx(pair.p)
        assert row["detectable_difference"] == detectable_difference(pair.n_units, row["discordant"])
        # Naively: the largest of p times the number of tests with no smaller p, over all tests up to this one.
        others = [other.p or 0.0 for other in pairs]
        naive = max(p * sum(q >= p for q in others) for p in others if p <= (pair.p or 0.0))
        assert row["mcnemar_p_holm"] == pytest.approx(min(1.0, naive))
        sign = "better" if row["n_better"] > row["n_worse"] else "worse"
        assert row["verdict"] == (sign if row["mcnemar_p_holm"] <= 0.05 else "not told apart")
        assert row["n_tests"] == len(pairs)


def test_the_reference_may_be_a_selector_a_name_or_an_id(results: Path, capsys: Any) -> None:
    rows = reviewed(results, capsys, "--reference", "semclip (top_k=4)")
    assert rows["semclip top_k=4"]["verdict"] == "reference"
    rows = reviewed(results, capsys, "--reference", rows["gate"]["run_id"], "--discordant", "0.5", "--max-p", "0.01")
    assert rows["gate"]["verdict"] == "reference"
    assert rows["no_crop"]["detectable_difference"] == detectable_difference(24, 0.5, 0.01)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--reference", "zoom"], "--reference zoom"),
        (["--max-p", "1"], "--max-p 1"),
        (["--discordant", "0"], "--discordant 0"),
    ],
)
def test_a_wrong_option_is_named(results: Path, capsys: Any, options: list[str], named: str) -> None:
    assert cli.main(["review", str(results), *options]) == 2
    assert named in capsys.readouterr().err


def test_a_folder_without_two_runs_says_how_to_make_them(results: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["review", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    run = ["profile=mini", "selector=no_crop", "run.limit=2", f"run.output_dir={tmp_path}"]
    assert cli.main(run) == 0
    assert cli.main(["review", str(tmp_path)]) == 2
    assert "experiment=review" in capsys.readouterr().err


def test_the_files_are_the_tables_and_the_same_bytes_again(results: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("one", "two"):
        assert cli.main(["review", str(results), "--output", str(tmp_path / name)]) == 0
    written = {path.relative_to(tmp_path / "one"): path for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert {path.suffix for path in written} == {".md", ".csv", ".png", ".svg"}
    assert sum(path.suffix == ".svg" for path in written) == 3
    for place, path in written.items():
        assert path.read_bytes() == (tmp_path / "two" / place).read_bytes()
    records = read_rows(tmp_path / "one" / "review.csv")
    assert len(records) == 7
    text = (tmp_path / "one" / "review.md").read_text(encoding="utf-8")
    for record in records:
        assert f"| {record['selector']}" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "one" / line.rpartition("(")[2].rstrip(")")).is_file()


def test_tables_fit_a_terminal_of_eighty_columns(results: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from semclip_eval.console import out

    monkeypatch.setattr(out, "_width", 80)
    capsys.readouterr()
    assert cli.main(["review", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    # No number is cut or broken: each row of the table of costs stands with its interval.
    for record in reviewed(results, capsys).values():
        assert any(f"{100 * float(record['accuracy']):.1f} (" in line for line in lines)


def test_nothing_heavy_is_imported_without_plots(results: Path) -> None:
    program = (
        "import sys\nfrom semclip_eval.cli import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'open_clip', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    command = [sys.executable, "-c", program, "review", str(results)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).resolve().parent.parent)
    assert done.returncode == 0, done.stderr.decode()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_the_front_is_what_no_point_dominates(points: list[tuple[int, int]]) -> None:
    naive = {
        place
        for place, (cost, accuracy) in enumerate(points)
        if not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
    }
    found = front(points)
    assert set(found) == naive
    assert len(found) == len(naive)
    assert [points[place][0] for place in found] == sorted(points[place][0] for place in found)
