"""SemClip's mechanism (arXiv 2503.11794): the overview and the crops that ψ finds most relevant to the question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from semclip_eval.checks import whole_number
from semclip_eval.errors import QuestionError
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.selectors.base import SelectionInput, Selector, check_enough, check_scheme, overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Selection, View

# Two crops with the same pixels get scores that differ by float rounding, and that rounding changes with the batch
# shape. Closer than this is a tie, so that the choice does not depend on what else was in the batch.
TIE = 1e-5


@dataclass(frozen=True)
class SemClip(Selector):
    """The overview, then the `top_k` candidates with the highest ψ, best first.

    Scores within `TIE` of the best remaining one are ties; the earliest candidate wins. `top_k` above the number of
    candidates is an error, not a shorter list: the row would claim crops that the VLM never saw.
    """

    name: str = "semclip"
    top_k: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"psi", "candidates"})

    def __post_init__(self) -> None:
        whole_number("selector.top_k", self.top_k, 1)

    def check_candidates(self, candidates: int) -> None:
        """ConfigError where the crop scheme has fewer candidates than `top_k`."""
        check_scheme("selector.top_k", self.top_k, candidates)

    def most_views(self, candidates: int) -> int:
        return 1 + self.top_k

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        psi = tools.require_psi(self.name)
        for item in inputs:
            check_enough("selector.top_k", self.top_k, item)
        scores = psi.score([RelevanceRequest(item.image, item.image_id, item.candidates, item.text) for item in inputs])
        return [self._selection(item, row) for item, row in zip(inputs, scores, strict=True)]

    def _selection(self, item: SelectionInput, scores: tuple[float, ...]) -> Selection:
        unusable = sum(not math.isfinite(score) for score in scores)
        if unusable:
            raise QuestionError(f"ψ gave no finite score for {unusable} of {len(scores)} crops; try psi.precision=fp32")
        crops = [View("crop", item.candidates[index], scores[index]) for index in best_first(scores, self.top_k)]
        return Selection((overview(item.image), *crops), candidate_relevance=scores)


def best_first(scores: Sequence[float], count: int) -> list[int]:
    """Indices of the `count` highest scores, best first; the earliest of those within `TIE` of the best."""
    remaining = list(range(len(scores)))
    chosen: list[int] = []
    while remaining and len(chosen) < count:
        best = max(scores[index] for index in remaining)
        first = next(index for index in remaining if scores[index] >= best - TIE)
        remaining.remove(first)
        chosen.append(first)
    return chosen
