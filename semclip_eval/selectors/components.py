"""From maps over an image to the regions where they are high, and those regions on a canvas that keeps their layout.

Source of all of it: Tennine2077/HiDe, `Hide/Get_box.py` and `Hide/utils.py` (Liu et al., arXiv 2510.00054).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from semclip_eval.crops import union_box
from semclip_eval.types import BLACK, Box, Part, View


def smooth(maps: np.ndarray, sigma: float) -> np.ndarray:
    """(maps, rows, columns), each under a Gaussian of `sigma` cells (0: as it is), then scaled to 0 .. 1."""
    from scipy.ndimage import gaussian_filter

    if sigma > 0:
        maps = gaussian_filter(maps, sigma=sigma, axes=(1, 2))
    return scaled(maps)


def scaled(maps: np.ndarray) -> np.ndarray:
    """(maps, rows, columns), each from its least value to its largest as 0 .. 1; zero where all values are equal."""
    low = maps.min(axis=(1, 2), keepdims=True)
    range_ = maps.max(axis=(1, 2), keepdims=True) - low
    values: np.ndarray = np.where(range_ > 0, (maps - low) / np.where(range_ > 0, range_, 1), 0.0)
    return values


def without_noise(maps: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """What lies above the mean of the noise maps, scaled to 0 .. 1; a map that rises nowhere above it is zero."""
    if not len(noise):
        return maps
    return scaled(np.maximum(0, maps - noise.mean(axis=0)))


def high_regions(cells: np.ndarray, threshold: float, width: int, height: int) -> list[Box]:
    """Boxes of the connected parts (over corners too) of a map at or above `threshold`, in pixels of the image.

    A box without area (cells smaller than a pixel) is left out.
    """
    from scipy.ndimage import find_objects, label

    rows, columns = cells.shape
    numbered, _ = label(cells >= threshold, structure=np.ones((3, 3)))
    boxes = [
        Box(
            int(across.start / columns * width),
            int(down.start / rows * height),
            int(across.stop / columns * width),
            int(down.stop / rows * height),
        )
        for down, across in find_objects(numbered)
    ]
    return [box for box in boxes if box.area]


def widened_by(box: Box, margin: int, width: int, height: int) -> Box:
    """The box with `margin` pixels more on every side, cut to the image."""
    return Box(
        max(0, box.left - margin),
        max(0, box.top - margin),
        min(width, box.right + margin),
        min(height, box.bottom + margin),
    )


def merged(boxes: Sequence[Box]) -> list[Box]:
    """Boxes that overlap or touch as the one box around them, until none do; row by row."""
    apart: list[Box] = []
    for box in boxes:
        # A box that has grown may reach boxes that it did not reach before.
        while meeting := [other for other in apart if _meet(box, other)]:
            apart = [other for other in apart if other not in meeting]
            box = union_box([box, *meeting])
        apart.append(box)
    return sorted(apart, key=lambda box: (box.top, box.left))


def _meet(a: Box, b: Box) -> bool:
    return a.left <= b.right and b.left <= a.right and a.top <= b.bottom and b.top <= a.bottom


def compact(boxes: Sequence[Box], background: tuple[int, int, int] = BLACK) -> View:
    """The boxes on one canvas without the rows and columns of pixels that none of them reaches; a crop for one box.

    Left of, right of, above and below stay as they are in the image; distances do not.
    """
    if len(boxes) == 1:
        return View("crop", boxes[0])
    x = _closed([(box.left, box.right) for box in boxes])
    y = _closed([(box.top, box.bottom) for box in boxes])
    parts = tuple(
        Part(box, Box(x[box.left], y[box.top], x[box.left] + box.width, y[box.top] + box.height)) for box in boxes
    )
    return View("collage", union_box(boxes), parts=parts, background=background)


def _closed(spans: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Where each end of a span comes to lie when stretches that no span covers are taken out."""
    ends = sorted({end for span in spans for end in span})
    places, place = {ends[0]: 0}, 0
    for low, high in itertools.pairwise(ends):
        if any(start < high and stop > low for start, stop in spans):
            place += high - low
        places[high] = place
    return places
