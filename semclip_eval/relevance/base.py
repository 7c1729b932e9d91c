"""What every ψ is given and must give back, and the text that it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from semclip_eval.errors import ConfigError
from semclip_eval.types import Box, Question

PSI_TEXTS = ("question", "question_and_options")


def check_psi_text(mode: object) -> None:
    """ConfigError where `psi.text` is none of `PSI_TEXTS`."""
    if mode not in PSI_TEXTS:
        raise ConfigError(f"psi.text={mode}: must be {' or '.join(PSI_TEXTS)}.")


def psi_text(question: Question, mode: str) -> str:
    """The text that ψ reads.

    `question`: the question's text as the benchmark gives it. `question_and_options`: the text, one space, and the
    options joined by `", "`, without letters, in alphabetical order; the text alone where a question has no options.
    The order knows no truth: V*'s files list the right option first, and what ψ cannot read is cut off at the end.
    """
    check_psi_text(mode)
    if mode == "question" or not question.options:
        return question.text
    return f"{question.text} {', '.join(sorted(question.options, key=lambda option: (option.casefold(), option)))}"


@dataclass(frozen=True)
class RelevanceRequest:
    """One image (RGB) with the boxes to score against one text.

    `image_id` lets a ψ reuse what it knows of the crops.
    """

    image: Image.Image
    image_id: str
    boxes: tuple[Box, ...]
    text: str


class Relevance(ABC):
    """A ψ: scores crops against a text, higher meaning that the crop fits better.

    `name` is the config's, `model` and `revision` say which weights; `text` is one of `PSI_TEXTS`. Scores are compared
    only among the crops of one request; they need no fixed scale. One with `needs_vlm` is handed the VLM by `attach`
    before the first `score`.
    """

    name: str
    model: str
    revision: str
    text: str
    needs_vlm: ClassVar[bool] = False

    @abstractmethod
    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        """One tuple a request, one score a box, both in the order given; independent of what else is asked for."""

    def load(self) -> None:  # noqa: B027 (optional)
        """Load weights now rather than at the first `score`; raises ModelError where that fails."""

    def attach(self, vlm: Any) -> None:  # noqa: B027 (optional)
        """Take what is needed of the VLM; raises ConfigError or ModelError where it does not fit."""

    def begin_block(self, keep: bool) -> None:  # noqa: B027 (optional)
        """A block of questions begins; with `keep=False` (latency mode) nothing of earlier ones may be reused.

        A ψ that keeps nothing of its own overrides it too, to say so (`forgets`).
        """

    @property
    def forgets(self) -> bool:
        """Does the class say what happens at `begin_block`?"""
        return type(self).begin_block is not Relevance.begin_block

    @property
    def truncations(self) -> dict[str, int]:
        """How much of the texts ψ could read, since the last `reset`; empty for a ψ without a limit.

        `texts`: distinct texts scored; `truncated`: those longer than the context; `longest`: tokens of the longest
        one, uncut; `context`: tokens that ψ reads. Special tokens count in the last two.
        """
        return {}

    def reset(self) -> None:  # noqa: B027 (optional)
        """Forget what was counted and cached: the runner calls it before each run that shares this ψ."""
