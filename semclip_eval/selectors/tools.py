"""What a selector may use beside the image: ψ, and a counting facade over the VLM."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from PIL import Image

from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.measure.stages import StageClock
from semclip_eval.models.insight import CAPABILITIES
from semclip_eval.relevance.base import Relevance
from semclip_eval.types import Answer, Box, Cost, Request, Verdict, View

if TYPE_CHECKING:
    from semclip_eval.models.base import VLM, ModelInputs
    from semclip_eval.models.insight import AttentionRows, Gradients, Query, Target, TokenBoxes, Values

T = TypeVar("T")

# What `Selector.needs` may name. `vlm` is answering; the others are capabilities that a model may lack.
VLM_NEEDS = ("vlm", *CAPABILITIES)
# `judge` (for a selector with `uses_truth`) and `other_image` are offered by the run.
NEEDS = ("candidates", "psi", "judge", "other_image", *VLM_NEEDS)
# Prompts in one forward pass. Fixed, and never of two questions at once, so that a number that a selector sees does not
# depend on what else is asked in the run.
CHUNK = 8


class BudgetExceeded(QuestionError):
    """A selector asked for more VLM forwards than `selector.max_forwards` allows."""


class SelectorVLM:
    """The only part of a VLM that a selector may call; counts what each question spends and enforces its budget.

    Every request names the question that it is for (`SelectionInput.request` does). Results come in the order of the
    requests and do not depend on the other requests beyond float rounding.

    needs: those of the selector; a method that it did not name raises ConfigError. max_forwards: of one question,
    forwards and backwards together; None sets no bound. clock: adds the time to its stage `select_vlm`.
    """

    def __init__(self, vlm: VLM, needs: Iterable[str], max_forwards: int | None, clock: StageClock) -> None:
        self._vlm = vlm
        self._needs = frozenset(needs)
        self._max_forwards = max_forwards
        self._clock = clock
        self._costs: dict[str, Cost] = defaultdict(Cost)
        self._flops: dict[str, int | None] = {}

    def begin(self, question_ids: Iterable[str]) -> None:
        """These questions are selected (again) from the start: what they spent is forgotten."""
        for question_id in question_ids:
            self._costs.pop(question_id, None)
            self._flops.pop(question_id, None)

    def cost(self, question_id: str) -> Cost:
        """What the question has spent since `begin`."""
        return self._costs[question_id]

    def flops(self, question_id: str) -> int | None:
        """Analytic FLOPs of what the question has spent since `begin`; None where the model does not say."""
        return self._flops.get(question_id, 0)

    def forwards_left(self, question_id: str) -> int | None:
        """How many forwards the question may still spend; None without a bound."""
        if self._max_forwards is None:
            return None
        spent = self._costs[question_id]
        return self._max_forwards - spent.forwards - spent.backwards

    @property
    def layers(self) -> int:
        """Number of layers of the language model."""
        if self._vlm.layers is None:
            raise ConfigError(f"model={self._vlm.name}: does not say how many layers its language model has.")
        return self._vlm.layers

    def token_boxes(self, sizes: Sequence[tuple[int, int]]) -> list[TokenBoxes]:
        """Where the visual tokens of a prompt's views lie (`VLM.token_boxes`); costs nothing."""
        return self._vlm.token_boxes(sizes)

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Greedy text, or the loss of each continuation."""
        self._require("vlm")
        return self._ask(requests, self._vlm.answer, generates=True)

    def confidence(self, requests: Sequence[Request]) -> list[float]:
        """Probability of the first continuation against the second (`VLM.confidence`)."""
        self._require("confidence")
        return self._ask(requests, self._vlm.confidence)

    def entropy(self, requests: Sequence[Request]) -> list[float]:
        """Entropy of the first answer token (`VLM.answer_entropy`)."""
        self._require("confidence")
        return self._ask(requests, self._vlm.answer_entropy)

    def locate(self, requests: Sequence[Request]) -> list[list[Box]]:
        """The boxes that the model writes for the thing that each request's text names, in pixels of its one image.

        A generation each, worded as the model's family is asked for boxes; empty where the answer cannot be read
        (`VLM.read_boxes`).
        """
        self._require("boxes")
        asked = [
            replace(request, prompt=self._vlm.box_prompt(request.prompt.text, request.prompt.max_new_tokens))
            for request in requests
        ]
        answers = self._ask(asked, self._vlm.answer, generates=True)
        return [
            self._vlm.read_boxes(answer.text or "", *request.images[0].size)
            for request, answer in zip(requests, answers, strict=True)
        ]

    def attention(self, requests: Sequence[Request], layers: Sequence[int], query: Query) -> list[AttentionRows]:
        """Attention from the last token or from the text to the visual tokens (`VLM.attention_rows`)."""
        self._require("attention")
        return self._ask(requests, lambda batch: self._vlm.attention_rows(batch, layers, query))

    def gradients(
        self, requests: Sequence[Request], target: Target, layers: Sequence[int] = (), features: bool = False
    ) -> list[Gradients]:
        """Gradients of a scalar of the first answer token (`VLM.gradients`); a forward and a backward each."""
        self._require("gradients")
        return self._ask(
            requests,
            lambda batch: self._vlm.gradients(batch, target, layers, features),
            backward=lambda prepared: self._vlm.backward_flops(prepared, layers, features),
        )

    def values(self, requests: Sequence[Request], layers: Sequence[int]) -> list[Values]:
        """Value vectors after the prefill (`VLM.value_vectors`)."""
        self._require("values")
        return self._ask(requests, lambda batch: self._vlm.value_vectors(batch, layers))

    def _require(self, need: str) -> None:
        if need not in self._needs:
            raise ConfigError(f"the selector uses '{need}' of the VLM and does not name it in its `needs`.")

    def _ask(
        self,
        requests: Sequence[Request],
        call: Callable[[list[ModelInputs]], Sequence[T]],
        backward: Callable[[ModelInputs], int | None] | None = None,
        generates: bool = False,
    ) -> list[T]:
        """backward: the FLOPs of the backward pass that each request takes, where it does."""
        backwards = 0 if backward is None else 1
        self._spend(requests, backwards)
        results: dict[int, T] = {}
        with self._clock.stage("select_vlm"):
            for places in _chunks(requests):
                batch = [self._vlm.prepare(requests[place]) for place in places]
                for place, prepared, result in zip(places, batch, call(batch), strict=True):
                    results[place] = result
                    new_tokens = getattr(result, "new_tokens", None) if generates else None
                    counts = self._vlm.flops(prepared, prepared, new_tokens)
                    parts = _parts(counts, generates) + ([] if backward is None else [backward(prepared)])
                    self._count(requests[place].question_id, parts)
                    self._costs[requests[place].question_id] += Cost(
                        visual_tokens=prepared.visual_tokens or 0,
                        text_tokens=prepared.text_tokens or 0,
                        new_tokens=new_tokens or 0,
                    )
        return [results[place] for place in range(len(requests))]

    def _count(self, question_id: str, parts: Sequence[int | None]) -> None:
        """Add the FLOPs of one request; a part that is not known makes the sum so."""
        total = self.flops(question_id)
        known = [part for part in parts if part is not None]
        self._flops[question_id] = None if total is None or len(known) < len(parts) else total + sum(known)

    def _spend(self, requests: Sequence[Request], backwards: int) -> None:
        """Count the forwards before they happen; BudgetExceeded, with nothing counted, where there are too many."""
        forwards: dict[str, int] = defaultdict(int)
        for request in requests:
            if not request.question_id:
                raise ValueError("a selector's request must name its question: make it with SelectionInput.request")
            forwards[request.question_id] += 1
        for question_id, count in forwards.items():
            left = self.forwards_left(question_id)
            if left is not None and count * (1 + backwards) > left:
                raise BudgetExceeded(
                    f"selector.max_forwards={self._max_forwards}: {count * (1 + backwards)} more VLM forwards were "
                    f"wanted and {left} are left"
                )
        for question_id, count in forwards.items():
            self._costs[question_id] += Cost(forwards=count, backwards=count * backwards)


def _parts(counts: Mapping[str, int | None] | None, generates: bool) -> list[int | None]:
    """A request's FLOPs by stage, decoded only where it `generates`."""
    stages = ("vision", "prefill", "decode") if generates else ("vision", "prefill")
    return [None] if counts is None else [counts[stage] for stage in stages]


