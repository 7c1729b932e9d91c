"""From a map over an image to a box: ViCrop's sliding window of adaptive size, or the best of some candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semclip_eval.relevance.base import PatchMap
from semclip_eval.selectors.maps import cell_boxes
from semclip_eval.types import Box

RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
TIE = 1e-6


def regular_map(relevance: PatchMap, width: int, height: int) -> np.ndarray:
    """The map as float64 (rows, columns) of equal cells over the image, as large as its patches are.

    Patches of a padded border count with the part that lies in the image. Where the patches tile the image the cells
    are the patches. Several maps over the same patches, `scores` (patches, maps), become (rows, columns, maps).
    """
    sizes = relevance.boxes[:, 2:] - relevance.boxes[:, :2]
    columns, rows = (max(1, round(side / float(np.median(sizes[:, axis])))) for axis, side in ((0, width), (1, height)))
    cells = cell_boxes(rows, columns, width, height)
    shape = (rows, columns, *relevance.scores.shape[1:])
    if len(cells) == len(relevance.boxes):
        # Row by row, whatever the order of the tokens; a matrix of all overlaps would be large.
        order = np.lexsort(np.round(relevance.boxes[:, :2], 3).T)
        if np.allclose(relevance.boxes[order], cells, rtol=0, atol=1e-3):
            return relevance.scores[order].astype(np.float64).reshape(shape)
    values: np.ndarray = np.nan_to_num(relevance.at(cells)).reshape(shape)
    return values


def adaptive_window(cells: np.ndarray, width: int, height: int, side: float) -> Box:
    """ViCrop's box for a map (rows, columns) over an image of `width` x `height` pixels.

    saccharomycetes/mllms_know, `utils.py`, `bbox_from_att_image_adaptive`: for each ratio r of `RATIOS` the window of
    side `side` * r (pixels of the image, in whole cells, cut to the map) with the largest sum is found; its sharpness
    is that sum less the mean sum of the windows one cell beside it, per cell. The box is the square of the sharpest
    ratio's side around its window's middle, moved inside the image and cut to it. A window that covers the whole map is
    skipped; where the first one does, the box is the whole image. Here a window has at least one cell.
    """
    rows, columns = cells.shape
    cell_width, cell_height = width / columns, height / rows
    best: tuple[float, float, float, float] | None = None
    for ratio in RATIOS:
        across = max(1, min(int(side * ratio / cell_width), columns))
        down = max(1, min(int(side * ratio / cell_height), rows))
        if across == columns and down == rows:
            if ratio == RATIOS[0]:
                return Box(0, 0, width, height)
            continue
        sums = _window_sums(cells, across, down)
        x, y = _place_of_largest(sums)
        beside = [
            sums[b, a]
            for a, b in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1))
            if 0 <= a < sums.shape[1] and 0 <= b < sums.shape[0]
        ]
        sharpness = float((sums[y, x] - np.mean(beside)) / (across * down))
        if best is None or sharpness > best[0]:
            middle = int(x * cell_width + cell_width * across / 2), int(y * cell_height + cell_height * down / 2)
            best = (sharpness, side * ratio, *middle)
    if best is None:
        return Box(0, 0, width, height)
    _, length, x_middle, y_middle = best
    half = int(length // 2)
    x_middle = min(max(x_middle, half), max(half, width - half))
    y_middle = min(max(y_middle, half), max(half, height - half))
    return Box(
        int(max(0, x_middle - half)),
        int(max(0, y_middle - half)),
        int(min(width, x_middle + half)),
        int(min(height, y_middle + half)),
    )


def best_candidate(relevance: PatchMap, boxes: Sequence[Box]) -> tuple[int, list[float]]:
    """The candidate with the highest mean under the map (the earliest of equal ones), and the mean of each."""
    means = np.nan_to_num(relevance.at(np.array(boxes, np.float64)))
    highest = float(means.max())
    return int(np.flatnonzero(means >= highest - TIE * abs(highest))[0]), [float(mean) for mean in means]


def _window_sums(cells: np.ndarray, across: int, down: int) -> np.ndarray:
    """Sums of all windows of that many cells, one entry a place of the upper left cell."""
    total = np.pad(cells.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums: np.ndarray = total[down:, across:] - total[:-down, across:] - total[down:, :-across] + total[:-down, :-across]
    return sums


def _place_of_largest(sums: np.ndarray) -> tuple[int, int]:
    """(x, y) of the largest sum; of equal ones the leftmost, then the topmost."""
    highest = sums.max()
    x, y = np.argwhere((sums >= highest - TIE * abs(highest)).T)[0]
    return int(x), int(y)
