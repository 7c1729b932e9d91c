"""Pure geometry: crop schemes, and the arithmetic of boxes.

Boxes are `(left, top, right, bottom)` in whole pixels of the original image, right and bottom exclusive. A scheme
(`Grid`, `Pyramid`) gives the candidate crops of an image from its size alone.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from semclip_eval.checks import whole_number
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.types import Box


@dataclass(frozen=True)
class Grid:
    """`rows` x `columns` cells of equal size that cover the image exactly.

    `overlap`, in [0, 1), is the part of a cell that it shares with its neighbour. On one axis of L pixels with n cells
    the cell is c = L / (n - (n - 1) * overlap) pixels long and cell i is [floor(i * s), floor(i * s + c)) with the step
    s = c * (1 - overlap), in exact arithmetic. So all cells of an axis differ by at most one pixel, the first begins
    at 0 and the last ends at L; with overlap 0 they are disjoint.

    An axis with fewer pixels than cells gets one cell a pixel: a box is never empty and never comes twice.
    """

    name: str
    rows: int
    columns: int
    overlap: float = 0.0

    def __post_init__(self) -> None:
        whole_number("crops.rows", self.rows, 1)
        whole_number("crops.columns", self.columns, 1)
        _check_overlap(self.overlap)

    def candidates(self, width: int, height: int) -> tuple[Box, ...]:
        """The crops of an image of `width` x `height` pixels, row by row; QuestionError for an image without pixels."""
        return _cells(width, height, self.rows, self.columns, self.overlap)


@dataclass(frozen=True)
class Pyramid:
    """Grids of several scales, each given as `[rows, columns]`; all with the same `overlap` (see `Grid`)."""

    name: str
    scales: Sequence[Sequence[int]] = ((2, 2), (3, 3))
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if not _is_list(self.scales) or not self.scales or not all(_is_scale(scale) for scale in self.scales):
            raise ConfigError(
                f"crops.scales={self.scales}: must be a list of [rows, columns] such as [[2,2],[3,3]], all at least 1."
            )
        _check_overlap(self.overlap)

    def candidates(self, width: int, height: int) -> tuple[Box, ...]:
        """The crops of an image of `width` x `height` pixels: the scale with fewest cells first, each row by row.

        A box that two scales share comes once, at the coarser one. QuestionError for an image without pixels.
        """
        coarse_first = sorted(self.scales, key=lambda scale: scale[0] * scale[1])
        boxes = (box for rows, columns in coarse_first for box in _cells(width, height, rows, columns, self.overlap))
        return tuple(dict.fromkeys(boxes))


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_scale(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(cells, int) and not isinstance(cells, bool) and cells >= 1 for cells in value)
    )


def _check_overlap(overlap: object) -> None:
    number = isinstance(overlap, (int, float)) and not isinstance(overlap, bool)
    if not number or not 0 <= overlap < 1:  # type: ignore[operator]
        raise ConfigError(f"crops.overlap={overlap}: must be a fraction of the cell, at least 0 and below 1.")


def _cells(width: int, height: int, rows: int, columns: int, overlap: float) -> tuple[Box, ...]:
    if width < 1 or height < 1:
        raise QuestionError(f"the image is {width} x {height} pixels: there is nothing to crop")
    across = _spans(width, columns, overlap)
    down = _spans(height, rows, overlap)
    return tuple(Box(left, top, right, bottom) for top, bottom in down for left, right in across)


def _spans(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    count = min(count, length)
    # As typed (0.1 is a tenth), and exact: rounded floats would leave gaps of a pixel between cells.
    shared = Fraction(str(overlap))
    cell = length / (count - (count - 1) * shared)
    step = cell * (1 - shared)
    spans = [(math.floor(index * step), math.floor(index * step + cell)) for index in range(count)]
    # Steps of less than a pixel (a tiny image with a large overlap) can give the same span twice.
    return list(dict.fromkeys(spans))


def whole_image(width: int, height: int) -> Box:
    """The box of the overview."""
    return Box(0, 0, width, height)


def intersection(a: Box, b: Box) -> Box | None:
    """The pixels that both boxes hold; None where they share none."""
    shared = Box(max(a.left, b.left), max(a.top, b.top), min(a.right, b.right), min(a.bottom, b.bottom))
    return shared if shared.left < shared.right and shared.top < shared.bottom else None


def coverage(target: Box, boxes: Iterable[Box]) -> float:
    """The fraction of the target's area that the union of `boxes` covers, exact to the pixel; in [0, 1].

    QuestionError for a target without area.
    """
    if target.width < 1 or target.height < 1:
        raise QuestionError(f"target box {tuple(target)} has no area")
    parts = [part for part in (intersection(target, box) for box in boxes) if part is not None]
    edges = sorted({edge for part in parts for edge in (part.left, part.right)})
    covered = 0
    for left, right in itertools.pairwise(edges):
        reached = target.top
        for top, bottom in sorted((part.top, part.bottom) for part in parts if part.left <= left < part.right):
            covered += (right - left) * max(0, bottom - max(top, reached))
            reached = max(reached, bottom)
    return covered / target.area


def union_box(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of `boxes` (at least one)."""
    return Box(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def box_centre(box: Box) -> tuple[float, float]:
    """The centre `(x, y)` of a box, in pixels; it can lie half-way between two."""
    return (box.left + box.right) / 2, (box.top + box.bottom) / 2


def centred_box(centre: tuple[float, float], width: int, height: int, image_width: int, image_height: int) -> Box:
    """A box of `width` x `height` pixels around `centre` (x, y), shifted inside the image.

    A side longer than the image's is cut to it. Half a pixel goes to the left and to the top.
    """
    width, height = min(width, image_width), min(height, image_height)
    left = min(max(0, math.floor(centre[0] - width / 2)), image_width - width)
    top = min(max(0, math.floor(centre[1] - height / 2)), image_height - height)
    return Box(left, top, left + width, top + height)


def most_common_size(boxes: Sequence[Box]) -> tuple[int, int]:
    """The `(width, height)` that most of `boxes` have; of equally common ones the first."""
    return Counter((box.width, box.height) for box in boxes).most_common(1)[0][0]
