"""Boxes of found patches: widened, and laid side by side."""

from __future__ import annotations

from collections.abc import Sequence

from semclip_eval.crops import union_box
from semclip_eval.types import Box, Part


def widened(box: Box, side: int, size: tuple[int, int]) -> Box:
    """`box` with both sides at least `side` pixels, around its middle and moved inside an image of `size`."""
    left, right = _span(box.left, box.right, side, size[0])
    top, bottom = _span(box.top, box.bottom, side, size[1])
    return Box(left, top, right, bottom)


def _span(low: int, high: int, least: int, limit: int) -> tuple[int, int]:
    length = min(max(high - low, least), limit)
    start = min(max(0, (low + high - length) // 2), limit - length)
    return start, start + length


def side_by_side(boxes: Sequence[Box]) -> tuple[Part, ...]:
    """A collage of the boxes from left to right without the gaps between them; each keeps its height in the image.

    Boxes that overlap are joined first, so that no pixel is shown twice.
    """
    joined: list[Box] = []
    for box in sorted(boxes):
        overlapping = [other for other in joined if _overlap(box, other)]
        joined = [other for other in joined if other not in overlapping] + [union_box([box, *overlapping])]
    joined.sort()
    top = min(box.top for box in joined)
    parts, left = [], 0
    for box in joined:
        parts.append(Part(box, Box(left, box.top - top, left + box.width, box.bottom - top)))
        left += box.width
    return tuple(parts)


def _overlap(a: Box, b: Box) -> bool:
    return a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
