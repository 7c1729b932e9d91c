"""Gate, blank_crop and hindsight: the formulas by hand, the bounds item by item, and nothing of the truth elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semclip_eval import cli
from semclip_eval.answers.offers import BenchmarkImages
from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.config import RunConfig
from semclip_eval.crops import Grid
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.measure.stages import StageClock
from semclip_eval.results.summary import read_rows
from semclip_eval.selectors.base import SelectionInput, Selector, with_overview
from semclip_eval.selectors.blank_crop import BlankCrop
from semclip_eval.selectors.full_crop import FullCrop
from semclip_eval.selectors.gate import Gate
from semclip_eval.selectors.hindsight import Hindsight
from semclip_eval.selectors.no_crop import NoCrop
from semclip_eval.selectors.random_crop import RandomCrop
from semclip_eval.selectors.semclip import SemClip
from semclip_eval.selectors.tools import SelectorVLM, Tools
from semclip_eval.types import Answer
from tests.fakes import ComputedVLM, DrawnBenchmark, TextReader
from tests.test_selectors import DictatedRelevance, an_input, crop_boxes

GRID = Grid("grid3x3", 3, 3)


# --- gate -------------------------------------------------------------------------------------------------------------


@given(scores=st.lists(st.floats(-1, 1), min_size=9, max_size=9), threshold=st.floats(-3, 3))
def test_standout_is_the_best_score_in_standard_deviations_above_the_mean(
    scores: list[float], threshold: float
) -> None:
    gate = Gate(inner=SemClip(), threshold=threshold)
    (selection,) = gate.select([an_input("q")], Tools(DictatedRelevance({"q": scores})))
    deviation = float(np.std(scores))
    expected = (max(scores) - float(np.mean(scores))) / deviation if deviation > 0 else 0.0
    assert selection.trace[0].kind == "gate_standout"
    assert selection.trace[0].score == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert len(selection.views) == (1 if selection.trace[0].score < threshold else 2)
    assert selection.candidate_relevance == tuple(scores)


class UnsureVLM(ComputedVLM):
    """Entropy and confidence by the last number in the text; keeps what it was asked."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"confidence"})

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def _numbers(self, batch: Sequence[Any]) -> list[float]:
        self.texts += [prepared.prompt.text for prepared in batch]
        return [float(prepared.prompt.text.split("is ")[1].split()[0]) for prepared in batch]

    answer_entropy = confidence = _numbers


