"""The answers in the terminal: a table, ψ's best candidates, and the crop drawn in half blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from semclip_eval.api import Reply
from semclip_eval.ask.asking import Asked, Query
from semclip_eval.console import out
from semclip_eval.types import Box

# Width of a drawn crop in characters; a character is two pixels high and one wide.
DRAWN_WIDTH = 36
# Candidates that are printed with their ψ.
PRINTED_CANDIDATES = 4


def print_answers(query: Query, results: Sequence[Asked], described: str) -> None:
    """The table, and below it what each selector looked at. described: what answered, in one line."""
    from rich.table import Table

    out.print(f"{query.question}  ({query.image.width} x {query.image.height} px)", style="bold", highlight=False)
    out.print(described, style="dim", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("selector", "answer"):
        table.add_column(heading, overflow="fold")
    for heading in ("visual\ntokens", "extra\nforwards", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("crops (ψ):\nleft,top,right,bottom", overflow="fold")
    for result in results:
        reply = result.reply
        if reply is None:
            table.add_row(result.selector, "-", "-", "-", "-", "-")
            continue
        counts = ("-" if reply.visual_tokens is None else str(reply.visual_tokens), str(reply.forwards))
        table.add_row(
            result.selector, answer_text(reply), *counts, f"{result.milliseconds:.0f}", crops_text(reply) or "-"
        )
    out.print(table)
    for result in results:
        if result.reply is None:
            out.print(f"\n{result.selector} cannot answer: {result.error}", highlight=False)
            continue
        _print_scores(result.selector, result.reply)
        beside = [place for place, view in enumerate(result.reply.views) if view.kind != "overview"]
        if beside and out.is_terminal:
            more = "" if len(beside) == 1 else f", the first of {len(beside)}"
            out.print(f"\n{result.selector}'s {result.reply.views[beside[0]].kind}{more}:", highlight=False)
            out.print(half_blocks(result.reply.images[beside[0]], DRAWN_WIDTH))


def answer_text(reply: Reply) -> str:
    """The answer, or why it cannot be read."""
    return reply.answer if reply.answer is not None else f"{reply.status}: {reply.reason}"


def box_text(box: Box) -> str:
    return ",".join(map(str, box))


def crops_text(reply: Reply) -> str:
    """The boxes that were shown beside the overview, with ψ's score where there is one."""
    return "  ".join(
        box_text(view.box) + ("" if view.relevance is None else f" ({view.relevance:.3f})")
        for view in reply.views
        if view.kind != "overview"
    )


def _print_scores(selector: str, reply: Reply) -> None:
    scored = [(score, box) for box, score in reply.candidates if score is not None]
    if not scored:
        return
    ranked = sorted(scored, key=lambda pair: -pair[0])
    out.print(f"\nψ of {selector}'s {len(ranked)} candidates, best first:", highlight=False)
    lines = [f"  {score:6.3f}  {box_text(box)}" for score, box in ranked[:PRINTED_CANDIDATES]]
    if len(ranked) > PRINTED_CANDIDATES:
        lines.append(f"  … down to {ranked[-1][0]:.3f}")
    out.print("\n".join(lines), highlight=False)


def half_blocks(image: Image.Image, width: int) -> Any:
    """The image in characters: each holds an upper and a lower pixel."""
    from rich.color import Color
    from rich.segment import Segment, Segments
    from rich.style import Style

    height = max(2, 2 * math.ceil(image.height * width / image.width / 2))
    pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    segments = []
    for row in range(0, height, 2):
        for column in range(width):
            upper, lower = (Color.from_rgb(*map(int, pixels[row + place, column])) for place in (0, 1))
            segments.append(Segment("▀", Style(color=upper, bgcolor=lower)))
        segments.append(Segment.line())
    return Segments(segments)
