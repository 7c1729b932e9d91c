"""The verb: arguments, and where the answers go (terminal, JSON, a page, files)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semclip_eval.ask.asking import Asked, Asker, Query, check_overrides, named_selectors, read_box, read_image
from semclip_eval.ask.page import page
from semclip_eval.ask.terminal import print_answers
from semclip_eval.console import notice
from semclip_eval.errors import ConfigError
from semclip_eval.files import shown
from semclip_eval.json_output import print_json

# What stands in the question's place where it was forgotten.
OVERRIDE = re.compile(r"[A-Za-z_][\w.@]*=\S*")
EXAMPLE = 'semclip-eval ask street.jpg "What color is the bus?" --option red --option blue selector=no_crop,semclip'
MINI_EXAMPLE = (
    'semclip-eval ask mini://vstar/direct_attributes/sa_100000.jpg "What is the color of the star?" profile=mini'
)


def run_ask(arguments: list[str]) -> int:
    """The verb. ConfigError for a wrong command; a selector that cannot answer is a row with the reason."""
    if "--serve" in arguments:
        from semclip_eval.serve.verb import run_serve

        return run_serve([argument for argument in arguments if argument != "--serve"])
    chosen, overrides = _parsed(arguments)
    names, overrides = named_selectors(overrides)
    asker = Asker(overrides)
    query = Query(
        read_image(chosen.image),
        chosen.question,
        tuple(chosen.option),
        chosen.protocol,
        tuple(map(read_box, chosen.box)),
    )
    described = asker.described(names[0])
    notice(asker.announcement(names[0]))
    for name in names:
        asker.config(name)
    results = [asker.answer(name, query) for name in names]
    if all(result.reply is None for result in results):
        raise ConfigError(results[0].error)
    if chosen.save is not None:
        _save(Path(chosen.save).expanduser(), results)
    if chosen.html is not None:
        file = Path(chosen.html).expanduser()
        file.write_text(page(query, results, described), encoding="utf-8")
        notice(f"{shown(file)}: open it in a browser.")
    if chosen.json:
        print_json([as_json(result) for result in results])
        return 0
    print_answers(query, results, described)
    return 0


def _parsed(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="semclip-eval ask",
        description="One question about one image; the answers of several selectors side by side.",
        epilog=f"Examples: {EXAMPLE}   On the miniature: {MINI_EXAMPLE}",
    )
    parser.add_argument("image", nargs="?", help="an image file")
    parser.add_argument("question", nargs="?", help="the question")
    parser.add_argument("overrides", nargs="*", help="selector=a,b,c and other overrides, as for a run")
    parser.add_argument("--option", action="append", default=[], help="one answer option; give it for each")
    parser.add_argument("--protocol", help="likelihood (with options), letter, short_answer (without) or plain")
    parser.add_argument("--box", action="append", default=[], metavar="X,Y,W,H", help="where the answer is, in pixels")
    parser.add_argument("--save", metavar="FOLDER", help="write the views that each selector showed as PNG files")
    parser.add_argument("--html", metavar="FILE", help="write a page with the image, the crops and the answers")
    parser.add_argument("--json", action="store_true", help="print JSON (docs/json.md)")
    parser.add_argument(
        "--serve",
        action="store_true",
        help="open a page on this machine to ask on (ask --serve --help; docs/asking.md)",
    )
    chosen = parser.parse_intermixed_args(arguments)
    if any(text is None or OVERRIDE.fullmatch(text) for text in (chosen.image, chosen.question)):
        raise ConfigError(f"ask needs an image and a question, for example: {EXAMPLE}")
    check_overrides(chosen.overrides)
    return chosen, chosen.overrides


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
        "milliseconds": None if result.milliseconds is None else round(result.milliseconds, 1),
        "latency_ms": dict(result.latency_ms),
    }


def _save(folder: Path, results: Sequence[Asked]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        if result.reply is None:
            continue
        for number, (view, picture) in enumerate(zip(result.reply.views, result.reply.images, strict=True)):
            picture.save(folder / f"{result.selector}_{number}_{view.kind}.png")
    notice(f"{shown(folder)}: the views of {', '.join(result.selector for result in results)}.")
