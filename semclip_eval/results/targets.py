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

    Empty where no question has boxes.
    """
    counts: dict[int, list[Mapping[str, Any]]] = {}
    sizes: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["target_boxes"]:
            counts.setdefault(len(record["target_boxes"]), []).append(record)
        size = target_size(record)
        if size is not None:
            sizes.setdefault(_bin(size), []).append(record)
    groups = {(TARGETS, str(count)): counts[count] for count in sorted(counts)} if len(counts) > 1 else {}
    return groups | {(TARGET_SIZE, bin_name(number)): sizes[number] for number in sorted(sizes)}


def target_size(record: Mapping[str, Any]) -> float | None:
    """Square root of the smallest target's part of the image's area; None without boxes, overview or area.

    A target of 50 x 50 pixels in an image of 1000 x 1000 has 0.05.
    """
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in record["target_boxes"]]
    if not areas or min(areas) <= 0:
        return None
    whole = next((view["box"] for view in record["views"] or () if view["kind"] == "overview"), None)
    if whole is None:
        return None
    return math.sqrt(min(areas) / ((whole[2] - whole[0]) * (whole[3] - whole[1])))


def _bin(size: float) -> int:
    """0 from a tenth of the image on, -1 for the half octave below it, and so on."""
    return min(0, math.floor(math.log(size / _LARGEST, _STEP) + 1e-9))


def bin_name(number: int) -> str:
    """The range of a bin in percent of the image's side, such as `2.5-3.5 %`."""
    if number == 0:
        return "10 % or more"
    low, high = (100 * _LARGEST * _STEP**edge for edge in (number, number + 1))
    return f"{low:.3g}-{high:.3g} %"
