"""What the selector looked at: some questions of a comparison, with image, crop, target, options and answers.

Which questions is not a matter of taste: first those on which the focus and no_crop part, half of them won and half of
them lost where there are enough, in the order of a hash of the question's id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semclip_eval.report.comparisons import Comparison
from semclip_eval.report.lines import Line, focus
from semclip_eval.report.pictures import Images, ImageSources, Picture, picture
from semclip_eval.scoring.choice import LETTERS

LONGEST_TEXT = 600
# Base64 characters for all images of a report together, which keeps the page under 3 MB, and the least for one image.
IMAGE_BUDGET = 2_000_000
SMALLEST_SHARE = 12_000


@dataclass(frozen=True)
class Option:
    """One option of a question; truth says whether it is the right one."""

    letter: str
    text: str
    truth: bool


@dataclass(frozen=True)
class Given:
    """What one run answered: the option's letter or the text, its verdict, the loss of every option (empty: none)."""

    line: Line
    answer: str
    verdict: str
    losses: tuple[str, ...]
    choice: int | None


@dataclass(frozen=True)
class Card:
    """One question. truth: the reference answer of a question without options. no_picture: why there is no image."""

    question_id: str
    category: str
    question: str
    options: tuple[Option, ...]
    truth: str
    answers: tuple[Given, ...]
    picture: Picture | None
    no_picture: str


@dataclass(frozen=True)
class Part:
    """The cards of one outcome: heading, how many questions had it, and those shown."""

    heading: str
    total: int
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Gallery:
    """The gallery of one comparison; `left_out` says why there is none."""

    focus: Line | None
    parts: tuple[Part, ...]
    left_out: str = ""


def galleries(found: Sequence[tuple[Comparison, Sequence[Line]]], count: int, sources: ImageSources) -> list[Gallery]:
    """A gallery for each comparison in accuracy mode, at most `count` questions each, fewer where the page grows."""
    shown = sum(comparison.shared("mode") == "accuracy" for comparison, _ in found)
    count = min(count, IMAGE_BUDGET // SMALLEST_SHARE // max(1, shown))
    limit = IMAGE_BUDGET // max(1, shown * count)
    return [
        _gallery(rows, count, limit, sources) if comparison.shared("mode") == "accuracy" else Gallery(None, ())
        for comparison, rows in found
    ]


def _gallery(rows: Sequence[Line], count: int, limit: int, sources: ImageSources) -> Gallery:
    line = focus(rows)
    if count < 1 or line is None:
        return Gallery(None, ())
    try:
        images = sources.of(line.run)
    except ValueError as error:
        return Gallery(line, (), str(error))
    records = [{str(record["question_id"]): record for record in other.run.records} for other in rows]
    parts = []
    for heading, members, chosen in _chosen(_outcomes(line), count):
        cards = tuple(_card(identity, line, rows, records, images, limit) for identity in chosen)
        parts.append(Part(heading, len(members), cards))
    return Gallery(line, tuple(parts))


def _outcomes(line: Line) -> list[tuple[str, list[str]]]:
    """Headings and the ids of their questions: paired with no_crop where that was possible."""
    scored = [record for record in line.run.records if record["score"] is not None]
    if line.pair is None or line.reference is None:
        return [
            (f"Not fully right with {line.name}", [identity_of(record) for record in scored if record["score"] < 1]),
            (f"Right with {line.name}", [identity_of(record) for record in scored if record["score"] >= 1]),
        ]
    reference = {
        identity_of(record): record["score"] for record in line.reference.records if record["score"] is not None
    }
    pairs = [
        (identity_of(record), reference[identity_of(record)], record["score"])
        for record in scored
        if identity_of(record) in reference
    ]
    partial = any(score not in (0, 1) for _, *scores in pairs for score in scores)
    right = "Better" if partial else "Right"
    name, other = line.name, line.reference.selector
    return [
        (
            f"{right} with {name} than with {other}" if partial else f"Right with {name}, wrong with {other}",
            [identity for identity, before, after in pairs if after > before],
        ),
        (
            f"Worse with {name} than with {other}" if partial else f"Wrong with {name}, right with {other}",
            [identity for identity, before, after in pairs if after < before],
        ),
        (
            "Equal, not fully right" if partial else "Wrong with both",
            [identity for identity, before, after in pairs if after == before < 1],
        ),
        (
            "Equal, fully right" if partial else "Right with both",
            [identity for identity, before, after in pairs if after == before >= 1],
        ),
    ]


def _chosen(outcomes: Sequence[tuple[str, list[str]]], count: int) -> list[tuple[str, list[str], list[str]]]:
    """Which questions of each outcome are shown: the first two share the room, the others get what is left."""
    first, second = len(outcomes[0][1]), len(outcomes[1][1])
    half = min(first, max(count - count // 2, count - second))
    room = [half, min(second, count - half)]
    for _, members in outcomes[2:]:
        room.append(min(len(members), count - sum(room)))
    return [
        (heading, members, sorted(members, key=draw_order)[:size])
        for (heading, members), size in zip(outcomes, room, strict=True)
        if size
    ]


def draw_order(identity: str) -> str:
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


def identity_of(record: Mapping[str, Any]) -> str:
    return str(record["question_id"])


def _card(
    identity: str,
    line: Line,
    rows: Sequence[Line],
    records: Sequence[Mapping[str, Mapping[str, Any]]],
    images: Images,
    limit: int,
) -> Card:
    record = records[list(rows).index(line)][identity]
    options = tuple(
        Option(letter(index), shortened(str(text)), index == record["truth"])
        for index, text in enumerate(record["options"])
    )
    drawn, reason = None, ""
    try:
        drawn = picture(images.load(identity), record["views"] or [], record["target_boxes"], limit)
    except ValueError as error:
        reason = str(error)
    return Card(
        question_id=identity,
        category=str(record["category"]),
        question=shortened(str(record["question"])),
        options=options,
        truth="" if options else truth_text(record["truth"]),
        answers=tuple(
            _given(other, of_run[identity])
            for other, of_run in zip(rows, records, strict=True)
            if identity in of_run and same_question(of_run[identity], record)
        ),
        picture=drawn,
        no_picture=reason,
    )


def same_question(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Is it the same question, or one that only shares its id?"""
    return all(record[key] == other[key] for key in ("question", "options", "truth"))


def _given(line: Line, record: Mapping[str, Any]) -> Given:
    losses = tuple(f"{loss:.3f}" for loss in record["option_losses"] or ())
    if record["status"] == "error":
        error = record["error"] or {}
        return Given(line, shortened(f"{error.get('type')}: {error.get('message')}", 160), "error", losses, None)
    choice = record["choice"]
    if record["answer"] is not None:
        answer = f"“{shortened(str(record['answer']), 160)}”"
    else:
        answer = letter(choice) if choice is not None else ""
    return Given(line, answer, _verdict(record), losses, choice)


def _verdict(record: Mapping[str, Any]) -> str:
    if record["status"] == "unparsed":
        return f"unparsed ({record['reason']})" if record["reason"] else "unparsed"
    score = record["score"]
    if score is None:
        return "not scored"
    return "right" if score >= 1 else "wrong" if score <= 0 else f"{100 * score:.0f} %"


def letter(index: int) -> str:
    return LETTERS[index] if index < len(LETTERS) else str(index + 1)


def truth_text(truth: Any) -> str:
    if isinstance(truth, (list, tuple)):
        return shortened(", ".join(dict.fromkeys(str(reference) for reference in truth)))
    return shortened(str(truth))


def shortened(text: str, longest: int = LONGEST_TEXT) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
