"""What every vision-language model offers: prepare on the CPU, then three stages that measurement can wrap."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from semclip_eval.types import Answer, Request


@dataclass(frozen=True)
class Prepared:
    """One question, ready for the device. Made on the CPU; holds nothing of the model, so a worker thread may make it.

    `pixel_values` is a float32 torch tensor: (views, 3, height, width) for LLaVA-1.5, for other families what their
    image processor makes. `input_ids` holds one id per visual token (placeholders expanded); `continuation_ids` those
    of each option, the end token included, empty where the answer is generated. `visual_tokens` are counted in
    `input_ids`, `text_tokens` are the rest of it; None where only a server counts them. `extras` are
    further tensors that the family's model asks for, under the names of its own arguments (`image_grid_thw`,
    `image_sizes`). `view_tokens` are the visual tokens of each view, in the order of the views.
    """

    pixel_values: Any
    input_ids: tuple[int, ...]
    continuation_ids: tuple[tuple[int, ...], ...]
    max_new_tokens: int
    visual_tokens: int | None
    text_tokens: int | None
    extras: Mapping[str, Any] = field(default_factory=dict)
    view_tokens: tuple[int, ...] = ()


class VLM(ABC):
    """A vision-language model. `encode`, `prefill` and `decode` contain no timing code: wrap them from outside.

    A batch may mix numbers of views, text lengths, and generated with scored answers; an answer does not depend on
    what else is in its batch (option losses agree within 1e-4 in float32). `attention` names the kernel, `dtype` is
    'float32' | 'bfloat16' | 'float16', `context_length` is in tokens. `stages` are those that the model really has, the
    others are not timed; `is_served` says that it runs elsewhere, on a device and in a number format of its own.
    """

    name: str
    revision: str
    device: str
    dtype: str
    attention: str
    context_length: int | None
    stages: ClassVar[tuple[str, ...]] = ("vision", "prefill", "decode")
    is_served: ClassVar[bool] = False

    def reset(self) -> None:  # noqa: B027 (optional)
        """A run begins: forget what was counted."""

    @property
    def session_notes(self) -> dict[str, Any]:
        """What `environment.json` is to say of this process's use of the model; empty for a model of our own."""
        return {}

    @abstractmethod
    def prepare(self, request: Request) -> Prepared:
        """Preprocess the views and tokenise the prompt; safe in a worker thread.

        Raises QuestionError where views + text + answer exceed the context, with the arithmetic.
        """

    def check_views(self, views: int, new_tokens: int) -> None:
        """Raise ConfigError, with the arithmetic, where that many views cannot fit the context whatever the question.

        Costs nothing and reads no image: call it once before a run, with the largest number of views that the selector
        can choose and the benchmark's `max_new_tokens` (1 for a likelihood question). Where the tokens of a view depend
        on its size the smallest count is taken, so passing promises nothing: `prepare` checks each question.
        """
        return

    def begin_block(self, keep: bool) -> None:  # noqa: B027 (optional)
        """A block of questions begins; with `keep=False` (latency mode) nothing of earlier ones may be reused."""

    def release_memory(self) -> None:  # noqa: B027 (optional)
        """Memory ran out: let go of everything that was kept for later questions. Changes no answer."""

    @abstractmethod
    def encode(self, batch: Sequence[Prepared]) -> Any:
        """The 'vision' stage: features of all views of the batch."""

    @abstractmethod
    def prefill(self, batch: Sequence[Prepared], features: Any) -> Any:
        """The 'prefill' stage: one forward over the prompts. Returns the state that `decode` uses up."""

    @abstractmethod
    def decode(self, batch: Sequence[Prepared], state: Any, ignore_end_token: bool = False) -> list[Answer]:
        """The 'decode' stage: greedy tokens, or the options' losses over the shared cache; in the batch's order.

        `state` serves one call, which grows its cache in place. With `ignore_end_token`, generation always makes
        `max_new_tokens` tokens (latency mode).
        """

    def answer(self, batch: Sequence[Prepared]) -> list[Answer]:
        """The three stages in order."""
        features = self.encode(batch)
        return self.decode(batch, self.prefill(batch, features))
