"""What the benchmarks of speed in scripts/ compute beside time: fits, and the questions that they ask."""

from __future__ import annotations

import importlib
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from semclip_eval.components import build
from semclip_eval.compose import compose
from semclip_eval.types import Answer, Request

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def test_fits_are_those_of_known_curves(script: Any) -> None:
    fitted = script("bench_common").fitted
    line, curve = fitted([1, 2, 5], [7, 9, 15]), fitted([1, 10, 100], [3, 300, 30_000])
    assert (line.slope, line.intercept) == (pytest.approx(2), pytest.approx(5))
    assert curve.exponent == pytest.approx(2)
    assert fitted([1], [2]).slope != fitted([1], [2]).slope  # NaN


def test_rows_that_lack_a_column(script: Any, tmp_path: Path) -> None:
    common = script("bench_common")
    common.write_rows(tmp_path / "new" / "rows.csv", [{"a": 1, "b": 2}, {"a": 3}])
    assert (tmp_path / "new" / "rows.csv").read_text() == "a,b\n1,2\n3,\n"
    assert common.markdown([{"a": 1, "b": 2}, {"a": 3}], {"b": "B", "a": "A"}) == (
        "| B | A |\n| --- | --- |\n| 2 | 1 |\n| - | 3 |\n"
    )


@pytest.mark.parametrize(("per_image", "passes"), [(1, 1), (2, 1), (6, 1), (18, 3)])
def test_questions_come_back_to_an_image_as_popes_do(script: Any, tmp_path: Path, per_image: int, passes: int) -> None:
    table = script("bench_scaling").pope_like(tmp_path / "t", per_image, 36)
    words = ["benchmark=custom", f"benchmark.path={table}", "benchmark.follow_links=true"]
    questions = build("benchmark", compose(words, profile="mini")["benchmark"]).questions()
    assert len(questions) == 36
    assert set(Counter(question.image_id for question in questions).values()) == {per_image}
    assert len({(question.image_id, question.text) for question in questions}) == 36
    changes = sum(a.image_id != b.image_id for a, b in itertools.pairwise(questions)) + 1
    assert changes == passes * 36 // per_image
    assert questions[-1].load_image().mode == "RGB"


def test_series_that_are_not_measured_again_stay(script: Any, tmp_path: Path) -> None:
    scaling, common = script("bench_scaling"), script("bench_common")
    old = [{"axis": "a", "model": "m", "selector": "s", "value": 1, "cpu_s": 2.5, "peak": ""},
           {"axis": "b", "model": "m", "selector": "s", "value": 1, "cpu_s": 3.5, "peak": 4}]  # fmt: skip
    common.write_rows(tmp_path / "scaling.csv", old)
    kept = scaling.others(tmp_path / "scaling.csv", [{"axis": "b", "model": "m", "selector": "s"}])
    assert kept == [{"axis": "a", "model": "m", "selector": "s", "value": 1.0, "cpu_s": 2.5}]
    assert scaling.others(tmp_path / "none.csv", []) == []


def test_the_model_that_computes_nothing_answers(script: Any) -> None:
    vlm = script("bench_scaling").DummyVLM("dummy")
    words = ["benchmark=vstar"]
    benchmark = build("benchmark", compose(words, profile="mini")["benchmark"])
    question = benchmark.questions()[0]
    prepared = vlm.prepare(Request((question.load_image(),), benchmark.prompt(question), question.id))
    (answer,) = vlm.answer([prepared])
    assert benchmark.score(question, answer).choice == 0
    assert prepared.visual_tokens == 49


def test_lmms_evals_answers_are_read_by_the_benchmark(script: Any) -> None:
    peer = script("bench_peer")
    benchmark = build("benchmark", compose(["benchmark=vstar"], profile="mini")["benchmark"])
    questions = benchmark.questions()[:2]
    counts = [len(question.options) for question in questions]
    given = [[number, [float(option != 1), False]] for number in (1, 0) for option in range(counts[number])]
    assert peer.choices(benchmark, questions, given) == [1, 1]
    assert peer.choices(benchmark, questions, json.loads(json.dumps(given))) == [1, 1]
    letters = build("benchmark", compose(["benchmark=vstar", "benchmark.protocol=letter"], profile="mini")["benchmark"])
    (question,) = letters.questions()[:1]
    assert peer.choices(letters, [question], [[0, "A"]]) == [letters.score(question, Answer(text="A")).choice]


def test_a_python_without_lmms_eval_is_said_in_one_line(script: Any, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'lmms_eval'\" >&2\nexit 1\n")
    python.chmod(0o755)
    assert script("bench_peer").peer_version(str(python)) == "ModuleNotFoundError: No module named 'lmms_eval'"
