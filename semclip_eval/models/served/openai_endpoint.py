"""Any model behind an OpenAI-compatible endpoint: vLLM, SGLang, `transformers serve`, hosted (docs/served_models.md).

Views go in as data URLs in order, then the text; the server's own chat template and preprocessing do the rest. There is
no vision stage here. In accuracy mode everything happens in `decode`; in latency mode `prefill` lasts until the first
token of the stream has arrived (or an option has been scored), so that TTFT, TPOT and E2E are those of a client.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from PIL import Image

from semclip_eval.checks import require_member, whole_number
from semclip_eval.errors import ConfigError, QuestionError, SemclipEvalError
from semclip_eval.models.base import VLM, ModelInputs
from semclip_eval.models.served.endpoint_client import Endpoint, raise_first, settled
from semclip_eval.models.served.endpoint_likelihood import (
    CLOSED,
    OPEN,
    PROMPT,
    REMEDY,
    Rendering,
    mean_loss,
    read_tokens,
    rendering,
    rendering_with_end,
)
from semclip_eval.models.served.endpoint_reply import Reply, StreamedReply
from semclip_eval.types import Answer, Request

Message = dict[str, Any]

IMAGE_FORMATS = ("png", "jpeg")
DETAILS = ("auto", "low", "high")
LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
MODES = ("accuracy", "latency")
# Ours to set; everything else may go into model.extra_body.
OUR_FIELDS = ("model", "messages", "stream", "stream_options", "n", *LENGTH_FIELDS)

# The small question that is asked before any other, and the answer that is scored for a try.
TRIAL_SIDE = 64
TRIAL_TEXT = "What is the colour of this image? Answer with one word."
TRIAL_ANSWER = "Grey, it seems."
TRIAL_TOKENS = 16


@dataclass
class Outcome:
    """What became of a question. A batch of which one fails is repeated; nobody pays for an answer twice."""

    answer: Answer | None = None
    error: BaseException | None = None
    stream: StreamedReply | None = None


@dataclass(frozen=True)
class ServedQuestion(ModelInputs):
    """A question as it is sent: the chat's messages, and the options to score. Tokens are the server's business."""

    messages: tuple[Message, ...] = ()
    continuations: tuple[str, ...] = ()
    outcome: Outcome = field(default_factory=Outcome, compare=False)

    def counted(self, answer: Answer, reply: Reply) -> Answer:
        """With the tokens that the server counted in the prompt; None where it does not tell images from text."""
        visual = reply.image_tokens if self.has_images else 0
        text = None if visual is None or reply.prompt_tokens is None else reply.prompt_tokens - visual
        return replace(answer, visual_tokens=visual, text_tokens=text)

    @property
    def has_images(self) -> bool:
        """Is there a view in the messages?"""
        return any(part["type"] == "image_url" for part in self.messages[-1]["content"])


class OpenAIEndpoint(VLM):
    """A served model. docs/served_models.md says what every key means, what is sent, and what is measured.

    The key of the server is read from the environment variable `api_key_env` and nowhere else. Raises ConfigError for a
    wrong value, ModelError where the server cannot be reached, refuses the key, does not have the model or does not
    answer a small question with one image.
    """

    stages = ("prefill", "decode")
    is_served = True

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str | None = None,
        revision: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        max_in_flight: int = 8,
        timeout_s: float = 300.0,
        max_retries: int = 5,
        max_reply_mib: float = 64.0,
        image_format: str = "png",
        jpeg_quality: int = 95,
        detail: str | None = None,
        system_prompt: str | None = None,
        temperature: float | None = 0.0,
        seed: int | None = 0,
        max_tokens_field: str = "max_tokens",
        extra_body: Mapping[str, Any] | None = None,
        answer_end: str | None = None,
        mode: str = "accuracy",
    ) -> None:
        require_member("model.image_format", image_format, IMAGE_FORMATS)
        require_member("model.max_tokens_field", max_tokens_field, LENGTH_FIELDS)
        require_member("model.mode", mode, MODES)
        if detail is not None:
            require_member("model.detail", detail, DETAILS)
        whole_number("model.max_in_flight", max_in_flight, 1)
        # More than there are slots for: a block waits for its slowest answer.
        self.requests_at_once = 4 * max_in_flight
        whole_number("model.max_retries", max_retries, 0)
        whole_number("model.jpeg_quality", jpeg_quality, 1, 100)
        _number("timeout_s", timeout_s, above=0)
        _number("max_reply_mib", max_reply_mib, above=0)
        if temperature is not None:
            _number("temperature", temperature, above=-1e-9)
        if seed is not None:
            whole_number("model.seed", seed, 0)
        self.name = name
        self.image_format, self.jpeg_quality, self.detail = image_format, jpeg_quality, detail
        self.system_prompt, self.answer_end, self.mode = system_prompt, answer_end, mode
        self.max_tokens_field = max_tokens_field
        self.sampling = {"temperature": temperature, "seed": seed}
        self.sampling = {key: value for key, value in self.sampling.items() if value is not None}
        self.extra_body = _checked_extra(extra_body)
        model = None if model is None else str(model)  # a model named 7 is a number to Hydra
        self.endpoint = Endpoint(
            str(base_url), model, api_key_env, max_in_flight, timeout_s, max_retries, max_reply_mib
        )
        self._refuse_key_in_config([name, model, revision, system_prompt, answer_end, self.extra_body])
        self.endpoint.check(self._trial_messages(), self._parameters(TRIAL_TOKENS))
        # The kernel, the number format and the device are the server's secret.
        self.device, self.dtype, self.attention = "server", "", ""
        self.revision = revision if revision is not None else f"{model}@{self.endpoint.base_url}"
        card = self.endpoint.offered.get(str(model), {})
        context = card.get("max_model_len")
        self.context_length = context if isinstance(context, int) else None
        self.served = {key: card.get(key) for key in ("id", "root", "created", "owned_by", "max_model_len")}
        self._rendering: Rendering | None = None

    @property
    def usage(self) -> dict[str, int]:
        """Requests and tokens since the last `reset`, as the server counted them."""
        return asdict(self.endpoint.usage)

    @property
    def session_notes(self) -> dict[str, Any]:
        """Usage as the server counted it, the model as it describes it, which others answered, an option's end."""
        return {
            "usage": self.usage,
            "served_model": self.served,
            "answered_as": sorted(self.endpoint.answered_as),
            "option_end_token": self.end_token,
        }

    @property
    def end_token(self) -> str | None:
        """What ends a scored option; None where nothing does, or nothing has been scored."""
        return self._rendering.end_token if self._rendering else None

    def reset(self) -> None:
        """Start counting usage anew: a run begins."""
        self.endpoint.reset()

    def prepare(self, request: Request) -> ServedQuestion:
        """Encode the views as data URLs. Whether all of it fits into the context is known to the server alone."""
        prompt = request.prompt
        if not prompt.continuations and prompt.max_new_tokens < 1:
            raise QuestionError(f"max_new_tokens={prompt.max_new_tokens}: an answer needs at least 1 token")
        return ServedQuestion(
            pixel_values=None,
            input_ids=(),
            continuation_ids=(),
            max_new_tokens=prompt.max_new_tokens,
            visual_tokens=None,
            text_tokens=None,
            messages=self._messages(request.images, prompt.text),
            continuations=prompt.continuations,
        )

    def encode(self, batch: Sequence[Any]) -> None:
        """Nothing to do: the server encodes. Before the first scored question, find out whether it can score.

        Raises ConfigError where it cannot.
        """
        if self._rendering is None and any(prepared.continuations for prepared in batch):
            self._rendering = self._try_scoring()

    def prefill(self, batch: Sequence[Any], features: Any) -> None:
        """In latency mode, ask and wait for the first token, or score the options; else nothing."""
        if self.mode == "latency":
            waiting = _unsettled(batch)
            self._settle(waiting, [self._score(one) if one.continuations else self._start(one) for one in waiting])

    def decode(self, batch: Sequence[Any], state: Any, ignore_end_token: bool = False) -> list[Answer]:
        """Ask what has not been answered yet, `max_in_flight` requests at a time; in the batch's order.

        Raises QuestionError where one question's request failed, after all others of the batch have their answers, and
        ModelError where the server no longer answers any.
        """
        if ignore_end_token and self.mode != "latency":
            raise ConfigError(f"model.mode={self.mode}: must be run.mode, so leave model.mode=${{run.mode}} as it is.")
        waiting = _unsettled(batch)
        self._settle(waiting, [self._finish(one, ignore_end_token) for one in waiting])
        raise_first(prepared.outcome.error for prepared in batch)
        return [answer for prepared in batch if (answer := prepared.outcome.answer) is not None]

    def _settle(self, batch: Sequence[ServedQuestion], jobs: Sequence[Awaitable[Answer | None]]) -> None:
        """Wait for every question's job; note its answer or what went wrong."""
        for prepared, outcome in zip(batch, self.endpoint.run(jobs), strict=True):
            if isinstance(outcome, BaseException):
                prepared.outcome.error = outcome
            else:
                prepared.outcome.answer = outcome
        raise_first(error for prepared in batch if isinstance(error := prepared.outcome.error, SemclipEvalError))

    async def _finish(self, prepared: ServedQuestion, ignore_end_token: bool) -> Answer:
        if prepared.continuations:
            return await self._score(prepared)
        if prepared.outcome.stream is not None:
            reply = await self.endpoint.finish_stream(prepared.outcome.stream)
        else:
            reply = await self.endpoint.complete(prepared.messages, self._parameters(prepared.max_new_tokens))
        if ignore_end_token and reply.completion_tokens != prepared.max_new_tokens:
            raise ConfigError(
                f"run.mode=latency needs a server that honours ignore_eos and reports usage (vLLM, SGLang): asked for "
                f"{prepared.max_new_tokens} tokens, this one made {reply.completion_tokens or 'an unknown number'}."
            )
        return prepared.counted(Answer(text=reply.answer(), new_tokens=reply.completion_tokens), reply)

    async def _start(self, prepared: ServedQuestion) -> None:
        parameters = self._parameters(prepared.max_new_tokens, ignore_eos=True)
        try:
            prepared.outcome.stream = await self.endpoint.start_stream(prepared.messages, parameters)
        except QuestionError as error:
            raise QuestionError(
                f"{error} (run.mode=latency streams, and sends ignore_eos and stream_options)"
            ) from None

    async def _score(self, prepared: ServedQuestion) -> Answer:
        """Losses of all options, each by a request of its own, and one that tells where the answer begins."""
        how = self._rendering
        if how is None:
            raise RuntimeError("encode comes before any scoring")
        chats = [(*prepared.messages, _assistant(option + how.suffix)) for option in prepared.continuations]
        requests = [self._prompt_logprobs(prepared.messages, PROMPT)]
        requests += [self._prompt_logprobs(chat, how.flags) for chat in chats]
        replies = await settled(requests)
        raise_first(replies)
        prompt, *options = [reply for reply in replies if isinstance(reply, Reply)]
        start = read_tokens(prompt.prompt_logprobs)
        losses = [mean_loss(start, read_tokens(option.prompt_logprobs), how.after_end) for option in options]
        return prepared.counted(Answer(option_losses=tuple(losses)), prompt)

    def _try_scoring(self) -> Rendering:
        """Score one answer for a try, in all renderings. ConfigError where the server does not return what it takes."""
        asked = self._trial_messages()
        answered = (*asked, _assistant(TRIAL_ANSWER))
        requests = [
            self._prompt_logprobs(asked, PROMPT),
            self._prompt_logprobs(answered, OPEN),
            self._prompt_logprobs(answered, CLOSED),
        ]
        if self.answer_end:
            requests.append(self._prompt_logprobs((*asked, _assistant(TRIAL_ANSWER + self.answer_end)), OPEN))
        replies = self.endpoint.run(requests)
        try:
            raise_first(replies)
            prompt, opened, closed, *ended = [
                read_tokens(reply.prompt_logprobs) for reply in replies if isinstance(reply, Reply)
            ]
        except QuestionError as error:
            raise ConfigError(
                "benchmark.protocol=likelihood needs the logprobs of the prompt (prompt_logprobs), and the server at "
                f"{self.endpoint.base_url} does not return them ({error}); {REMEDY}."
            ) from error
        found = rendering(prompt, opened, closed)
        return rendering_with_end(str(self.answer_end), opened, ended[0]) if ended else found

    def _prompt_logprobs(self, messages: Sequence[Message], flags: Mapping[str, bool]) -> Awaitable[Reply]:
        return self.endpoint.complete(messages, self._parameters(1, prompt_logprobs=0, **flags))

    def _parameters(self, max_new_tokens: int, **fields: Any) -> dict[str, Any]:
        return {**self.sampling, **self.extra_body, self.max_tokens_field: max_new_tokens, **fields}

    def _messages(self, images: Sequence[Image.Image], text: str) -> tuple[Message, ...]:
        """One user turn: the views in order, then the text; the system prompt before it where there is one."""
        parts = [{"type": "image_url", "image_url": self._image(image)} for image in images]
        user: Message = {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
        return ({"role": "system", "content": self.system_prompt}, user) if self.system_prompt else (user,)

    def _image(self, image: Image.Image) -> dict[str, str]:
        url = data_url(image, self.image_format, self.jpeg_quality)
        return {"url": url} if self.detail is None else {"url": url, "detail": self.detail}

    def _trial_messages(self) -> tuple[Message, ...]:
        return self._messages([Image.new("RGB", (TRIAL_SIDE, TRIAL_SIDE), (128, 128, 128))], TRIAL_TEXT)

    def _refuse_key_in_config(self, values: Sequence[Any]) -> None:
        # What the config says is written into the results.
        if self.endpoint.holds_key(json.dumps(values, default=str)) or self.endpoint.holds_key(self.endpoint.base_url):
            raise ConfigError(
                f"The section model holds the key of {self.endpoint.api_key_env}, and would be written into the "
                "results: take it out; the environment variable is enough."
            )


def data_url(image: Image.Image, image_format: str, jpeg_quality: int) -> str:
    """An RGB image as a `data:` URL, PNG (lossless) or JPEG. Raises QuestionError for an empty or non-RGB one."""
    if image.mode != "RGB":
        raise QuestionError(f"a view has mode {image.mode}; views must be RGB (convert where the image is loaded)")
    if 0 in image.size:
        raise QuestionError(f"a view is empty ({image.width}x{image.height} pixels)")
    buffer = io.BytesIO()
    if image_format == "png":
        image.save(buffer, "PNG", compress_level=1)
    else:
        # No chroma subsampling: small coloured objects are what the questions are about.
        image.save(buffer, "JPEG", quality=jpeg_quality, subsampling=0)
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _unsettled(batch: Sequence[ServedQuestion]) -> list[ServedQuestion]:
    return [prepared for prepared in batch if prepared.outcome.answer is None and prepared.outcome.error is None]


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _checked_extra(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise ConfigError(f"model.extra_body={extra}: must be a mapping, such as {{top_k: 1}}.")
    for key in OUR_FIELDS:
        if key in extra:
            raise ConfigError(f"model.extra_body.{key}: is set by the program; take it out.")
    return dict(extra)


def _number(key: str, value: Any, above: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < float("inf"):
        kind = "positive number" if above >= 0 else "number that is not negative"
        raise ConfigError(f"model.{key}={value}: must be a {kind}.")
