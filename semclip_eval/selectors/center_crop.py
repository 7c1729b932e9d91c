"""A crop of the middle: the control for photographers putting their subject there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from semclip_eval.crops import box_centre, centred_box, most_common_size
from semclip_eval.selectors.base import SelectionInput, Selector, overview, with_overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Selection


@dataclass(frozen=True)
class CenterCrop(Selector):
    """The overview, then one crop in the middle of the image, of the size that most candidates have."""

    name: str = "center_crop"
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})

    def most_views(self, candidates: int) -> int:
        return 2

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        return [self._selection(item) for item in inputs]

    def _selection(self, item: SelectionInput) -> Selection:
        width, height = most_common_size(item.candidates)
        centre = box_centre(overview(item.image).box)
        return with_overview(item.image, [centred_box(centre, width, height, item.image.width, item.image.height)])
