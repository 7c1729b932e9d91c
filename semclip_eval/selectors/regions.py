"""From a map of equal cells to square regions: anchors, growth, non-maximum suppression (FOCUS, arXiv 2506.21710)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from semclip_eval.selectors.semclip import best_first
from semclip_eval.types import Box


class Region(NamedTuple):
    """Cells of a map: rows from `top` up to `bottom`, columns from `left` up to `right`; `score` is its anchor's."""

    left: int
    top: int
    right: int
    bottom: int
    score: float

    def box(self, shape: tuple[int, ...], width: int, height: int) -> Box:
        """The region of a map of `shape` (rows, columns) in pixels of the image that it lies on, never empty."""
        rows, columns = shape
        return Box(
            self.left * width // columns,
            self.top * height // rows,
            -(-self.right * width // columns),
            -(-self.bottom * height // rows),
        )


def anchors(cells: np.ndarray, count: int, distance: float) -> list[tuple[int, int]]:
    """(row, column) of the `count` highest cells, best first, without those nearer than `distance` to a better one.

    distance: Euclidean, between middles, in cells.
    """
    kept: list[tuple[int, int]] = []
    for place in best_first(cells.reshape(-1).tolist(), count):
        row, column = divmod(place, cells.shape[1])
        if all(np.hypot(row - other[0], column - other[1]) >= distance for other in kept):
            kept.append((row, column))
    return kept


def grown(cells: np.ndarray, anchor: tuple[int, int], least: int, most: int, threshold: float) -> Region:
    """The square around an anchor: `least` cells wide, a cell more on each side while its mean stays at `threshold`.

    At most `most` cells wide. At the border of the map it is moved inside, and cut where the map is smaller.
    """
    side = least
    while side + 2 <= most and cells[_slices(cells.shape, anchor, side + 2)].mean() >= threshold:
        side += 2
    down, across = _slices(cells.shape, anchor, side)
    return Region(across.start, down.start, across.stop, down.stop, float(cells[anchor]))


def suppressed(regions: Sequence[Region], most: float) -> list[Region]:
    """The regions, best first as given, without those whose intersection over union with a better one is above
    `most`.
    """
    kept: list[Region] = []
    for region in regions:
        if all(intersection_over_union(region, other) <= most for other in kept):
            kept.append(region)
    return kept


def intersection_over_union(a: Region, b: Region) -> float:
    """Cells that both hold, over the cells that one of them holds."""
    across = min(a.right, b.right) - max(a.left, b.left)
    down = min(a.bottom, b.bottom) - max(a.top, b.top)
    shared = max(0, across) * max(0, down)
    areas = [(region.right - region.left) * (region.bottom - region.top) for region in (a, b)]
    return shared / (sum(areas) - shared)


def _slices(shape: tuple[int, ...], anchor: tuple[int, int], side: int) -> tuple[slice, slice]:
    spans = []
    for middle, length in zip(anchor, shape, strict=True):
        cut = min(side, length)
        start = min(max(0, middle - cut // 2), length - cut)
        spans.append(slice(start, start + cut))
    return spans[0], spans[1]
