"""What every vision-language model offers: prepare on the CPU, then three stages that measurement can wrap."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from semclip_eval.errors import ConfigError
from semclip_eval.models.grounding import THOUSAND, Grounding

if TYPE_CHECKING:
    from semclip_eval.models.insight import AttentionRows, Gradients, Query, Target, TokenBoxes, Values
    from semclip_eval.types import Answer, Box, Drops, Kept, Prompt, Request


@dataclass(frozen=True)
class ModelInputs:
    """One question, ready for the device. Made on the CPU; holds nothing of the model, so a worker thread may make it.

    `pixel_values` is a float32 torch tensor: (views, 3, height, width) for LLaVA-1.5, for other families what their
    image processor makes. `input_ids` holds one id per visual token (placeholders expanded); `continuation_ids` those
    of each option, the end token included, empty where the answer is generated. `visual_tokens` are counted in
    `input_ids`, `text_tokens` are the rest of it; None where only a server counts them. `extras` are
    further tensors that the family's model asks for, under the names of its own arguments (`image_grid_thw`,
    `image_sizes`). `view_tokens` are the visual tokens of each view, in the order of the views. `positions` are the
    position ids (axes, length) of the prompt, None where the model makes its own. `encoded_tokens` are the visual
    tokens before pruning, None where nothing was pruned. `class_attention` and `drops`: see `Request`. `prompt`: the
    request's own.
    """

    pixel_values: Any
    input_ids: tuple[int, ...]
    continuation_ids: tuple[tuple[int, ...], ...]
    max_new_tokens: int
    visual_tokens: int | None
    text_tokens: int | None
    extras: Mapping[str, Any] = field(default_factory=dict)
    view_tokens: tuple[int, ...] = ()
    positions: Any = None
    encoded_tokens: int | None = None
    class_attention: bool = False
    prompt: Prompt | None = None
    drops: Drops | None = None


class VLM(ABC):
    """A vision-language model. `encode`, `prefill` and `decode` contain no timing code: wrap them from outside.

    A batch may mix numbers of views, text lengths, and generated with scored answers; an answer does not depend on
    what else is in its batch (option losses agree within 1e-4 in float32). `attention` names the kernel, `dtype` is
    'float32' | 'bfloat16' | 'float16', `context_length` is in tokens. `stages` are timed
    separately. `is_served`: remote, so device and dtype are unknown.
    `capabilities` are what it offers to selectors beyond answering (`insight.CAPABILITIES`); the methods of those that
    it lacks raise ConfigError. `grounding` is how a family with the capability `boxes` is asked for them. `layers` is
    the number of layers of the language model, for selectors that name some. `requests_at_once`: how many questions a
    server is asked at a time, None for a model that computes here.
    """

    name: str
    revision: str
    device: str
    dtype: str
    attention: str
    context_length: int | None
    layers: int | None = None
    requests_at_once: int | None = None
    stages: ClassVar[tuple[str, ...]] = ("vision", "prefill", "decode")
    is_served: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[str]] = frozenset()
    grounding: ClassVar[Grounding | None] = None

    def reset(self) -> None:  # noqa: B027 (optional)
        """A run begins: forget what was counted."""

    @property
    def session_notes(self) -> dict[str, Any]:
        """What `environment.json` is to say of this process's use of the model; empty for a model of our own."""
        return {}

    @abstractmethod
    def prepare(self, request: Request) -> ModelInputs:
        """Preprocess the views and tokenise the prompt; safe in a worker thread.

        Raises QuestionError where views + text + answer exceed the context, with the arithmetic.
        """

    def check_views(self, views: int, new_tokens: int, kept: Callable[[int], int] | None = None) -> None:
        """Raise ConfigError, with the arithmetic, where that many views cannot fit the context whatever the question.

        `kept` says how many of so many visual tokens of a question a pruning selector keeps.

        Costs nothing and reads no image: call it once before a run, with the largest number of views that the selector
        can choose and the benchmark's `max_new_tokens` (1 for a likelihood question). Where the tokens of a view depend
        on its size the smallest count is taken, so passing promises nothing: `prepare` checks each question.
        """
        return

    def begin_block(self, keep: bool) -> None:  # noqa: B027 (optional)
        """A block of questions begins; with `keep=False` (latency mode) nothing of earlier ones may be reused."""

    def release_memory(self) -> None:  # noqa: B027 (optional)
        """Memory ran out: let go of everything that was kept for later questions. Changes no answer."""

    def tokens_at_once(self) -> int | None:
        """Prompt tokens that one forward should take at most, by memory and speed; None where that is not known.

        The same on every machine with the same device, whatever else it does: `run.batch_size=auto` is formed by it.
        """
        return None

    @abstractmethod
    def encode(self, batch: Sequence[ModelInputs]) -> Any:
        """The 'vision' stage: for each question a list with the `ViewTokens` of each view.

        A model without the capability `prune` may return what its own `prefill` reads.
        """

    def prune(
        self, batch: Sequence[ModelInputs], features: Any, kept: Sequence[Kept | None]
    ) -> tuple[list[ModelInputs], Any]:
        """The 'prune' stage: the batch and its features with only the kept visual tokens; None keeps all.

        Tokens of the prompt that belong to a dropped one alone (a newline at the end of a row of dropped tokens) are
        the selector's business: it names every token. Raises QuestionError where the shorter prompt still exceeds the
        context, or indices are not ascending tokens of their view.
        """
        raise self._cannot("prune")

    def token_boxes(self, sizes: Sequence[tuple[int, int]]) -> list[TokenBoxes]:
        """Where the visual tokens lie, for each view of one question, given the views' (width, height) in pixels.

        As many tokens, in the same order, as `encode` gives a view of that size beside that many others.
        """
        raise self._cannot("prune")

    def confidence(self, batch: Sequence[ModelInputs]) -> list[float]:
        """Probability of the first continuation against the second at the first answer position, one a prompt.

        Prompts with two continuations each (`Prompt.continuations=("Yes", "No")`): the softmax over the two logits of
        their first tokens. After "ASSISTANT:" that is another id than the tokenizer gives the bare word. Raises
        ConfigError where both begin with the same token.
        """
        raise self._cannot("confidence")

    def answer_entropy(self, batch: Sequence[ModelInputs]) -> list[float]:
        """Entropy in nats of the first answer token's distribution over the whole vocabulary, one a prompt.

        Part of the capability `confidence`.
        """
        raise self._cannot("confidence")

    def attention_rows(self, batch: Sequence[ModelInputs], layers: Sequence[int], query: Query) -> list[AttentionRows]:
        """One prefill a prompt; the attention of some of its tokens in some layers.

        query: `last` (the prompt's last token) or `text` (all tokens after the last visual one). layers: 0-based.
        """
        raise self._cannot("attention")

    def gradients(
        self, batch: Sequence[ModelInputs], target: Target, layers: Sequence[int] = (), features: bool = False
    ) -> list[Gradients]:
        """Gradients of one scalar a prompt with respect to attention in `layers` and, where asked, to the features.

        target: `argmax`, the log-probability of the likeliest first answer token, or `entropy`, in nats, of the
        distribution over all first answer tokens.
        """
        raise self._cannot("gradients")

    def value_vectors(self, batch: Sequence[ModelInputs], layers: Sequence[int]) -> list[Values]:
        """One prefill a prompt; the value vectors of its visual tokens and of the text after them."""
        raise self._cannot("values")

    def box_prompt(self, target: str, max_new_tokens: int) -> Prompt:
        """How this model is asked for the bounding box of a thing in the one image that it is shown."""
        return self._grounding().prompt(target, max_new_tokens)

    def read_boxes(self, answer: str, width: int, height: int) -> list[Box]:
        """The boxes of such an answer, in the order written, in pixels of an image of `width` x `height`.

        Empty where none can be read (`Grounding.read`).
        """
        return self._grounding().read(answer, self.box_frame(width, height), width, height)

    def box_frame(self, width: int, height: int) -> tuple[float, float]:
        """(width, height) of an image of that size in the coordinates that the model writes boxes in."""
        return THOUSAND

    def _grounding(self) -> Grounding:
        if self.grounding is None:
            raise self._cannot("boxes")
        return self.grounding

    def first_ids_of_two(self, prepared: ModelInputs) -> list[int]:
        """The first token of each of a prompt's two continuations; ConfigError where these are not two tokens."""
        if len(prepared.continuation_ids) != 2:
            raise ConfigError(f"{self.name}: a confidence weighs two words, not {len(prepared.continuation_ids)}")
        first, second = (ids[0] for ids in prepared.continuation_ids)
        if first == second:
            raise ConfigError(f"{self.name}: the two words begin with the same token; choose others")
        return [first, second]

    def _cannot(self, capability: str) -> ConfigError:
        able = ", ".join(sorted(self.capabilities)) or "nothing but answer"
        return ConfigError(
            f"model={self.name}: offers no '{capability}' to selectors (it can {able}); choose another selector or "
            "model (docs/models.md lists what each can do)."
        )

    def flops(self, prepared: ModelInputs, read: ModelInputs, new_tokens: int | None) -> dict[str, int | None] | None:
        """Analytic FLOPs of a question asked on its own, by stage (`measure.flops`); None where they are not known.

        prepared: as it was encoded. read: as it was prefilled, which is the same where nothing was pruned.
        """
        return None

    @abstractmethod
    def prefill(self, batch: Sequence[ModelInputs], features: Any) -> Any:
        """The 'prefill' stage: one forward over the prompts. Returns the state that `decode` uses up."""

    @abstractmethod
    def decode(self, batch: Sequence[ModelInputs], state: Any, ignore_end_token: bool = False) -> list[Answer]:
        """The 'decode' stage: greedy tokens, or the options' losses over the shared cache; in the batch's order.

        `state` serves one call, which grows its cache in place. With `ignore_end_token`, generation always makes
        `max_new_tokens` tokens (latency mode).
        """

    def answer(self, batch: Sequence[ModelInputs]) -> list[Answer]:
        """The three stages in order."""
        features = self.encode(batch)
        return self.decode(batch, self.prefill(batch, features))
