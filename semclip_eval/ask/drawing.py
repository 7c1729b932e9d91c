"""Pictures of what a selector looked at, as SVG over one copy of the image: crops, and ψ's heat map."""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections.abc import Sequence

from PIL import Image

from semclip_eval.types import Box

# More cells than this are not drawn: candidates that overlap without a grid would make a picture of megabytes.
MOST_CELLS = 10_000
# More boxes than this are drawn thinner and without numbers.
NUMBERED_BOXES = 16
# How dark the place with the lowest score is.
DARKEST = 0.72
PICTURE_SIDE = 900
CROP_SIDE = 420
JPEG_QUALITY = 88


def jpeg_address(image: Image.Image, side: int) -> str:
    """The image with at most `side` pixels on its longer side, as a `data:` address."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def shared_picture(image: Image.Image, name: str) -> str:
    """The image, not shown: every `drawing` of the page with the same `name` uses it."""
    size = f"width='{image.width}' height='{image.height}'"
    return (
        "<svg class='shared' width='0' height='0' aria-hidden='true'><defs>"
        f"<image id='{name}' href='{jpeg_address(image, PICTURE_SIDE)}' {size}/></defs></svg>"
    )


def drawing(image: Image.Image, name: str, marks: str, words: str) -> str:
    """The image with marks over it. words: what it shows, for those who do not see it."""
    return (
        f"<svg viewBox='0 0 {image.width} {image.height}' role='img' aria-label='{html.escape(words)}'>"
        f"<use href='#{name}'/>{marks}</svg>"
    )


def crop_marks(image: Image.Image, boxes: Sequence[Box], color: str) -> str:
    """Outlines of the crops, seen on any ground; a number in each where there are several, and not too many."""
    line = max(image.size) / (160 if len(boxes) <= NUMBERED_BOXES else 320)
    marks = []
    for number, box in enumerate(boxes, start=1):
        place = f"x='{box.left}' y='{box.top}' width='{box.width}' height='{box.height}' fill='none'"
        marks.append(f"<rect {place} stroke='#fff' stroke-width='{2 * line:.1f}'/>")
        marks.append(f"<rect class='crop' {place} stroke='{color}' stroke-width='{line:.1f}'/>")
        if 1 < len(boxes) <= NUMBERED_BOXES:
            size = 6 * line
            marks.append(
                f"<text x='{box.left + 2 * line:.1f}' y='{box.top + size:.1f}' font-size='{size:.1f}' "
                f"font-weight='700' fill='{color}' stroke='#fff' stroke-width='{line:.1f}' paint-order='stroke'>"
                f"{number}</text>"
            )
    return "".join(marks)


def heat_marks(candidates: Sequence[tuple[Box, float]]) -> str:
    """ψ over the image: the lower a place's score, the darker; empty where there are too many cells to draw."""
    low, high = min(score for _, score in candidates), max(score for _, score in candidates)
    cells = heat_cells(candidates)
    return "".join(
        f"<rect class='cell' x='{box.left}' y='{box.top}' width='{box.width}' height='{box.height}' fill='#000' "
        f"fill-opacity='{DARKEST * (1 if score is None else (high - score) / (high - low or 1)):.3f}'/>"
        for box, score in cells
    )


def heat_cells(candidates: Sequence[tuple[Box, float]]) -> list[tuple[Box, float | None]]:
    """Every place between the boxes' edges, with the highest score of the boxes that cover it, None where none does.

    The report's viewer draws the same map. Empty where there are more than `MOST_CELLS`.
    """
    across = sorted({edge for box, _ in candidates for edge in (box.left, box.right)})
    down = sorted({edge for box, _ in candidates for edge in (box.top, box.bottom)})
    if len(across) * len(down) > MOST_CELLS:
        return []
    cells: list[tuple[Box, float | None]] = []
    for top, bottom in itertools.pairwise(down):
        for left, right in itertools.pairwise(across):
            covering = [
                score for box, score in candidates if box.left <= left < box.right and box.top <= top < box.bottom
            ]
            cells.append((Box(left, top, right, bottom), max(covering, default=None)))
    return cells