def _chunks(requests: Sequence[Request]) -> Iterator[list[int]]:
    """Places of the requests, question by question in order of first appearance, at most `CHUNK` together."""
    by_question: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        by_question.setdefault(request.question_id, []).append(place)
    for places in by_question.values():
        for start in range(0, len(places), CHUNK):
            yield places[start : start + CHUNK]


class Judge(Protocol):
    """How the VLM's answer to a question would be scored with certain views."""

    def __call__(self, question_id: str, image: Image.Image, selections: Sequence[Sequence[View]]) -> list[Verdict]:
        """One verdict for each list of views; a forward each, counted as the question's."""


class OtherImages(Protocol):
    """An image of the benchmark that is not a question's own."""

    def __call__(self, question_id: str, seed: int) -> Image.Image:
        """The same one for the same question and seed, whatever else is asked."""


@dataclass(frozen=True)
class Tools:
    """What the selector's `needs` name; None for what they do not.

    psi: for `psi`. vlm: for one of `VLM_NEEDS`. judge: for `judge`, with `uses_truth`. other_image: for `other_image`.
    """

    psi: Relevance | None = None
    vlm: SelectorVLM | None = None
    judge: Judge | None = None
    other_image: OtherImages | None = None

    def require_psi(self, selector: str) -> Relevance:
        """ψ; ConfigError, with the remedy, where there is none."""
        if self.psi is None:
            raise ConfigError(f"selector={selector}: needs a ψ to score the crops; give psi=mini_clip or another one.")
        return self.psi

    def require_vlm(self, selector: str) -> SelectorVLM:
        """The VLM's facade; ConfigError where the selector did not ask for it."""
        if self.vlm is None:
            raise ConfigError(f"selector={selector}: uses the VLM, but its `needs` do not say so.")
        return self.vlm

    def require_judge(self, selector: str) -> Judge:
        """The judge; ConfigError where the selector may not ask it."""
        if self.judge is None:
            raise ConfigError(f"selector={selector}: needs `judge` and `uses_truth` to learn how an answer is scored.")
        return self.judge

    def require_other_image(self, selector: str) -> OtherImages:
        """The source of other images; ConfigError where there is none."""
        if self.other_image is None:
            raise ConfigError(f"selector={selector}: needs `other_image`, which only a run over a benchmark offers.")
        return self.other_image
