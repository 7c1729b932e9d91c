"""Where the visual tokens of a view lie: grids of rectangles in the view's pixels, the one mapping that all share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semclip_eval.models.insight import TokenBoxes


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
