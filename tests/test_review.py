"""review: costs, fronts and corrected tests against the runs' own files and naive versions, on written runs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from semclip_eval import cli
from semclip_eval.compose import compose
from semclip_eval.results.columns import CATEGORY_NAMES, SUMMARY_NAMES
from semclip_eval.results.comparison import compare
from semclip_eval.results.pareto import front
from semclip_eval.results.summary import csv_text, read_rows
from semclip_eval.scoring.statistics import detectable_difference, wilson_interval

COSTS = {"front_tokens": "visual_tokens_mean", "front_forwards": "forwards_mean", "front_ms": "e2e_ms_p50"}
QUESTIONS = 60
# Selector and key -> part of the questions that are right, visual tokens, forwards, ms (None: not timed).
RUNS: dict[tuple[str, ...], tuple[float, int, float, float | None]] = {
    ("selector=no_crop",): (0.45, 49, 0, 11.0),
    ("selector=full_crop",): (0.70, 833, 0, 90.5),
    ("selector=semclip", "selector.top_k=1"): (0.70, 98, 0, 20.25),
    ("selector=semclip", "selector.top_k=2"): (0.70, 147, 0, 25.0),
    ("selector=semclip", "selector.top_k=10"): (0.85, 539, 0, None),
    ("selector=sparse", "selector.keep_ratio=0.25"): (0.60, 24, 0, 21.0),
    ("selector=sparse", "selector.keep_ratio=0.5"): (0.60, 49, 0, 22.0),
    ("selector=zoom", "selector.max_forwards=25"): (0.95, 49, 14.5, 400.0),
    ("selector=random_crop",): (0.45, 98, 0, 19.0),
    ("selector=oracle",): (1.00, 60, 0, 5.0),
}


def write_run(results: Path, run_id: str, overrides: tuple[str, ...], right: float, **cells: Any) -> None:
    """A finished run whose questions are right by a seeded draw, with the costs of `cells`."""
    config = compose([*overrides, "run.batch_size=16"], profile="mini")
    config["psi"] = None
    draw = random.Random(run_id)
    scores = [float(draw.random() < right) for _ in range(QUESTIONS)]
    low, high = wilson_interval(sum(scores), QUESTIONS) or (0.0, 1.0)
    selector = config["selector"]["name"]
    shared = dict.fromkeys(SUMMARY_NAMES, "") | {
        "run_id": run_id, "profile": "mini", "benchmark": "vstar", "split": "test", "protocol": "likelihood",
        "model": "mini_llava", "model_revision": "weights", "dataset_revision": "scenes", "selector": selector,
        "crops": "grid4x4", "uses_truth": "true" if selector == "oracle" else "false", "mode": "accuracy",
        "metric": "accuracy", "n": str(QUESTIONS), "n_scored": str(QUESTIONS), "n_unparsed": "0", "n_error": "0",
        "accuracy": sum(scores) / QUESTIONS, "accuracy_ci_low": low, "accuracy_ci_high": high, "seed": "0",
        "device": "cpu", "dtype": "float32", "started_at": "2026-01-01T00:00:00",
    }  # fmt: skip
    folder = results / "mini" / "vstar" / "mini_llava" / selector / run_id
    folder.mkdir(parents=True)
    (folder / "summary.csv").write_text(csv_text(SUMMARY_NAMES, [shared | cells]))
    row = dict.fromkeys(CATEGORY_NAMES, "") | {"run_id": run_id, "breakdown": "all", "category": "all"}
    (folder / "categories.csv").write_text(csv_text(CATEGORY_NAMES, [row]))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text("{}")
    records = [
        {
            "question_id": f"q{number}", "image_id": f"i{number}", "cluster": "", "question": "?",
            "options": ["a", "b"], "truth": 0, "score": score, "status": "ok", "visual_tokens": 1,
        }
        for number, score in enumerate(scores)
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    for number, (overrides, (right, tokens, forwards, ms)) in enumerate(RUNS.items()):
        costs = {"visual_tokens_mean": tokens, "encoded_tokens_mean": 2 * tokens, "forwards_mean": forwards}
        write_run(folder, f"accuracy{number:02}", overrides, right, **costs)
        if ms is not None:
            write_run(folder, f"latency{number:02}", overrides, right, mode="latency", e2e_ms_p50=ms, **costs)
    # The same settings by older code.
    write_run(folder, "older", ("selector=no_crop",), 0.1, started_at="2025-01-01T00:00:00", visual_tokens_mean=1)
    return folder


def reviewed(results: Path, capsys: Any, *options: str) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["review", str(results), "--json", *options]) == 0
    records = json.loads(capsys.readouterr().out)
    return {f"{record['selector']} {record['differs_in']}".strip(): record for record in records}


def run_folder(results: Path, run_id: str) -> Path:
    (summary,) = results.glob(f"*/*/*/*/{run_id}/summary.csv")
    return summary.parent


def test_rows_say_what_the_runs_say_by_budget(results: Path, capsys: Any) -> None:
    rows = reviewed(results, capsys)
    methods = [name for name in rows if name.startswith(("semclip", "sparse"))]
    budgets = [*(f"semclip top_k={k}" for k in (1, 2, 10)), *(f"sparse keep_ratio={part}" for part in (0.25, 0.5))]
    assert methods == budgets
    for number, (overrides, (_, tokens, forwards, ms)) in enumerate(RUNS.items()):
        (record,) = (record for record in rows.values() if record["run_id"] == f"accuracy{number:02}")
        written = read_rows(run_folder(results, record["run_id"]) / "summary.csv")[0]
        assert (record["visual_tokens_mean"], record["encoded_tokens_mean"]) == (tokens, 2 * tokens)
        assert (record["forwards_mean"], record["e2e_ms_p50"]) == (forwards, ms)
        for name in ("accuracy", "accuracy_ci_low", "accuracy_ci_high", "n"):
            assert record[name] == float(written[name])
        assert record["uses_truth"] is (overrides == ("selector=oracle",))
    assert "older" not in {record["run_id"] for record in rows.values()}


def test_fronts_are_what_no_other_run_beats_and_the_oracle_stands_on_none(results: Path, capsys: Any) -> None:
    rows = reviewed(results, capsys)
    for column, cost in COSTS.items():
        points = {
            name: (float(row[cost]), float(row["accuracy"]))
            for name, row in rows.items()
            if not row["uses_truth"] and row[cost] is not None
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
    rows = reviewed(results, capsys, "--reference", "semclip (top_k=10)")
    assert rows["semclip top_k=10"]["verdict"] == "reference"
    rows = reviewed(results, capsys, "--reference", rows["zoom"]["run_id"], "--discordant", "0.5", "--max-p", "0.01")
    assert rows["zoom"]["verdict"] == "reference"
    assert rows["no_crop"]["detectable_difference"] == detectable_difference(QUESTIONS, 0.5, 0.01)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--reference", "rap"], "--reference rap"),
        (["--max-p", "1"], "--max-p 1"),
        (["--discordant", "0"], "--discordant 0"),
    ],
)
def test_a_wrong_option_is_named(results: Path, capsys: Any, options: list[str], named: str) -> None:
    assert cli.main(["review", str(results), *options]) == 2
    assert named in capsys.readouterr().err


def test_a_folder_without_two_runs_says_how_to_make_them(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["review", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    write_run(tmp_path, "alone", ("selector=no_crop",), 0.5)
    assert cli.main(["review", str(tmp_path)]) == 2
    assert "experiment=review" in capsys.readouterr().err


def test_runs_of_other_settings_are_not_tested_and_times_of_two_devices_have_no_front(
    tmp_path: Path, capsys: Any
) -> None:
    write_run(tmp_path, "reference", ("selector=semclip",), 0.5, visual_tokens_mean=98)
    write_run(tmp_path, "other", ("selector=no_crop", "run.dtype=bfloat16"), 0.5, visual_tokens_mean=49)
    for device, overrides in (("cpu", ("selector=semclip",)), ("cuda", ("selector=no_crop", "run.dtype=bfloat16"))):
        write_run(tmp_path, device, overrides, 0.5, mode="latency", e2e_ms_p50=10, device=device)
    other = reviewed(tmp_path, capsys)["no_crop"]
    assert other["mcnemar_p"] is None
    assert "run.dtype=bfloat16" in other["note"]
    assert other["front_tokens"]
    assert not other["front_ms"]
    assert cli.main(["review", str(tmp_path)]) == 0
    assert "several devices" in " ".join(capsys.readouterr().out.split())


def test_the_files_are_the_tables_and_the_same_bytes_again(results: Path, tmp_path: Path, capsys: Any) -> None:
    for name in ("one", "two"):
        assert cli.main(["review", str(results), "--output", str(tmp_path / name)]) == 0
    written = {path.relative_to(tmp_path / "one"): path for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert {path.suffix for path in written} == {".md", ".csv", ".png", ".svg"}
    assert sum(path.suffix == ".svg" for path in written) == 3
    for place, path in written.items():
        assert path.read_bytes() == (tmp_path / "two" / place).read_bytes()
    records = read_rows(tmp_path / "one" / "review.csv")
    assert len(records) == len(RUNS)
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
