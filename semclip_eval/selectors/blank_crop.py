"""The control for chosen crops: their tokens without their pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semclip_eval.checks import require_member
from semclip_eval.selectors.base import SelectionInput
from semclip_eval.selectors.tools import Tools
from semclip_eval.selectors.wrapper import Wrapper, inner_selector
from semclip_eval.types import Selection, View

FILLS = ("black", "other_image")


@dataclass(frozen=True)
class BlankCrop(Wrapper):
    """The inner selector's views, its crops as large as they were and without their pixels.

    fill: `black`, or `other_image`: the same place of another image of the benchmark, drawn by question and seed. What
    a method gains over no_crop and this control gains too does not come from what the crops show.
    """

    name: str = "blank_crop"
    inner: Any = None
    fill: str = "black"

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", inner_selector(self.inner))
        require_member("selector.fill", self.fill, FILLS)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Those of the inner selector, and other images where they fill."""
        own = ["other_image"] if self.fill == "other_image" else []
        return frozenset(own).union(self.inner.needs)

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        selections = self.inner.select(inputs, tools)
        return [self._blanked(item, selection, tools) for item, selection in zip(inputs, selections, strict=True)]

    def _blanked(self, item: SelectionInput, selection: Selection, tools: Tools) -> Selection:
        other = None
        if self.fill == "other_image":
            other = tools.require_other_image(self.name)(item.question_id, item.seed).convert("RGB")
        views = tuple(
            view if view.kind == "overview" else View("blank", view.box, view.relevance, substitute=other)
            for view in selection.views
        )
        return dataclasses.replace(selection, views=views)
