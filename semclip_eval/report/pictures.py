"""The images of the gallery: read again from the benchmark, made small, with the boxes drawn over them."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.components import build
from semclip_eval.report.runs import FinishedRun
from semclip_eval.types import Question

# Side of the longer side in pixels and JPEG quality, from the best to the smallest that still shows something.
SIZES = ((640, 82), (560, 78), (480, 74), (400, 70), (320, 66), (240, 60))
# Longer sides of the pictures of all questions, of which there are many.
THUMBNAIL_SIDES = (448, 384, 320, 256, 192, 144)
THUMBNAIL_QUALITY = 72
# Base64 characters of a photograph at that quality for each pixel of a square on its longer side.
CHARACTERS_A_PIXEL = 0.12
# Width on the page, for which the labels' letters are sized.
SHOWN_WIDTH = 340
LETTER_HEIGHT = 12.5
LETTER_WIDTH = 0.6


@dataclass(frozen=True)
class Mark:
    """A rectangle over an image, in pixels of the original, with its label's place (left, baseline)."""

    box: tuple[int, int, int, int]
    label: str
    target: bool
    place: tuple[float, float]


@dataclass(frozen=True)
class Picture:
    """An image as base64 JPEG with its marks; width and height are those of the original, in pixels."""

    jpeg: str
    width: int
    height: int
    letter: float
    marks: tuple[Mark, ...]


class Images:
    """The images of a run's questions. ValueError says why there are none: nothing is fetched, and never other data."""

    def __init__(self, run: FinishedRun) -> None:
        with offline():
            try:
                self._benchmark: Benchmark = build("benchmark", run.config["benchmark"])
                questions = self._benchmark.questions()
                self._questions: dict[str, Question] = {question.id: question for question in questions}
            except Exception as error:  # a class from outside may raise whatever it likes, the report goes on
                raise ValueError(" ".join(str(error).split())) from error
        revision = run.row["dataset_revision"]
        now = self._benchmark.dataset_revision
        if now != revision:
            raise ValueError(f"the data are at revision {now} now, the runs used {revision}")

    def prompt(self, question_id: str) -> str:
        """The text that the model was asked, without its chat template; ValueError where that cannot be known."""
        if question_id not in self._questions:
            raise ValueError(f"the data have no question {question_id}")
        try:
            return str(self._benchmark.prompt(self._questions[question_id]).text)
        except Exception as error:
            raise ValueError(" ".join(str(error).split())) from error

    def load(self, question_id: str) -> Image.Image:
        """The whole image, RGB; ValueError where it cannot be read."""
        if question_id not in self._questions:
            raise ValueError(f"the data have no question {question_id}")
        with offline():
            try:
                return self._questions[question_id].load_image()
            except Exception as error:
                raise ValueError(" ".join(str(error).split())) from error


class ImageSources:
    """The images of several runs: each benchmark is read once, whoever asks for it."""

    def __init__(self) -> None:
        self._known: dict[str, Images | ValueError] = {}

    def of(self, run: FinishedRun) -> Images:
        """The images of this run's questions; ValueError as `Images`."""
        key = json.dumps([run.config["benchmark"], run.row["dataset_revision"]], sort_keys=True, default=str)
        if key not in self._known:
            try:
                self._known[key] = Images(run)
            except ValueError as error:
                self._known[key] = error
        images = self._known[key]
        if isinstance(images, ValueError):
            raise ValueError(str(images))
        return images


@contextmanager
def offline() -> Iterator[None]:
    """A report shows what is here: inside, the Hub's cache is read and nothing is downloaded."""
    from huggingface_hub import constants

    before, variable = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable


def picture(
    image: Image.Image, views: Sequence[Mapping[str, Any]], targets: Iterable[Sequence[int]], limit: int
) -> Picture:
    """The image with the crops among `views` and the target boxes, in at most about `limit` characters of base64."""
    letter = LETTER_HEIGHT * max(image.width / SHOWN_WIDTH, 1e-6)
    boxes: list[tuple[tuple[int, int, int, int], str, bool]] = []
    crops = [view for view in views if view["kind"] == "crop"]
    for number, view in enumerate(crops, start=1):
        label = "crop" if len(crops) == 1 else f"{number}"
        if view.get("psi") is not None:
            label += f" ψ {view['psi']:.3f}"
        boxes.append((_box(view["box"]), label, False))
    boxes += [(_box(target), "target", True) for target in targets]
    marks: list[Mark] = []
    taken: list[tuple[float, float, float, float]] = [box for box, _, target in boxes if target]
    for box, label, target in boxes:
        place, room = _place(box, label, letter, (image.width, image.height), taken)
        taken.append(room)
        marks.append(Mark(box, label, target, place))
    return Picture(_jpeg(image, limit), image.width, image.height, round(letter, 2), tuple(marks))


def _box(values: Sequence[int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(value) for value in values)
    return left, top, right, bottom


def _place(
    box: tuple[int, int, int, int],
    label: str,
    letter: float,
    size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[tuple[float, float], tuple[float, float, float, float]]:
    """Where the label stands (left end, baseline) and the room that it takes: beside the box, off other labels."""
    left, top, right, bottom = box
    width, gap = LETTER_WIDTH * letter * len(label), 0.3 * letter
    above, below = top - gap, bottom + letter + 0.1 * gap
    inside = top + letter + 0.2 * gap
    beside_right, beside_left, middle = right + gap, left - gap - width, (top + bottom + 0.7 * letter) / 2
    wishes = [(left, above), (left, below), (right - width, above), (right - width, below), (beside_right, middle)]
    wishes += [(beside_left, middle), (left + gap, inside), (left + gap, bottom - gap)]

    def room(place: tuple[float, float]) -> tuple[float, float, float, float]:
        return place[0], place[1] - letter, place[0] + width, place[1] + 0.25 * letter

    def free(place: tuple[float, float]) -> bool:
        x0, y0, x1, y1 = room(place)
        if x0 < 0 or y0 < 0 or x1 > size[0] or y1 > size[1]:
            return False
        return not any(x0 < right and left < x1 and y0 < bottom and top < y1 for left, top, right, bottom in taken)

    chosen = next((wish for wish in wishes if free(wish)), None)
    if chosen is None:
        chosen = (
            min(max(0.0, left + gap), max(0.0, size[0] - width)),
            min(max(letter, inside), size[1] - 0.3 * letter),
        )
    return (round(chosen[0], 2), round(chosen[1], 2)), room(chosen)


def thumbnail(image: Image.Image, limit: int) -> str:
    """A small version as base64 JPEG in at most about `limit` characters.

    Begins with the side that a photograph usually needs for that, so that most images are encoded once, and makes each
    size from the last.
    """
    small, encoded = image if image.mode == "RGB" else image.convert("RGB"), ""
    usual = math.sqrt(limit / CHARACTERS_A_PIXEL)
    for side in [side for side in THUMBNAIL_SIDES if side <= usual] or THUMBNAIL_SIDES[-1:]:
        scale = min(1.0, side / max(small.size))
        size = max(1, round(small.width * scale)), max(1, round(small.height * scale))
        small = small.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=THUMBNAIL_QUALITY)
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(encoded) <= limit:
            break
    return encoded


def _jpeg(image: Image.Image, limit: int) -> str:
    """The image as base64 JPEG: the best of `SIZES` that fits, else the smallest."""
    encoded = ""
    for side, quality in SIZES:
        small = image.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=quality, optimize=True)
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(encoded) <= limit:
            break
    return encoded
