"""HiDe written down token by token from its published code, without the libraries and the shortcuts of ours."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def blurred(cells: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian cut at four sigma, rows then columns, the edge mirrored with its own value repeated."""
    if sigma == 0:
        return cells
    radius = int(4 * sigma + 0.5)
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    for axis in (0, 1):
        length, result = cells.shape[axis], np.zeros_like(cells)
        for place in range(length):
            for k, weight in zip(range(-radius, radius + 1), weights, strict=True):
                mirrored = (place + k) % (2 * length)
                mirrored = min(mirrored, 2 * length - 1 - mirrored)
                if axis == 0:
                    result[place] += weight * cells[mirrored]
                else:
                    result[:, place] += weight * cells[:, mirrored]
        cells = result / sum(weights)
    return cells


def stretched(cells: np.ndarray) -> np.ndarray:
    cells = cells - cells.min()
    return cells / cells.max() if cells.max() > 0 else cells


def islands(high: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes (x0, y0, x1, y1) of the parts of a mask, neighbours over corners included."""
    left, found = {(int(y), int(x)) for y, x in np.argwhere(high)}, []
    while left:
        queue, part = [left.pop()], []
        while queue:
            y, x = queue.pop()
            part.append((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            queue += near
        ys, xs = [y for y, _ in part], [x for _, x in part]
        found.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return found


def joined(boxes: list[list[int]]) -> list[list[int]]:
    """The first two that overlap or touch become one, from the start again, until there are none."""
    while True:
        for i, a in enumerate(boxes):
            for j, b in enumerate(boxes[i + 1 :], i + 1):
                if not (a[2] < b[0] or a[0] > b[2] or a[3] < b[1] or a[1] > b[3]):
                    both = [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]
                    boxes = [*boxes[:i], both, *boxes[i + 1 : j], *boxes[j + 1 :]]
                    break
            else:
                continue
            break
        else:
            return boxes


def naive_hide(
    maps: np.ndarray, noise: int, image: Image.Image, sigma: float, threshold: float, colour: tuple[int, int, int]
) -> tuple[np.ndarray | None, list[list[int]]]:
    """(pixels of the collage or None, boxes) for the maps (tokens, rows, columns), the first `noise` of them noise."""
    width, height = image.size
    mean = np.mean([stretched(blurred(cells, sigma)) for cells in maps[:noise]], axis=0) if noise else None
    boxes = []
    for cells in maps[noise:]:
        cells = stretched(blurred(cells, sigma))
        if mean is not None:
            cells = cells - mean
            cells[cells < 0] = 0
        if cells.max() == 0:
            continue
        cells = stretched(cells)
        rows, columns = cells.shape
        for x0, y0, x1, y1 in islands(cells >= threshold):
            box = [
                int(x0 / columns * width),
                int(y0 / rows * height),
                int(x1 / columns * width),
                int(y1 / rows * height),
            ]
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append(box)
    boxes = joined(boxes)
    if not boxes:
        return None, []
    # The collage is the image with all but the boxes painted over, without the rows and columns that hold no box.
    pixels, shown = np.array(image), np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        shown[y0:y1, x0:x1] = True
    pixels[~shown] = colour
    return pixels[shown.any(1)][:, shown.any(0)], boxes
