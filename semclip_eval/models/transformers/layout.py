"""Where the visual tokens of a view lie: grids of rectangles in the view's pixels, the one mapping that all share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semclip_eval.models.insight import TokenBoxes

# Pixels that two edges of neighbours may differ by and be one.
SAME = 1e-3


def grid(rows: int, columns: int, box: tuple[float, float, float, float]) -> np.ndarray:
    """Rectangles (rows * columns, 4) of a grid over `box` (left, top, right, bottom), row by row."""
    left, top, right, bottom = box
    across = np.linspace(left, right, columns + 1)
    down = np.linspace(top, bottom, rows + 1)
    cells = np.empty((rows, columns, 4))
    cells[..., 0], cells[..., 2] = across[:-1], across[1:]
    cells[..., 1], cells[..., 3] = down[:-1, None], down[1:, None]
    return cells.reshape(-1, 4)


def placeless(count: int) -> np.ndarray:
    """Tokens without a place: class tokens, newlines, separators."""
    return np.full((count, 4), np.nan)


def with_newlines(cells: np.ndarray, rows: int) -> np.ndarray:
    """A token without a place behind each row of a grid."""
    if rows == 0:  # a view so flat that all its rows were padding
        return cells
    columns = len(cells) // rows
    lines = cells.reshape(rows, columns, 4)
    return np.concatenate([lines, np.full((rows, 1, 4), np.nan)], axis=1).reshape(-1, 4)


def padded_square(width: int, height: int) -> tuple[float, float, float, float]:
    """The square around a centred image of (width, height), in the image's pixels; LLaVA's expand2square."""
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return -left, -top, side - left, side - top


def grids_of(boxes: np.ndarray) -> list[list[float]]:
    """Rectangles (tokens, 4) as the grids that they are, for a record: the inverse of what this module builds.

    Each grid is [first token, rows, columns, tokens from one row's first to the next's, left, top, right, bottom], in
    pixels of the view to the hundredth. Tokens without a place (NaN) are in none.
    """
    has_place = ~np.isnan(boxes[:, 0])
    joined = np.zeros(len(boxes), dtype=bool)
    before, after = boxes[:-1], boxes[1:]
    with np.errstate(invalid="ignore"):
        shift = after - before
        joined[1:] = np.all(np.abs(shift[:, [1, 3]]) < SAME, axis=1) & np.all(
            np.abs(shift[:, [0, 2]] - (before[:, 2] - before[:, 0])[:, None]) < SAME, axis=1
        )
    firsts = np.flatnonzero(has_place & ~joined)
    ends = np.flatnonzero(has_place & ~np.append(joined[1:], False)) + 1
    grids: list[_Grid] = []
    for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
        row = (*boxes[first, :2].tolist(), *boxes[end - 1, 2:].tolist())
        if not (grids and grids[-1].takes(first, end - first, row)):
            grids.append(_Grid(first, end - first, row))
    return [grid.as_list() for grid in grids]


@dataclass
class _Grid:
    """Rows of one size, each right below the last: what `grids_of` writes."""

    first: int
    columns: int
    box: tuple[float, float, float, float]
    rows: int = 1
    step: int = 0

    def takes(self, first: int, columns: int, row: tuple[float, float, float, float]) -> bool:
        """Make this row the grid's next one, where it is."""
        left, top, right, bottom = self.box
        step, height = first - self.first - (self.rows - 1) * self.step, (bottom - top) / self.rows
        due = (left, bottom, right, bottom + height)
        if columns != self.columns or (self.rows > 1 and step != self.step):
            return False
        if any(abs(one - other) >= SAME for one, other in zip(due, row, strict=True)):
            return False
        self.box, self.rows, self.step = (left, top, right, row[3]), self.rows + 1, step
        return True

    def as_list(self) -> list[float]:
        return [self.first, self.rows, self.columns, self.step or self.columns, *map(_hundredth, self.box)]


def _hundredth(edge: float) -> float:
    value = round(edge, 2)
    return int(value) if value.is_integer() else value


def token_boxes(
    parts: Sequence[np.ndarray], width: int, height: int, thumbnails: Sequence[bool] | None = None
) -> TokenBoxes:
    """The tokens of a view of (width, height) pixels, part by part; `thumbnails` says which part shows all of it small.

    A token is padding where its rectangle shares no pixel with the view.
    """
    boxes = np.concatenate(list(parts)) if parts else np.empty((0, 4))
    small = np.concatenate(
        [np.full(len(part), flag) for part, flag in zip(parts, thumbnails or [False] * len(parts), strict=True)]
        or [np.empty(0, dtype=bool)]
    ).astype(bool)
    with np.errstate(invalid="ignore"):
        inside = (boxes[:, 0] < width) & (boxes[:, 2] > 0) & (boxes[:, 1] < height) & (boxes[:, 3] > 0)
    padding = ~inside & ~np.isnan(boxes[:, 0])
    return TokenBoxes(boxes, padding, small)
