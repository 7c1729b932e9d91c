"""Small components for the runner's tests: a benchmark of drawn images and a "VLM" that computes instead of thinking.

They are ordinary plug-ins (one class and one config section each), so the tests that use them also show that a
component from outside the package works like one inside it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from PIL import Image

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.errors import ModelError, QuestionError
from semclip_eval.models.base import VLM
from semclip_eval.relevance.base import Relevance, RelevanceRequest
from semclip_eval.types import Answer, Box, Prompt, Question, Request, Score


def number(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class DrawnBenchmark(Benchmark):
    """`count` questions with four options over drawn images; questions named in `broken` have no readable image."""

    protocols = ("likelihood", "letter")

    def __init__(
        self,
        name: str = "drawn",
        count: int = 10,
        broken: Sequence[str] = (),
        boxes: bool = True,
        revision: str = "1",
        protocol: str = "likelihood",
    ) -> None:
        super().__init__()
        self.name, self.count, self.broken, self.has_boxes = name, count, tuple(broken), boxes
        self.dataset_revision, self.protocol = revision, protocol

    def questions(self) -> list[Question]:
        return [self._question(index) for index in range(self.count)]

    def _question(self, index: int) -> Question:
        identity = f"q{index}"

        def load() -> Image.Image:
            if identity in self.broken:
                raise QuestionError(f"{identity}.png: no image")
            image = Image.new("RGB", (60, 40), (index % 256, 0, 0))
            image.putpixel((index % 60, index % 40), (0, 255, 0))
            return image

        return Question(
            id=identity,
            text=f"What is number {index}?",
            category="even" if index % 2 == 0 else "odd",
            image_id=identity,
            load_image=load,
            truth=index % 4,
            options=("one", "two", "three", "four"),
            target_boxes=(Box(0, 0, 10, 10),) if self.has_boxes else (),
        )

    def prompt(self, question: Question) -> Prompt:
        if self.protocol == "letter":
            return Prompt(question.text, max_new_tokens=4)
        return Prompt(question.text, continuations=question.options)

    def score(self, question: Question, answer: Answer) -> Score:
        if answer.option_losses is None:
            return Score(0.0, "unparsed", reason="the fake writes no letters")
        choice = min(range(len(answer.option_losses)), key=answer.option_losses.__getitem__)
        return Score(float(choice == question.truth), choice=choice)


class ComputedVLM(VLM):
    """Losses from a hash of pixels, prompt and option: the same whatever the batch. Counts its loads and passes."""

    loads: ClassVar[int] = 0
    revision, context_length = "1", 4096

    def __init__(
        self,
        name: str = "computed",
        path: str | None = None,
        revision: str | None = None,
        load_format: str = "auto",
        delay_s: float = 0.0,
        poison: str = "",
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        type(self).loads += 1
        self.name, self.delay_s, self.poison = name, delay_s, poison
        self.device, self.dtype, self.attention = device, dtype, "none"

    def prepare(self, request: Request) -> Any:
        pixels = hashlib.sha256(b"".join(image.tobytes() for image in request.images)).hexdigest()
        return ModelInputs(pixels, request.prompt, 10 * len(request.images), len(request.prompt.text.split()))

    def encode(self, batch: Sequence[Any]) -> None:
        time.sleep(self.delay_s)
        if self.poison and any(self.poison in prepared.prompt.text for prepared in batch):
            raise ArithmeticError(f"cannot think about {self.poison}")

    def prefill(self, batch: Sequence[Any], features: Any) -> None:
        return None

    def decode(self, batch: Sequence[Any], state: Any, ignore_end_token: bool = False) -> list[Answer]:
        return [self._answer(prepared) for prepared in batch]

    def _answer(self, prepared: Any) -> Answer:
        if not prepared.prompt.continuations:
            return Answer(text="hm", new_tokens=prepared.prompt.max_new_tokens)
        losses = [number(prepared.pixels, prepared.prompt.text, option) for option in prepared.prompt.continuations]
        return Answer(option_losses=tuple(losses))


class DeadlyVLM(ComputedVLM):
    """Kills its process where a prompt holds `poison`."""

    def encode(self, batch: Sequence[Any]) -> None:
        if any(self.poison in prepared.prompt.text for prepared in batch):
            os.kill(os.getpid(), signal.SIGKILL)


class UnreadableVLM(ComputedVLM):
    """Weights that cannot be read, which shows when they are loaded."""

    def __init__(self, name: str = "unreadable") -> None:
        raise ModelError("these weights cannot be read")


class ModelInputs:
    """What `ComputedVLM` keeps of a request."""

    def __init__(self, pixels: str, prompt: Prompt, visual_tokens: int, text_tokens: int) -> None:
        self.pixels, self.prompt, self.visual_tokens, self.text_tokens = pixels, prompt, visual_tokens, text_tokens


class TextReader(Relevance):
    """A ψ that prefers one box by name of the text, and reports a context of four words."""

    def __init__(self, name: str = "reader", text: str = "question") -> None:
        self.name, self.text, self.model, self.revision = name, text, "reader", "1"
        self.seen: dict[str, int] = {}

    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        for request in requests:
            self.seen[request.text] = len(request.text.split())
        return [tuple(number(request.text, box) for box in request.boxes) for request in requests]

    @property
    def truncations(self) -> dict[str, int]:
        lengths = list(self.seen.values())
        over = sum(length > 4 for length in lengths)
        return {"texts": len(lengths), "truncated": over, "longest": max(lengths, default=0), "context": 4}

    def reset(self) -> None:
        self.seen = {}


def config(output_dir: Any, **changes: Any) -> dict[str, Any]:
    """A composed config of these components; `changes` are dotted keys with `__` for the dot (run__limit=3)."""
    composed: dict[str, Any] = {
        "profile": {"name": "test"},
        "benchmark": {"_target_": "tests.fakes.DrawnBenchmark", "name": "drawn", "count": 10},
        "model": {"_target_": "tests.fakes.ComputedVLM", "name": "computed"},
        "selector": {"_target_": "semclip_eval.selectors.no_crop.NoCrop", "name": "no_crop"},
        "crops": {"_target_": "semclip_eval.crops.Grid", "name": "grid2x2", "rows": 2, "columns": 2},
        "psi": {"_target_": "tests.fakes.TextReader", "name": "reader", "text": "question"},
        "run": {"output_dir": str(output_dir), "device": "cpu", "dtype": "float32"},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            composed[section][name] = value
        else:
            composed[section] = value
    return composed


SEMCLIP = {"_target_": "semclip_eval.selectors.semclip.SemClip", "name": "semclip", "top_k": 1}
ORACLE = {"_target_": "semclip_eval.selectors.oracle.Oracle", "name": "oracle"}
FULL_CROP = {"_target_": "semclip_eval.selectors.full_crop.FullCrop", "name": "full_crop"}
