"""The answers as HTML: a card for each selector. `ask --html` writes them as a page, `ask --serve` shows them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from semclip_eval.api import Reply
from semclip_eval.ask.asking import Asked, Query
from semclip_eval.ask.drawing import CROP_SIDE, crop_marks, drawing, heat_marks, jpeg_address, shared_picture
from semclip_eval.ask.terminal import answer_text, box_text
from semclip_eval.measure.stages import STAGES
from semclip_eval.report.style import STAGE_COLOURS

COLORS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#a16207", "#be123c")
STYLE = (Path(__file__).with_name("cards.css")).read_text(encoding="utf-8")
# What a page of its own needs around the cards.
PAGE_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 }
main { max-width: 90rem; margin: auto; padding: 1.5rem }
h1 { font-size: 1.4rem; margin: 0 }
.by { opacity: .75; margin: .2rem 0 1rem }
"""
# The image's id in the page.
PICTURE = "asked-picture"
# The image is given: its loading is no part of an answer.
SHOWN_STAGES = tuple(name for name in STAGES if name != "load")
# With more crops than this they are drawn smaller.
FEW_CROPS = 4
# Crops that a card shows; with more, how many there are is said.
SHOWN_CROPS = 16


def page(query: Query, results: Sequence[Asked], described: str) -> str:
    """A self-contained page. described: what answered, in one line."""
    question = html.escape(query.question)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{question}</title><style>{PAGE_STYLE}{STYLE}</style><main><h1>{question}</h1>"
        f"<p class=by>{html.escape(described)}</p>{cards(query, results)}</main></html>\n"
    )


def cards(query: Query, results: Sequence[Asked], waiting: Sequence[str] = ()) -> str:
    """One card a selector, side by side where there is room. waiting: selectors that have not answered yet."""
    parts = [shared_picture(query.image, PICTURE)]
    for number, result in enumerate(results):
        parts.append(_card(query, result, COLORS[number % len(COLORS)]))
    for place, name in enumerate(waiting):
        words = "is being asked …" if place == 0 else "waits"
        parts.append(f"<section class='waiting'>{_heading(name, '#888')}<p class='facts'>{words}</p></section>")
    return f"<div class='asked'>{''.join(parts)}</div>"


def problem(message: str) -> str:
    """What is wrong, in one line."""
    return f"<div class='asked'><p class='problem' role='alert'>{html.escape(' '.join(message.split()))}</p></div>"


def _heading(name: str, color: str) -> str:
    return f"<h2><i style='background:{color}'></i>{html.escape(name)}</h2>"


def _card(query: Query, result: Asked, color: str) -> str:
    reply = result.reply
    heading = _heading(result.selector, color)
    if reply is None:
        return f"<section>{heading}<p class='problem' role='alert'>{html.escape(result.error)}</p></section>"
    kind = "answer" if reply.answer is not None else "answer unread"
    return (
        f"<section>{heading}<p class='{kind}'>{html.escape(answer_text(reply))}</p>{_facts(result, reply)}"
        f"{_options(query, reply)}{_pictures(query.image, reply, color)}</section>"
    )


def _facts(result: Asked, reply: Reply) -> str:
    tokens = "–" if reply.visual_tokens is None else f"{reply.visual_tokens}"
    facts = [f"<b>{tokens}</b> visual tokens", f"<b>{reply.forwards}</b> extra VLM forwards"]
    facts.append(f"<b>{result.milliseconds:.0f}</b> ms")
    stages = [(name, result.latency_ms[name]) for name in SHOWN_STAGES if name in result.latency_ms]
    total = sum(value for _, value in stages) or 1
    bar = "".join(
        f"<i style='background:{STAGE_COLOURS[name]};width:{100 * ms / total:.2f}%'></i>" for name, ms in stages
    )
    legend = "".join(
        f"<span><i style='background:{STAGE_COLOURS[name]}'></i>{name} {ms:.1f}</span>" for name, ms in stages
    )
    return f"<p class='facts'>{' · '.join(facts)}</p><div class='bar'>{bar}</div><p class='stages'>{legend}</p>"


def _options(query: Query, reply: Reply) -> str:
    """The options' losses, where they are scored: the smaller, the more likely."""
    if reply.option_losses is None:
        return ""
    rows = []
    for number, (option, loss) in enumerate(zip(query.options, reply.option_losses, strict=True)):
        cells = [html.escape(option), f"{loss:.3f}"]
        if number == reply.choice:
            cells = [f"<b>{cell}</b>" for cell in cells]
        rows.append(f"<tr><td>{cells[0]}</td><td>{cells[1]}</td></tr>")
    head = "<tr><th>option</th><th>loss (nats a token)</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _pictures(image: Image.Image, reply: Reply, color: str) -> str:
    crops = reply.boxes
    words = _outlined(reply)
    figures = [_figure(drawing(image, PICTURE, crop_marks(image, crops, color), words), words)]
    scored = [(box, score) for box, score in reply.candidates if score is not None]
    if scored and (marks := heat_marks(scored)):
        low, high = min(score for _, score in scored), max(score for _, score in scored)
        words = f"ψ of {len(scored)} candidates: dark {low:.3f} to bright {high:.3f}"
        figures.append(_figure(drawing(image, PICTURE, marks, words), words))
    return f"<div class='views'>{''.join(figures)}</div>{_crops(reply)}"


def _outlined(reply: Reply) -> str:
    """What the picture of the image with the boxes shows."""
    whole = "the overview" if any(view.kind == "overview" for view in reply.views) else "the image, not shown whole"
    beside = [view.kind for view in reply.views if view.kind != "overview"]
    if not reply.boxes:
        return f"{whole}, alone" if not beside else f"{whole}; the {beside[0]} shows none of it"
    if set(beside) == {"crop"}:
        return f"{whole}; outlined: its crop" if len(beside) == 1 else f"{whole}; outlined: {len(beside)} crops"
    return f"{whole}; outlined: what the {beside[0]} shows"


def _crops(reply: Reply) -> str:
    """What was shown beside the overview, as pictures."""
    beside = [(view, pixels) for view, pixels in zip(reply.views, reply.images, strict=True) if view.kind != "overview"]
    figures = []
    for number, (view, pixels) in enumerate(beside[:SHOWN_CROPS], start=1):
        psi = "" if view.relevance is None else f", ψ {view.relevance:.3f}"
        words = f"{view.kind}{f' {number}' if len(beside) > 1 else ''}: {box_text(view.box)}{psi}"
        picture = f"<img alt='{words}' title='{words}' src='{jpeg_address(pixels, CROP_SIDE)}'>"
        figures.append(_figure(picture, words if len(beside) <= FEW_CROPS else f"{number}{psi}"))
    if len(beside) > SHOWN_CROPS:
        figures.append(f"<p class='facts'>and {len(beside) - SHOWN_CROPS} more, not drawn here</p>")
    return f"<div class='views{' many' if len(beside) > FEW_CROPS else ''}'>{''.join(figures)}</div>" if beside else ""


def _figure(picture: str, words: str) -> str:
    return f"<figure>{picture}<figcaption>{html.escape(words)}</figcaption></figure>"
