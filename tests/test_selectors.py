"""Selectors with a ψ whose scores the test dictates; geometry references are pixel masks or figures worked by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semclip_eval.components import build
from semclip_eval.compose import compose
from semclip_eval.crops import Grid, coverage
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.relevance.base import Relevance, RelevanceRequest
from semclip_eval.selectors.base import SelectionInput, Selector, selection_input
from semclip_eval.selectors.blank_crop import BlankCrop
from semclip_eval.selectors.center_crop import CenterCrop
from semclip_eval.selectors.full_crop import FullCrop
from semclip_eval.selectors.gate import Gate
from semclip_eval.selectors.no_crop import NoCrop
from semclip_eval.selectors.oracle import Oracle
from semclip_eval.selectors.random_crop import RandomCrop
from semclip_eval.selectors.semclip import SemClip, best_first
from semclip_eval.selectors.sparse import Sparse
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Box, Question, Selection

CONFIGS = Path(__file__).parent.parent / "configs"
GRID = Grid("grid3x3", 3, 3)


class DictatedRelevance(Relevance):
    """Gives each question's text the scores written for it."""

    name = model = revision = "dictated"
    text = "question"

    def __init__(self, scores: dict[str, Sequence[float]]) -> None:
        self.scores = scores
        self.asked: list[RelevanceRequest] = []

    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        self.asked += requests
        return [tuple(self.scores[request.text]) for request in requests]


def an_input(
    question_id: str = "q1",
    size: tuple[int, int] = (90, 60),
    targets: Sequence[Box] | None = None,
    candidates: Sequence[Box] | None = None,
    seed: int = 0,
) -> SelectionInput:
    image = Image.new("RGB", size)
    boxes = GRID.candidates(*size) if candidates is None else tuple(candidates)
    return SelectionInput(
        question_id, f"i-{question_id}", image, question_id, boxes, None if targets is None else tuple(targets), seed
    )


def crop_boxes(selection: Selection) -> list[Box]:
    """The crops' boxes, after a check that the overview comes first and once."""
    assert [view.kind for view in selection.views] == ["overview"] + ["crop"] * (len(selection.views) - 1)
    return [view.box for view in selection.views[1:]]


def test_no_crop_and_full_crop() -> None:
    item = an_input()
    assert NoCrop().select([item], Tools())[0].views[0].box == (0, 0, 90, 60)
    assert crop_boxes(NoCrop().select([item], Tools())[0]) == []
    assert crop_boxes(FullCrop().select([item], Tools())[0]) == list(GRID.candidates(90, 60))


def test_semclip_shows_the_best_crops_best_first_and_keeps_every_score() -> None:
    scores = {"q1": (0.1, 0.9, 0.3, -0.2, 0.5, 0.0, 0.8, 0.2, 0.4), "q2": (0.0,) * 8 + (1.0,)}
    relevance = DictatedRelevance(scores)
    items = [an_input("q1"), an_input("q2", size=(30, 30))]
    first, second = SemClip(top_k=3).select(items, Tools(relevance))
    candidates = items[0].candidates
    assert crop_boxes(first) == [candidates[1], candidates[6], candidates[4]]
    assert [view.relevance for view in first.views] == [None, 0.9, 0.8, 0.5]
    assert first.candidate_relevance == scores["q1"]
    assert first.cost.forwards == 0
    assert crop_boxes(second) == [items[1].candidates[index] for index in (8, 0, 1)]
    assert [(request.text, request.image_id, request.boxes) for request in relevance.asked] == [
        (item.text, item.image_id, item.candidates) for item in items
    ]


def test_a_broken_relevance_breaks_the_choice() -> None:
    class Upside(DictatedRelevance):
        def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
            return [tuple(-score for score in row) for row in super().score(requests)]

    scores = {"q1": tuple(index / 10 for index in range(9))}
    item = an_input()
    right, wrong = (SemClip().select([item], Tools(kind(scores)))[0] for kind in (DictatedRelevance, Upside))
    assert crop_boxes(right) == [item.candidates[8]]
    assert crop_boxes(wrong) == [item.candidates[0]]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=12), st.integers(1, 12))
def test_ranking_is_a_stable_sort_where_scores_are_apart_or_equal(levels: list[int], count: int) -> None:
    scores = [level / 10 for level in levels]
    expected = sorted(range(len(scores)), key=lambda index: -levels[index])[:count]
    assert best_first(scores, count) == expected
    # Rounding noise, far below any difference that means something, changes nothing.
    noisy = [score + (-1) ** index * 3e-7 for index, score in enumerate(scores)]
    assert best_first(noisy, count) == expected


