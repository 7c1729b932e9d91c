"""How many visual tokens an image has when it is cut into tiles of its own resolution (LLaVA-NeXT, LLaVA-OneVision).

The image is scaled into the best of a list of canvases of whole tiles, padded, and encoded tile by tile; the features
of the padding are dropped and a newline feature ends each row. One more tile shows the whole image. The rules are
those of llava/mm_utils.py `select_best_resolution` and llava/model/llava_arch.py `unpad_image` of
github.com/LLaVA-VL/LLaVA-NeXT, with the rounding of their transformers port, whose model counts features that way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from semclip_eval.models.transformers.layout import grid, with_newlines

if TYPE_CHECKING:
    import numpy as np


def best_canvas(height: int, width: int, canvases: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The (height, width) of the canvas with the largest effective resolution; ties: the least wasted resolution.

    The first of equals wins.
    """
    best, best_kept, best_wasted = (0, 0), -1, 0
    for canvas_height, canvas_width in canvases:
        scale = min(canvas_width / width, canvas_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = canvas_height * canvas_width - kept
        if kept > best_kept or (kept == best_kept and wasted < best_wasted):
            best, best_kept, best_wasted = (canvas_height, canvas_width), kept, wasted
    return best


def canvas_tiles(height: int, width: int, canvases: Sequence[Sequence[int]], tile: int) -> int:
    """Tiles of an image on its canvas and the tile of the whole image."""
    canvas = best_canvas(height, width, canvases)
    return (canvas[0] // tile) * (canvas[1] // tile) + 1


def canvas_tokens(
    height: int, width: int, canvas: tuple[int, int], tile: int, patches: int, most_tiles: int = 0
) -> int:
    """Visual tokens of an image on its canvas, newlines included, the tile of the whole image not.

    `tile` is a tile's side in pixels, `patches` its side in features. Where `most_tiles` is given, features for more
    than so many tiles (a tenth more in each direction) are interpolated down to that many.
    """
    rows, columns = _interpolated(*_unpadded(height, width, canvas, tile, patches), patches, most_tiles)
    return rows * (columns + 1)


def canvas_boxes(
    height: int, width: int, canvas: tuple[int, int], tile: int, patches: int, most_tiles: int = 0
) -> np.ndarray:
    """Where these tokens lie: rectangles (tokens, 4) in pixels of the image, NaN for the newline behind each row."""
    rows, columns = _unpadded(height, width, canvas, tile, patches)
    cell = tile / patches
    # The image is scaled to touch the canvas on two sides and stands in its middle; so do the features that are kept.
    scale = min(canvas[1] / width, canvas[0] / height)
    left = (canvas[1] // tile * patches - columns) // 2 * cell
    top = (canvas[0] // tile * patches - rows) // 2 * cell
    right, bottom = left + columns * cell, top + rows * cell
    across, down = (canvas[1] - width * scale) / 2, (canvas[0] - height * scale) / 2
    box = ((left - across) / scale, (top - down) / scale, (right - across) / scale, (bottom - down) / scale)
    rows, columns = _interpolated(rows, columns, patches, most_tiles)
    return with_newlines(grid(rows, columns, box), rows)


def _unpadded(height: int, width: int, canvas: tuple[int, int], tile: int, patches: int) -> tuple[int, int]:
    """Rows and columns of features that are not padding."""
    rows, columns = canvas[0] // tile * patches, canvas[1] // tile * patches
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    return rows, columns


def _interpolated(rows: int, columns: int, patches: int, most_tiles: int) -> tuple[int, int]:
    """What is left of them where features for more than `most_tiles` tiles are interpolated down."""
    if most_tiles:
        ratio = math.sqrt(rows * columns / (most_tiles * patches**2))
        if ratio > 1.1:
            return int(rows // ratio), int(columns // ratio)
    return rows, columns
