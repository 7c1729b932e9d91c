"""Losses of given answers from a server that returns the logprobs of its prompt (vLLM's `prompt_logprobs`).

The chat is sent with the option as the assistant's message, and the server scores its own prompt:
`prompt_logprobs` (vllm/entrypoints/openai/chat_completion/protocol.py of github.com/vllm-project/vllm) is a list with
one object a prompt token, token id -> {logprob, rank, decoded_token}; the first is null. With `prompt_logprobs: 0` each
object holds the prompt's own token alone. Where the answer begins is read off the same chat without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semclip_eval.errors import ConfigError, QuestionError

# What vLLM writes for a probability of zero (`clamp_prompt_logprobs`), since JSON has no infinity.
NO_PROBABILITY = -9999.0

# How a chat is rendered: up to where an answer begins, with an answer that stays open, with one whose turn is over.
PROMPT = {"add_generation_prompt": True, "continue_final_message": False}
OPEN = {"add_generation_prompt": False, "continue_final_message": True}
CLOSED = {"add_generation_prompt": False, "continue_final_message": False}

REMEDY = "use benchmark.protocol=letter, or a server that does (vLLM)"


@dataclass(frozen=True)
class PromptToken:
    """One token of a prompt as the server sees it; `logprob` in nats."""

    id: int
    logprob: float
    text: str | None


# The first token has no id and no logprob: nothing comes before it.
PromptTokens = list[PromptToken | None]


@dataclass(frozen=True)
class Rendering:
    """How an option is sent and which of its tokens count: those after the prompt but for the last `after_end`.

    `flags` go with the request, `suffix` follows the option's text; `end_token` is the text of the token that ends
    what is scored, None where the losses have none.
    """

    flags: Mapping[str, bool]
    suffix: str
    after_end: int
    end_token: str | None


def read_tokens(raw: Sequence[Any] | None) -> PromptTokens:
    """The prompt's tokens of a reply. Raises QuestionError where it has none, or they have another shape."""
    if not raw:
        raise QuestionError("the server's reply has no prompt_logprobs")
    tokens: PromptTokens = []
    for place, entry in enumerate(raw):
        if entry is None and place == 0:
            tokens.append(None)
            continue
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise QuestionError(f"prompt_logprobs[{place}] is not an object with one token")
        ((token_id, detail),) = entry.items()
        try:
            tokens.append(PromptToken(int(token_id), float(detail["logprob"]), detail.get("decoded_token")))
        except (TypeError, ValueError, KeyError, AttributeError):
            raise QuestionError(f"prompt_logprobs[{place}] has no token id with a logprob") from None
    return tokens


def mean_loss(prompt: PromptTokens, whole: PromptTokens, after_end: int) -> float:
    """Mean cross-entropy, in nats a token, of what `whole` has after `prompt` but for its last `after_end` tokens.

    Raises QuestionError where `whole` does not begin with `prompt`, where nothing is left to score, or where a token
    has no probability at all.
    """
    if not _begins_with(whole, prompt):
        raise QuestionError(
            "the server's tokens of the prompt are others once an answer follows; its loss cannot be taken apart"
        )
    scored = [token for token in whole[len(prompt) : len(whole) - after_end] if token is not None]
    if not scored:
        raise QuestionError("the option has no tokens of its own")
    for token in scored:
        if not NO_PROBABILITY < token.logprob <= 1e-6:
            raise QuestionError(f"the server gives the token {token.text!r} of the option no probability")
    return -sum(token.logprob for token in scored) / len(scored)


def rendering(prompt: PromptTokens, opened: PromptTokens, closed: PromptTokens) -> Rendering:
    """How options are scored on this server, from one chat in three renderings (PROMPT, OPEN, CLOSED).

    The end token is the first one that the server's chat template puts behind an answer; a template that puts nothing
    there, or a blank, has none, and losses are then of the option's own tokens. Raises ConfigError where the template
    renders an answer otherwise than behind its generation prompt (it inserts thinking, for instance).
    """
    if not _begins_with(opened, prompt) or len(opened) == len(prompt):
        raise ConfigError(
            "benchmark.protocol=likelihood needs a chat template that puts the answer right behind the generation "
            f"prompt, this server's does not; set model.extra_body.chat_template_kwargs, or {REMEDY}."
        )
    end = closed[len(opened)] if _begins_with(closed, opened) and len(closed) > len(opened) else None
    if end is None or not (end.text or "").strip():
        return Rendering(OPEN, "", 0, None)
    return Rendering(CLOSED, "", len(closed) - len(opened) - 1, end.text)


def rendering_with_end(answer_end: str, opened: PromptTokens, ended: PromptTokens) -> Rendering:
    """The same where the user names the end token: `ended` is the OPEN chat with `answer_end` behind the answer.

    Raises ConfigError where the server does not read it as one token.
    """
    if not _begins_with(ended, opened) or len(ended) != len(opened) + 1:
        raise ConfigError(f"model.answer_end={answer_end}: is not one token to this server; leave it out.")
    return Rendering(OPEN, answer_end, 0, answer_end)


def _begins_with(whole: PromptTokens, start: PromptTokens) -> bool:
    ids = [token.id if token else None for token in whole[: len(start)]]
    return ids == [token.id if token else None for token in start]
