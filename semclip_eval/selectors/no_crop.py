"""The overview alone: what a VLM does without any cropping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semclip_eval.selectors.base import SelectionInput, Selector, with_overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Selection


@dataclass(frozen=True)
class NoCrop(Selector):
    """One view: the whole image."""

    name: str = "no_crop"

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        return [with_overview(item.image, ()) for item in inputs]