@pytest.mark.parametrize(("signal", "crop_at"), [("entropy", "0.9"), ("answerability", "0.1")])
def test_the_vlm_is_asked_once_and_the_inner_selector_only_where_it_is_wanted(signal: str, crop_at: str) -> None:
    psi = DictatedRelevance({f"what is {value}": range(9) for value in ("0.1", "0.9")})
    items = [an_input(f"what is {value}") for value in ("0.1", "0.9")]
    gate, vlm = Gate(inner=SemClip(), signal=signal, threshold=0.5), UnsureVLM()
    facade = SelectorVLM(vlm, gate.needs, gate.max_forwards, StageClock("cpu", on=False))
    selections = gate.select(items, Tools(psi, facade))
    assert [len(selection.views) == 2 for selection in selections] == [item.text.endswith(crop_at) for item in items]
    assert [request.text for request in psi.asked] == [f"what is {crop_at}"]
    assert [facade.cost(item.question_id).forwards for item in items] == [1, 1]
    assert [selection.trace[0].score for selection in selections] == [0.1, 0.9]
    if signal == "entropy":
        assert vlm.texts[0] == "what is 0.1\nAnswer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"signal": "doubt"}, r"selector\.signal=doubt"),
        ({"threshold": "high"}, r"selector\.threshold=high"),
        ({"threshold": math.inf}, r"selector\.threshold=inf"),
        ({"inner": RandomCrop()}, r"selector\.inner=random_crop"),
        ({"words": ("Yes",)}, r"selector\.words"),
        ({"question_template": "Can you?"}, r"selector\.question_template"),
        ({"inner": None}, r"selector\.inner"),
    ],
)
def test_wrong_values_of_a_gate_are_named(keys: dict, place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        Gate(**{"inner": SemClip(), **keys})


# --- blank_crop -------------------------------------------------------------------------------------------------------


def test_blank_crops_have_the_inner_selectors_boxes_and_no_pixel_of_the_image() -> None:
    item, image = an_input("q"), Image.new("RGB", (90, 60), (200, 10, 10))
    tools = Tools(DictatedRelevance({"q": range(9)}))
    (inner,), (blank,) = SemClip(top_k=2).select([item], tools), BlankCrop(inner=SemClip(top_k=2)).select([item], tools)
    assert [view.box for view in blank.views] == [view.box for view in inner.views]
    assert [view.kind for view in blank.views] == ["overview", "blank", "blank"]
    assert blank.views[1].pixels(image).getcolors() == [(30 * 20, (0, 0, 0))]
    assert blank.views[1].sources == ()


def test_another_image_fills_the_same_place_and_is_the_same_for_the_same_question() -> None:
    benchmark = DrawnBenchmark(count=6)
    images = BenchmarkImages(benchmark)
    item = an_input("q2", size=(60, 40))
    tools = Tools(other_image=images)
    selector = BlankCrop(inner=RandomCrop(), fill="other_image")
    (first,), (second,) = selector.select([item], tools), selector.select([item], Tools(other_image=images))
    view = first.views[1]
    assert view == second.views[1]
    assert view.substitute is not None
    expected = view.substitute.crop(view.box)
    assert view.pixels(item.image).tobytes() == expected.tobytes()
    red = {images(f"q{number}", seed).getpixel((59, 0))[0] for number in (2,) for seed in range(60)}
    assert red == {0, 1, 3, 4, 5}  # every other image's colour, never its own


def test_a_benchmark_of_one_image_has_no_other() -> None:
    with pytest.raises(QuestionError, match="q0"):
        BenchmarkImages(DrawnBenchmark(count=1))("q0", 0)


# --- hindsight --------------------------------------------------------------------------------------------------------


def scores_of(selector: Selector, psi: Any = None, batch: int = 4) -> list[Any]:
    benchmark = DrawnBenchmark(count=24)
    pipeline = Pipeline(benchmark, selector, GRID, psi, ComputedVLM(), RunConfig(device="cpu", dtype="float32"))
    questions = benchmark.questions()
    return [record for start in range(0, 24, batch) for record in pipeline.ask(questions[start : start + batch])]


@pytest.fixture(scope="module")
def hindsight() -> list[Any]:
    return scores_of(Hindsight())


def test_hindsight_bounds_every_chooser_of_one_candidate_item_by_item(hindsight: list[Any]) -> None:
    for selector, psi in ((SemClip(), TextReader()), (RandomCrop(), None)):
        for record, bound in zip(scores_of(selector, psi), hindsight, strict=True):
            assert record.score <= bound.score
    alone = scores_of(Hindsight(with_overview_alone=True))
    for record, bound in zip(scores_of(NoCrop()), alone, strict=True):
        assert record.score <= bound.score
    assert sum(record.score for record in alone) >= sum(record.score for record in hindsight)


def test_hindsights_measures_are_those_of_trying_each_candidate_by_hand(hindsight: list[Any]) -> None:
    class Fixed(Selector):
        name = "fixed"
        needs = frozenset({"candidates"})

        def __init__(self, index: int) -> None:
            self.index = index

        def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Any]:
            return [with_overview(item.image, [item.candidates[self.index]]) for item in inputs]

    tries = [scores_of(Fixed(index)) for index in range(9)]
    for number, record in enumerate(hindsight):
        each = [rows[number] for rows in tries]
        chosen = {row.choice for row in each}
        truth = number % 4
        assert record.score == max(row.score for row in each)
        assert record.measures["mean_crop"] == pytest.approx(sum(row.score for row in each) / 9, abs=1e-6)
        assert record.measures["random_label"] == pytest.approx(len(chosen) / 4)
        assert record.measures["wrong_label"] == pytest.approx(len(chosen - {truth}) / 3, abs=1e-6)
        assert [step["score"] for step in record.trace] == [row.score for row in each]
        assert record.cost["forwards"] == 9
        # The view that is shown is one of those with the highest score.
        boxes = [list(box) for box in GRID.candidates(60, 40)]
        assert each[boxes.index(record.views[1]["box"])].score == record.score


def test_hindsight_does_not_depend_on_the_batch(hindsight: list[Any]) -> None:
    again = scores_of(Hindsight(), batch=1)
    assert [(r.views, r.choice, r.measures) for r in again] == [(r.views, r.choice, r.measures) for r in hindsight]


def test_with_guessing_only_hindsight_is_its_random_label_control() -> None:
    """The fake's answers know nothing of the image's content: H, R and W are equal but for chance."""
    benchmark = DrawnBenchmark(count=400)
    pipeline = Pipeline(benchmark, Hindsight(), GRID, None, ComputedVLM(), RunConfig(device="cpu", dtype="float32"))
    records = pipeline.ask(benchmark.questions())
    bound = np.mean([record.score for record in records])
    controls = [np.mean([record.measures[name] for record in records]) for name in ("random_label", "wrong_label")]
    assert np.allclose(controls, bound, atol=0.05)  # the standard error is .014
    # Crops of one image look alike here: nine of them are worth less than nine independent guesses, .925.
    assert 0.25 < bound < 1 - 0.75**9


