"""A map over an image, put together from what the VLM says of its visual tokens."""

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
    """The pictures that are looked at one by one; with `over=0` the whole image, else tiles of about so many pixels.

    rows = ceil(height / over), columns = max(1, floor(rows * width / height)): ViCrop's high mode
    (saccharomycetes/mllms_know, `utils.py`), which has no column for an image narrower than a tile.
    """
    if over == 0:
        return (Box(0, 0, width, height),)
    rows = math.ceil(height / over)
    return Grid("tiles", rows, max(1, rows * width // height)).candidates(width, height)


def with_place(tokens: TokenBoxes) -> np.ndarray:
    """Which visual tokens show a place of the picture: bool (visual tokens).

    Not padding, newlines and separators, nor those of a thumbnail where there are others.
    """
    placed: np.ndarray = ~np.isnan(tokens.boxes).any(axis=1) & ~tokens.padding
    return placed & ~tokens.thumbnail if (placed & ~tokens.thumbnail).any() else placed


def in_image(values: np.ndarray, tokens: TokenBoxes, tile: Box) -> PatchMap:
    """The values of the tokens with a place, in pixels of the image that the picture was cut from at `tile`.

    values: (visual tokens) or (visual tokens, maps).
    """
    placed = with_place(tokens)
    return PatchMap(tokens.boxes[placed] + np.array([tile.left, tile.top] * 2), values[placed])


def joined(parts: Sequence[PatchMap]) -> PatchMap:
    """The maps of some tiles side by side, as they are."""
    return PatchMap(np.concatenate([part.boxes for part in parts]), np.concatenate([part.scores for part in parts]))


def array(tensor: Any) -> np.ndarray:
    """A torch tensor as float64."""
    values: np.ndarray = tensor.double().cpu().numpy()
    return values


def coarse(cells: np.ndarray, width: int, height: int, most: int = MOST_CELLS) -> list[tuple[Box, float]]:
    """A map (rows, columns) of equal cells for the records: at most `most` cells a side, each a mean by area."""
    rows, columns = (min(most, side) for side in cells.shape)
    boxes = Grid("map", rows, columns).candidates(width, height)
    means = resampled(cells, width, height, np.array(boxes, np.float64))
    return [(box, float(value)) for box, value in zip(boxes, means, strict=True)]


def resampled(cells: np.ndarray, width: int, height: int, boxes: np.ndarray) -> np.ndarray:
    """Mean of a map (rows, columns) of equal cells under boxes (n, 4) in pixels of the image, weighted by area."""
    rows, columns = cells.shape
    fine = PatchMap(cell_boxes(rows, columns, width, height), cells.reshape(-1))
    means: np.ndarray = np.nan_to_num(fine.at(boxes))
    return means


def cell_boxes(rows: int, columns: int, width: int, height: int) -> np.ndarray:
    """The cells of a regular map, row by row: float64 (rows x columns, 4) in pixels of the image."""
    x, y = np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4)
