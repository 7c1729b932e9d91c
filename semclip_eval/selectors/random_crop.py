"""Crops drawn at random: the control that costs as many visual tokens as a chosen crop."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from semclip_eval.checks import whole_number
from semclip_eval.selectors.base import SelectionInput, Selector, check_enough, check_scheme, with_overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Box, Selection


@dataclass(frozen=True)
class RandomCrop(Selector):
    """The overview, then `count` candidates drawn without replacement, in their order (row by row).

    The draw depends on the run's seed and the question's id alone: not on order, batch, process or Python version.
    """

    name: str = "random_crop"
    count: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def __post_init__(self) -> None:
        whole_number("selector.count", self.count, 1)

    def check_candidates(self, candidates: int) -> None:
        """ConfigError where the crop scheme has fewer candidates than `count`."""
        check_scheme("selector.count", self.count, candidates)

    def most_views(self, candidates: int) -> int:
        return 1 + self.count

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        return [with_overview(item.image, self._drawn(item)) for item in inputs]

    def _drawn(self, item: SelectionInput) -> list[Box]:
        check_enough("selector.count", self.count, item)
        digest = hashlib.sha256(f"{item.seed}\0{item.question_id}".encode()).digest()
        generator = random.Random(int.from_bytes(digest, "big"))
        # Python promises the same random() for a seed in every version, but not the same sample() or shuffle().
        keys = [generator.random() for _ in item.candidates]
        drawn = sorted(range(len(keys)), key=keys.__getitem__)[: self.count]
        return [item.candidates[index] for index in sorted(drawn)]
