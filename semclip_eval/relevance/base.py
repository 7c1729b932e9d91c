"""What every ψ is given and must give back, and the text that it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from PIL import Image

from semclip_eval.errors import ConfigError
from semclip_eval.relevance.phrases import noun_phrases
from semclip_eval.types import Box, Question

# Given the name of a part of the work, what surrounds it while it is done.
Watcher = Callable[[str], AbstractContextManager[None]]

T = TypeVar("T")
Made = TypeVar("Made")
# Items that a thread is handed at once (`Relevance.mapped`): a small crop takes less time than a thread's turn.
GROUP = 4

PSI_TEXTS = ("question", "question_and_options", "noun_phrases")


def check_psi_text(mode: object) -> None:
    """ConfigError where `psi.text` is none of `PSI_TEXTS`."""
    if mode not in PSI_TEXTS:
        raise ConfigError(f"psi.text={mode}: must be {' or '.join(PSI_TEXTS)}.")


def psi_text(question: Question, mode: str) -> str:
    """The text that ψ reads.

    `question`: the question's text as the benchmark gives it. `question_and_options`: the text, one space, and the
    options joined by `", "`, without letters, in alphabetical order; the text alone where a question has no options.
    The order knows no truth: V*'s files list the right option first, and what ψ cannot read is cut off at the end.
    `noun_phrases`: what the question is about (`phrases.noun_phrases`), joined by " and "; the text where there is
    none.
    """
    check_psi_text(mode)
    if mode == "noun_phrases":
        return " and ".join(noun_phrases(question.text)) or question.text
    if mode == "question" or not question.options:
        return question.text
    return f"{question.text} {', '.join(sorted(question.options, key=lambda option: (option.casefold(), option)))}"


@dataclass(frozen=True)
class PatchMap:
    """Where in a picture a text is met.

    boxes: float64 (patches, 4) as (left, top, right, bottom) in pixels of the picture. scores: float64 (patches), the
    higher the better; comparable within one picture and text. (patches, maps) for several maps over the same patches.
    """

    boxes: np.ndarray
    scores: np.ndarray

    def at(self, boxes: np.ndarray) -> np.ndarray:
        """Mean score under each of `boxes` (n, 4), weighted by area; NaN for a box that meets no patch, or is NaN.

        (n), or (n, maps) where `scores` hold several maps.
        """
        wide = np.minimum(boxes[:, None, 2], self.boxes[:, 2]) - np.maximum(boxes[:, None, 0], self.boxes[:, 0])
        high = np.minimum(boxes[:, None, 3], self.boxes[:, 3]) - np.maximum(boxes[:, None, 1], self.boxes[:, 1])
        shared = np.nan_to_num(np.clip(wide, 0, None) * np.clip(high, 0, None))
        total = shared.sum(1)
        total = total.reshape(-1, *[1] * (self.scores.ndim - 1))
        means: np.ndarray = np.where(total > 0, shared @ self.scores / np.where(total > 0, total, 1), np.nan)
        return means

    def inside(self, box: Box) -> np.ndarray:
        """Scores of the patches whose middle lies in `box`; that of the nearest patch where there is none."""
        x, y = self.boxes[:, [0, 2]].mean(1), self.boxes[:, [1, 3]].mean(1)
        within = (x >= box.left) & (x < box.right) & (y >= box.top) & (y < box.bottom)
        if not within.any():
            within[np.argmin((x - (box.left + box.right) / 2) ** 2 + (y - (box.top + box.bottom) / 2) ** 2)] = True
        scores: np.ndarray = self.scores[within]
        return scores


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
    # Threads that a ψ may make pixels in (`mapped`); None: there are none for it.
    executor: Executor | None = None
    _watcher: Watcher | None = None

    @property
    def training(self) -> str:
        """What the weights have learned from (`train-psi`), in a few words; empty for weights as published."""
        return ""

    @abstractmethod
    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        """One tuple a request, one score a box, both in the order given; independent of what else is asked for."""

    def patch_maps(self, pictures: Sequence[tuple[Image.Image, str]]) -> list[PatchMap]:
        """Where in each picture (RGB) its text is met, one pass of the image tower a picture.

        Raises ConfigError for a ψ that has no such map.
        """
        raise ConfigError(
            f"psi={self.name}: gives no map of patches; choose mini_clip, clip_vit_l_14_336 or dense, or another score."
        )

    def load(self) -> None:  # noqa: B027 (optional)
        """Load weights now rather than at the first `score`; raises ModelError where that fails."""

    def attach(self, vlm: Any) -> None:  # noqa: B027 (optional)
        """Take what is needed of the VLM; raises ConfigError or ModelError where it does not fit."""

    def begin_block(self, keep: bool) -> None:  # noqa: B027 (optional)
        """A block of questions begins; with `keep=False` (latency mode) nothing of earlier ones may be reused.

        A ψ that keeps nothing of its own overrides it too, to say so (`forgets`).
        """

    def watch(self, watcher: Watcher | None) -> None:
        """Let `watcher` surround each part of the work from now on; None for nobody."""
        self._watcher = watcher

    def part(self, name: str) -> AbstractContextManager[None]:
        """Around a part of the work: `psi_crop` (cut and resize candidates), `psi_image`, `psi_text` (the towers)."""
        return nullcontext() if self._watcher is None else self._watcher(name)

    def mapped(self, work: Callable[[T], Made], items: Sequence[T]) -> list[Made]:
        """`work` of every item in their order, in threads where there are some; nothing in `work` may keep state."""
        if self.executor is None or len(items) <= GROUP:
            return [work(item) for item in items]
        groups = [items[start : start + GROUP] for start in range(0, len(items), GROUP)]
        made = self.executor.map(lambda group: [work(item) for item in group], groups)
        return [each for group in made for each in group]

    def flops(self, boxes: int, texts: int) -> int | None:
        """Analytic FLOPs of scoring so many boxes against so many texts, nothing cached; None where not known."""
        return None

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
