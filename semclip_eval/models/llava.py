"""The LLaVA-1.5 family: CLIP tower, projector, language model; views and question in one prompt.

Everything that differs between members (image size, feature layers, language model, context) is read from the
checkpoint's config. Tokens are laid out as the official `tokenizer_image_token` does: each piece of text around a
placeholder is tokenised on its own, which also keeps a question's literal '<image>' plain text.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from semclip_eval.errors import ConfigError, ModelError, QuestionError
from semclip_eval.models import dummy, weights
from semclip_eval.models.base import VLM, Prepared
from semclip_eval.models.memory import BYTES_PER_PARAMETER, require_memory
from semclip_eval.models.prompts import CONVERSATIONS
from semclip_eval.models.views import preprocess
from semclip_eval.types import Answer, Request

LOAD_FORMATS = ("auto", "dummy")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")


@dataclass
class State:
    """What prefill hands to decode, for one call of it: the cache grows in place and is let go of then.

    `mask` (questions, padded length) is 1 on tokens and 0 on the left padding; `logits` (questions, vocabulary) are
    float32 of each prompt's last token; `lengths` (questions) count tokens without padding.
    """

    cache: Any
    mask: torch.Tensor
    logits: torch.Tensor
    lengths: torch.Tensor


class Llava15(VLM):
    """LLaVA-1.5 (or any LlavaForConditionalGeneration) from a local folder, the hub, or random weights.

    `path`: a folder in the published layout, never asks the hub; `mini://vlm` is the package's own miniature.
    `hub_id` at `revision` otherwise. `load_format='dummy'`: random weights in the shape of `path`'s config.json or,
    with no path, of the architecture shipped under `name`. Raises ConfigError for a wrong value, ModelError for weights
    that cannot be had, read or held in memory.
    """

    def __init__(
        self,
        name: str,
        hub_id: str | None,
        path: str | None = None,
        revision: str | None = None,
        load_format: str = "auto",
        attn: str = "sdpa",
        conversation: str = "vicuna_v1",
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        _require_member("model.load_format", load_format, LOAD_FORMATS)
        _require_member("model.attn", attn, ATTENTIONS)
        _require_member("model.conversation", conversation, tuple(CONVERSATIONS))
        _require_member("run.dtype", dtype, tuple(BYTES_PER_PARAMETER))
        _require_device(device)
        if attn == "flash_attention_2" and dtype == "float32":
            raise ConfigError("model.attn=flash_attention_2: needs run.dtype=bfloat16 or float16, not float32")
        path = None if path is None else str(path)  # Hydra reads a folder named 2024 as a number
        self.name, self.device, self.dtype, self.attention = name, device, dtype, attn
        self.conversation = CONVERSATIONS[conversation]
        if load_format == "dummy":
            self._build_dummy(weights.Checkpoint(name, hub_id, path, revision) if path else None)
        else:
            self._load(weights.Checkpoint(name, hub_id, path, revision))
        self._read_layout()

    def _build_dummy(self, checkpoint: weights.Checkpoint | None) -> None:
        config = (
            weights.read_config(checkpoint.fetch(only_config=True))
            if checkpoint
            else dummy.read_architecture(self.name)
        )
        require_memory(self.name, config, self.dtype, self.device)
        self.tokenizer = dummy.build_tokenizer(config, self.conversation.prompt("", views=0))
        self.image_processor = dummy.build_image_processor(config)
        self.model = dummy.build_model(config, self.dtype, self.attention, self.device)
        self.revision = f"dummy:seed{dummy.SEED}"

    def _load(self, checkpoint: weights.Checkpoint) -> None:
        # The small files first: whether the model fits is known before gigabytes of weights are downloaded.
        config = weights.read_config(checkpoint.fetch(only_config=True))
        require_memory(self.name, config, self.dtype, self.device)
        folder = checkpoint.fetch()
        self.tokenizer = weights.read_tokenizer(folder)
        self.image_processor = weights.read_image_processor(folder)
        self.model = weights.read_model(folder, self.dtype, self.attention, self.device)
        self.revision = checkpoint.resolved_revision(folder)

    def _read_layout(self) -> None:
        """Read from config, tokenizer and processor what prompts and features look like; ModelError on a clash."""
        config, vision = self.model.config, self.model.config.vision_config
        self.context_length = int(config.text_config.max_position_embeddings)
        self.image_id = int(config.image_token_index)
        layers = config.vision_feature_layer
        self.feature_layers = [layers] if isinstance(layers, int) else list(layers)
        self.drops_first = config.vision_feature_select_strategy == "default"
        # CLIP puts a class token before the patches, SigLIP does not; `encode` checks the tower's real output.
        first = 0 if vision.model_type.startswith("siglip") else 1
        self.tokens_per_view = (vision.image_size // vision.patch_size) ** 2 + first - int(self.drops_first)
        # A private copy with fixed settings: transformers changes a tokenizer's settings on every call, which is not
        # safe in threads. Special tokens in the text stay text.
        self.encoder = type(self.tokenizer.backend_tokenizer).from_str(self.tokenizer.backend_tokenizer.to_str())
        self.encoder.no_truncation()
        self.encoder.no_padding()
        self.encoder.encode_special_tokens = True
        plain = self._text_ids("a")
        self.start_ids = self.encoder.encode("a", add_special_tokens=True).ids
        self.start_ids = self.start_ids[: self.start_ids.index(plain[0])]
        self.end_id = self.tokenizer.eos_token_id
        if self.end_id is None:
            raise ModelError(f"{self.name}: the tokenizer has no end token; an option's loss could not be ended")
        self.stop_ids = self._stop_ids()
        blank = preprocess([_blank_image()], self.image_processor)
        if blank.shape[-2:] != (vision.image_size, vision.image_size):
            raise ModelError(
                f"{self.name}: the image processor makes {blank.shape[-1]}x{blank.shape[-2]} pixels, "
                f"the vision tower takes {vision.image_size}x{vision.image_size}; the files do not fit together"
            )

    def _stop_ids(self) -> list[int]:
        stop = self.model.generation_config.eos_token_id
        if stop is None:
            stop = self.model.config.text_config.eos_token_id
        if stop is None:
            stop = self.end_id
        return [stop] if isinstance(stop, int) else list(stop)

    def prepare(self, request: Request) -> Prepared:
        """See `VLM.prepare`. Raises ModelError where the tokenizer merges an option's start into the prompt."""
        prompt, views = request.prompt, len(request.images)
        chunks = self.conversation.text_chunks(prompt.text, views)
        pieces = [self._text_ids(chunk) for chunk in chunks]
        input_ids = [*self.start_ids, *pieces[0]]
        for piece in pieces[1:]:
            input_ids += [self.image_id] * self.tokens_per_view + piece
        if sum(token == self.image_id for token in input_ids) != views * self.tokens_per_view:
            raise QuestionError(
                f"the text holds the model's image placeholder, which would pass for a view: {prompt.text!r}"
            )
        continuations = tuple(self._continuation_ids(chunks[-1], pieces[-1], option) for option in prompt.continuations)
        if not continuations and prompt.max_new_tokens < 1:
            raise QuestionError(f"max_new_tokens={prompt.max_new_tokens}: an answer needs at least 1 token")
        visual = views * self.tokens_per_view
        text = len(input_ids) - visual
        answer = max(map(len, continuations), default=prompt.max_new_tokens)
        if visual + text + answer > self.context_length:
            raise QuestionError(
                f"{views} views x {self.tokens_per_view} visual tokens + {text} text tokens + {answer} answer tokens "
                f"= {visual + text + answer}, more than the {self.context_length} tokens of {self.name}'s context; "
                "use fewer crops or a shorter answer"
            )
        return Prepared(
            pixel_values=preprocess(request.images, self.image_processor),
            input_ids=tuple(input_ids),
            continuation_ids=continuations,
            max_new_tokens=prompt.max_new_tokens,
            visual_tokens=visual,
            text_tokens=text,
        )

    def _text_ids(self, text: str) -> list[int]:
        return list(self.encoder.encode(text, add_special_tokens=False).ids)

    def _continuation_ids(self, last_chunk: str, last_ids: list[int], option: str) -> tuple[int, ...]:
        whole = self._text_ids(last_chunk + self.conversation.answer_lead + option)
        if whole[: len(last_ids)] != last_ids:
            raise ModelError(
                f"{self.name}: the tokenizer joins the option {option!r} with the end of the prompt; "
                "its loss cannot be taken apart from the prompt's"
            )
        return (*whole[len(last_ids) :], self.end_id)

    @torch.inference_mode()
    def encode(self, batch: Sequence[Prepared]) -> list[torch.Tensor]:
        """One tensor (views, tokens per view, hidden size of the language model) for each question.

        Raises ModelError where the tower returns another number of features than the config announces.
        """
        views = [len(prepared.pixel_values) for prepared in batch]
        hidden_size = self.model.config.text_config.hidden_size
        if sum(views) == 0:
            empty = torch.empty(0, self.tokens_per_view, hidden_size, dtype=self.model.dtype, device=self.device)
            return [empty for _ in batch]
        pixels = torch.cat([prepared.pixel_values for prepared in batch if len(prepared.pixel_values)])
        # Tower and projector one by one: what get_image_features returns changed between transformers 4 and 5.
        core = self.model.model
        outputs = core.vision_tower(pixels.to(self.device, self.model.dtype), output_hidden_states=True)
        chosen = [outputs.hidden_states[layer] for layer in self.feature_layers]
        if self.drops_first:
            chosen = [features[:, 1:] for features in chosen]
        features = core.multi_modal_projector(torch.cat(chosen, dim=-1))
        if features.shape[1] != self.tokens_per_view:
            raise ModelError(
                f"{self.name}: the vision tower returned {features.shape[1]} features per view, "
                f"config.json announces {self.tokens_per_view}"
            )
        return list(features.split(views))

    @torch.inference_mode()
    def prefill(self, batch: Sequence[Prepared], features: Sequence[torch.Tensor]) -> State:
        """One forward over the left-padded prompts; `features` as `encode` returned them for the same batch."""
        lengths = torch.tensor([len(prepared.input_ids) for prepared in batch])
        width = int(lengths.max())
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for row, prepared in enumerate(batch):
            ids[row, width - len(prepared.input_ids) :] = torch.tensor(prepared.input_ids)
        mask = (torch.arange(width) >= width - lengths[:, None]).long()
        is_visual = ((ids == self.image_id) & mask.bool()).to(self.device)
        ids, mask, lengths = ids.to(self.device), mask.to(self.device), lengths.to(self.device)
        # The placeholder's own id may lie outside the embedding table.
        embeddings = self.model.get_input_embeddings()(ids.masked_fill(is_visual, 0))
        visual = torch.cat([question.flatten(0, 1) for question in features])
        embeddings = embeddings.masked_scatter(is_visual[..., None], visual.to(embeddings.dtype))
        outputs = self.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        return State(outputs.past_key_values, mask, outputs.logits[:, -1].float(), lengths)

    @torch.inference_mode()
    def decode(self, batch: Sequence[Prepared], state: State, ignore_end_token: bool = False) -> list[Answer]:
        """See `VLM.decode`. Raises ValueError for a state that was decoded before."""
        if state.cache is None:
            raise ValueError("this state was decoded before; call prefill again")
        cache, state.cache = state.cache, None
        scored = [row for row, prepared in enumerate(batch) if prepared.continuation_ids]
        generated = [row for row, prepared in enumerate(batch) if not prepared.continuation_ids]
        answers: dict[int, Answer] = {}
        if scored:
            # Scoring grows the cache: where generation follows, it works on a copy.
            own = copy.deepcopy(cache) if generated else cache
            answers |= self._score_options(batch, scored, state, own)
        if generated:
            if scored:
                cache.batch_select_indices(torch.tensor(generated, device=self.device))
            answers |= self._generate(batch, generated, state, cache, ignore_end_token)
        return [answers[row] for row in range(len(batch))]

    def _score_options(self, batch: Sequence[Prepared], rows: list[int], state: State, cache: Any) -> dict[int, Answer]:
        """Mean cross-entropy of each option's tokens, all options of `rows` in one right-padded forward."""
        options = [ids for row in rows for ids in batch[row].continuation_ids]
        owner = torch.tensor([row for row in rows for _ in batch[row].continuation_ids], device=self.device)
        counts = torch.tensor([len(ids) for ids in options])
        width = int(counts.max())
        targets = torch.zeros(len(options), width, dtype=torch.long)
        for line, ids in enumerate(options):
            targets[line, : len(ids)] = torch.tensor(ids)
        is_token = (torch.arange(width) < counts[:, None]).to(self.device)
        targets, counts = targets.to(self.device), counts.to(self.device)
        # The prompt's last logits predict the first token; each token that is fed predicts the next.
        logits = state.logits[owner][:, None]
        if width > 1:
            cache.batch_select_indices(owner)
            outputs = self.model(
                input_ids=targets[:, :-1],
                attention_mask=torch.cat([state.mask[owner], is_token[:, :-1].long()], dim=1),
                position_ids=state.lengths[owner][:, None] + torch.arange(width - 1, device=self.device),
                past_key_values=cache,
                use_cache=True,
            )
            logits = torch.cat([logits, outputs.logits.float()], dim=1)
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        means = iter(((losses * is_token).sum(1) / counts).tolist())
        return {row: Answer(option_losses=tuple(next(means) for _ in batch[row].continuation_ids)) for row in rows}

    def _generate(
        self, batch: Sequence[Prepared], rows: list[int], state: State, cache: Any, ignore_end_token: bool
    ) -> dict[int, Answer]:
        """Greedy tokens of `rows`, whose cache this is; equals transformers' generate(do_sample=False)."""
        limits = torch.tensor([batch[row].max_new_tokens for row in rows], device=self.device)
        steps = int(limits.max())
        stop = torch.tensor(self.stop_ids, device=self.device)
        mask, lengths, logits = state.mask[rows], state.lengths[rows], state.logits[rows]
        finished = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        tokens: list[torch.Tensor] = []
        while True:
            tokens.append(logits.argmax(-1))
            finished |= limits <= len(tokens)
            if not ignore_end_token:
                finished |= torch.isin(tokens[-1], stop)
            # Asking the device whether all are finished waits for it; a fixed number of tokens needs no asking.
            if len(tokens) == steps or (not ignore_end_token and bool(finished.all())):
                break
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            outputs = self.model(
                input_ids=tokens[-1][:, None],
                attention_mask=mask,
                position_ids=(lengths + len(tokens) - 1)[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            logits = outputs.logits[:, -1].float()
        made = torch.stack(tokens, dim=1).tolist()
        return {row: self._text_answer(made[line], batch[row], ignore_end_token) for line, row in enumerate(rows)}

    def _text_answer(self, tokens: list[int], prepared: Prepared, ignore_end_token: bool) -> Answer:
        tokens = tokens[: prepared.max_new_tokens]
        if not ignore_end_token:
            end = next((place for place, token in enumerate(tokens) if token in self.stop_ids), len(tokens) - 1)
            tokens = tokens[: end + 1]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(text=text.strip(), new_tokens=len(tokens))


def _require_member(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(allowed)}")


def _require_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"run.device={device}: must be cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"run.device={device}: no CUDA device is available here; use run.device=cpu")


def _blank_image() -> Any:
    from PIL import Image

    return Image.new("RGB", (2, 2))
