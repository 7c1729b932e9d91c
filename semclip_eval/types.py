"""What travels through the program, in the order in which it does (docs/architecture.md).

Question -> Selection -> Request -> Answer -> Score -> Record. Boxes are `(left, top, right, bottom)` in pixels of the
original image, right and bottom exclusive. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal, NamedTuple

from PIL import Image, ImageDraw


class Box(NamedTuple):
    """A rectangle in pixels of the original image; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def area(self) -> int:
        return max(0, self.width) * max(0, self.height)


@dataclass(frozen=True)
class Question:
    """One question of a benchmark, with the image still on disk.

    `truth` is the index of the right option for multiple choice, else the reference answer(s). `hint` is what the
    benchmark gives along with the question (a passage, the text that an OCR system read): the VLM sees it, ψ does not.
    `cluster` names what must be resampled together in an interval (an image asked several times, the cyclic orders of
    one question). `tags` are further properties that results can be broken down by (subject, question type, cycle).
    """

    id: str
    text: str
    category: str
    image_id: str
    load_image: Callable[[], Image.Image] = field(repr=False, compare=False)
    truth: int | str | tuple[str, ...]
    options: tuple[str, ...] = ()
    target_boxes: tuple[Box, ...] = ()
    hint: str = ""
    cluster: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)


class Part(NamedTuple):
    """A piece of a collage: the pixels of `source` (in the original image) stand at `place` (in the collage).

    Both boxes have the same size.
    """

    source: Box
    place: Box


BLACK = (0, 0, 0)
RED, BLUE = (255, 0, 0), (0, 0, 255)
# A mark's line is this part of the picture's longer side thick (om-ai-lab/ZoomEye, `zoom_model.py`).
LINES_A_SIDE = 120


class Mark(NamedTuple):
    """A rectangle around `box` (in pixels of the original image), drawn into a view of the whole image."""

    box: Box
    color: tuple[int, int, int] = RED


