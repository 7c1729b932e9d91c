"""What a VLM says of its visual tokens, as a map over the image: tiles, places, and a coarse map for the records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from semclip_eval.crops import Grid
from semclip_eval.models.insight import TokenBoxes
from semclip_eval.relevance.base import PatchMap
from semclip_eval.types import Box

# A map in the records has at most this many cells a side.
MOST_CELLS = 16


def tiles_of(width: int, height: int, over: int) -> tuple[Box, ...]:
    """Tiles of about `over` pixels, row by row; the whole image for 0.

    ceil(height / over) rows, max(1, floor(rows * width / height)) columns (ViCrop's high mode).
    """
    if over == 0:
        return (Box(0, 0, width, height),)
    rows = math.ceil(height / over)
    return Grid("tiles", rows, max(1, rows * width // height)).candidates(width, height)


def array(tensor: Any) -> np.ndarray:
    """A torch tensor as float64."""
    values: np.ndarray = tensor.double().cpu().numpy()
    return values


def in_image(values: np.ndarray, tokens: TokenBoxes, tile: Box) -> PatchMap:
    """The values with a place in a tile (no padding, newline or thumbnail), in pixels of the image.

    values: (visual tokens) or (visual tokens, maps).
    """
    placed = ~np.isnan(tokens.boxes).any(axis=1) & ~tokens.padding
    if (placed & ~tokens.thumbnail).any():
        placed &= ~tokens.thumbnail
    return PatchMap(tokens.boxes[placed] + np.array([tile.left, tile.top] * 2), values[placed])


def joined(parts: Sequence[PatchMap]) -> PatchMap:
    """The maps of some tiles side by side, as they are."""
    return PatchMap(np.concatenate([part.boxes for part in parts]), np.concatenate([part.scores for part in parts]))


def coarse(cells: np.ndarray, width: int, height: int) -> list[tuple[Box, float]]:
    """The map for the records: at most `MOST_CELLS` cells a side, each the mean of those below it."""
    rows, columns = (min(MOST_CELLS, side) for side in cells.shape)
    boxes = Grid("map", rows, columns).candidates(width, height)
    x, y = np.linspace(0, width, cells.shape[1] + 1), np.linspace(0, height, cells.shape[0] + 1)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    fine = PatchMap(np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4), cells.reshape(-1))
    return [
        (box, float(value))
        for box, value in zip(boxes, np.nan_to_num(fine.at(np.array(boxes, np.float64))), strict=True)
    ]
