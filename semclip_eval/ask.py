"""`semclip-eval ask`: one image, one question, the answers of several selectors side by side."""

from __future__ import annotations

import argparse
import base64
import html
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semclip_eval import session
from semclip_eval.api import Reply, ask
from semclip_eval.components import build
from semclip_eval.compose import compose
from semclip_eval.config import run_config
from semclip_eval.console import notice, out
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.files import shown
from semclip_eval.json_output import print_json
from semclip_eval.selectors.base import Selector
from semclip_eval.types import Box

SELECTORS = "no_crop,semclip"
COLORS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#a16207", "#be123c")
# Width of a drawn crop in characters; a character is two pixels high and one wide.
DRAWN_WIDTH = 36


@dataclass(frozen=True)
class Asked:
    """What one selector gave. milliseconds: from the decoded image to the answer. error: why there is none."""

    selector: str
    reply: Reply | None
    milliseconds: float
    error: str = ""


def run_ask(arguments: list[str]) -> int:
    """The verb. ConfigError for a wrong command; a selector that cannot answer is a row with the reason."""
    chosen, overrides = _parsed(arguments)
    image_path = Path(chosen.image).expanduser()
    image = _image(image_path)
    names = [name for text in overrides if text.startswith("selector=") for name in text[9:].split(",")]
    overrides = [text for text in overrides if not text.startswith("selector=")]
    names = names or SELECTORS.split(",")
    boxes = [_box(text) for text in chosen.box]
    results = [_asked(name, overrides, image, chosen, boxes) for name in names]
    if all(result.reply is None for result in results):
        raise ConfigError(results[0].error)
    if chosen.save is not None:
        _save(Path(chosen.save).expanduser(), results)
    if chosen.html is not None:
        file = Path(chosen.html).expanduser()
        file.write_text(page(image, chosen.question, results), encoding="utf-8")
        notice(f"{shown(file)}: open it in a browser.")
    if chosen.json:
        print_json([as_json(result) for result in results])
        return 0
    _print(chosen.question, image, results)
    return 0


def _parsed(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="semclip-eval ask",
        description="One question about one image; the answers of several selectors side by side.",
        epilog='Example: semclip-eval ask street.jpg "What color is the bus?" --option red --option blue '
        "selector=no_crop,semclip crops=grid3x3",
    )
    parser.add_argument("image", help="an image file")
    parser.add_argument("question", help="the question")
    parser.add_argument("overrides", nargs="*", help="selector=a,b,c and other overrides, as for a run")
    parser.add_argument("--option", action="append", default=[], help="one answer option; give it for each")
    parser.add_argument("--protocol", help="likelihood (with options), letter, short_answer (without) or plain")
    parser.add_argument("--box", action="append", default=[], metavar="X,Y,W,H", help="where the answer is, in pixels")
    parser.add_argument("--save", metavar="FOLDER", help="write the views that each selector showed as PNG files")
    parser.add_argument("--html", metavar="FILE", help="write a page with the image, the crops and the answers")
    parser.add_argument("--json", action="store_true", help="print JSON (docs/json.md)")
    chosen = parser.parse_intermixed_args(arguments)
    for text in chosen.overrides:
        if "=" not in text:
            raise ConfigError(f"{text}: must be an override such as selector=semclip (quote a question with spaces).")
    return chosen, chosen.overrides


