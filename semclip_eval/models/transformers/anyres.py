"""How many visual tokens an image has when it is cut into tiles of its own resolution (LLaVA-NeXT, LLaVA-OneVision).

The image is scaled into the best of a list of canvases of whole tiles, padded, and encoded tile by tile; the features
of the padding are dropped and a newline feature ends each row. One more tile shows the whole image. The rules are
those of llava/mm_utils.py `select_best_resolution` and llava/model/llava_arch.py `unpad_image` of
github.com/LLaVA-VL/LLaVA-NeXT, with the rounding of their transformers port, whose model counts features that way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def best_canvas(height: int, width: int, canvases: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The (height, width) of the canvas that keeps most of the image's pixels and, among those, wastes least of itself.

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
    rows, columns = canvas[0] // tile * patches, canvas[1] // tile * patches
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    if most_tiles:
        ratio = math.sqrt(rows * columns / (most_tiles * patches**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
    return rows * (columns + 1)
