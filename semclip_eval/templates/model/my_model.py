"""A VLM of your own that is not a transformers model: four methods, which measurement wraps from outside.

What stands here is a model of a kind, in numpy: it sees a mean colour for each cell of a grid over each view, and
prefers answers that name the colours that stand out most. Put the calls of your library in its place. A model that
transformers can build needs less (docs/extending.md), one behind an OpenAI-compatible endpoint nothing
(docs/served_models.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semclip_eval.errors import QuestionError
from semclip_eval.models.base import VLM, ModelInputs
from semclip_eval.types import Answer, Request

COLORS = {
    "red": (200, 40, 40), "green": (40, 160, 70), "blue": (40, 80, 210), "yellow": (240, 210, 40),
    "orange": (240, 140, 30), "purple": (140, 50, 170), "black": (10, 10, 10), "white": (245, 245, 245),
}  # fmt: skip
GRID = 8
CONTEXT = 4096  # tokens
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class MyInputs(ModelInputs):
    """`ModelInputs` with what this model wants beside: the texts as they are, since it has no vocabulary."""

    text: str = ""
    continuations: tuple[str, ...] = ()


class MyModel(VLM):
    """The parameters are the keys of configs/model/my_model.yaml; `device` and `dtype` are the run's."""

    def __init__(self, name: str, revision: str, device: str = "cpu", dtype: str = "float32") -> None:
        self.name = name
        # Which weights these are: part of the run's identity, so change it (in the YAML) with them.
        self.revision = revision
        self.device, self.dtype = device, dtype
        self.attention = ""  # the name of the attention kernel, for the results
        self.context_length = CONTEXT  # None where it is not known
        # Load your weights here. They stay for all jobs of a sweep.

    def tokens_at_once(self) -> int | None:
        """Prompt tokens of a batch at most: `run.batch_size=auto` is formed by it. None: a question at a time."""
        return 4096

    def prepare(self, request: Request) -> MyInputs:
        """On the CPU, in a worker thread: pixels and prompt as the model takes them, and their tokens counted."""
        # Of a request:
        #   images              RGB, in the order in which the model is to see them: the overview, then crops
        #   prompt.text         what is asked after the images, without a chat template: that is yours to add
        #   prompt.continuations   options to score as whole answers; empty where an answer is to be generated
        #   prompt.max_new_tokens  of a generated answer, at most
        views = [np.asarray(image.resize((GRID, GRID)), dtype=np.float32) for image in request.images]
        words = WORD.findall(request.prompt.text)
        visual_tokens = GRID * GRID * len(views)
        # Too long for the context is this question's error, never cut.
        total = visual_tokens + len(words) + request.prompt.max_new_tokens
        if total > CONTEXT:
            raise QuestionError(
                f"{visual_tokens} visual + {len(words)} text + {request.prompt.max_new_tokens} new tokens = {total} "
                f"exceed the context of {CONTEXT}."
            )
        return MyInputs(
            pixel_values=np.stack(views),
            input_ids=(),  # this model has no ids
            continuation_ids=tuple(() for _ in request.prompt.continuations),
            max_new_tokens=request.prompt.max_new_tokens,
            visual_tokens=visual_tokens,
            text_tokens=len(words),
            text=request.prompt.text,
            continuations=request.prompt.continuations,
        )

    def encode(self, batch: Sequence[Any]) -> list[np.ndarray]:
        """The stage 'vision': what `prefill` needs of the pixels. Here float32 (visual tokens, 3) a question."""
        return [inputs.pixel_values.reshape(-1, 3) for inputs in batch]

    def prefill(self, batch: Sequence[Any], features: Any) -> list[Mapping[str, float]]:
        """The stage 'prefill': one forward over images and prompt; the state that `decode` goes on from.

        Here the distance of each colour's nearest token. An answer must not depend on what else is in the batch.
        """
        return [
            {name: float(np.abs(tokens - np.array(rgb)).sum(axis=1).min()) / 100 for name, rgb in COLORS.items()}
            for tokens in features
        ]

    def decode(self, batch: Sequence[Any], state: Any, ignore_end_token: bool = False) -> list[Answer]:
        """The stage 'decode': an `Answer` a question, in order.

        With `ignore_end_token` (latency mode) a generated answer is to have `max_new_tokens` tokens exactly.
        """
        return [self._answer(*each, ignore_end_token) for each in zip(batch, state, strict=True)]

    def _answer(self, inputs: MyInputs, distances: Mapping[str, float], ignore_end_token: bool) -> Answer:
        if inputs.continuations:
            # Mean cross-entropy in nats a token, the end token included: smaller for a likelier answer.
            return Answer(option_losses=tuple(self._loss(text, distances) for text in inputs.continuations))
        nearest = min(distances, key=distances.__getitem__)
        if ignore_end_token:
            return Answer(text=" ".join([nearest] * inputs.max_new_tokens), new_tokens=inputs.max_new_tokens)
        # As generated, without the end token; `new_tokens` counts it.
        return Answer(text=nearest, new_tokens=2)

    def _loss(self, text: str, distances: Mapping[str, float]) -> float:
        named = [distances[word] for word in WORD.findall(text.lower()) if word in distances]
        return sum(named) / len(named) if named else 10.0
