"""Breakdowns by what the annotated boxes say of a question: how many targets it has, and how large they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

TARGETS, TARGET_SIZE = "targets", "target_size"
# Half octaves below a tenth of the image: three doublings of a target's area are three bins.
_LARGEST, _STEP = 0.1, math.sqrt(2)


def by_targets(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Groups by number of targets (where it differs) and by size of the smallest target, small to large.

    Sizes are told apart by category, since categories differ in chance and in what they ask. Empty where no question
    has boxes.
    """
    counts: dict[int, list[Mapping[str, Any]]] = {}
    sizes: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in records:
        boxes = record.get("target_boxes") or ()
        if boxes:
            counts.setdefault(len(boxes), []).append(record)
        size = target_size(record)
        if size is not None:
            sizes.setdefault((record["category"], _bin(size)), []).append(record)
    categories = list(dict.fromkeys(category for category, _ in sizes))
    order = sorted(sizes, key=lambda key: (categories.index(key[0]), key[1]))
    groups = {(TARGETS, str(count)): counts[count] for count in sorted(counts)} if len(counts) > 1 else {}
    return groups | {(TARGET_SIZE, size_name(*key, len(categories) > 1)): sizes[key] for key in order}


def target_size(record: Mapping[str, Any]) -> float | None:
    """Square root of the smallest target's part of the image's area; None without boxes, image size or area.

    A target of 50 x 50 pixels in an image of 1000 x 1000 has 0.05.
    """
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in record.get("target_boxes") or ()]
    if not areas or min(areas) <= 0:
        return None
    size = record.get("image_size") or _size_of_overview(record)
    return None if size is None else math.sqrt(min(areas) / (size[0] * size[1]))


def _size_of_overview(record: Mapping[str, Any]) -> Sequence[int] | None:
    """For records from before `image_size` was written."""
    boxes = (view["box"] for view in record.get("views") or () if view["kind"] == "overview")
    return next(((box[2] - box[0], box[3] - box[1]) for box in boxes), None)


def _bin(size: float) -> int:
    """0 from a tenth of the image on, -1 for the half octave below it, and so on."""
    return min(0, math.floor(math.log(size / _LARGEST, _STEP) + 1e-9))


def bin_name(number: int) -> str:
    """The range of a bin in percent of the image's side, such as `2.5-3.5 %`."""
    if number == 0:
        return "10 % or more"
    low, high = (100 * _LARGEST * _STEP**edge for edge in (number, number + 1))
    return f"{low:.3g}-{high:.3g} %"


def size_name(category: str, number: int, with_category: bool) -> str:
    """The value of the breakdown `target_size`: `direct_attributes, 2.5-3.54 %`, or the range alone."""
    return f"{category}, {bin_name(number)}" if with_category else bin_name(number)
