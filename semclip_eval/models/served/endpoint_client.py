"""The connection to an OpenAI-compatible server: several requests in flight, retries, counted usage, plain errors.

Retries with exponential backoff (connection errors, timeouts, 408, 409, 429, 5xx) are the `openai` client's own. The
key is read from the environment, kept in memory, and cut out of everything that a server says.
"""

from __future__ import annotations

import asyncio
import os
import re
import weakref
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from semclip_eval.components import did_you_mean
from semclip_eval.errors import ConfigError, ModelError, QuestionError, SemclipEvalError
from semclip_eval.models.served.endpoint_limits import ReplyTooLarge, limited_client
from semclip_eval.models.served.endpoint_reply import Reply, StreamedReply, Usage, first_words, read_reply

T = TypeVar("T")

INSTALL = "pip install 'semclip-eval[served]'"
# A server that is not there should be known at once, not after the whole backoff.
RETRIES_OF_THE_FIRST_CALL = 1
GOES_ON = "the same command goes on from the answers that it has"


class Endpoint:
    """One served model behind one base URL; `usage` counts what was asked of it since the last `reset`.

    base_url: up to and including `/v1`; no credentials and no query in it. max_in_flight: requests at a time.
    timeout_s: seconds for one try, from the request to the end of the reply. max_reply_mib: the largest reply that is
    read. Raises ConfigError for a wrong value, ModelError where the client is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None,
        api_key_env: str,
        max_in_flight: int,
        timeout_s: float,
        max_retries: int,
        max_reply_mib: float,
    ) -> None:
        if not re.fullmatch("[A-Z_][A-Z0-9_]*", str(api_key_env)):
            raise ConfigError(
                "model.api_key_env: is the NAME of an environment variable (capital letters, digits, _), not the key: "
                "what the config says is written into the results."
            )
        self.base_url = checked_url(base_url)
        self.model = model
        self.api_key_env = api_key_env
        self.max_retries = max_retries
        self.timeout_s = timeout_s
        self.max_reply_mib = max_reply_mib
        # Names under which replies came that are not the one asked for.
        self.answered_as: set[str] = set()
        self.offered: dict[str, Mapping[str, Any]] = {}
        self.usage = Usage()
        self._openai = _library()
        self._key = os.environ.get(api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"The environment variable {api_key_env} holds characters that no key has; set it anew.")
        # Servers of one's own ask for no key, but the client insists on one.
        self._client = self._openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.base_url,
            timeout=timeout_s,
            max_retries=max_retries,
            http_client=limited_client(timeout_s, max_reply_mib),
        )
        # One event loop for the client's whole life, since its connections belong to one.
        loop = asyncio.new_event_loop()
        self._runner = asyncio.Runner(loop_factory=lambda: loop)
        self._slots = asyncio.Semaphore(max_in_flight)
        weakref.finalize(self, loop.close)

    def reset(self) -> None:
        """Start counting usage anew."""
        self.usage = Usage()
        self.answered_as = set()

    def holds_key(self, text: str) -> bool:
        """Does the text contain the key?"""
        return bool(self._key) and self._key in text

    def run(self, coroutines: Iterable[Awaitable[T]]) -> list[T | BaseException]:
        """The results, or exceptions, of all coroutines, in order; Ctrl-C cancels what is in flight."""
        return self._runner.run(settled(coroutines))

    def check(self, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> None:
        """Ask which models there are, then one small question: reachable, key, model and parameters are as they must.

        Raises ModelError (ConfigError where `model.model` is not set) naming the base URL and the remedy.
        """
        self._runner.run(self._list_models())
        if not self.model:
            names = ", ".join(sorted(self.offered)[:20]) or "it does not say which"
            raise ConfigError(f"model.model: not set; name the served model. {self.base_url} offers: {names}.")
        (outcome,) = self.run([self.complete(messages, parameters)])
        if isinstance(outcome, QuestionError):
            raise ModelError(
                f"{self.base_url}: the model {self.model!r} does not answer a small question with one image: {outcome}"
            ) from outcome
        if isinstance(outcome, BaseException):
            raise outcome

    async def _list_models(self) -> None:
        try:
            page = await self._client.with_options(max_retries=RETRIES_OF_THE_FIRST_CALL).models.list()
            self.offered = {card.id: card.model_dump() for card in page.data}
        except (self._openai.AuthenticationError, self._openai.APIConnectionError) as error:
            raise self._explained(error) from None
        except (self._openai.OpenAIError, AttributeError, TypeError, ValueError):
            # Not every gateway lists its models; the small question tells whether ours is there.
            self.offered = {}

    async def complete(self, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> Reply:
        """One chat completion. QuestionError where this request fails, ModelError where every one would."""
        create = self._client.chat.completions.with_raw_response.create
        async with self._slots:
            try:
                raw = await create(model=self.model, messages=messages, extra_body=dict(parameters))
            except (self._openai.OpenAIError, ReplyTooLarge) as error:
                raise self._explained(error) from None
        try:
            payload = raw.http_response.json()
        except ValueError:
            detail = first_words(self.clean(raw.http_response.text))
            raise QuestionError(f"{self.base_url}: the answer is not JSON: {detail!r}") from None
        except RecursionError:
            raise QuestionError(f"{self.base_url}: the answer is JSON nested too deeply to be read") from None
        reply = read_reply(self.cleaned(payload))
        self._note(reply)
        return reply

    async def start_stream(self, messages: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> StreamedReply:
        """A streamed chat completion, up to its first token."""
        try:
            chunks = await self._client.chat.completions.create(
                model=self.model,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=dict(parameters),
            )
            stream = StreamedReply(chunks, self.clean)
            await stream.read(until_first_token=True)
        except (self._openai.OpenAIError, ReplyTooLarge) as error:
            raise self._explained(error) from None
        return stream

    async def finish_stream(self, stream: StreamedReply) -> Reply:
        """The rest of a stream."""
        try:
            await stream.read()
        except (self._openai.OpenAIError, ReplyTooLarge) as error:
            raise self._explained(error) from None
        reply = stream.reply()
        self._note(reply)
        return reply

    def _note(self, reply: Reply) -> None:
        self.usage.add(reply)
        if reply.model is not None and reply.model != self.model:
            self.answered_as.add(reply.model)

    def clean(self, text: str) -> str:
        """The text without the key, should a server repeat it. Clean first, then cut: half a key is a secret too."""
        return text.replace(self._key, "***") if self._key else text

    def cleaned(self, value: Any) -> Any:
        """A JSON value with every text in it cleaned."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, list):
            return [self.cleaned(inner) for inner in value]
        if isinstance(value, dict):
            return {self.clean(key): self.cleaned(inner) for key, inner in value.items()}
        return value

    def _explained(self, error: Exception) -> Exception:
        """The client's exception in our words: a ModelError where it concerns every request, else a QuestionError."""
        library = self._openai
        detail = first_words(self.clean(_words_of(error)))
        large = error if isinstance(error, ReplyTooLarge) else error.__cause__  # a version of the client may wrap it
        if isinstance(large, ReplyTooLarge):
            return QuestionError(f"{self.base_url}: {large}; raise model.max_reply_mib if that is as it should be")
        status = getattr(error, "status_code", None)
        if isinstance(error, library.APITimeoutError):
            tries = f"{self.timeout_s:g} s in each of {self.max_retries + 1} tries"
            return QuestionError(
                f"{self.base_url}: no answer within {tries}; raise model.timeout_s or lower model.max_in_flight"
            )
        if isinstance(error, library.APIConnectionError):
            reason = first_words(self.clean(str(error.__cause__ or error)))
            return ModelError(
                f"{self.base_url}: cannot be reached ({reason}). Start the server or mend model.base_url; {GOES_ON}."
            )
        if status == 401:
            state = "holds another key" if self._key else "is not set"
            return ModelError(
                f"{self.base_url}: refuses the key (HTTP 401: {detail}).\nThe environment variable {self.api_key_env} "
                f"{state}; set it, or name another one with model.api_key_env=NAME."
            )
        if status == 402:
            return ModelError(f"{self.base_url}: asks for payment (HTTP 402: {detail}); {GOES_ON}.")
        if status == 404:
            return ModelError(self._no_such_model(detail))
        if status == 429:
            return ModelError(
                f"{self.base_url}: too many requests, after {self.max_retries} retries (HTTP 429: {detail}).\n"
                f"Lower model.max_in_flight, raise model.max_retries or the quota; {GOES_ON}."
            )
        return QuestionError(f"{self.base_url}: {f'HTTP {status}: ' if status else ''}{detail}")

    def _no_such_model(self, detail: str) -> str:
        names = list(self.offered)
        if str(self.model) in names or not names:
            remedy = "Does model.base_url end where the server's API begins (usually /v1)?"
        else:
            remedy = f"It offers: {', '.join(sorted(names)[:20])}.{did_you_mean(str(self.model), names)}"
        return f"{self.base_url}: has no model {self.model!r} (HTTP 404: {detail}).\n{remedy}"


