"""What each crop is worth to the frozen VLM: the losses of the options with the overview alone and with each crop."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.console import warn
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.relevance.base import psi_text
from semclip_eval.selectors.base import overview
from semclip_eval.training.overlap import image_digest
from semclip_eval.types import Box, Prompt, Question, Request, View

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from semclip_eval.answers.pipeline import CropScheme
    from semclip_eval.models.base import VLM

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Label:
    """One question's losses, nats a token.

    image: digest of its pixels. text: what ψ reads. right: index of the right option. overview: (options,) with the
    overview alone. crops: (candidates, options) with the overview and that candidate. boxes: the candidates.
    """

    question_id: str
    image: str
    text: str
    right: int
    overview: tuple[float, ...]
    crops: tuple[tuple[float, ...], ...]
    boxes: tuple[Box, ...]

    def gains(self, kind: str) -> list[float]:
        """What each crop adds to the overview, nats a token.

        margin: to the distance between the right option's loss and the lowest other; loss: to the right option's
        likelihood alone (the reward of CropVLM, `utils.py` `get_ll`, is its sum over tokens).
        """
        of = self._margin if kind == "margin" else self._likelihood
        return [of(losses) - of(self.overview) for losses in self.crops]

    def _margin(self, losses: Sequence[float]) -> float:
        return min(loss for option, loss in enumerate(losses) if option != self.right) - losses[self.right]

    def _likelihood(self, losses: Sequence[float]) -> float:
        return -losses[self.right]


def training_prompt(benchmark: Benchmark, question: Question) -> tuple[Prompt, int]:
    """The benchmark's own prompt with answers to weigh, and the index of the right one.

    A likelihood question has its options; a question answered by letter the letters; any other only its (first)
    reference answer. Raises QuestionError where there is no answer.
    """
    prompt, truth = benchmark.prompt(question), question.truth
    if prompt.continuations:
        if not isinstance(truth, int):
            raise QuestionError(f"question {question.id}: its truth is not one of the options")
        return prompt, truth
    if isinstance(truth, int):
        return Prompt(prompt.text, continuations=tuple(LETTERS[: len(question.options)])), truth
    answer = truth if isinstance(truth, str) else max(truth, key=truth.count, default="")
    if not answer:
        raise QuestionError(f"question {question.id}: has no answer to learn from")
    return Prompt(prompt.text, continuations=(answer,)), 0


def labels(
    questions: Sequence[Question],
    benchmark: Benchmark,
    crops: CropScheme,
    vlm: VLM,
    psi_reads: str,
    file: Path,
    origin: Mapping[str, Any],
    batch_size: int,
    step: Callable[[Label], None],
) -> list[Label]:
    """The labels of all questions, those in `file` first; new ones are added to it as they come.

    origin: what they depend on, the file's first line. ConfigError where the file is of another origin. A question
    that cannot be asked is left out with a warning. step: called with each label.
    """
    known = _stored(file, origin)
    made: dict[str, Label] = {label.question_id: label for label in known}
    with file.open("a", encoding="utf-8") as lines:
        for question in questions:
            if question.id not in made:
                try:
                    label = _label(question, benchmark, crops, vlm, psi_reads, batch_size)
                except QuestionError as error:
                    warn(f"question {question.id}: left out ({error}).")
                    continue
                made[question.id] = label
                lines.write(json.dumps(asdict(label), ensure_ascii=False) + "\n")
                lines.flush()
            step(made[question.id])
    return [made[question.id] for question in questions if question.id in made]


def _label(
    question: Question, benchmark: Benchmark, crops: CropScheme, vlm: VLM, psi_reads: str, batch_size: int
) -> Label:
    prompt, right = training_prompt(benchmark, question)
    image = question.load_image()
    boxes = crops.candidates(image.width, image.height)
    vlm.begin_block(keep=True)
    shown = [(overview(image),), *((overview(image), View("crop", box)) for box in boxes)]
    losses = list(_losses(image, shown, prompt, vlm, question.id, batch_size))
    return Label(
        question.id, image_digest(image), psi_text(question, psi_reads), right, losses[0], tuple(losses[1:]), boxes
    )


def _losses(
    image: Image.Image, shown: Sequence[Sequence[View]], prompt: Prompt, vlm: VLM, name: str, batch_size: int
) -> Iterator[tuple[float, ...]]:
    for start in range(0, len(shown), batch_size):
        requests = [
            Request(tuple(view.pixels(image) for view in views), prompt, name)
            for views in shown[start : start + batch_size]
        ]
        for answer in vlm.answer([vlm.prepare(request) for request in requests]):
            if answer.option_losses is None or not all(map(math.isfinite, answer.option_losses)):
                raise QuestionError(f"question {name}: the VLM gave no finite loss")
            yield tuple(round(loss, 6) for loss in answer.option_losses)


def _stored(file: Path, origin: Mapping[str, Any]) -> list[Label]:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(origin, ensure_ascii=False) + "\n", encoding="utf-8")
        return []
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # a line that an interruption cut is asked again
    first, *rest = whole.splitlines() or [""]
    before = json.loads(first) if first else {}
    differing = [key for key in origin if before.get(key) != origin[key]]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"{file}: made with {key}={before.get(key)}, and this command has {key}={origin[key]}. Choose another "
            "train.output, or delete that folder."
        )
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return [_read(json.loads(line)) for line in rest]


def _read(values: Mapping[str, Any]) -> Label:
    return Label(
        values["question_id"], values["image"], values["text"], values["right"], tuple(values["overview"]),
        tuple(tuple(losses) for losses in values["crops"]), tuple(Box(*box) for box in values["boxes"]),
    )  # fmt: skip


def usable(labels: Sequence[Label], kind: str, sufficient_loss: float, least_range: float) -> list[Label]:
    """Those that teach something: the overview does not suffice, and the crops differ."""
    return [
        label
        for label in labels
        if label.overview[label.right] >= sufficient_loss
        and max(gains := label.gains(kind)) - min(gains) >= least_range
    ]
