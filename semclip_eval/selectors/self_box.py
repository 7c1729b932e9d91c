"""The VLM's own box: asked where the target is, it writes a bounding box, and the crop of it is shown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from semclip_eval.checks import require_member, whole_number
from semclip_eval.errors import ConfigError
from semclip_eval.relevance.phrases import noun_phrases
from semclip_eval.selectors.base import SelectionInput, Selector, with_overview
from semclip_eval.selectors.patches import widened
from semclip_eval.selectors.tools import SelectorVLM, Tools
from semclip_eval.types import Box, Selection, TraceStep

TARGETS = ("noun_phrases", "question")


@dataclass(frozen=True)
class SelfBox(Selector):
    """The overview and a crop of the box that the VLM itself writes for each target.

    The VLM is asked for a box in the words that its family was trained with (`models/grounding.py`), one generation a
    target, of which the first box counts. targets: `noun_phrases` (those of the question by rule, the first
    `most_targets`) or `question` (the whole question in their place). What the VLM writes and cannot be read as a box
    gives no crop, and nothing takes its place: without any box the overview is shown alone. A box equal to an earlier
    one gives no second crop.

    margin: part of the image's sides that is added on each side of a box. side: a crop has at least so many pixels a
    side. max_forwards: targets beyond it are not asked for.

    Measure: `unread`, the part of the asked targets without a box that could be read.

    No paper's method as it stands: a baseline. Zoom-Refine (arXiv 2506.01663) asks for the box and a first answer
    together, adds a margin of 0.1 and lets the model revise its answer.
    """

    name: str = "self_box"
    targets: str = "noun_phrases"
    most_targets: int = 2
    margin: float = 0.0
    side: int = 28
    max_new_tokens: int = 128
    max_forwards: int | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})
    measure_names: ClassVar[tuple[str, ...]] = ("unread",)

    def __post_init__(self) -> None:
        require_member("selector.targets", self.targets, TARGETS)
        whole_number("selector.most_targets", self.most_targets, 1)
        whole_number("selector.side", self.side, 1)
        whole_number("selector.max_new_tokens", self.max_new_tokens, 1)
        whole_number("selector.max_forwards", self.max_forwards, 1, or_null="no bound")
        number = isinstance(self.margin, (int, float)) and not isinstance(self.margin, bool)
        if not number or not 0 <= self.margin <= 1:
            raise ConfigError(f"selector.margin={self.margin}: must be a number in 0 .. 1.")

    def most_views(self, candidates: int) -> int:
        return 1 + (1 if self.targets == "question" else self.most_targets)

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        vlm = tools.require_vlm(self.name)
        return [self._selection(item, vlm) for item in inputs]

    def _selection(self, item: SelectionInput, vlm: SelectorVLM) -> Selection:
        phrases = noun_phrases(item.text) if self.targets == "noun_phrases" else []
        targets = phrases[: self.most_targets] or [item.text]
        left = vlm.forwards_left(item.question_id)
        targets = targets if left is None else targets[: max(1, left)]
        answers = vlm.locate(
            [item.request([item.image], target, max_new_tokens=self.max_new_tokens) for target in targets]
        )
        boxes = [boxes[0] for boxes in answers if boxes]
        crops = list(dict.fromkeys(self._crop(box, *item.image.size) for box in boxes))
        return dataclasses.replace(
            with_overview(item.image, crops),
            trace=tuple(TraceStep("box", box, None) for box in boxes),
            measures={"unread": (len(targets) - len(boxes)) / len(targets)},
        )

    def _crop(self, box: Box, width: int, height: int) -> Box:
        across, down = math.ceil(self.margin * width), math.ceil(self.margin * height)
        wide = Box(
            max(0, box.left - across),
            max(0, box.top - down),
            min(width, box.right + across),
            min(height, box.bottom + down),
        )
        return widened(wide, self.side, (width, height))
