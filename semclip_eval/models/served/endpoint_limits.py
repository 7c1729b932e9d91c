"""Bounds on a server's reply: the whole of it within a time, and no larger than a size.

httpx bounds the wait for the next bytes only, so a server that sends a byte a second is never too slow for it.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator
from typing import Any

MIB = 2**20


class ReplyTooLarge(Exception):
    """A reply went over the limit; nothing more of it was read."""


def _http_library() -> Any:
    """The HTTP library that the installed openai client is built on: httpx, from version 3 on httpx2."""
    import openai

    bases = [base.__module__.partition(".")[0] for base in openai.DefaultAsyncHttpxClient.__mro__]
    return importlib.import_module(next(name for name in bases if name.startswith("httpx")))


def limited_client(timeout_s: float, limit_mib: float) -> Any:
    """An HTTP client for openai's whose replies end after `timeout_s` seconds or `limit_mib` MiB, counted for each try.

    Too slow is the HTTP library's own ReadTimeout, so that openai's retries work as ever; too large is `ReplyTooLarge`.
    """
    httpx = _http_library()

    class LimitedStream(httpx.AsyncByteStream):  # type: ignore[name-defined]
        def __init__(self, stream: Any, deadline: float) -> None:
            self.stream, self.deadline = stream, deadline

        async def __aiter__(self) -> AsyncIterator[bytes]:
            received = 0
            chunks = self.stream.__aiter__()
            while True:
                try:
                    chunk = await asyncio.wait_for(anext(chunks), max(0.0, self.deadline - time.monotonic()))
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise httpx.ReadTimeout(f"the reply was not complete after {timeout_s:g} s") from None
                received += len(chunk)
                if received > limit_mib * MIB:
                    raise ReplyTooLarge(f"the reply is larger than {limit_mib:g} MiB")
                yield chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

    class LimitedTransport(httpx.AsyncHTTPTransport):  # type: ignore[name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            deadline = time.monotonic() + timeout_s
            response = await super().handle_async_request(request)
            response.stream = LimitedStream(response.stream, deadline)
            return response

    return httpx.AsyncClient(transport=LimitedTransport(), timeout=timeout_s, follow_redirects=True)
