"""SemClip's mechanism (arXiv 2503.11794): the overview and the crops that ψ finds most relevant to the question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from semclip_eval.checks import whole_number
from semclip_eval.crops import intersection
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.relevance.base import Relevance, RelevanceRequest
from semclip_eval.relevance.phrases import noun_phrases
from semclip_eval.selectors.base import SelectionInput, Selector, check_enough, check_scheme, overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Box, Selection, View

# Two crops with the same pixels get scores that differ by float rounding, and that rounding changes with the batch
# shape. Closer than this is a tie, so that the choice does not depend on what else was in the batch.
TIE = 1e-5


@dataclass(frozen=True)
class SemClip(Selector):
    """The overview, then `top_k` candidates by their ψ, best first.

    max_overlap: non-maximum suppression; a candidate is passed over where one chosen before shares more than this part
    of the smaller one's area; null passes over none. diversity: in [0, 1), maximal marginal relevance (Carbonell and
    Goldstein, SIGIR 1998): the next crop is the one with the highest (1 - diversity) s - diversity o, where s is its ψ
    brought to 0 .. 1 within the image and o the largest part that it shares with one chosen before; 0 ranks by ψ alone.
    each_phrase: ψ reads each noun phrase of the text apart and the phrases take turns, the first one first, so that a
    question about two things gets a crop of each; the view's ψ is that of its phrase.

    Scores within `TIE` of the best remaining one are ties; the earliest candidate wins. `top_k` above the number of
    candidates is an error, not a shorter list: the row would claim crops that the VLM never saw. Where suppression
    leaves fewer than `top_k`, the list is shorter, which is what it is asked for.
    """

    name: str = "semclip"
    top_k: int = 1
    max_overlap: float | None = None
    diversity: float = 0.0
    each_phrase: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"psi", "candidates"})

    def __post_init__(self) -> None:
        whole_number("selector.top_k", self.top_k, 1)
        if self.max_overlap is not None:
            _require_fraction("selector.max_overlap", self.max_overlap, " or null")
        _require_fraction("selector.diversity", self.diversity)
        if not isinstance(self.each_phrase, bool):
            raise ConfigError(f"selector.each_phrase={self.each_phrase}: must be true or false.")

    def check_candidates(self, candidates: int) -> None:
        """ConfigError where the crop scheme has fewer candidates than `top_k`."""
        check_scheme("selector.top_k", self.top_k, candidates)

    def most_views(self, candidates: int) -> int:
        return 1 + self.top_k

    def psi_work(self, item: SelectionInput, selection: Selection) -> tuple[int, int] | None:
        """Every candidate, against the text or each of its phrases."""
        return len(item.candidates), len(noun_phrases(item.text) or [item.text]) if self.each_phrase else 1

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        psi = tools.require_psi(self.name)
        for item in inputs:
            check_enough("selector.top_k", self.top_k, item)
        if self.each_phrase:
            return [self._by_phrases(item, psi) for item in inputs]
        scores = psi.score([_request(item, item.text) for item in inputs])
        return [self._selection(item, [row]) for item, row in zip(inputs, scores, strict=True)]

    def _by_phrases(self, item: SelectionInput, psi: Relevance) -> Selection:
        phrases = noun_phrases(item.text) or [item.text]
        return self._selection(item, psi.score([_request(item, phrase) for phrase in phrases]))

    def _selection(self, item: SelectionInput, rows: Sequence[tuple[float, ...]]) -> Selection:
        """rows: ψ of every candidate, for each text that takes turns. A candidate's recorded ψ is its highest."""
        for scores in rows:
            unusable = sum(not math.isfinite(score) for score in scores)
            if unusable:
                raise QuestionError(
                    f"ψ gave no finite score for {unusable} of {len(scores)} crops; try psi.precision=fp32"
                )
        chosen: list[int] = []
        crops: list[View] = []
        while len(crops) < self.top_k:
            scores = rows[len(crops) % len(rows)]
            index = self._next(item.candidates, scores, chosen)
            if index is None:
                break
            chosen.append(index)
            crops.append(View("crop", item.candidates[index], scores[index]))
        highest = tuple(max(scores) for scores in zip(*rows, strict=True))
        return Selection((overview(item.image), *crops), candidate_relevance=highest)

    def _next(self, boxes: Sequence[Box], scores: Sequence[float], chosen: Sequence[int]) -> int | None:
        """The candidate that follows those chosen; None where suppression leaves none."""
        shared = {
            index: max((shared_part(box, boxes[other]) for other in chosen), default=0.0)
            for index, box in enumerate(boxes)
            if index not in chosen
        }
        if self.max_overlap is not None:
            shared = {index: part for index, part in shared.items() if part <= self.max_overlap}
        if not shared:
            return None
        values = {index: scores[index] for index in shared}
        if self.diversity > 0:
            low, high = min(scores), max(scores)
            values = {
                index: (1 - self.diversity) * (scores[index] - low) / max(high - low, TIE) - self.diversity * part
                for index, part in shared.items()
            }
        best = max(values.values())
        return next(index for index, value in values.items() if value >= best - TIE)


def _request(item: SelectionInput, text: str) -> RelevanceRequest:
    return RelevanceRequest(item.image, item.image_id, item.candidates, text)


def shared_part(a: Box, b: Box) -> float:
    """The shared area of two boxes as a part of the smaller one, in [0, 1]."""
    shared = intersection(a, b)
    return shared.area / min(a.area, b.area) if shared is not None else 0.0


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


def _require_fraction(key: str, value: object, also: str = "") -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < 1:  # type: ignore[operator]
        raise ConfigError(f"{key}={value}: must be at least 0 and below 1{also}.")
