"""What a selector may use: only what it names, counted, within its budget, and never the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.answers.recording import target_coverage
from semclip_eval.answers.sources import check_capabilities
from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.config import RunConfig
from semclip_eval.crops import Grid
from semclip_eval.errors import ConfigError
from semclip_eval.measure.stages import StageClock
from semclip_eval.models.insight import TokenBoxes
from semclip_eval.selectors.base import SelectionInput, Selector, overview
from semclip_eval.selectors.tools import CHUNK, BudgetExceeded, SelectorVLM, Tools
from semclip_eval.types import Answer, Box, Cost, Part, Prompt, Request, Selection, TraceStep, View
from tests.fakes import ComputedVLM, DrawnBenchmark

OFF = StageClock("cpu", on=False)


class TalkingVLM(ComputedVLM):
    """Answers, and is confident by the number of images; keeps the sizes of its batches."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"confidence"})

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.batches: list[list[Any]] = []

    def answer(self, batch: Sequence[Any]) -> list[Answer]:
        self.batches.append(list(batch))
        return [Answer(text="yes", new_tokens=2) for _ in batch]

    def confidence(self, batch: Sequence[Any]) -> list[float]:
        self.batches.append(list(batch))
        return [prepared.visual_tokens / 100 for prepared in batch]


def request(question: str, images: int = 1, text: str = "is it red") -> Request:
    return Request((Image.new("RGB", (4, 4)),) * images, Prompt(text, ("Yes", "No")), question)


def facade(vlm: ComputedVLM, needs: tuple[str, ...] = ("vlm", "confidence"), most: int | None = None) -> SelectorVLM:
    return SelectorVLM(vlm, needs, most, OFF)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=40))
def test_costs_are_those_of_the_requests_and_batches_never_mix_questions(wanted: list[tuple[str, int]]) -> None:
    vlm = TalkingVLM()
    asked = facade(vlm)
    requests = [request(question, images) for question, images in wanted]
    assert asked.confidence(requests) == [images * 10 / 100 for _, images in wanted]
    for question in "abc":
        images = [count for name, count in wanted if name == question]
        # Ten tokens an image and three words of text: what the fake's `prepare` says.
        assert asked.cost(question) == Cost(len(images), 0, 10 * sum(images), 3 * len(images), 0)
    assert all(len(batch) <= CHUNK for batch in vlm.batches)
    assert sum(map(len, vlm.batches)) == len(wanted)
    names = [[next(q for q, r in zip(wanted, requests, strict=True) if r.prompt is p.prompt)[0] for p in batch]
             for batch in vlm.batches]  # fmt: skip
    assert all(len(set(batch)) == 1 for batch in names)


def test_generated_tokens_count_and_a_question_that_begins_again_has_spent_nothing() -> None:
    asked = facade(TalkingVLM())
    asked.answer([request("a"), request("b")])
    assert asked.cost("a") == Cost(1, 0, 10, 3, 2)
    asked.begin(["a"])
    assert asked.cost("a") == Cost()
    assert asked.cost("b").forwards == 1


@given(st.integers(0, 12), st.lists(st.integers(1, 6), max_size=6))
def test_the_budget_is_never_exceeded(most: int, calls: list[int]) -> None:
    vlm = TalkingVLM()
    asked = facade(vlm, most=most)
    spent = 0
    for count in calls:
        if spent + count <= most:
            asked.confidence([request("a")] * count)
            spent += count
        else:
            with pytest.raises(BudgetExceeded, match=rf"max_forwards={most}.*{count}.*{most - spent} are left"):
                asked.confidence([request("a")] * count)
        assert asked.cost("a").forwards == spent
        assert asked.forwards_left("a") == most - spent
    assert sum(map(len, vlm.batches)) == spent
    # Another question has a budget of its own.
    assert asked.forwards_left("b") == most


def test_what_a_selector_did_not_name_it_does_not_get() -> None:
    asked = facade(TalkingVLM(), needs=("confidence",))
    with pytest.raises(ConfigError, match="'vlm'"):
        asked.answer([request("a")])
    with pytest.raises(ConfigError, match="'attention'"):
        asked.attention([request("a")], [0], "last")
    with pytest.raises(ValueError, match=r"SelectionInput\.request"):
        asked.confidence([request("")])
    with pytest.raises(ConfigError, match="mine"):
        Tools().require_psi("mine")
    with pytest.raises(ConfigError, match="mine"):
        Tools().require_vlm("mine")


def test_what_a_model_cannot_do_is_refused_by_its_class() -> None:
    def selector(*needs: str) -> Any:
        return SimpleNamespace(name="mine", needs=frozenset(needs))

    check_capabilities(selector("psi", "candidates", "vlm", "confidence"), TalkingVLM, "talking")
    with pytest.raises(ConfigError, match=r"selector=mine.*attention.*model=talking"):
        check_capabilities(selector("attention", "confidence"), TalkingVLM, "talking")
    with pytest.raises(ConfigError, match=r"selector=mine.*'telepathy'"):
        check_capabilities(selector("telepathy"), TalkingVLM, "talking")


