"""Geometry against independent references: pixel masks, and the definition of the overlap."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semclip_eval.crops import (
    Grid,
    Pyramid,
    box_centre,
    centred_box,
    coverage,
    intersection,
    most_common_size,
    union_box,
)
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.types import Box

SIDES = st.integers(1, 70)
CELLS = st.integers(1, 7)
OVERLAPS = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9])


@st.composite
def boxes_inside(draw: st.DrawFn, side: int = 24) -> Box:
    left, top = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
    return Box(left, top, draw(st.integers(left + 1, side)), draw(st.integers(top + 1, side)))


def painted(boxes: list[Box] | tuple[Box, ...], width: int, height: int) -> np.ndarray:
    """How many boxes hold each pixel; fails on a box that reaches out of the image."""
    counts = np.zeros((height, width), int)
    for box in boxes:
        assert 0 <= box.left < box.right <= width
        assert 0 <= box.top < box.bottom <= height
        assert all(type(side) is int for side in box)
        counts[box.top : box.bottom, box.left : box.right] += 1
    return counts


@given(SIDES, SIDES, CELLS, CELLS)
def test_grid_without_overlap_is_a_partition_of_nearly_equal_cells(
    width: int, height: int, rows: int, columns: int
) -> None:
    boxes = Grid("g", rows, columns).candidates(width, height)
    assert (painted(boxes, width, height) == 1).all()
    assert len(boxes) == min(rows, height) * min(columns, width)
    assert list(boxes) == sorted(boxes, key=lambda box: (box.top, box.left))
    for sizes in ({box.width for box in boxes}, {box.height for box in boxes}):
        assert max(sizes) - min(sizes) <= 1


@given(SIDES, SIDES, CELLS, CELLS, OVERLAPS)
def test_grid_with_overlap_covers_the_image_with_distinct_cells(
    width: int, height: int, rows: int, columns: int, overlap: float
) -> None:
    boxes = Grid("g", rows, columns, overlap).candidates(width, height)
    assert painted(boxes, width, height).min() >= 1
    assert len(set(boxes)) == len(boxes)
    assert max(box.width for box in boxes) - min(box.width for box in boxes) <= 1


@given(st.integers(60, 4000), st.integers(2, 7), st.sampled_from([0.1, 0.25, 0.5]))
def test_neighbours_share_the_stated_fraction_of_a_cell(length: int, count: int, overlap: float) -> None:
    boxes = Grid("g", 1, count, overlap).candidates(length, 5)
    assert len(boxes) == count
    for left, right in itertools.pairwise(boxes):
        # Both ends of the shared part are rounded down by less than a pixel, and so is the cell's length.
        assert abs((left.right - right.left) - overlap * left.width) < 2


def test_known_grids() -> None:
    assert Grid("g", 2, 3).candidates(9, 4) == (
        (0, 0, 3, 2), (3, 0, 6, 2), (6, 0, 9, 2), (0, 2, 3, 4), (3, 2, 6, 4), (6, 2, 9, 4),
    )  # fmt: skip
    # Two cells that share half of 80 pixels: 120 = 80 + 80 - 40.
    assert Grid("g", 1, 2, overlap=0.5).candidates(120, 10) == ((0, 0, 80, 10), (40, 0, 120, 10))
    assert Grid("g", 3, 3).candidates(2, 1) == ((0, 0, 1, 1), (1, 0, 2, 1))
    # 0.1 as typed, not as the nearest float: 190 = 2 * 100 - 10, so the cells are 100 pixels, not 99.
    assert Grid("g", 1, 2, overlap=0.1).candidates(190, 1) == ((0, 0, 100, 1), (90, 0, 190, 1))


@given(SIDES, SIDES)
def test_pyramid_is_its_grids_coarse_first_without_repeats(width: int, height: int) -> None:
    boxes = Pyramid("p", [[3, 3], [1, 2]]).candidates(width, height)
    coarse, fine = Grid("a", 1, 2).candidates(width, height), Grid("b", 3, 3).candidates(width, height)
    assert boxes[: len(coarse)] == coarse
    assert boxes[len(coarse) :] == tuple(box for box in fine if box not in coarse)
    assert len(Pyramid("p").candidates(90, 90)) == 13


@given(boxes_inside(), st.lists(boxes_inside(), max_size=6))
def test_coverage_and_union_equal_a_pixel_mask(target: Box, boxes: list[Box]) -> None:
    counts = painted(boxes, 24, 24)
    inside = counts[target.top : target.bottom, target.left : target.right]
    assert coverage(target, boxes) == (inside > 0).sum() / inside.size
    rows, columns = np.nonzero(painted([target, *boxes], 24, 24))
    assert union_box([target, *boxes]) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@given(boxes_inside(), boxes_inside())
def test_intersection_equals_a_pixel_mask(a: Box, b: Box) -> None:
    both = painted([a, b], 24, 24) == 2
    shared = intersection(a, b)
    assert intersection(b, a) == shared
    assert (shared.area if shared else 0) == both.sum()
    if shared:
        assert both[shared.top : shared.bottom, shared.left : shared.right].all()


def test_boxes_that_touch_share_nothing() -> None:
    assert intersection(Box(0, 0, 5, 5), Box(5, 0, 9, 5)) is None
    assert coverage(Box(0, 0, 4, 4), [Box(2, 0, 9, 9), Box(3, 0, 9, 9), Box(0, 0, 1, 4)]) == 0.75
    with pytest.raises(QuestionError, match=r"\(3, 3, 3, 8\) has no area"):
        coverage(Box(3, 3, 3, 8), [Box(0, 0, 9, 9)])


@given(st.floats(-50, 150), st.floats(-50, 150), SIDES, SIDES, SIDES, SIDES)
def test_centred_box_keeps_its_size_and_stays_inside(
    x: float, y: float, width: int, height: int, image_width: int, image_height: int
) -> None:
    box = centred_box((x, y), width, height, image_width, image_height)
    painted([box], image_width, image_height)
    assert (box.width, box.height) == (min(width, image_width), min(height, image_height))
    if box.left > 0 and box.right < image_width:
        assert abs((box.left + box.right) / 2 - x) <= 1


@given(boxes_inside(), st.integers(0, 10), st.integers(0, 10))
def test_a_box_centred_on_another_that_it_can_hold_holds_it(target: Box, more_width: int, more_height: int) -> None:
    box = centred_box(box_centre(target), target.width + more_width, target.height + more_height, 24, 24)
    assert coverage(target, [box]) == 1


def test_most_common_size_takes_the_first_of_equals() -> None:
    assert most_common_size(Grid("g", 3, 3).candidates(100, 99)) == (33, 33)
    assert most_common_size([Box(0, 0, 2, 2), Box(0, 0, 3, 3)]) == (2, 2)
    assert most_common_size(Pyramid("p").candidates(90, 90)) == (30, 30)


@pytest.mark.parametrize(
    ("scheme", "keywords", "message"),
    [
        (Grid, {"rows": 0, "columns": 2}, r"crops\.rows=0: must be at least 1"),
        (Grid, {"rows": 2, "columns": "x"}, r"crops\.columns=x: must be a whole number"),
        (Grid, {"rows": True, "columns": 2}, r"crops\.rows=True: must be a whole number"),
        (Grid, {"rows": 2.0, "columns": 2}, r"crops\.rows=2\.0: must be a whole number"),
        (Grid, {"rows": 2, "columns": 2, "overlap": 1}, r"crops\.overlap=1: .* below 1"),
        (Grid, {"rows": 2, "columns": 2, "overlap": -0.1}, r"crops\.overlap=-0\.1: "),
        (Grid, {"rows": 2, "columns": 2, "overlap": math.nan}, r"crops\.overlap=nan: "),
        (Pyramid, {"overlap": "half"}, r"crops\.overlap=half: "),
        (Pyramid, {"scales": []}, r"crops\.scales=\[\]: must be a list of"),
        (Pyramid, {"scales": "2,2"}, r"crops\.scales=2,2: must be a list of"),
        (Pyramid, {"scales": [2, 3]}, r"crops\.scales=\[2, 3\]: must be a list of"),
        (Pyramid, {"scales": [[2, 2], [2, 0]]}, r"crops\.scales=\[\[2, 2\], \[2, 0\]\]: .* at least 1"),
        (Pyramid, {"scales": [[2, 2, 2]]}, r"crops\.scales=\[\[2, 2, 2\]\]: "),
    ],
)
def test_a_wrong_value_is_named(scheme: type, keywords: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scheme(name="x", **keywords)


def test_an_image_without_pixels_is_an_error_of_its_question() -> None:
    with pytest.raises(QuestionError, match="0 x 5 pixels"):
        Grid("g", 2, 2).candidates(0, 5)
