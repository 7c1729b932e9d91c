"""Any image-text-to-text model that transformers can load: its own processor, chat template, forward and generate.

For a model without an adapter here. What an adapter adds (crops encoded apart, options over one prefill, attention,
pruning) is not there: each question is asked alone, and each option is a forward of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from semclip_eval.checks import first_line, require_member
from semclip_eval.errors import ConfigError, ModelError, QuestionError
from semclip_eval.lazy import import_transformers, library, without_gradients
from semclip_eval.models.base import VLM, ModelInputs
from semclip_eval.models.transformers import weights
from semclip_eval.models.transformers.memory import BYTES_PER_PARAMETER, require_memory
from semclip_eval.types import Answer, Request

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
# Names under which transformers' configs and processors keep the id of the token that stands for an image's features.
IMAGE_TOKEN_IDS = ("image_token_id", "image_token_index", "image_soft_token_id")


@dataclass
class GenericState:
    """A generation under way: `decode` waits for its end."""

    threads: list[threading.Thread | None]
    results: list[dict[str, Any]]


class FirstToken:
    """A streamer (`transformers.generation.BaseStreamer`) that says when the first new token is there."""

    def __init__(self) -> None:
        self.puts, self.arrived = 0, threading.Event()

    def put(self, value: Any) -> None:
        """The prompt comes first, then each token."""
        self.puts += 1
        if self.puts > 1:
            self.arrived.set()

    def end(self) -> None:
        """Generation is over."""
        self.arrived.set()


@dataclass
class GenericConfig:
    """The section `model`.

    path: a folder in the published layout, never asks the hub. hub_id: at `revision`, otherwise. attn: the attention
    kernel. device_map: `auto` shards the layers over all GPUs. processor: further arguments of the processor, such as
    `{max_pixels: 1003520}` or `{do_image_splitting: false}`. template: further arguments of the chat template, such as
    `{enable_thinking: false}`. system: a system message; null sends none. Raises ConfigError for a wrong value.
    """

    name: str
    hub_id: str | None = None
    path: str | None = None
    revision: str | None = None
    attn: str = "sdpa"
    device_map: str | None = None
    processor: dict[str, Any] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)
    system: str | None = None

    def __post_init__(self) -> None:
        require_member("model.attn", self.attn, ATTENTIONS)
        if self.device_map is not None:
            require_member("model.device_map", self.device_map, ("auto",), "or null")
        self.path = None if self.path is None else str(self.path)


class GenericTransformers(VLM):
    """A model of `AutoModelForImageTextToText` with the processor and chat template of its folder.

    The prompt is the chat template over one user turn, images before the text. An option's loss is taken over what the
    template puts into the assistant's turn for it, up to and with the end token; greedy generation ignores sampling and
    penalties of the published generation config. In latency mode the images are encoded in the stage `prefill`.
    """

    Config: ClassVar[type[GenericConfig]] = GenericConfig
    stages: ClassVar[tuple[str, ...]] = ("prefill", "decode")
    capabilities: ClassVar[frozenset[str]] = frozenset({"confidence"})

    def __init__(
        self, config: GenericConfig | None = None, device: str = "cpu", dtype: str = "float32", **keys: Any
    ) -> None:
        config = GenericConfig(**keys) if config is None else config
        require_member("run.dtype", dtype, tuple(BYTES_PER_PARAMETER))
        self.settings = config
        self.name, self.device, self.dtype, self.attention = config.name, device, dtype, config.attn
        self.device_map = config.device_map
        checkpoint = weights.Checkpoint(config.name, config.hub_id, config.path, config.revision)
        folder = checkpoint.fetch(only_config=True)
        require_memory(config.name, _config(folder), dtype, device, config.device_map)
        folder = checkpoint.fetch()
        self.processor = _processor(folder)
        self.tokenizer = self.processor.tokenizer
        self.model = weights.read_model(folder, dtype, config.attn, device, config.device_map)
        self.model.requires_grad_(False)
        self.revision = checkpoint.resolved_revision(folder)
        text_config = self.model.config.get_text_config()
        self.context_length = int(getattr(text_config, "max_position_embeddings", None) or 0) or None
        self.layers = int(text_config.num_hidden_layers)
        self.image_id = self._image_id()
        named = (getattr(self.processor, name, None) for name in ("image_token", "boi_token"))
        known = {token for token in named if isinstance(token, str) and token}
        self.placeholders = sorted(known | {str(self.tokenizer.convert_ids_to_tokens(self.image_id))})
        self.stop_ids = self._stop_ids()
        self._lock = threading.Lock()
        self._fixed_length = False

    def _image_id(self) -> int:
        # The config first: a processor may give that name to the text that stands for a whole image (Gemma 3).
        for place in (self.model.config, self.processor, self.tokenizer):
            for name in IMAGE_TOKEN_IDS:
                if isinstance(number := getattr(place, name, None), int):
                    return number
        token = getattr(self.processor, "image_token", None)
        if isinstance(token, str):
            return int(self.tokenizer.convert_tokens_to_ids(token))
        raise ModelError(f"{self.name}: neither config nor processor names an image token; its views cannot be counted")

    def _stop_ids(self) -> list[int]:
        stop = self.model.generation_config.eos_token_id
        stop = self.tokenizer.eos_token_id if stop is None else stop
        if stop is None:
            raise ModelError(f"{self.name}: has no end token; an option's loss could not be ended")
        return [stop] if isinstance(stop, int) else list(stop)

    def prepare(self, request: Request) -> ModelInputs:
        """See `VLM.prepare`. Raises QuestionError too where the text holds the model's image placeholder."""
        prompt = request.prompt
        if not prompt.continuations and prompt.max_new_tokens < 1:
            raise QuestionError(f"max_new_tokens={prompt.max_new_tokens}: an answer needs at least 1 token")
        for placeholder in self.placeholders:
            if placeholder in prompt.text:
                raise QuestionError(f"the text holds the model's image placeholder {placeholder}: {prompt.text!r}")
        text = self._rendered(request)
        with self._lock:  # transformers changes a tokenizer's settings on every call
            inputs = self.processor(
                text=[text],
                images=[list(request.images)] if request.images else None,
                return_tensors="pt",
                # The template has written them.
                add_special_tokens=False,
                **self.settings.processor,
            )
            continuations = tuple(self._continuation_ids(request, text, option) for option in prompt.continuations)
        ids = tuple(inputs.pop("input_ids")[0].tolist())
        visual = ids.count(self.image_id)
        answer = max(map(len, continuations), default=prompt.max_new_tokens)
        if self.context_length is not None and len(ids) + answer > self.context_length:
            raise QuestionError(
                f"{len(request.images)} views with {visual} visual tokens + {len(ids) - visual} text tokens + {answer} "
                f"answer tokens = {len(ids) + answer}, more than the {self.context_length} tokens of {self.name}'s "
                "context; use fewer or smaller crops, or a shorter answer"
            )
        return ModelInputs(
            pixel_values=None,
            input_ids=ids,
            continuation_ids=continuations,
            max_new_tokens=prompt.max_new_tokens,
            visual_tokens=visual,
            text_tokens=len(ids) - visual,
            extras=dict(inputs),
        )

    def _turns(self, request: Request) -> list[dict[str, Any]]:
        content = [*({"type": "image"} for _ in request.images), {"type": "text", "text": request.prompt.text}]
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.settings.system is not None:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": self.settings.system}]})
        return turns

    def _rendered(self, request: Request) -> str:
        return self._template(self._turns(request), add_generation_prompt=True)

    def _template(self, turns: list[dict[str, Any]], **choices: Any) -> str:
        try:
            return str(
                self.processor.apply_chat_template(turns, tokenize=False, **{**self.settings.template, **choices})
            )
        except Exception as error:  # jinja's and the template's own types
            raise ConfigError(
                f"model={self.name}: its chat template cannot render the prompt ({type(error).__name__}: "
                f"{first_line(error)}); the folder needs chat_template.jinja, or model.template other values"
            ) from error

    def _continuation_ids(self, request: Request, text: str, option: str) -> tuple[int, ...]:
        """What the assistant's turn holds for an option, up to and with the first end token."""
        answered = [*self._turns(request), {"role": "assistant", "content": [{"type": "text", "text": option}]}]
        whole = self._template(answered, add_generation_prompt=False)
        if not whole.startswith(text):  # a template that opens the assistant's turn otherwise than it writes it
            whole = text + option
        before = self._text_ids(text)
        ids = self._text_ids(whole)
        if ids[: len(before)] != before:
            raise QuestionError(
                f"{self.name}: the tokenizer joins the option {option!r} with the end of the prompt; "
                "its loss cannot be taken apart from the prompt's"
            )
        ids = ids[len(before) :]
        end = next((place for place, token in enumerate(ids) if token in self.stop_ids), None)
        return (*ids[:end], self.stop_ids[0] if end is None else ids[end])

    def _text_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def begin_block(self, keep: bool) -> None:
        """See `VLM.begin_block`; `keep=False` is latency mode, whose answers have a fixed length."""
        self._fixed_length = not keep

    def encode(self, batch: Sequence[ModelInputs]) -> None:
        """Nothing: the model encodes its images when it reads the prompt."""
        return

    def prefill(self, batch: Sequence[ModelInputs], features: Any) -> GenericState:
        """The options' losses, or a generation up to its first token."""
        return self._start(batch, self._fixed_length)

    def _start(self, batch: Sequence[ModelInputs], ignore_end_token: bool) -> GenericState:
        state = GenericState([], [])
        for prepared in batch:
            result: dict[str, Any] = {}
            state.results.append(result)
            if prepared.continuation_ids:
                result["losses"] = self._losses(prepared)
                state.threads.append(None)
                continue
            streamer = FirstToken()
            work = threading.Thread(target=self._generate, args=(prepared, streamer, ignore_end_token, result))
            work.start()
            streamer.arrived.wait()
            state.threads.append(work)
            if len(batch) > 1:
                work.join()
        return state

    def decode(self, batch: Sequence[ModelInputs], state: GenericState, ignore_end_token: bool = False) -> list[Answer]:
        """See `VLM.decode`."""
        answers = []
        for row, (prepared, work, result) in enumerate(zip(batch, state.threads, state.results, strict=True)):
            if work is not None:
                work.join()
            if ignore_end_token and not prepared.continuation_ids and "error" not in result:
                short = len(result["tokens"]) < prepared.max_new_tokens
                if short:  # the model ended by itself where a fixed length was wanted
                    again = self._start([batch[row]], ignore_end_token=True)
                    again.threads[0].join()  # type: ignore[union-attr]
                    result = again.results[0]
            if "error" in result:
                raise result["error"]
            if prepared.continuation_ids:
                answers.append(Answer(option_losses=result["losses"]))
            else:
                tokens = result["tokens"]
                text = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                answers.append(Answer(text=text.strip(), new_tokens=len(tokens)))
        return answers

    def _inputs(self, prepared: ModelInputs, copies: int = 1, tail: torch.Tensor | None = None) -> dict[str, Any]:
        """The processor's tensors on the device, `copies` times, with `tail` (copies, length) behind the prompt."""
        ids = torch.tensor([prepared.input_ids])
        length = ids.shape[1]
        inputs: dict[str, Any] = {}
        for name, value in {"input_ids": ids, **prepared.extras}.items():
            if not isinstance(value, torch.Tensor):
                inputs[name] = value
                continue
            per_token = value.dim() >= 2 and value.shape[0] == 1 and value.shape[1] == length
            value = value.repeat(copies, *[1] * (value.dim() - 1)) if copies > 1 else value
            if per_token and tail is not None:
                filling = torch.zeros(copies, tail.shape[1], *value.shape[2:], dtype=value.dtype)
                value = torch.cat([value, tail if name == "input_ids" else filling], dim=1)
            if value.is_floating_point():
                value = value.to(self.model.dtype)
            inputs[name] = value.to(self.model.device)
        return inputs

    @without_gradients
    def _losses(self, prepared: ModelInputs) -> tuple[float, ...]:
        """Mean cross-entropy of each option's tokens: the prompt with each option behind it, right-padded."""
        counts = [len(ids) for ids in prepared.continuation_ids]
        tail = torch.zeros(len(counts), max(counts), dtype=torch.long)
        for line, ids in enumerate(prepared.continuation_ids):
            tail[line, : len(ids)] = torch.tensor(ids)
        inputs = self._inputs(prepared, len(counts), tail)
        length = len(prepared.input_ids)
        mask = torch.ones(len(counts), length + max(counts), dtype=torch.long)
        for line, count in enumerate(counts):
            mask[line, length + count :] = 0
        inputs["attention_mask"] = mask.to(self.model.device)
        logits = self.model(**inputs, use_cache=False).logits[:, length - 1 : -1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), tail.to(logits.device), reduction="none"
        )  # (options, longest)
        return tuple(float(losses[line, :count].mean()) for line, count in enumerate(counts))

    @without_gradients
    def _generate(
        self, prepared: ModelInputs, streamer: FirstToken, ignore_end_token: bool, result: dict[str, Any]
    ) -> None:
        """Greedy tokens into `result`, or the error; in a thread of its own."""
        from transformers import GenerationConfig

        try:
            count = prepared.max_new_tokens
            plain = GenerationConfig(
                do_sample=False,
                num_beams=1,
                max_new_tokens=count,
                min_new_tokens=count if ignore_end_token else None,
                eos_token_id=self.stop_ids,
                pad_token_id=self.stop_ids[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id,
                repetition_penalty=1.0,
            )
            made = self.model.generate(**self._inputs(prepared), generation_config=plain, streamer=streamer)
            result["tokens"] = made[0, len(prepared.input_ids) :].tolist()
        except BaseException as error:
            result["error"] = error
        finally:
            streamer.end()

    def confidence(self, batch: Sequence[ModelInputs]) -> list[float]:
        """See `VLM.confidence`."""
        values = []
        for prepared in batch:
            pair = self.first_ids_of_two(prepared)
            values.append(float(torch.softmax(self._last_logits(prepared)[pair], dim=-1)[0]))
        return values

    def answer_entropy(self, batch: Sequence[ModelInputs]) -> list[float]:
        """See `VLM.answer_entropy`."""
        return [float(torch.distributions.Categorical(logits=self._last_logits(each)).entropy()) for each in batch]

    @without_gradients
    def _last_logits(self, prepared: ModelInputs) -> torch.Tensor:
        logits: torch.Tensor = self.model(**self._inputs(prepared), use_cache=False).logits[0, -1].float()
        return logits


def _config(folder: Path) -> Any:
    auto_config = import_transformers().AutoConfig
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{file}: missing; the folder must hold a transformers checkpoint")
    try:
        return auto_config.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise weights.unreadable(file, error) from error


def _processor(folder: Path) -> Any:
    """The folder's processor, with its chat template."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise weights.unreadable(folder, error) from error
    if getattr(processor, "tokenizer", None) is None:
        raise ModelError(f"{folder}: has no processor for images and text; copy processor_config.json there")
    if not getattr(processor, "chat_template", None):
        raise ModelError(f"{folder}: has no chat template; copy the checkpoint's chat_template.jinja there")
    return processor
