"""Parse chat-completion responses: text, token counts, logprobs of the prompt.

Nothing is trusted to be there: what a server does not say is None, and what has the wrong shape is a QuestionError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from semclip_eval.errors import QuestionError


@dataclass(frozen=True)
class Reply:
    """One chat completion.

    `text` is None where there is no message. Token counts are the server's: `prompt_tokens` with everything that its
    template and the images add; `image_tokens` the images' part of them (vLLM's `--enable-prompt-tokens-details`, some
    hosted ones); `completion_tokens` the generated ones. `prompt_logprobs` is the raw list, None where not sent.
    `model` is the name that the server says answered.
    """

    text: str | None
    finish_reason: str | None = None
    reasoned: bool = False
    prompt_tokens: int | None = None
    image_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_logprobs: list[Any] | None = None
    model: str | None = None

    def answer(self) -> str:
        """The text of the model's answer, which may be empty; its refusal, if it refused, is an answer as well.

        Raises QuestionError where the model did not come to answer: no message, a content filter of the server, or all
        tokens spent on reasoning.
        """
        if self.finish_reason == "content_filter":
            raise QuestionError("the server's content filter withheld the answer")
        if self.text is None:
            raise QuestionError("the server's reply has no message")
        if not self.text.strip() and self.reasoned and self.finish_reason != "length":
            raise QuestionError(
                "the reply has reasoning and no answer: the server's reasoning parser took all of it for a thought; "
                "start the server without that parser, or turn reasoning off with model.extra_body "
                "(docs/served_models.md)"
            )
        if not self.text.strip() and self.reasoned:
            raise QuestionError(
                f"the model spent its {self.completion_tokens} tokens on reasoning and did not answer; turn reasoning "
                "off with model.extra_body (docs/served_models.md)"
            )
        return self.text.strip()


@dataclass
class Usage:
    """Requests and the tokens that the server counted for them; `uncounted` requests came back without a count."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def add(self, reply: Reply) -> None:
        """Count one more answered request."""
        self.requests += 1
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            self.uncounted += 1
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0


@dataclass
class StreamedReply:
    """A streamed chat completion while it arrives."""

    chunks: AsyncIterator[Any]
    clean: Callable[[str], str] = str
    parts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    reasoned: bool = False
    usage: Any = None
    model: str | None = None

    async def read(self, until_first_token: bool = False) -> None:
        """Read to the end, or to the first chunk with text, reasoning or an end."""
        async for chunk in self.chunks:
            payload = _mapping(chunk.to_dict(), "a chunk of the stream")
            self.usage = payload.get("usage") or self.usage
            self.model = _name(payload.get("model")) or self.model
            if not payload.get("choices"):
                continue
            choice = _mapping(payload["choices"][0], "choices[0]")
            delta = _mapping(choice.get("delta") or {}, "delta")
            self.reasoned = self.reasoned or _has_reasoning(delta)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            self.parts.append(_text(delta.get("content")) or "")
            if until_first_token and (self.parts[-1] or self.reasoned or self.finish_reason):
                return

    def reply(self) -> Reply:
        """What has arrived."""
        # The key, should a server repeat it, may come in pieces.
        text, name = self.clean("".join(self.parts)), None if self.model is None else self.clean(self.model)
        return Reply(text, self.finish_reason, self.reasoned, model=name, **_token_counts(self.usage))


def read_reply(payload: Any) -> Reply:
    """A chat completion's JSON. Raises QuestionError where it is none."""
    payload = _mapping(payload, "the reply")
    error = payload.get("error")
    if error and not payload.get("choices"):
        # Some gateways answer 200 with an error inside.
        detail = error.get("message", error) if isinstance(error, Mapping) else error
        raise QuestionError(f"the server replied with an error: {first_words(str(detail))}")
    choices = payload.get("choices")
    if not isinstance(choices, list) or not choices:
        raise QuestionError(f"the server's reply has no choices: {first_words(str(dict(payload)))}")
    choice = _mapping(choices[0], "choices[0]")
    message = _mapping(choice.get("message") or {}, "message")
    logprobs = payload.get("prompt_logprobs")
    if logprobs is not None and not isinstance(logprobs, list):
        raise QuestionError("the server's reply: prompt_logprobs is not a list")
    return Reply(
        text=(_text(message.get("content")) or _text(message.get("refusal")) or "") if message else None,
        finish_reason=choice.get("finish_reason"),
        reasoned=_has_reasoning(message),
        prompt_logprobs=logprobs,
        model=_name(payload.get("model")),
        **_token_counts(payload.get("usage")),
    )


def first_words(text: str) -> str:
    """A server's words on one line, at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."


def _token_counts(usage: Any) -> dict[str, Any]:
    usage = usage if isinstance(usage, Mapping) else {}
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, Mapping) else {}
    # `multimodal_tokens.image`: vLLM, vllm/entrypoints/serve/engine/protocol.py PromptTokenUsageInfo; `image_tokens`:
    # several hosted APIs. Both are part of prompt_tokens.
    by_kind = details.get("multimodal_tokens")
    image = by_kind.get("image") if isinstance(by_kind, Mapping) else details.get("image_tokens")
    prompt_tokens, image_tokens = _count(usage.get("prompt_tokens")), _count(image)
    if prompt_tokens is not None and image_tokens is not None and image_tokens > prompt_tokens:
        image_tokens = None  # a part larger than the whole is a miscount, and tells nothing
    return {
        "prompt_tokens": prompt_tokens,
        "image_tokens": image_tokens,
        "completion_tokens": _count(usage.get("completion_tokens")),
    }


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _has_reasoning(message: Mapping[str, Any]) -> bool:
    # vLLM says `reasoning`, before 0.12 and elsewhere `reasoning_content`.
    return bool(message.get("reasoning") or message.get("reasoning_content"))


def _text(content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return "".join(str(part.get("text") or "") for part in content)
    raise QuestionError(f"the server's reply: content is {type(content).__name__}, not text")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise QuestionError(f"the server's reply: {what} is {type(value).__name__}, not an object")
    return value