class Curious(Selector):
    """Keeps what it is handed, and asks the VLM twice about each question."""

    name = "curious"
    needs = frozenset({"confidence"})

    def __init__(self) -> None:
        self.seen: list[tuple[SelectionInput, Tools]] = []

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        self.seen += [(item, tools) for item in inputs]
        selections = []
        for item in inputs:
            image = item.image
            scores = tools.require_vlm(self.name).confidence([item.request([image, image], words=("Yes", "No"))] * 2)
            step = TraceStep("look", Box(0, 0, 5, 5), scores[0])
            # A selector's own claim about its cost is not believed.
            selections.append(Selection((overview(image),), trace=(step,), cost=Cost(99)))
        return selections


def pipeline(benchmark: Benchmark, selector: Selector) -> Pipeline:
    run = RunConfig(device="cpu", dtype="float32")
    return Pipeline(benchmark, selector, Grid("grid", 2, 2), None, TalkingVLM(), run)


@pytest.mark.parametrize("protocol", ["likelihood", "letter"])
def test_a_selector_is_handed_a_question_without_its_truth(protocol: str) -> None:
    benchmark, selector = DrawnBenchmark(count=3, protocol=protocol), Curious()
    records = pipeline(benchmark, selector).ask(benchmark.questions())
    for (item, tools), question in zip(selector.seen, benchmark.questions(), strict=True):
        held = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        assert held.pop("target_boxes") is None
        assert held.pop("image").size == (60, 40)
        assert held.pop("candidates") == Grid("grid", 2, 2).candidates(60, 40)
        assert held == {
            "question_id": question.id,
            "image_id": question.image_id,
            "text": question.text,
            "seed": 0,
            "instruction": question.text,
        }
        assert tools.psi is None
    assert [record.cost for record in records] == [dataclasses.asdict(Cost(2, 0, 40, 8, 0))] * 3
    assert records[0].trace == [{"kind": "look", "box": [0, 0, 5, 5], "score": 0.2}]
    assert [candidate["box"] for candidate in records[0].candidates or []] == [
        list(box) for box in Grid("grid", 2, 2).candidates(60, 40)
    ]
    assert records[0].encoded_tokens == records[0].visual_tokens == 10


def coloured(width: int = 30, height: int = 20) -> Image.Image:
    pixels = np.arange(width * height * 3, dtype=np.int64).reshape(height, width, 3) % 251
    return Image.fromarray(pixels.astype(np.uint8))


def test_a_collage_shows_its_parts_and_covers_their_sources() -> None:
    image = coloured()
    parts = (Part(Box(0, 0, 10, 5), Box(5, 0, 15, 5)), Part(Box(20, 10, 30, 20), Box(0, 5, 10, 15)))
    view = View("collage", Box(0, 0, 30, 20), parts=parts)
    assert view.size == (15, 15)
    pixels, source = np.array(view.pixels(image)), np.array(image)
    assert (pixels[0:5, 5:15] == source[0:5, 0:10]).all()
    assert (pixels[5:15, 0:10] == source[10:20, 20:30]).all()
    assert not pixels[0:5, 0:5].any()
    assert not pixels[5:15, 10:15].any()
    half = Box(25, 5, 30, 15)  # the second part holds its lower half
    assert target_coverage([half], [View("overview", Box(0, 0, 30, 20)), view]) == 0.5


def test_a_blank_has_the_size_of_its_box_and_covers_nothing() -> None:
    image, box = coloured(), Box(3, 4, 13, 10)
    assert not np.array(View("blank", box).pixels(image)).any()
    other = coloured(60, 40)
    foreign = View("blank", box, substitute=other)
    assert foreign.pixels(image).tobytes() == other.resize((30, 20)).crop(box).tobytes()
    assert foreign.size == (10, 6)
    assert target_coverage([box], [View("overview", Box(0, 0, 30, 20)), foreign]) is None


def test_token_boxes_in_the_original_image() -> None:
    boxes = np.array([[0, -2, 4, 2], [4, -2, 8, 2], [np.nan] * 4, [0, 8, 4, 12]], dtype=float)
    tokens = TokenBoxes(boxes, np.array([False, True, False, False]), np.zeros(4, dtype=bool))
    mapped = tokens.in_image(View("crop", Box(100, 50, 108, 60)))
    assert mapped[0].tolist() == [100, 48, 104, 52]
    assert np.isnan(mapped[1]).all()  # padding
    assert np.isnan(mapped[2]).all()  # a newline
    collage = View("collage", Box(0, 0, 90, 90), parts=(Part(Box(80, 80, 84, 90), Box(0, 4, 4, 14)),))
    mapped = tokens.in_image(collage)
    assert mapped[3].tolist() == [80, 84, 84, 88]
    assert np.isnan(mapped[0]).all()  # its centre lies on the black canvas
