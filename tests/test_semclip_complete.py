"""SemClip's settings: suppression, diversity and phrases against naive references; the tight oracle; target sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semclip_eval.crops import Pyramid, coverage
from semclip_eval.errors import ConfigError
from semclip_eval.relevance.base import psi_text
from semclip_eval.relevance.phrases import noun_phrases
from semclip_eval.results.targets import by_targets, target_size
from semclip_eval.selectors.oracle import Oracle
from semclip_eval.selectors.semclip import SemClip, shared_part
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Box, Question
from tests.test_selectors import DictatedRelevance, an_input, crop_boxes

PYRAMID = Pyramid("pyramid", [[1, 2], [2, 2], [3, 3]], overlap=0.25).candidates(90, 60)
scores_of_all = st.lists(st.integers(-50, 50), min_size=len(PYRAMID), max_size=len(PYRAMID), unique=True)


def pixels(box: Box) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box.left, box.right) for y in range(box.top, box.bottom)}


def part(a: Box, b: Box) -> float:
    return len(pixels(a) & pixels(b)) / min(len(pixels(a)), len(pixels(b)))


@given(first=st.sampled_from(PYRAMID), second=st.sampled_from(PYRAMID))
def test_the_shared_part_counts_pixels(first: Box, second: Box) -> None:
    assert shared_part(first, second) == pytest.approx(part(first, second))


@given(levels=scores_of_all, top_k=st.integers(1, 6), most=st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_suppression_passes_over_what_overlaps_a_better_one(levels: list[int], top_k: int, most: float) -> None:
    item = an_input(candidates=PYRAMID)
    scores = [level / 100 for level in levels]
    (selection,) = SemClip(top_k=top_k, max_overlap=most).select([item], Tools(DictatedRelevance({"q1": scores})))
    expected: list[Box] = []
    for index in sorted(range(len(PYRAMID)), key=lambda index: -scores[index]):
        if len(expected) < top_k and all(part(PYRAMID[index], box) <= most for box in expected):
            expected.append(PYRAMID[index])
    assert crop_boxes(selection) == expected


@given(levels=scores_of_all, top_k=st.integers(1, 5), diversity=st.sampled_from([0.3, 0.5, 0.8]))
def test_diversity_is_maximal_marginal_relevance(levels: list[int], top_k: int, diversity: float) -> None:
    item = an_input(candidates=PYRAMID)
    scores = [level / 100 for level in levels]
    (selection,) = SemClip(top_k=top_k, diversity=diversity).select([item], Tools(DictatedRelevance({"q1": scores})))
    low, high = min(scores), max(scores)
    chosen: list[int] = []
    for box in crop_boxes(selection):
        value = {
            index: (1 - diversity) * (scores[index] - low) / (high - low)
            - diversity * max((part(PYRAMID[index], PYRAMID[other]) for other in chosen), default=0.0)
            for index in range(len(PYRAMID))
            if index not in chosen
        }
        index = PYRAMID.index(box)
        assert value[index] == pytest.approx(max(value.values()), abs=2e-5)
        chosen.append(index)
    assert len(chosen) == top_k


def test_phrases_take_turns_and_a_candidates_score_is_its_highest() -> None:
    item = an_input("What are the colors of the star and the heart?")
    star = (0.9, 0.8, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    heart = (0.95, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0, 0.0)
    psi = DictatedRelevance({"star": star, "heart": heart})
    (selection,) = SemClip(top_k=3, each_phrase=True).select([item], Tools(psi))
    # The star's best, the heart's best of what is left, the star's second.
    assert crop_boxes(selection) == [item.candidates[index] for index in (0, 4, 1)]
    assert [view.relevance for view in selection.views[1:]] == [0.9, 0.7, 0.8]
    assert selection.candidate_relevance == tuple(map(max, star, heart))


@pytest.mark.parametrize(
    ("key", "value"),
    [("max_overlap", 1), ("max_overlap", "half"), ("diversity", 1.0), ("diversity", -0.1), ("each_phrase", "yes")],
)
def test_wrong_values_are_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"selector\.{key}={value}"):
        SemClip(**{key: value})


@pytest.mark.parametrize(
    ("question", "phrases"),
    [
        ("Is the red star on the left or right side of the blue circle?", ["red star", "blue circle"]),
        ("What is the color of the woman's handbag?", ["woman's handbag"]),
        ("What kind of drink can we buy from that vending machine?", ["drink", "buy", "vending machine"]),
        ("Is there a traffic light in the image?", ["traffic light"]),
        ("What is the color?", []),
        ("", []),
        ("Wie heißt der Müller-Platz?", ["Wie heißt der Müller-Platz"]),
        ("Is the T-shirt, or the cap, red?", ["T-shirt", "cap", "red"]),
    ],
)
def test_phrases_are_runs_of_words_between_stop_words(question: str, phrases: list[str]) -> None:
    assert noun_phrases(question) == phrases


@given(st.text())
def test_phrases_are_words_of_the_text_each_once(text: str) -> None:
    phrases = noun_phrases(text)
    assert len(set(phrases)) == len(phrases)
    assert all(phrase and all(word in text for word in phrase.split()) for phrase in phrases)


def test_psi_may_read_the_phrases() -> None:
    question = Question("q", "What is the color of the star?", "c", "i", lambda: None, 0, ("red", "blue"))
    assert psi_text(question, "noun_phrases") == "star"
    nothing = Question("q", "What is the color?", "c", "i", lambda: None, 0)
    assert psi_text(nothing, "noun_phrases") == "What is the color?"


@given(
    left=st.integers(0, 160), top=st.integers(0, 100), side=st.integers(2, 40), scale=st.sampled_from([1.0, 2.5, 3.0])
)
def test_a_tight_crop_is_a_square_around_its_target(left: int, top: int, side: int, scale: float) -> None:
    targets = [Box(left, top, min(200, left + side), min(140, top + side // 2 + 1)), Box(190, 130, 200, 140)]
    item = an_input(size=(200, 140), targets=targets)
    (selection,) = Oracle(placement="tight", tight_side=scale).select([item], Tools())
    crops = crop_boxes(selection)
    assert len(crops) == 2
    for target, crop in zip(targets, crops, strict=True):
        expected = math.ceil(scale * max(target.width, target.height))
        assert (crop.width, crop.height) == (min(expected, 200), min(expected, 140))
        assert coverage(target, [crop]) == 1.0
    with pytest.raises(ConfigError, match=r"selector\.tight_side=0\.5"):
        Oracle(tight_side=0.5)


def record(boxes: list[list[int]], width: int = 1000, height: int = 1000) -> dict[str, Any]:
    return {"target_boxes": boxes, "views": [{"kind": "overview", "box": [0, 0, width, height]}]}


@given(side=st.integers(1, 900))
def test_target_sizes_are_binned_by_half_octaves(side: int) -> None:
    item = record([[0, 0, side, side], [0, 0, 1000, 1000]])
    ((breakdown, name),) = by_targets([item])
    assert breakdown == "target_size"
    if name == "10 % or more":
        assert side >= 100
    else:
        low, high = map(float, name.removesuffix(" %").split("-"))
        assert low * 0.995 <= side / 10 < high * 1.005
        assert high / low == pytest.approx(math.sqrt(2), rel=0.01)


def test_targets_are_counted_where_their_number_differs_and_sizes_rise() -> None:
    rows = [record([[0, 0, 50, 50]]), record([[0, 0, 20, 20], [5, 5, 400, 400]]), record([])]
    assert list(by_targets(rows)) == [
        ("targets", "1"),
        ("targets", "2"),
        ("target_size", "1.77-2.5 %"),
        ("target_size", "5-7.07 %"),
    ]
    assert target_size(rows[1]) == pytest.approx(0.02)
    assert target_size({"target_boxes": [[0, 0, 5, 5]], "views": None}) is None
    assert by_targets([record([])]) == {}