async def settled(coroutines: Iterable[Awaitable[T]]) -> list[T | BaseException]:
    """All results in order, an exception in the place of what failed: none is left running when another fails."""
    return list(await asyncio.gather(*coroutines, return_exceptions=True))


def raise_first(outcomes: Iterable[Any]) -> None:
    """Raise the first error among the outcomes; one that concerns the whole run goes before one question's."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    errors.sort(key=lambda error: not isinstance(error, SemclipEvalError))
    if errors:
        raise errors[0]


def checked_url(base_url: str) -> str:
    """The URL without a trailing slash. Raises ConfigError, which repeats no user, password or query."""
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("model.base_url: is not a URL such as http://localhost:8000/v1.") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"model.base_url: credentials and parameters do not belong into the URL of {host}, which is written into "
            "the results; give the key by the environment variable that model.api_key_env names."
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"model.base_url={base_url}: must be a URL such as http://localhost:8000/v1.")
    return base_url.rstrip("/")


def _library() -> Any:
    try:
        import openai
    except ImportError as error:
        raise ModelError(f"model=openai needs the openai client, which is not installed: {INSTALL}") from error
    return openai


def _words_of(error: Exception) -> str:
    """What the server said about an error, wherever it put it."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        return str(body.get("message") or body.get("detail") or dict(body))
    response = getattr(error, "response", None)
    return str(body or getattr(response, "text", "") or error)
