"""What all families have in common: loading, the layout of tokens, prefill with merged features, the context's limit.

A family adds how its views become pixels and tokens, how its tower makes features of them, and its own config keys.
Tokens are laid out as the LLaVA repository's `tokenizer_image_token` does: each stretch of text between special tokens
and placeholders is tokenised on its own, which also keeps a question's literal '<image>' plain text.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from semclip_eval.checks import require_member, whole_number
from semclip_eval.errors import ConfigError, ModelError, QuestionError
from semclip_eval.lazy import library, without_gradients
from semclip_eval.measure import flops
from semclip_eval.models.base import ModelInputs
from semclip_eval.models.insight import TokenBoxes, ViewTokens
from semclip_eval.models.transformers import dummy, weights
from semclip_eval.models.transformers.decoding import PrefillState
from semclip_eval.models.transformers.dropping import Dropping, reading
from semclip_eval.models.transformers.features import FeatureStore
from semclip_eval.models.transformers.kernels import ATTENTIONS, require_attention, require_device
from semclip_eval.models.transformers.looking_inside import Insight, joined
from semclip_eval.models.transformers.memory import BYTES_PER_PARAMETER, require_memory, tokens_at_once
from semclip_eval.models.transformers.prompts import CONVERSATIONS, Conversation
from semclip_eval.models.transformers.pruning import pruned
from semclip_eval.types import Kept, Request

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

LOAD_FORMATS = ("auto", "dummy")
DEVICE_MAPS = ("auto",)
# Options of a question, as far as room is made for copies of its cache.
OPTIONS = 4
TARGETS = ("argmax", "entropy")
QUERIES = ("last", "text")


@dataclass(frozen=True)
class Views:
    """The views of one question: `pixel_values` and `extras` as in `ModelInputs`, and each view's visual tokens."""

    pixel_values: Any
    tokens: tuple[int, ...]
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class TransformersConfig:
    """The section `model` of a transformers family; a family adds its own keys.

    path: a folder in the published layout, never asks the hub. hub_id: at `revision`, otherwise. load_format: `dummy`
    gives random weights in the shape of `path`'s config.json or, with no path, of the architecture shipped under
    `name`. attn: the attention kernel. conversation: how a question is put (`prompts.CONVERSATIONS`). device_map:
    `auto` shards the layers over all GPUs. feature_cache_mib: how much of what the tower made of overviews is kept (on
    the device, least recently used going first) for other questions about the image and, in a sweep, for other
    selectors; 0 keeps nothing. It changes the time and not the answers: where features may be kept, an overview is
    encoded alone, so that they are the same to the bit whether kept or made anew. Raises ConfigError for a wrong value.
    """

    name: str
    hub_id: str | None = None
    path: str | None = None
    revision: str | None = None
    load_format: str = "auto"
    attn: str = "sdpa"
    conversation: str = "vicuna_v1"
    device_map: str | None = None
    feature_cache_mib: int = 1024

    def __post_init__(self) -> None:
        require_member("model.load_format", self.load_format, LOAD_FORMATS)
        require_member("model.attn", self.attn, ATTENTIONS)
        whole_number("model.feature_cache_mib", self.feature_cache_mib, 0)
        if self.device_map is not None:
            require_member("model.device_map", self.device_map, DEVICE_MAPS, "or null")
            if self.load_format == "dummy":
                raise ConfigError("model.device_map=auto: random weights are built on one device; set it to null")
        self.path = None if self.path is None else str(self.path)  # Hydra reads a folder named 2024 as a number

    @property
    def checkpoint(self) -> weights.Checkpoint:
        """Where the weights are."""
        return weights.Checkpoint(self.name, self.hub_id, self.path, self.revision)


