"""choose: the best within the budget, ties by the paired interval, and the sample size, on small runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semclip_eval import cli
from semclip_eval.choose import questions_needed
from semclip_eval.results.summary import read_rows
from semclip_eval.scoring.statistics import mcnemar_exact


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choose")
    run = ["-m", "profile=mini", "run.limit=16", f"run.output_dir={folder}"]
    assert cli.main([*run, "selector=no_crop,semclip,full_crop,random_crop,oracle", "run.batch_size=8"]) == 0
    assert cli.main([*run[:2], "run.limit=3", run[3], "selector=no_crop,semclip", "run.mode=latency"]) == 0
    return folder


def chosen(results: Path, capsys: Any, *limits: str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["choose", str(results), "--json", *limits]) == 0
    (choice,) = json.loads(capsys.readouterr().out)
    return dict(choice)


def test_the_best_within_the_budget_is_chosen_and_the_oracle_never(results: Path, capsys: Any) -> None:
    rows = {row["selector"]: row for row in read_rows(results / "runs.csv") if row["mode"] == "accuracy"}
    for limit in (50, 100, 900):
        fitting = [row for name, row in rows.items() if name != "oracle" and float(row["visual_tokens_mean"]) <= limit]
        choice = chosen(results, capsys, "--max-tokens", str(limit))
        highest = max(float(row["accuracy"]) for row in fitting)
        assert choice["best"]["accuracy"] == highest
        assert choice["best"]["tokens"] <= limit
        assert "oracle" not in {option["name"] for option in choice["others"]}
        beyond = {option["name"] for option in choice["others"] if not option["within"]}
        assert beyond == {row["selector"] for row in rows.values() if row not in fitting} - {"oracle"}


def test_ties_are_those_whose_interval_holds_zero(results: Path, capsys: Any) -> None:
    choice = chosen(results, capsys)
    for option in choice["others"]:
        assert option["difference"] == pytest.approx(choice["best"]["accuracy"] - option["accuracy"], abs=1e-6)
        assert option["tied"] == (option["low"] <= 0 <= option["high"])
        assert (option["needed"] is None) or option["tied"]


def test_milliseconds_come_from_the_latency_run_of_the_same_settings(results: Path, capsys: Any) -> None:
    timed = {row["selector"]: float(row["e2e_ms_p50"]) for row in read_rows(results / "runs.csv") if row["e2e_ms_p50"]}
    choice = chosen(results, capsys, "--max-ms", "100000")
    names = {option["name"]: option for option in (choice["best"], *choice["others"])}
    assert names["semclip"]["milliseconds"] == timed["semclip"]
    assert names["full_crop"]["milliseconds"] is None
    assert not names["full_crop"]["within"]
    assert "ms not measured" in names["full_crop"]["why_not"]


def test_nothing_within_the_budget_is_said(results: Path, capsys: Any) -> None:
    assert chosen(results, capsys, "--max-tokens", "1")["best"] is None
    assert cli.main(["choose", str(results), "--max-tokens", "1"]) == 0
    assert "Nothing keeps the budget" in capsys.readouterr().out


def test_a_folder_without_runs_is_named(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["choose", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(("difference", "discordant"), [(0.05, 0.2), (0.1, 0.3), (-0.08, 0.1)])
def test_the_number_of_questions_has_the_power_it_promises(difference: float, discordant: float) -> None:
    """Simulated: with so many pairs McNemar's test finds the difference about four times in five."""
    n = questions_needed(difference, discordant)
    assert n is not None
    rng = np.random.default_rng(0)
    up, down = (discordant + difference) / 2, (discordant - difference) / 2
    found = 0
    for _ in range(600):
        b, c, _rest = rng.multinomial(n, [up, down, 1 - discordant])
        found += mcnemar_exact(int(b), int(c)) < 0.05
    # The exact test is a little more careful than the formula's.
    assert 0.70 <= found / 600 <= 0.88
    assert math.isclose(questions_needed(-difference, discordant) or 0, n)
    assert questions_needed(0, discordant) is None
