"""Hindsight: the best that any chooser of one candidate could have reached, known only after the answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from semclip_eval.checks import whole_number
from semclip_eval.errors import ConfigError
from semclip_eval.selectors.base import SelectionInput, Selector, overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Selection, TraceStep, Verdict, View


@dataclass(frozen=True)
class Hindsight(Selector):
    """The overview and a candidate with which the VLM answers right, where there is one. Not a method: it tries all.

    Every candidate is shown beside the overview, one forward each, and the answer is scored as the benchmark does. In
    the end the candidate with the highest score is shown; of equal ones that with the surest right answer (by the
    margin between the two lowest losses, where options are scored), then the earliest. with_overview_alone: the
    overview without a crop is tried too.

    So its accuracy H is at least that of any selector that shows the overview and exactly one of the same candidates,
    question by question. It also counts luck: with n tries a guess among K options is right once with probability
    1 - (1 - 1/K)^n. Its measures, means over the questions: `mean_crop`, the score of a crop drawn at random, exactly;
    `random_label` R = |S| / K and `wrong_label` W = |S without the right one| / (K - 1), where S is the set of options
    chosen over the candidates: what H would be if the right option were drawn at random, among all or among the wrong
    ones. Without information in the crops H, R and W are equal in expectation; H - W is what they know. Questions
    without options have no R and W.
    """

    name: str = "hindsight"
    with_overview_alone: bool = False
    max_forwards: int | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"candidates", "vlm", "judge"})
    uses_truth: ClassVar[bool] = True
    measure_names: ClassVar[tuple[str, ...]] = ("mean_crop", "random_label", "wrong_label")

    def __post_init__(self) -> None:
        if not isinstance(self.with_overview_alone, bool):
            raise ConfigError(f"selector.with_overview_alone={self.with_overview_alone}: must be true or false.")
        whole_number("selector.max_forwards", self.max_forwards, 0, or_null="no bound")

    def most_views(self, candidates: int) -> int:
        return 2

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        return [self._selection(item, tools) for item in inputs]

    def _selection(self, item: SelectionInput, tools: Tools) -> Selection:
        whole = overview(item.image)
        tries = [(whole, View("crop", box)) for box in item.candidates]
        alone = [(whole,)] if self.with_overview_alone else []
        verdicts = tools.require_judge(self.name)(item.question_id, item.image, [*alone, *tries])
        crops = verdicts[len(alone) :]
        best = max(range(len(verdicts)), key=lambda index: _rank(verdicts[index]))
        steps = [TraceStep("score", box, verdict.score) for box, verdict in zip(item.candidates, crops, strict=True)]
        return Selection(([*alone, *tries])[best], trace=tuple(steps), measures=_measures(crops))


def _rank(verdict: Verdict) -> tuple[float, float]:
    """Score, then how far the chosen option's loss lies below the next one (below zero for a wrong answer)."""
    losses = sorted(verdict.option_losses or ())
    margin = losses[1] - losses[0] if len(losses) > 1 else 0.0
    return verdict.score, margin if verdict.score > 0 else -margin


def _measures(verdicts: Sequence[Verdict]) -> dict[str, float]:
    measures = {"mean_crop": sum(verdict.score for verdict in verdicts) / len(verdicts)}
    count = verdicts[0].options
    if count > 1:
        chosen = {verdict.choice for verdict in verdicts if verdict.choice is not None}
        wrong = {verdict.choice for verdict in verdicts if verdict.choice is not None and verdict.score == 0}
        measures |= {"random_label": len(chosen) / count, "wrong_label": len(wrong) / (count - 1)}
    return measures