def _image(path: Path) -> Image.Image:
    from semclip_eval.benchmarks.images import read_rgb

    try:
        return read_rgb(path)
    except QuestionError as error:
        raise ConfigError(str(error)) from error


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = (int(value) for value in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--box {text}: must be X,Y,WIDTH,HEIGHT in pixels.") from error
    return left, top, left + width, top + height


def _asked(
    name: str, overrides: Sequence[str], image: Image.Image, chosen: argparse.Namespace, boxes: Sequence[Any]
) -> Asked:
    config = compose([*overrides, f"selector={name}"], _profile(overrides))
    run = run_config(config["run"])
    selector: Selector = build("selector", config["selector"])
    context = {"device": run.device, "dtype": run.dtype}
    vlm = session.loaded("model", dict(config["model"]), **context)
    psi = session.loaded("psi", dict(config["psi"]), **context) if "psi" in selector.needs else None
    crops = build("crops", config["crops"])
    try:
        for _ in range(2):  # the first call loads and warms up; the clock is for the second one
            start = time.perf_counter()
            reply = ask(
                image, chosen.question, options=chosen.option, protocol=chosen.protocol, selector=selector, vlm=vlm,
                psi=psi, crops=crops, boxes=boxes, seed=run.seed,
            )  # fmt: skip
            milliseconds = 1000 * (time.perf_counter() - start)
    except (QuestionError, ConfigError) as error:
        return Asked(name, None, 0.0, " ".join(str(error).split()))
    return Asked(name, reply, milliseconds)


def _profile(overrides: Sequence[str]) -> str:
    return next((text.partition("=")[2] for text in overrides if text.startswith("profile=")), "auto")


def as_json(result: Asked) -> dict[str, Any]:
    """Plain values of one selector's answer."""
    if result.reply is None:
        return {"selector": result.selector, "error": result.error}
    reply = result.reply
    return {
        "selector": result.selector,
        "answer": reply.answer,
        "status": reply.status,
        "reason": reply.reason,
        "option_losses": reply.option_losses,
        "views": [{"kind": view.kind, "box": list(view.box), "psi": view.relevance} for view in reply.views],
        "candidates": [{"box": list(box), "psi": score} for box, score in reply.candidates],
        "visual_tokens": reply.visual_tokens,
        "text_tokens": reply.text_tokens,
        "forwards": reply.forwards,
        "milliseconds": round(result.milliseconds, 1),
    }


def _print(question: str, image: Image.Image, results: Sequence[Asked]) -> None:
    from rich.table import Table

    out.print(f"{question}  ({image.width} x {image.height} px)", style="bold", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("selector", "answer"):
        table.add_column(heading, overflow="fold")
    for heading in ("visual\ntokens", "extra\nforwards", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("crops: left,top,right,bottom (ψ)", overflow="fold")
    for result in results:
        reply = result.reply
        if reply is None:
            table.add_row(result.selector, f"- ({result.error})", "-", "-", "-", "-")
            continue
        answer = reply.answer if reply.answer is not None else f"{reply.status}: {reply.reason}"
        crops = "  ".join(
            ",".join(map(str, view.box)) + ("" if view.relevance is None else f" ({view.relevance:.3f})")
            for view in reply.views
            if view.kind != "overview"
        )
        counts = (str(reply.visual_tokens or "-"), str(reply.forwards), f"{result.milliseconds:.0f}")
        table.add_row(result.selector, answer, *counts, crops or "-")
    out.print(table)
    for result in results:
        if result.reply is not None and any(score is not None for _, score in result.reply.candidates):
            _print_scores(result.selector, result.reply)
        if result.reply is not None and len(result.reply.views) > 1 and out.is_terminal:
            out.print(f"\n{result.selector} shows beside the overview:", highlight=False)
            out.print(half_blocks(result.reply.images[1], DRAWN_WIDTH))


def _print_scores(selector: str, reply: Reply) -> None:
    ranked = sorted((pair for pair in reply.candidates if pair[1] is not None), key=lambda pair: -float(pair[1] or 0))
    best = "  ".join(f"{','.join(map(str, box))} {score:.3f}" for box, score in ranked[:4])
    rest = f"  … {ranked[-1][1]:.3f}" if len(ranked) > 4 else ""
    out.print(f"\nψ of {selector}'s {len(ranked)} candidates, best first: {best}{rest}", highlight=False)


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


def _save(folder: Path, results: Sequence[Asked]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        for number, picture in enumerate(result.reply.images if result.reply is not None else ()):
            kind = result.reply.views[number].kind  # type: ignore[union-attr]
            picture.save(folder / f"{result.selector}_{number}_{kind}.png")
    notice(f"{shown(folder)}: the views of {', '.join(result.selector for result in results)}.")


def page(image: Image.Image, question: str, results: Sequence[Asked]) -> str:
    """A self-contained page: the image with every selector's crops and ψ over it, and the views with the answers."""
    parts = [f"<h1>{html.escape(question)}</h1>"]
    for result, color in zip(results, COLORS * len(results), strict=False):
        parts.append(f"<section><h2><i style='background:{color}'></i>{html.escape(result.selector)}</h2>")
        reply = result.reply
        if reply is None:
            parts.append(f"<p class=none>{html.escape(result.error)}</p></section>")
            continue
        answer = reply.answer if reply.answer is not None else f"{reply.status}: {reply.reason}"
        facts = f"{reply.visual_tokens} visual tokens · {reply.forwards} extra forwards · {result.milliseconds:.0f} ms"
        parts.append(f"<p class=answer>{html.escape(answer)}</p><p>{facts}</p><div class=views>")
        parts.append(_figure(image, reply, color))
        for view, picture in zip(reply.views, reply.images, strict=True):
            if view.kind != "overview":
                psi = "" if view.relevance is None else f", ψ {view.relevance:.3f}"
                parts.append(f"<figure><img alt='{view.kind}' src='{_data(picture, 420)}'>")
                parts.append(f"<figcaption>{view.kind} {','.join(map(str, view.box))}{psi}</figcaption></figure>")
        parts.append("</div></section>")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(question)}</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )


def _figure(image: Image.Image, reply: Reply, color: str) -> str:
    """The image with ψ of the candidates as shades and the shown boxes as outlines."""
    line = max(image.size) / 200
    shapes = []
    scored = [(box, score) for box, score in reply.candidates if score is not None]
    low, high = min((s for _, s in scored), default=0.0), max((s for _, s in scored), default=0.0)
    for box, score in scored:
        strength = 0.55 * (score - low) / (high - low) if high > low else 0.0
        shapes.append(_rect(box, f"fill='{color}' fill-opacity='{strength:.3f}'", f"ψ {score:.3f}"))
    outline = f"fill='none' stroke='{color}' stroke-width='{line:.1f}'"
    shapes += [_rect(box, outline, "shown") for box in reply.boxes]
    caption = "the image; shades are ψ, outlines what is shown" if scored else "the image; outlines are what is shown"
    return (
        f"<figure><svg viewBox='0 0 {image.width} {image.height}' role=img aria-label='the image with the crops'>"
        f"<image href='{_data(image, 900)}' width='{image.width}' height='{image.height}'/>{''.join(shapes)}</svg>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _rect(box: Box, style: str, title: str) -> str:
    return (
        f"<rect x='{box.left}' y='{box.top}' width='{box.width}' height='{box.height}' {style}>"
        f"<title>{title}</title></rect>"
    )


def _data(image: Image.Image, side: int) -> str:
    small = image.copy()
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 }
main { max-width: 70rem; margin: auto; padding: 1.5rem }
h1 { font-size: 1.4rem }
h2 { font-size: 1.05rem; margin: 0 0 .2rem }
h2 i { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 2px }
section { border-top: 1px solid #8885; padding: 1rem 0 }
p { margin: .1rem 0 }
.answer { font-size: 1.25rem; font-weight: 600 }
.none { opacity: .7 }
.views { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .7rem }
figure { margin: 0; flex: 1 1 16rem; max-width: 26rem }
svg, img { width: 100%; height: auto; display: block; border-radius: 4px }
figcaption { font-size: .8rem; opacity: .75 }
"""