def test_without_options_there_are_no_label_controls() -> None:
    class Open(DrawnBenchmark):
        def _question(self, index: int) -> Any:
            import dataclasses

            return dataclasses.replace(super()._question(index), options=(), truth="one")

        def prompt(self, question: Any) -> Any:
            from semclip_eval.types import Prompt

            return Prompt(question.text, max_new_tokens=4)

    pipeline = Pipeline(Open(count=2), Hindsight(), GRID, None, ComputedVLM(), RunConfig(device="cpu", dtype="float32"))
    assert all(set(record.measures) == {"mean_crop"} for record in pipeline.ask(Open(count=2).questions()))


# --- who reaches the truth --------------------------------------------------------------------------------------------


class Spy(Selector):
    """Names everything in its `needs`; says not that it uses the truth."""

    name = "spy"
    needs = frozenset({"candidates", "vlm", "judge", "other_image"})

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Any]:
        assert all(item.target_boxes is None for item in inputs)
        assert tools.judge is None
        with pytest.raises(ConfigError, match="selector=spy"):
            tools.require_judge(self.name)
        return NoCrop().select(inputs, tools)


@pytest.mark.parametrize(
    "wrap", [lambda spy: spy, lambda spy: BlankCrop(inner=spy), lambda spy: Gate(inner=spy, signal="entropy")]
)
def test_only_who_declares_it_gets_boxes_and_judge_also_inside_wrappers(wrap: Any) -> None:
    class Entropic(ComputedVLM):
        capabilities: ClassVar[frozenset[str]] = frozenset({"confidence"})

        def answer_entropy(self, batch: Sequence[Any]) -> list[float]:
            return [9.0 for _ in batch]

    benchmark, selector = DrawnBenchmark(count=2), wrap(Spy())
    pipeline = Pipeline(benchmark, selector, GRID, None, Entropic(), RunConfig(device="cpu", dtype="float32"))
    records = pipeline.ask(benchmark.questions())
    assert [record.status for record in records] == ["ok", "ok"], records[0].error
    assert not selector.uses_truth


def test_a_wrapper_around_an_oracle_says_so(tmp_path: Path, capsys: Any) -> None:
    arguments = ["profile=mini", "selector=blank_crop", "selector.inner=oracle", "run.limit=2"]
    assert cli.main([*arguments, f"run.output_dir={tmp_path}"]) == 0
    (row,) = read_rows(tmp_path / "runs.csv")
    assert row["uses_truth"] == "true"


def test_hindsight_in_the_program_writes_its_measures_and_costs(tmp_path: Path, capsys: Any) -> None:
    arguments = ["profile=mini", "selector=hindsight", "run.limit=4", "run.batch_size=2", f"run.output_dir={tmp_path}"]
    assert cli.main(arguments) == 0
    (row,) = read_rows(tmp_path / "runs.csv")
    assert (row["uses_truth"], float(row["forwards_mean"])) == ("true", 16)
    (categories,) = tmp_path.glob("mini/vstar/mini_llava/hindsight/*/categories.csv")
    whole = next(line for line in read_rows(categories) if line["breakdown"] == "all")
    (samples,) = tmp_path.glob("mini/vstar/mini_llava/hindsight/*/samples.jsonl")
    records = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    for name in Hindsight.measure_names:
        mean = sum(record["measures"][name] for record in records) / len(records)
        assert float(whole[name]) == pytest.approx(mean, abs=1e-4)
    # A benchmark without boxes has hindsight all the same.
    assert cli.main(["profile=mini", "benchmark=pope", "selector=hindsight", "run.limit=2", arguments[-1]]) == 0


def test_full_crop_passes_through_a_blank_crop() -> None:
    (selection,) = BlankCrop(inner=FullCrop()).select([an_input()], Tools())
    assert [view.kind for view in selection.views] == ["overview", *["blank"] * 9]
    with pytest.raises(AssertionError):
        crop_boxes(selection)


def test_an_answer_of_the_judge_counts_as_the_questions_forward() -> None:
    class Counting(ComputedVLM):
        def answer(self, batch: Sequence[Any]) -> list[Answer]:
            return self.decode(batch, None)

    benchmark = DrawnBenchmark(count=3)
    pipeline = Pipeline(
        benchmark, Hindsight(max_forwards=8), GRID, None, Counting(), RunConfig(device="cpu", dtype="float32")
    )
    for record in pipeline.ask(benchmark.questions()):
        assert record.error is not None
        assert "max_forwards=8" in record.error["message"]
