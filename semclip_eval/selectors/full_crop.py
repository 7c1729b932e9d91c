"""The overview and every crop: the most that a crop scheme can show, and the most expensive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from semclip_eval.selectors.base import SelectionInput, Selector, with_overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Selection


@dataclass(frozen=True)
class FullCrop(Selector):
    """The overview, then all candidates row by row."""

    name: str = "full_crop"
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def most_views(self, candidates: int) -> int:
        return 1 + candidates

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        return [with_overview(item.image, item.candidates) for item in inputs]
