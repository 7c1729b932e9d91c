"""The data of the page's question viewer: every question of every accuracy comparison, as one compact JSON value.

`viewer.js` draws it. Boxes stay in pixels of the original image. Lists of boxes that many records share (a grid's
candidates) are written once and named by their number; pictures too, one an image. What a record does not have is left
out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semclip_eval.models.transformers.layout import padded_square
from semclip_eval.report.comparisons import Comparison
from semclip_eval.report.gallery import draw_order, identity_of, letter, same_question, shortened, truth_text
from semclip_eval.report.lines import Line, focus
from semclip_eval.report.pictures import Images, ImageSources, thumbnail
from semclip_eval.report.style import Style
from semclip_eval.report.table import printable

# Base64 characters for all pictures together, and the most for one: 1,000 questions stay far below 25 MB.
PICTURE_BUDGET = 14_000_000
LARGEST_PICTURE = 24_000
PICTURES = 2000
LONGEST_PROMPT = 4000
LONGEST_ANSWER = 1000
# The family whose visual tokens of a view are a square grid over the padded view (llava.py, `_token_boxes`): records of
# earlier versions do not say where tokens lie.
SQUARE_GRID = "semclip_eval.models.transformers.llava.Llava15"


@dataclass(frozen=True)
class Viewer:
    """data: for `as_json`. questions, pictured: how many the page has, and how many of them with a picture."""

    data: dict[str, Any]
    questions: int
    pictured: int
    capped: bool


def viewer(
    found: Sequence[tuple[Comparison, Sequence[Line]]],
    styles: Mapping[str, Style],
    sources: ImageSources,
    most_pictures: int = PICTURES,
) -> Viewer | None:
    """All questions of the accuracy comparisons; None where there is no such comparison.

    At most `most_pictures` images become pictures: those of questions whose runs differ first, then by a hash of the
    question's id.
    """
    shown = [(number, *pair) for number, pair in enumerate(found, start=1) if pair[0].shared("mode") == "accuracy"]
    if not shown:
        return None
    boxes, grids = _Shared(), _Shared()
    sections = [
        _Section(number, comparison, list(rows), styles, boxes, grids, _images(rows, sources))
        for number, comparison, rows in shown
    ]
    pictures = _Pictures(sections, most_pictures)
    data: dict[str, Any] = {
        "sections": [section.data(pictures) for section in sections],
        "boxes": boxes.values,
        **({"grids": grids.values} if grids.values else {}),
        "pictures": pictures.encoded,
    }
    questions = [question for section in data["sections"] for question in section["questions"]]
    pictured = sum("picture" in question for question in questions)
    return Viewer(data, len(questions), pictured, pictures.capped)


def as_json(data: Any) -> str:
    """JSON that may stand inside a script element: no `<`, `>` or `&`, no control characters, no lone surrogates."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class _Shared:
    """Gives equal lists of boxes one number."""

    def __init__(self) -> None:
        self.values: list[list[float]] = []
        self._numbers: dict[tuple[float, ...], int] = {}

    def number(self, boxes: Sequence[Sequence[int]]) -> int:
        return self.number_of([int(value) for box in boxes for value in box])

    def number_of(self, values: Sequence[float]) -> int:
        flat = tuple(values)
        if flat not in self._numbers:
            self._numbers[flat] = len(self.values)
            self.values.append(list(flat))
        return self._numbers[flat]


