"""Boxes of found patches: widened, and laid side by side."""

from __future__ import annotations

from collections.abc import Sequence

from semclip_eval.crops import union_box
from semclip_eval.types import BLUE, RED, Box, Mark, Part


def widened(box: Box, side: int, size: tuple[int, int], scale: float = 1.0) -> Box:
    """`box` with both sides at least `side` pixels, then `scale` times as long, around its middle and moved inside an
    image of `size`.
    """
    left, right = _span(box.left, box.right, side, size[0], scale)
    top, bottom = _span(box.top, box.bottom, side, size[1], scale)
    return Box(left, top, right, bottom)


def _span(low: int, high: int, least: int, limit: int, scale: float) -> tuple[int, int]:
    length = min(int(max(high - low, least) * scale), limit)
    start = min(max(0, (low + high - length) // 2), limit - length)
    return start, start + length


def joined(boxes: Sequence[Box], near: int = 0) -> list[Box]:
    """Boxes that overlap once each has `near` pixels more on every side, as the one box around them; left to right."""
    apart: list[Box] = []
    for box in sorted(boxes):
        # A box that has grown may reach boxes that it did not reach before.
        while meeting := [other for other in apart if _meet(box, other, 2 * near)]:
            apart = [other for other in apart if other not in meeting]
            box = union_box([box, *meeting])
        apart.append(box)
    return sorted(apart)


def _meet(a: Box, b: Box, gap: int) -> bool:
    across = a.left < b.right + gap and b.left < a.right + gap
    return across and a.top < b.bottom + gap and b.top < a.bottom + gap


def side_by_side(boxes: Sequence[Box]) -> tuple[Part, ...]:
    """A collage of the boxes from left to right without the gaps between them; each keeps its height in the image.

    Boxes that overlap are joined first, so that no pixel is shown twice.
    """
    apart = joined(boxes)
    top = min(box.top for box in apart)
    parts, left = [], 0
    for box in apart:
        parts.append(Part(box, Box(left, box.top - top, left + box.width, box.bottom - top)))
        left += box.width
    return tuple(parts)


def marks_around(boxes: Sequence[Box], question: str) -> tuple[Mark, ...]:
    """Rectangles for an overview; blue for a question about a red rectangle (om-ai-lab/ZoomEye, `zoom_eye.py`)."""
    return tuple(Mark(box, BLUE if "red rectangle" in question else RED) for box in boxes)