@dataclass(frozen=True)
class View:
    """An image that the VLM is given.

    kind: `overview` (the whole image), `crop` (the pixels of `box`), `collage` (`parts` of the image on a canvas) or
    `blank` (as large as `box`, but without its pixels: black, or the same box of `substitute`).
    box: in pixels of the original image; for a collage the smallest box that holds all sources.
    relevance: ψ's score of the crop for the question; None where no ψ was asked.
    substitute: another image (RGB) whose pixels a `blank` shows; stretched to the original's size first.
    background: RGB of a collage's canvas between the parts.
    marks: rectangles drawn into an overview.
    """

    kind: Literal["overview", "crop", "collage", "blank"]
    box: Box
    relevance: float | None = None
    parts: tuple[Part, ...] = ()
    substitute: Image.Image | None = field(default=None, repr=False, compare=False)
    background: tuple[int, int, int] = BLACK
    marks: tuple[Mark, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the view in pixels."""
        if self.kind != "collage":
            return self.box.width, self.box.height
        return max(part.place.right for part in self.parts), max(part.place.bottom for part in self.parts)

    @property
    def sources(self) -> tuple[Box, ...]:
        """The boxes of the original image whose pixels the view shows; none for a blank."""
        if self.kind == "blank":
            return ()
        return tuple(part.source for part in self.parts) if self.kind == "collage" else (self.box,)

    def pixels(self, image: Image.Image) -> Image.Image:
        """The view's pixels (RGB); `image` itself where the view is all of it."""
        if self.kind == "collage":
            canvas = Image.new("RGB", self.size, self.background)
            for source, place in self.parts:
                canvas.paste(image.crop(source), (place.left, place.top))
            return canvas
        if self.kind == "blank":
            if self.substitute is None:
                return Image.new("RGB", self.size)
            return self.substitute.resize(image.size).crop(self.box)
        if self.box == (0, 0, image.width, image.height):
            return _marked(image, self.marks) if self.marks else image
        return image.crop(self.box)


def _marked(image: Image.Image, marks: tuple[Mark, ...]) -> Image.Image:
    """A copy with the rectangles drawn around their boxes; at the image's edge the line lies inside."""
    thick = max(1, max(image.size) // LINES_A_SIDE)
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    for (left, top, right, bottom), color in marks:
        x, y = max(0, left - thick), max(0, top - thick)
        end = min(image.width, right + thick) - 1, min(image.height, bottom + thick) - 1
        draw.rectangle((x, y, *end), outline=color, width=thick)
    return copy


@dataclass(frozen=True)
class Cost:
    """What a selector spent of the VLM on one question; the answer's own forward is not in it.

    forwards: prefills of one prompt. backwards: gradients of one prompt. visual_tokens, text_tokens: of all those
    prompts. new_tokens: generated.
    """

    forwards: int = 0
    backwards: int = 0
    visual_tokens: int = 0
    text_tokens: int = 0
    new_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(ours + theirs for ours, theirs in zip(astuple(self), astuple(other), strict=True)))


class TraceStep(NamedTuple):
    """Something that a selector looked at on its way: a box of the original image, its score, and what kind it is."""

    kind: str
    box: Box
    score: float | None


@dataclass(frozen=True)
class Selection:
    """What a selector chose: views in the order in which the VLM is to see them, the overview first.

    candidate_relevance: ψ's score of every candidate crop (row by row), for inspection; empty without ψ.
    trace: what a picture of the choice needs. measures: further numbers of the question, one for each of the selector's
    `measure_names`; the results show their means. cost: what the choice spent of the VLM; the runner counts it, a
    selector leaves it alone.
    """

    views: tuple[View, ...]
    candidate_relevance: tuple[float, ...] = ()
    trace: tuple[TraceStep, ...] = ()
    measures: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = Cost()


@dataclass(frozen=True)
class Verdict:
    """What came of showing some views: the score, the option chosen of how many, the losses where they are scored."""

    score: float
    choice: int | None
    options: int = 0
    option_losses: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Kept:
    """The visual tokens of one question that the language model reads: ascending indices for each view.

    positions: `kept` leaves every token its position id, so that the result is that of masking the others out;
    `renumbered` closes the gaps.
    """

    indices: tuple[tuple[int, ...], ...]
    positions: Literal["kept", "renumbered"] = "kept"


@dataclass(frozen=True)
class Drops:
    """The visual tokens that the language model itself drops on its way, all views together.

    From `layer` on (0-based, at least 1) the part `keep_ratio` of them is read that the prompt's last token attends to
    most in the layer before it (mean over heads); positions are kept.
    """

    layer: int
    keep_ratio: float

    def kept(self, tokens: int) -> int:
        """How many of so many visual tokens are read to the end: the ratio, rounded, and at least one."""
        return min(tokens, max(1, math.floor(self.keep_ratio * tokens + 0.5)))


@dataclass(frozen=True)
class Prompt:
    """What the VLM is asked after the image placeholders, to the byte.

    With `continuations` the VLM scores each of them as the assistant's whole answer (mean token cross-entropy, end
    token included); without, it answers greedily with at most `max_new_tokens` tokens. `specials` are strings in `text`
    that are read as single tokens where the tokenizer has them (`<ref>`); all others stay text.
    """

    text: str
    continuations: tuple[str, ...] = ()
    max_new_tokens: int = 128
    specials: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """Everything that a VLM gets for one question: RGB images in order, and the prompt.

    class_attention: the encoder is to tell its class token's attention too (`ViewTokens.class_attention`).
    question_id: for models that look answers up instead of computing them. prunes: visual tokens will be dropped before
    the prefill, so that the prompt is checked against the context then and not when it is prepared. drops: what the
    language model is to drop on its way; None: nothing.
    """

    images: tuple[Image.Image, ...]
    prompt: Prompt
    question_id: str = ""
    prunes: bool = False
    class_attention: bool = False
    drops: Drops | None = None


@dataclass(frozen=True)
class Answer:
    """What the VLM gave back: generated text, or one mean loss (nats per token) for each continuation.

    `new_tokens` counts generated tokens, the end token included; for continuations it is None. `visual_tokens` and
    `text_tokens` count the prompt where only the answer tells (a served model), else None.
    """

    text: str | None = None
    option_losses: tuple[float, ...] | None = None
    new_tokens: int | None = None
    visual_tokens: int | None = field(default=None, compare=False)
    text_tokens: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Score:
    """A value in [0, 1], or 0 with `status="unparsed"` where the answer could not be read; `reason` says why.

    `choice` is the index of the option that the answer picks, None where there is none.
    """

    value: float
    status: Literal["ok", "unparsed"] = "ok"
    choice: int | None = None
    reason: str = ""