def test_semclip_refuses_what_it_cannot_do() -> None:
    item = an_input(candidates=[Box(0, 0, 9, 9)])
    with pytest.raises(ConfigError, match=r"selector\.top_k=2: the crop scheme has 1 candidates"):
        SemClip(top_k=2).check_candidates(1)
    SemClip(top_k=2).check_candidates(2)
    with pytest.raises(QuestionError, match=r"selector\.top_k=2: an image of 90 x 60 pixels has only 1 candidate"):
        SemClip(top_k=2).select([item], Tools(DictatedRelevance({"q1": (1.0,)})))
    with pytest.raises(ConfigError, match="selector=semclip: needs a ψ"):
        SemClip().select([item], Tools())
    with pytest.raises(QuestionError, match="no finite score for 1 of 1 crops"):
        SemClip().select([item], Tools(DictatedRelevance({"q1": (float("nan"),)})))


@pytest.mark.parametrize(
    ("selector", "keywords", "message"),
    [
        (SemClip, {"top_k": 0}, r"selector\.top_k=0: must be at least 1"),
        (SemClip, {"top_k": "two"}, r"selector\.top_k=two: must be a whole number"),
        (RandomCrop, {"count": 0}, r"selector\.count=0: must be at least 1"),
        (Oracle, {"placement": "anywhere"}, r"selector\.placement=anywhere: must be free or candidate"),
        (Oracle, {"margin": -1}, r"selector\.margin=-1: "),
        (Oracle, {"margin": "wide"}, r"selector\.margin=wide: "),
    ],
)
def test_a_wrong_value_is_named(selector: type, keywords: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        selector(**keywords)


@given(st.permutations(range(6)), st.integers(0, 5), st.integers(1, 9))
def test_random_crops_depend_on_seed_and_question_alone(order: list[int], seed: int, count: int) -> None:
    selector = RandomCrop(count=count)
    items = [an_input(f"q{index}", seed=seed) for index in range(6)]
    alone = [crop_boxes(selector.select([item], Tools())[0]) for item in items]
    together = selector.select([items[index] for index in order], Tools())
    assert [crop_boxes(selection) for selection in together] == [alone[index] for index in order]
    for boxes in alone:
        assert len(set(boxes)) == count
        assert boxes == [box for box in items[0].candidates if box in boxes]


def test_random_crops_are_spread_over_candidates_and_differ_between_seeds() -> None:
    drawn = [crop_boxes(RandomCrop().select([an_input(f"q{n}", seed=seed)], Tools())[0])[0]
             for seed in (0, 1) for n in range(900)]  # fmt: skip
    frequencies = Counter(drawn[:900])
    # 900 draws from 9: 100 each, standard deviation 9.4; six of them either way.
    assert len(frequencies) == 9
    assert all(43 < frequency < 157 for frequency in frequencies.values())
    same = sum(a == b for a, b in zip(drawn[:900], drawn[900:], strict=True))
    assert 43 < same < 157


def test_random_crop_draws_the_same_in_another_process() -> None:
    program = (
        "from PIL import Image; from semclip_eval.crops import Grid; from semclip_eval.selectors.base import "
        "SelectionInput; from semclip_eval.selectors.random_crop import RandomCrop; "
        "from semclip_eval.selectors.tools import Tools; "
        "item = SelectionInput('q7', 'i', Image.new('RGB', (90, 60)), '', Grid('g', 3, 3).candidates(90, 60), None, 5);"
        "print([tuple(view.box) for view in RandomCrop(count=2).select([item], Tools())[0].views[1:]])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    here = crop_boxes(RandomCrop(count=2).select([an_input("q7", seed=5)], Tools())[0])
    assert outputs == {str([tuple(box) for box in here])}


def test_random_crop_refuses_more_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"selector\.count=10: the crop scheme has 9 candidates"):
        RandomCrop(count=10).check_candidates(9)
    with pytest.raises(QuestionError, match=r"selector\.count=10: .* has only 9 candidate crops"):
        RandomCrop(count=10).select([an_input()], Tools())


def test_center_crop_has_the_candidates_size_in_the_middle() -> None:
    assert crop_boxes(CenterCrop().select([an_input(size=(90, 60))], Tools())[0]) == [(30, 20, 60, 40)]
    even = Grid("g", 2, 2).candidates(90, 60)
    assert crop_boxes(CenterCrop().select([an_input(candidates=even)], Tools())[0]) == [(22, 15, 67, 45)]


SIDE = 60
target_box = st.builds(
    lambda left, top, width, height: Box(left, top, min(SIDE, left + width), min(SIDE, top + height)),
    st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.integers(1, 40), st.integers(1, 40),
)  # fmt: skip


@given(st.lists(target_box, min_size=1, max_size=3), st.sampled_from([0.0, 0.1, 0.5]))
def test_the_free_oracle_covers_every_target_and_is_no_larger_than_it_must_be(
    targets: list[Box], margin: float
) -> None:
    item = an_input(size=(SIDE, SIDE), targets=targets)
    (box,) = crop_boxes(Oracle(margin=margin).select([item], Tools())[0])
    assert all(coverage(target, [box]) == 1 for target in targets)
    assert box.left >= 0
    assert box.top >= 0
    assert box.right <= SIDE
    assert box.bottom <= SIDE
    width = max(target.right for target in targets) - min(target.left for target in targets)
    height = max(target.bottom for target in targets) - min(target.top for target in targets)
    if max(width, height) <= 20:
        assert (box.width, box.height) == (20, 20)
    else:
        assert box.width == box.height
        assert box.width <= max(width, height) * (1 + 2 * margin) + 1


def test_the_free_oracle_by_hand() -> None:
    def crop(targets: list[Box], size: tuple[int, int]) -> Box:
        return crop_boxes(Oracle().select([an_input(size=size, targets=targets)], Tools())[0])[0]

    # Candidates of 30 x 20; a target of 10 x 10 around (45, 35).
    assert crop([Box(40, 30, 50, 40)], (90, 60)) == (30, 25, 60, 45)
    # In the corner: shifted inside.
    assert crop([Box(0, 0, 4, 4)], (90, 60)) == (0, 0, 30, 20)
    # Union 40 x 10 around (40, 30), too wide: 40 * 1.2 = 48, a square.
    assert crop([Box(20, 25, 30, 35), Box(50, 25, 60, 35)], (90, 60)) == (16, 6, 64, 54)
    # Union 80 wide: the square of 96 is cut to the image.
    assert crop([Box(5, 5, 15, 15), Box(75, 5, 85, 15)], (90, 60)) == (0, 0, 90, 60)
    # Over the edge: what lies inside counts.
    assert crop([Box(80, 50, 110, 70)], (90, 60)) == (60, 40, 90, 60)


def test_the_candidate_oracle_weighs_each_target_the_same_and_takes_the_first_of_equals() -> None:
    oracle = Oracle(placement="candidate")
    cells = GRID.candidates(90, 60)

    def choice(*targets: Box) -> int:
        return cells.index(crop_boxes(oracle.select([an_input(targets=targets)], Tools())[0])[0])

    assert choice(Box(62, 2, 70, 8)) == 2
    # Three quarters of it lie in the second cell of the middle row.
    assert choice(Box(55, 22, 75, 30)) == 5
    assert choice(Box(50, 22, 65, 30)) == 4
    # A tiny target fully in cell 0 against 0.75 of a large one in cell 8.
    assert choice(Box(55, 45, 75, 55), Box(1, 1, 3, 3)) == 0
    assert choice(Box(40, 2, 44, 4), Box(70, 50, 74, 52)) == 1


@pytest.mark.parametrize("targets", [None, ()])
def test_an_oracle_needs_boxes(targets: tuple[Box, ...] | None) -> None:
    with pytest.raises(QuestionError, match="question q1 has no target boxes"):
        Oracle().select([an_input(targets=targets)], Tools())


def test_an_oracle_names_a_box_outside_the_image() -> None:
    with pytest.raises(QuestionError, match=r"\(90, 0, 99, 9\) of question q1 lies outside its image of 90 x 60"):
        Oracle().select([an_input(targets=[Box(1, 1, 2, 2), Box(90, 0, 99, 9)])], Tools())


ALL: list[Selector] = [
    *(NoCrop(), FullCrop(), SemClip(top_k=2), RandomCrop(count=2), CenterCrop(), Oracle()),
    *(Sparse(inner=SemClip()), Gate(inner=SemClip()), BlankCrop(inner=RandomCrop())),
    BlankCrop(name="oracle", inner=Oracle()),
]


@pytest.mark.parametrize("selector", ALL, ids=lambda selector: selector.name)
def test_only_an_oracle_is_handed_the_truth_or_listens_to_it(selector: Selector) -> None:
    image = Image.new("RGB", (90, 60))
    boxes = (Box(70, 45, 80, 55),)
    question = Question("q1", "Which?", "c", "i1", lambda: image, truth=1, options=("a", "b"), target_boxes=boxes)
    item = selection_input(selector, question, image, "Which?", GRID.candidates(90, 60), seed=3)
    assert (item.question_id, item.image_id, item.seed, item.text) == ("q1", "i1", 3, "Which?")
    assert item.target_boxes == (boxes if selector.name == "oracle" else None)
    assert selector.uses_truth == (selector.name == "oracle")
    relevance = DictatedRelevance({"Which?": [0.5] * 9}) if "psi" in selector.needs else None
    moved = SelectionInput(**{**item.__dict__, "target_boxes": (Box(0, 0, 5, 5),)})
    same = selector.select([item], Tools(relevance)) == selector.select([moved], Tools(relevance))
    assert same != selector.uses_truth


@pytest.mark.parametrize("group", ["selector", "crops"])
def test_every_config_describes_and_builds_its_component(group: str) -> None:
    files = sorted((CONFIGS / group).glob("*.yaml"))
    names = {file.stem for file in files}
    assert (
        names
        >= {
            "selector": {"no_crop", "full_crop", "semclip", "random_crop", "center_crop", "oracle"}
            | {"sparse", "gate", "blank_crop", "hindsight"},
            "crops": {"grid2x2", "grid3x3", "grid4x4", "grid5x5", "pyramid"},
        }[group]
    )
    for file in files:
        section = compose([f"{group}={file.stem}"], "mini")[group]
        assert section["description"]
        assert build(group, section).name == file.stem
