"""A gate before another selector: no crop where none stands out, or where the VLM needs none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semclip_eval.checks import require_member, whole_number
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.selectors.base import SelectionInput, overview
from semclip_eval.selectors.tools import Tools
from semclip_eval.selectors.wrapper import Wrapper, inner_selector
from semclip_eval.types import Selection, TraceStep

SIGNALS = ("standout", "entropy", "answerability")


@dataclass(frozen=True)
class Gate(Wrapper):
    """The overview alone where the signal says that no crop is needed, else the inner selector's views.

    signal:
    - `standout`: how far the best candidate's ψ lies above the others, (max - mean) / standard deviation over the
      candidates; below `threshold` no crop. The inner selector must score candidates with ψ. No VLM forward.
    - `entropy`: entropy (nats) of the first answer token when the VLM is asked the question with the overview alone and
      `instruction` behind it; below `threshold` the VLM is sure and gets no crop. One forward.
    - `answerability`: probability of `words[0]` against `words[1]` after `question_template` with the overview alone
      (RAP's question, DreamMr/RAP `rap/vlm/base.py`); from `threshold` on no crop. One forward.

    instruction: makes the first token of the answer the one that matters. max_forwards: the bound for gate and inner
    selector together. With `entropy` and `answerability` the inner selector is asked only where it is wanted.
    """

    name: str = "gate"
    inner: Any = None
    signal: str = "standout"
    threshold: float = 1.5
    instruction: str = "\nAnswer the question using a single word or phrase."
    question_template: str = (
        "Question: {question}\nCould you answer the question based on the available visual information? "
        "Answer Yes or No."
    )
    words: tuple[str, ...] = ("Yes", "No")
    max_forwards: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", inner_selector(self.inner))
        require_member("selector.signal", self.signal, SIGNALS)
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not math.isfinite(self.threshold):
            raise ConfigError(f"selector.threshold={self.threshold}: must be a number.")
        whole_number("selector.max_forwards", self.max_forwards, 0, or_null="no bound")
        if "{question}" not in str(self.question_template):
            raise ConfigError(f"selector.question_template={self.question_template!r}: must contain {{question}}.")
        object.__setattr__(self, "words", tuple(self.words))
        if len(self.words) != 2:
            raise ConfigError(f"selector.words={list(self.words)}: must be two words, the first one for yes.")
        if self.signal == "standout" and "psi" not in self.inner.needs:
            raise ConfigError(
                f"selector.inner={self.inner.name}: has no ψ for its candidates, so none can stand out; choose another "
                "selector.signal (entropy, answerability) or inner selector (semclip)."
            )

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Those of the inner selector, and what the signal is read from."""
        own = [] if self.signal == "standout" else ["confidence"]
        return frozenset(own).union(self.inner.needs)

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        if self.signal == "standout":
            selections = self.inner.select(inputs, tools)
            return [
                self._gated(item, selection, self._standout(selection))
                for item, selection in zip(inputs, selections, strict=True)
            ]
        signals = self._asked(inputs, tools)
        wanted = [item for item, value in zip(inputs, signals, strict=True) if not self._closes(value)]
        inner = iter(self.inner.select(wanted, tools) if wanted else [])
        return [
            self._gated(item, Selection((overview(item.image),)) if self._closes(value) else next(inner), value)
            for item, value in zip(inputs, signals, strict=True)
        ]

    def psi_work(self, item: SelectionInput, selection: Selection) -> tuple[int, int] | None:
        """That of the inner selector, which is not asked where `entropy` or `answerability` closes the gate."""
        closed = self.signal != "standout" and not selection.candidate_relevance
        return (0, 0) if closed else super().psi_work(item, selection)

    def _asked(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[float]:
        vlm = tools.require_vlm(self.name)
        if self.signal == "entropy":
            return vlm.entropy([item.request([item.image], item.text + self.instruction) for item in inputs])
        texts = [self.question_template.replace("{question}", item.text) for item in inputs]
        requests = [
            item.request([item.image], text, words=self.words) for item, text in zip(inputs, texts, strict=True)
        ]
        return vlm.confidence(requests)

    def _standout(self, selection: Selection) -> float:
        scores = selection.candidate_relevance
        if not scores:
            raise QuestionError(f"selector.inner={self.inner.name}: gave no ψ of its candidates to gate by")
        mean = math.fsum(scores) / len(scores)
        deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
        return (max(scores) - mean) / deviation if deviation > 0 else 0.0

    def _closes(self, value: float) -> bool:
        return value >= self.threshold if self.signal == "answerability" else value < self.threshold

    def _gated(self, item: SelectionInput, selection: Selection, value: float) -> Selection:
        """The selection, or the overview alone with what ψ said of the candidates; the signal's value goes along."""
        whole = overview(item.image)
        views = (whole,) if self._closes(value) else selection.views
        step = TraceStep(f"gate_{self.signal}", whole.box, value)
        return dataclasses.replace(selection, views=views, trace=(step, *selection.trace))
