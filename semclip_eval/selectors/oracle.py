"""The crop that the annotated boxes ask for: how far a perfect choice of region would get this VLM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from semclip_eval.crops import (
    box_centre,
    centred_box,
    coverage,
    intersection,
    most_common_size,
    union_box,
    whole_image,
)
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.selectors.base import SelectionInput, Selector, with_overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Box, Selection

PLACEMENTS = ("free", "candidate", "tight")


@dataclass(frozen=True)
class Oracle(Selector):
    """The overview, then one crop that shows the target boxes; not a method, an upper bound.

    `placement=free`: a crop around the middle of the targets' union, of the size that most candidates have where the
    union fits. Where it does not, a square whose side is the union's longer side plus `margin` of it at both ends,
    cut to the image's sides (a VLM pads to a square anyway, so the shorter side costs nothing). Both are shifted
    inside the image and cover the targets fully.
    `placement=tight`: one square crop a target, of `tight_side` times its longer side, shifted inside the image: what a
    selector of any number of crops of any size could reach.
    `placement=candidate`: the candidate that covers most of the targets (mean of the covered fractions, each target
    counting the same), the earliest of equal ones: the best that any chooser among the candidates can do.

    A target that reaches over the image's edge counts with what lies inside. QuestionError where a question has no
    target boxes or one of them lies outside.
    """

    name: str = "oracle"
    placement: str = "free"
    margin: float = 0.1
    tight_side: float = 3.0
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})
    uses_truth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise ConfigError(f"selector.placement={self.placement}: must be {' or '.join(PLACEMENTS)}.")
        number = isinstance(self.margin, (int, float)) and not isinstance(self.margin, bool)
        if not number or not 0 <= self.margin < math.inf:
            raise ConfigError(f"selector.margin={self.margin}: must be a fraction of the targets' size, at least 0.")

        number = isinstance(self.tight_side, (int, float)) and not isinstance(self.tight_side, bool)
        if not number or not 1 <= self.tight_side < math.inf:
            raise ConfigError(f"selector.tight_side={self.tight_side}: must be a multiple of the target's side, >= 1.")

    def most_views(self, candidates: int) -> int:
        return 2

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        return [with_overview(item.image, self._crops(item)) for item in inputs]

    def _crops(self, item: SelectionInput) -> list[Box]:
        if self.placement != "tight":
            return [self._crop(item)]
        return [self._tight(target, item.image.width, item.image.height) for target in targets_inside(item)]

    def _tight(self, target: Box, width: int, height: int) -> Box:
        side = math.ceil(self.tight_side * max(target.width, target.height))
        return centred_box(box_centre(target), side, side, width, height)

    def _crop(self, item: SelectionInput) -> Box:
        targets = targets_inside(item)
        if self.placement == "candidate":
            # max keeps the first of equal candidates.
            return max(item.candidates, key=lambda box: math.fsum(coverage(target, [box]) for target in targets))
        union = union_box(targets)
        width, height = most_common_size(item.candidates)
        if union.width > width or union.height > height:
            width = height = math.ceil(max(union.width, union.height) * (1 + 2 * self.margin))
        return centred_box(box_centre(union), width, height, item.image.width, item.image.height)


def targets_inside(item: SelectionInput) -> list[Box]:
    """The target boxes cut to the image; QuestionError where there is none or one lies outside."""
    if not item.target_boxes:
        raise QuestionError(f"question {item.question_id} has no target boxes: an oracle cannot choose for it")
    image = whole_image(item.image.width, item.image.height)
    targets = []
    for box in item.target_boxes:
        inside = intersection(box, image)
        if inside is None:
            raise QuestionError(
                f"target box {tuple(box)} of question {item.question_id} lies outside its image "
                f"of {image.width} x {image.height} pixels"
            )
        targets.append(inside)
    return targets