@dataclass(frozen=True)
class _Section:
    """One comparison. images: where its pictures and prompts come from, or in words why there are none."""

    number: int
    comparison: Comparison
    rows: list[Line]
    styles: Mapping[str, Style]
    boxes: _Shared
    grids: _Shared
    images: Images | str

    def image_keys(self) -> dict[str, list[tuple[bool, str]]]:
        """By image of the benchmark, its questions: (do its runs agree?, id)."""
        records = self._records()
        keys: dict[str, list[tuple[bool, str]]] = {}
        for identity, of_run in records.items():
            scores = {record["score"] for record in of_run if record is not None}
            first = next(record for record in of_run if record is not None)
            keys.setdefault(self.image_key(first), []).append((len(scores) < 2, identity))
        return keys

    def image_key(self, record: Mapping[str, Any]) -> str:
        """What two questions share that show the same picture."""
        shared = self.comparison.shared
        return "\n".join([shared("benchmark"), shared("split"), shared("dataset_revision"), str(record["image_id"])])

    def _records(self) -> dict[str, list[Mapping[str, Any] | None]]:
        """By question's id the record of each run, None where a run has none or asked something else by that id."""
        by_run = [{identity_of(record): record for record in line.run.records} for line in self.rows]
        records: dict[str, list[Mapping[str, Any] | None]] = {}
        for identity in dict.fromkeys(identity for own in by_run for identity in own):
            first = next(own[identity] for own in by_run if identity in own)
            records[identity] = [
                own[identity] if identity in own and same_question(first, own[identity]) else None for own in by_run
            ]
        return records

    def data(self, pictures: _Pictures) -> dict[str, Any]:
        names = [line.run.id for line in self.rows]
        central = focus(self.rows) or self.rows[0]
        reference = next((index for index, line in enumerate(self.rows) if line.run.kind == "overview"), None)
        return {
            "number": self.number,
            "title": printable(self.comparison.title),
            "runs": [self._run(line) for line in self.rows],
            "focus": names.index(central.run.id),
            **({} if reference is None else {"reference": reference}),
            **({"chat": chat} if (chat := _chat(self.rows)) else {}),
            "prompts": not isinstance(self.images, str) and _asked_alike(self.rows),
            "questions": [self._question(identity, of_run, pictures) for identity, of_run in self._records().items()],
        }

    def _run(self, line: Line) -> dict[str, Any]:
        style = self.styles[line.run.id]
        return {
            "name": printable(line.name),
            "id": line.run.id,
            "colour": style.colour,
            "path": style.path,
            **({"hollow": True} if style.hollow else {}),
        }

    def _question(
        self, identity: str, of_run: Sequence[Mapping[str, Any] | None], pictures: _Pictures
    ) -> dict[str, Any]:
        record = next(record for record in of_run if record is not None)
        key = self.image_key(record)
        picture = pictures.of.get(key, "")
        sizes = [other["image_size"] for other in of_run if other is not None and other.get("image_size")]
        # Answers made elsewhere have no size on record.
        sizes += [pictures.sizes[key]] if key in pictures.sizes else []
        options = [printable(shortened(str(option))) for option in record["options"] or ()]
        truth = record["truth"] if options else printable(truth_text(record["truth"]))
        question = {
            "id": printable(identity),
            "category": printable(str(record["category"])),
            "text": printable(shortened(str(record["question"]), LONGEST_PROMPT)),
            "options": options,
            "truth": truth,
            "picture": picture if isinstance(picture, int) else None,
            "missing": printable(picture) if isinstance(picture, str) else "",
            "size": sizes[0] if sizes else None,
            "targets": record["target_boxes"],
            "prompt": self._prompt(identity, record),
            "answers": [
                None if other is None else self._answer(other, line)
                for other, line in zip(of_run, self.rows, strict=True)
            ],
        }
        return {key: value for key, value in question.items() if value not in (None, "", [])}

    def _prompt(self, identity: str, record: Mapping[str, Any]) -> str:
        """What was asked, where it is not the question itself; empty too where it cannot be known (`prompts`)."""
        if isinstance(self.images, str):
            return ""
        try:
            text = self.images.prompt(identity)
        except ValueError:
            return ""
        return "" if text == record["question"] else printable(shortened(text, LONGEST_PROMPT))

    def _answer(self, record: Mapping[str, Any], line: Line) -> dict[str, Any]:
        error, cost, choice = record["error"] or {}, record.get("cost") or {}, record["choice"]
        grids = token_grids(record, is_square=line.run.config["model"].get("_target_") == SQUARE_GRID)
        answer = {
            "status": record["status"] if record["status"] != "ok" else None,
            "score": _short(record["score"]),
            "answer": None if record["answer"] is None else printable(shortened(str(record["answer"]), LONGEST_ANSWER)),
            "choice": choice,
            "letter": letter(choice) if isinstance(choice, int) else None,
            "losses": [_short(loss) for loss in record["option_losses"] or ()],
            "reason": printable(str(record["reason"] or "")),
            "error": printable(shortened(f"{error.get('type')}: {error.get('message')}")) if error else None,
            "views": [self._view(view) for view in record["views"] or ()],
            "candidates": self._scored(record.get("candidates") or (), "psi"),
            "trace": self._trace(record.get("trace") or ()),
            "kept": [_bits(set(view), grid) for view, grid in zip(record["kept"], grids, strict=True)]
            if grids
            else None,
            "grids": [self.grids.number_of([edge for grid in view for edge in grid]) for view in grids],
            "coverage": _short(record["target_coverage"]),
            "tokens": record["visual_tokens"],
            "encoded": record.get("encoded_tokens") if record.get("kept") else None,
            "forwards": cost.get("forwards") or None,
        }
        return {key: value for key, value in answer.items() if value is not None and value != "" and value != []}

    def _view(self, view: Mapping[str, Any]) -> dict[str, Any]:
        parts = [[*part["source"], *part["place"]] for part in view.get("parts") or ()]
        shown = {"kind": view["kind"], "box": view["box"], "psi": _short(view.get("psi")), "parts": parts}
        return {key: value for key, value in shown.items() if value not in (None, [])}

    def _scored(self, items: Sequence[Mapping[str, Any]], key: str) -> list[Any] | None:
        """Number of the list of boxes, and their scores; None without boxes or without any score."""
        scores = [_short(item.get(key)) for item in items]
        if not items or all(score is None for score in scores):
            return None
        return [self.boxes.number([item["box"] for item in items]), scores]

    def _trace(self, steps: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Kind, number of the boxes and scores, for each kind of step in the order in which they first come."""
        kinds: dict[str, list[Mapping[str, Any]]] = {}
        for step in steps:
            kinds.setdefault(str(step["kind"]), []).append(step)
        return [
            [printable(kind), self.boxes.number([step["box"] for step in own]), [_short(step["score"]) for step in own]]
            for kind, own in kinds.items()
        ]


class _Pictures:
    """The pictures of the page, each image once.

    of: by image key its number, or why there is none. sizes: (width, height) in pixels of the original.
    """

    def __init__(self, sections: Sequence[_Section], most: int) -> None:
        self.of: dict[str, int | str] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self.encoded: list[str] = []
        wanted: dict[str, tuple[bool, str, str, Images]] = {}
        for section in sections:
            for key, questions in section.image_keys().items():
                if isinstance(section.images, str):
                    self.of.setdefault(key, section.images)
                    continue
                agree, identity = min(questions, key=lambda item: (item[0], draw_order(item[1])))
                rank = (agree, draw_order(identity), identity, section.images)
                if key not in wanted or rank[:2] < wanted[key][:2]:
                    wanted[key] = rank
        chosen = sorted(wanted, key=lambda key: wanted[key][:2])
        self.capped = len(chosen) > most
        for key in chosen[most:]:
            self.of[key] = "" if most == 0 else f"this page has pictures of {most} images only"
        chosen = chosen[:most]
        limit = min(LARGEST_PICTURE, PICTURE_BUDGET // max(1, len(chosen)))
        for key in chosen:
            _, _, identity, images = wanted[key]
            try:
                image = images.load(identity)
            except ValueError as error:
                self.of[key] = str(error)
                continue
            self.of[key] = len(self.encoded)
            self.sizes[key] = image.size
            self.encoded.append(thumbnail(image, limit))


def _images(rows: Sequence[Line], sources: ImageSources) -> Images | str:
    try:
        return sources.of((focus(rows) or rows[0]).run)
    except ValueError as error:
        return str(error)


def _asked_alike(rows: Sequence[Line]) -> bool:
    """Were all runs asked here, and in the same way? Only then does one prompt stand for all."""
    ways = {json.dumps(line.run.config["benchmark"], sort_keys=True, default=str) for line in rows}
    return len(ways) == 1 and not any(line.run.replayed for line in rows)


def _chat(rows: Sequence[Line]) -> dict[str, str] | None:
    """The model's chat template; None where the model's server or the user's own class has it."""
    from semclip_eval.models.transformers.prompts import CONVERSATIONS

    names = {str(line.run.config["model"].get("conversation")) for line in rows}
    conversation = CONVERSATIONS.get(names.pop()) if len(names) == 1 else None
    if conversation is None:
        return None
    return {
        "before": conversation.before,
        "image": conversation.image,
        "lead": conversation.lead,
        "after": conversation.after,
    }


def token_grids(record: Mapping[str, Any], is_square: bool) -> list[list[list[float]]]:
    """For each view the grids of its visual tokens (docs/files.md), in the view's pixels; none where nothing was
    dropped, or where nobody knows where the tokens lie.

    is_square: the model is LLaVA-1.5, whose tokens behind one class token at most are a square.
    """
    kept, encoded, views = record.get("kept"), record.get("encoded_tokens"), record["views"] or ()
    if not kept or len(kept) != len(views):
        return []
    if all("token_grids" in view for view in views):
        return [view["token_grids"] for view in views]
    if not is_square or not encoded or encoded % len(kept):
        return []
    side = math.isqrt(encoded // len(kept))
    first = encoded // len(kept) - side * side
    if first > 1:
        return []
    return [[[first, side, side, side, *padded_square(*_size(view))]] for view in views]


def _size(view: Mapping[str, Any]) -> tuple[int, int]:
    """(width, height) of a recorded view in pixels."""
    places = [part["place"] for part in view.get("parts") or ()]
    if places:
        return max(place[2] for place in places), max(place[3] for place in places)
    left, top, right, bottom = view["box"]
    return right - left, bottom - top


def _bits(indices: set[int], grids: Sequence[Sequence[float]]) -> str:
    """A bit for each cell of the grids, set where its token was kept, four to a hexadecimal digit."""
    cells = [
        int(first + row * step + column) in indices
        for first, rows, columns, step, *_ in grids
        for row in range(int(rows))
        for column in range(int(columns))
    ]
    cells += [False] * (-len(cells) % 4)
    return "".join(
        f"{sum(bit << (3 - place) for place, bit in enumerate(cells[start : start + 4])):x}"
        for start in range(0, len(cells), 4)
    )


def _short(value: float | None) -> float | int | None:
    """Four significant digits, whole numbers without a point; None for what is no finite number."""
    if value is None or not math.isfinite(value):
        return None
    number = float(f"{value:.4g}")
    return int(number) if number.is_integer() else number