class TransformersVLM(Insight):
    """A vision-language model that transformers can build, from a local folder, the hub, or random weights.

    config: of the class `Config`; from Python its fields may be given as keywords instead. Raises ConfigError for a
    wrong value, ModelError for weights that cannot be had, read or held in memory.
    """

    Config: ClassVar[type[TransformersConfig]] = TransformersConfig
    model_type: ClassVar[str]
    conversations: ClassVar[tuple[str, ...]]
    # What makes a view smaller, for the message of a question that exceeds the context.
    smaller_views: ClassVar[str] = ""
    context_length: int
    # The fewest visual tokens that a view can have; exact where every view has the same number.
    least_view_tokens: int
    equal_views: bool = False
    layers: int
    hidden_size: int
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"confidence", "attention", "gradients", "values", "prune", "drop"}
    )

    def __init__(
        self,
        config: TransformersConfig | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        **keys: Any,
    ) -> None:
        config = self.Config(**keys) if config is None else config
        require_member("model.conversation", config.conversation, self.conversations)
        require_member("run.dtype", dtype, tuple(BYTES_PER_PARAMETER))
        require_device(device)
        require_attention(config.attn, dtype, device)
        self.settings = config
        self.name, self.device, self.dtype, self.attention = config.name, device, dtype, config.attn
        self.device_map = config.device_map
        self.features, self.keeps_features = FeatureStore(config.feature_cache_mib), False
        self.conversation = self._conversation()
        if config.load_format == "dummy":
            self._build_dummy(config.checkpoint if config.path else None)
        else:
            self._load(config.checkpoint)
        # Nothing here is trained; gradients are taken of attention and features alone.
        self.model.requires_grad_(False)
        self._read_tokens()
        if config.load_format == "dummy":
            self.stop_ids = [self.end_id]  # the config's ids are those of the real tokenizer
        self._read_layout()

    def _conversation(self) -> Conversation:
        """How a question is put, by `model.conversation`; before the model is loaded."""
        return CONVERSATIONS[self.settings.conversation]

    def _build_dummy(self, checkpoint: weights.Checkpoint | None) -> None:
        config = (
            weights.read_config(checkpoint.fetch(only_config=True), self.model_type)
            if checkpoint
            else dummy.read_architecture(self.name, self.model_type)
        )
        require_memory(self.name, config, self.dtype, self.device)
        self.tokenizer = dummy.build_tokenizer(config, self.conversation)
        self.image_processor = self._dummy_image_processor(config)
        self.model = dummy.build_model(config, self.dtype, self.attention, self.device)
        self.revision = f"dummy:seed{dummy.SEED}"

    def _load(self, checkpoint: weights.Checkpoint) -> None:
        # The small files first: whether the model fits is known before gigabytes of weights are downloaded.
        config = weights.read_config(checkpoint.fetch(only_config=True), self.model_type)
        require_memory(self.name, config, self.dtype, self.device, self.device_map)
        folder = checkpoint.fetch()
        self.tokenizer = weights.read_tokenizer(folder)
        self.image_processor = weights.read_image_processor(folder)
        self.model = weights.read_model(folder, self.dtype, self.attention, self.device, self.device_map)
        if self.device_map:
            places = {parameter.device for parameter in self.model.parameters()}
            self.is_sharded = len(places) > 1
            self.device = str(self.model.get_input_embeddings().weight.device)
        self.revision = checkpoint.resolved_revision(folder)

    def _read_tokens(self) -> None:
        """Read from config and tokenizer which ids a prompt is made of; ModelError where one is missing."""
        config = self.model.config
        self.context_length = int(config.text_config.max_position_embeddings)
        self.layers = int(config.text_config.num_hidden_layers)
        self.hidden_size = int(config.text_config.hidden_size)
        self.image_id = int(config.image_token_id)
        # A private copy with fixed settings: transformers changes a tokenizer's settings on every call, which is not
        # safe in threads. Special tokens in the text stay text.
        self.encoder = type(self.tokenizer.backend_tokenizer).from_str(self.tokenizer.backend_tokenizer.to_str())
        self.encoder.no_truncation()
        self.encoder.no_padding()
        self.encoder.encode_special_tokens = True
        plain = self._text_ids("a")
        self.start_ids = self.encoder.encode("a", add_special_tokens=True).ids
        self.start_ids = self.start_ids[: self.start_ids.index(plain[0])]
        self.special_ids = {token: self._special_id(token) for token in self.conversation.specials}
        end = self.conversation.end
        self.end_id = self.tokenizer.eos_token_id if end is None else self._special_id(end)
        if self.end_id is None:
            raise ModelError(f"{self.name}: the tokenizer has no end token; an option's loss could not be ended")
        self.stop_ids = self._stop_ids()

    def _special_id(self, token: str) -> int:
        number = self.encoder.token_to_id(token)
        if number is None:
            raise ModelError(
                f"{self.name}: the tokenizer has no token {token}, which its prompt needs; the tokenizer files belong "
                "to another model, or model.conversation does"
            )
        return int(number)

    def _stop_ids(self) -> list[int]:
        stop = self.model.generation_config.eos_token_id
        if stop is None:
            stop = self.model.config.text_config.eos_token_id
        if stop is None:
            stop = self.end_id
        return [stop] if isinstance(stop, int) else list(stop)

    @abstractmethod
    def _read_layout(self) -> None:
        """Read from config and image processor what views look like; ModelError where they clash.

        Sets `least_view_tokens`, and `equal_views` where that is every view's number.
        """

    @abstractmethod
    def _dummy_image_processor(self, config: Any) -> Any:
        """The family's image processor, as published, for the architecture `config` (PIL backend)."""

    @abstractmethod
    def _views(self, images: Sequence[Image.Image]) -> Views:
        """Preprocess the views of one question (at least one); safe in a worker thread."""

    def _view_ids(self, tokens: int) -> list[int]:
        """The ids that stand for a view with so many visual tokens."""
        return [self.image_id] * tokens

    def _prompt_positions(self, prepared: ModelInputs) -> torch.Tensor:
        """Position ids (axes, length) of a prompt; one axis unless the family rotates by rows and columns."""
        return torch.arange(len(prepared.input_ids))[None]

    def begin_block(self, keep: bool) -> None:
        """See `VLM.begin_block`."""
        self.keeps_features = keep
        self.features.begin_block(keep)

    def release_memory(self) -> None:
        """See `VLM.release_memory`."""
        self.features.clear()

    def tokens_at_once(self) -> int | None:
        """See `VLM.tokens_at_once`."""
        text = self.model.config.text_config
        if not hasattr(text, "num_attention_heads"):
            return None
        return tokens_at_once(
            text, self.dtype, weights.bytes_by_device(self.model), 0 if self.shares_prompts else OPTIONS
        )

    def check_views(self, views: int, new_tokens: int, kept: Callable[[int], int] | None = None) -> None:
        """See `VLM.check_views`."""
        text = len(self._prompt_ids("", (0,) * views)[0])
        room = self.context_length - new_tokens
        visual = self._read_tokens_of(views, kept)
        if visual + text <= room:
            return
        fitting = 0
        while self._read_tokens_of(fitting + 1, kept) + len(self._prompt_ids("", (0,) * (fitting + 1))[0]) <= room:
            fitting += 1
        least, most = ("", "") if self.equal_views else ("at least ", "at most ")
        counted = f"{views} views x {least}{self.least_view_tokens} visual tokens"
        counted += f", {visual} of them kept" if kept is not None else ""
        raise ConfigError(
            f"model={self.name}: {counted} + {text} text tokens "
            f"without the question + {new_tokens} answer tokens = {visual + text + new_tokens}, more than its context "
            f"of {self.context_length}; {most}{fitting} views fit: choose crops or a selector with fewer views"
        )

    def _read_tokens_of(self, views: int, kept: Callable[[int], int] | None) -> int:
        """The fewest visual tokens of so many views that the language model reads."""
        encoded = views * self.least_view_tokens
        return encoded if kept is None else kept(encoded)

    def prepare(self, request: Request) -> ModelInputs:
        """See `VLM.prepare`. Raises QuestionError too where the tokenizer merges an option's start into the prompt."""
        prompt = request.prompt
        if not prompt.continuations and prompt.max_new_tokens < 1:
            raise QuestionError(f"max_new_tokens={prompt.max_new_tokens}: an answer needs at least 1 token")
        views = self._views(request.images) if request.images else Views(torch.empty(0), ())
        input_ids, last_text = self._prompt_ids(prompt.text, views.tokens, self._known(prompt.specials))
        visual = sum(token == self.image_id for token in input_ids)
        if visual != sum(views.tokens):
            raise QuestionError(
                f"the text holds the model's image placeholder, which would pass for a view: {prompt.text!r}"
            )
        continuations = tuple(self._continuation_ids(last_text, option) for option in prompt.continuations)
        text = len(input_ids) - visual
        answer = max(map(len, continuations), default=prompt.max_new_tokens)
        if not request.prunes and visual + text + answer > self.context_length:
            raise QuestionError(self._overflow(views.tokens, text, answer))
        prepared = ModelInputs(
            pixel_values=views.pixel_values,
            input_ids=tuple(input_ids),
            continuation_ids=continuations,
            max_new_tokens=prompt.max_new_tokens,
            visual_tokens=visual,
            text_tokens=text,
            extras=views.extras,
            view_tokens=views.tokens,
            class_attention=request.class_attention,
            prompt=prompt,
            drops=request.drops,
        )
        return replace(prepared, positions=self._prompt_positions(prepared))

    def prune(
        self, batch: Sequence[ModelInputs], features: Sequence[Sequence[ViewTokens]], kept: Sequence[Kept | None]
    ) -> tuple[list[ModelInputs], list[Sequence[ViewTokens]]]:
        """See `VLM.prune`."""
        prompts: list[ModelInputs] = []
        tokens: list[Sequence[ViewTokens]] = []
        for prepared, views, choice in zip(batch, features, kept, strict=True):
            if choice is not None:
                prepared, views = pruned(prepared, views, choice, self.image_id)
            answer = max(map(len, prepared.continuation_ids), default=prepared.max_new_tokens)
            if len(prepared.input_ids) + answer > self.context_length:
                raise QuestionError(self._overflow(prepared.view_tokens, prepared.text_tokens or 0, answer))
            prompts.append(prepared)
            tokens.append(views)
        return prompts, tokens

    def token_boxes(self, sizes: Sequence[tuple[int, int]]) -> list[TokenBoxes]:
        """See `VLM.token_boxes`."""
        return [self._token_boxes(width, height, len(sizes)) for width, height in sizes]

    @abstractmethod
    def _token_boxes(self, width: int, height: int, views: int) -> TokenBoxes:
        """Where the tokens of a view of (width, height) pixels lie, beside `views` - 1 others."""

    def _known(self, specials: tuple[str, ...]) -> tuple[str, ...]:
        """Those strings that the tokenizer holds as single tokens."""
        return tuple(special for special in specials if self.encoder.token_to_id(special) is not None)

    def _prompt_ids(
        self, text: str, view_tokens: Sequence[int], specials: tuple[str, ...] = ()
    ) -> tuple[list[int], str]:
        """The prompt's ids, placeholders expanded, and its last stretch of text."""
        tokens = iter(view_tokens)
        ids, last = list(self.start_ids), ""
        for segment in self.conversation.segments(text, len(view_tokens), specials):
            if segment.kind == "image":
                ids += self._view_ids(next(tokens))
            elif segment.kind == "special":
                ids.append(self._special_id(segment.text))
            else:
                ids += self._text_ids(segment.text)
            last = segment.text if segment.kind == "text" else ""
        return ids, last

    def _text_ids(self, text: str) -> list[int]:
        return list(self.encoder.encode(text, add_special_tokens=False).ids)

    def _continuation_ids(self, last_text: str, option: str) -> tuple[int, ...]:
        last = self._text_ids(last_text)
        whole = self._text_ids(last_text + self.conversation.answer_lead + option)
        if whole[: len(last)] != last:
            raise QuestionError(
                f"{self.name}: the tokenizer joins the option {option!r} with the end of the prompt; "
                "its loss cannot be taken apart from the prompt's"
            )
        return (*whole[len(last) :], self.end_id)

    def _overflow(self, tokens: Sequence[int], text: int, answer: int) -> str:
        total = sum(tokens) + text + answer
        if len(set(tokens)) <= 1:
            visual = f"{len(tokens)} views x {tokens[0] if tokens else 0} visual tokens"
        else:
            visual = f"{len(tokens)} views with {' + '.join(map(str, tokens))} visual tokens"
        return (
            f"{visual} + {text} text tokens + {answer} answer tokens = {total}, more than the {self.context_length} "
            f"tokens of {self.name}'s context; use fewer crops{self.smaller_views} or a shorter answer"
        )

    def flops(self, prepared: ModelInputs, read: ModelInputs, new_tokens: int | None) -> dict[str, int | None] | None:
        """See `VLM.flops`; None for a language model whose config has not a LLaMA's names."""
        text, prompt = self.model.config.text_config, len(read.input_ids)
        try:
            if read.continuation_ids:
                shared = self.shares_prompts and read.drops is None
                decode = flops.decode_options(text, prompt, [len(ids) for ids in read.continuation_ids], shared)
            else:
                decode = flops.decode_tokens(text, prompt, new_tokens or 1)
            vision = self._vision_flops(prepared) if prepared.view_tokens else 0
            return {"vision": vision, "prefill": flops.prefill(text, prompt), "decode": decode}
        except AttributeError:
            return None

    def _vision_flops(self, prepared: ModelInputs) -> int | None:
        """Of tower and projector, for all views of a question; None where a family does not say."""
        return None

    @without_gradients
    def prefill(self, batch: Sequence[ModelInputs], features: Sequence[Sequence[ViewTokens]]) -> PrefillState:
        """One forward over the left-padded prompts; `features` as `encode` returned them for the same batch."""
        return self._prefill(batch, joined(features))

    def _prefill(self, batch: Sequence[ModelInputs], features: Sequence[torch.Tensor]) -> PrefillState:
        """`prefill` with the visual features of each question in one tensor, as `joined` gives them."""
        lengths = torch.tensor([len(prepared.input_ids) for prepared in batch])
        width = int(lengths.max())
        prompt_positions = [prepared.positions for prepared in batch]
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        positions = torch.zeros(len(prompt_positions[0]), len(batch), width, dtype=torch.long)
        for row, prepared in enumerate(batch):
            start = width - len(prepared.input_ids)
            ids[row, start:] = torch.tensor(prepared.input_ids)
            positions[:, row, start:] = prompt_positions[row]
        mask = (torch.arange(width) >= width - lengths[:, None]).long()
        next_positions = positions.amax(dim=(0, 2)) + 1
        is_visual = ((ids == self.image_id) & mask.bool()).to(self.device)
        ids, mask = ids.to(self.device), mask.to(self.device)
        # The placeholder's own id may lie outside the embedding table.
        embeddings = self.model.get_input_embeddings()(ids.masked_fill(is_visual, 0))
        present = [question for question in features if len(question)]
        deepstack = None
        if present:
            visual = torch.cat(present).to(embeddings.device, embeddings.dtype)
            hidden = embeddings.shape[-1]
            embeddings = embeddings.masked_scatter(is_visual[..., None], visual[:, :hidden])
            deepstack = visual[:, hidden:]
        positions = (positions[0] if len(positions) == 1 else positions).to(self.device)
        dropping = Dropping.of_prompts([prepared.drops for prepared in batch], is_visual)
        with reading(self.model, dropping):
            cache, logits = self._read_prompt(embeddings, mask, positions, is_visual, deepstack)
        return PrefillState(cache, mask, logits.float(), next_positions.to(self.device), dropping)

    def _read_prompt(
        self,
        embeddings: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        is_visual: torch.Tensor,
        deepstack: torch.Tensor | None,
    ) -> tuple[Any, torch.Tensor]:
        """The cache of left-padded prompts, and the logits (questions, vocabulary) of their last tokens.

        embeddings: (questions, padded length, hidden size), visual features in place. is_visual: bool (questions,
        padded length). deepstack: `ViewTokens.deepstack` of all visual tokens in that order, of no width where the
        family has none; None without views.
        """
        outputs = self.model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        return outputs.past_key_values, outputs.logits[:, -1]
