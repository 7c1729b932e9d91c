"""A real HTTP server, on a port of its own, that serves the package's miniature VLM behind the OpenAI protocol.

It does what vLLM does as far as the tests need it: `/v1/models`, `/v1/chat/completions` with images as data URLs,
`usage` with the images' part, `stream`, `ignore_eos`, and `prompt_logprobs` in the three renderings of a chat. The
logprobs come from one plain forward of the whole chat each, not from the adapter's own scoring. What should go wrong is
set by a test: statuses to answer first, a key to ask for, a delay, what a text must contain to be refused.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import torch
from PIL import Image

from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.types import Prompt, Request

NAME = "mini-llava"
END = "</s>"


class MiniServer:
    """A context manager; `base_url` is where it listens.

    requests: the bodies of all chat requests. most_in_flight: how many were being answered at the same time. failures:
    (status, message or whole payload) to answer the next chat requests with. answer: replaces the model by a function
    from a body to the payload (bytes are sent as they are). drip_s: seconds between two bytes of a completion.
    """

    def __init__(
        self,
        vlm: Llava15,
        key: str | None = None,
        prompt_logprobs: bool = True,
        ends_turns: bool = True,
        lists_models: bool = True,
        counts_images: bool = True,
        ignores_end: bool = True,
        delay_s: float = 0.0,
        refused_text: str | None = None,
        slow_text: str | None = None,
        answer: Callable[[Mapping[str, Any]], Any] | None = None,
        drip_s: float = 0.0,
    ) -> None:
        self.vlm, self.key, self.delay_s = vlm, key, delay_s
        self.prompt_logprobs, self.ends_turns, self.lists_models = prompt_logprobs, ends_turns, lists_models
        self.counts_images, self.ignores_end = counts_images, ignores_end
        self.refused_text, self.slow_text, self.answer = refused_text, slow_text, answer
        self.drip_s = drip_s
        self.requests: list[dict[str, Any]] = []
        self.failures: list[tuple[int, Any]] = []
        self.seen_keys: set[str] = set()
        self.in_flight = self.most_in_flight = 0
        self.gone = False
        self.counting, self.thinking = threading.Lock(), threading.Lock()
        server = self

        class Handler(_Handler):
            mini = server

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> MiniServer:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.gone = True
        self.http.shutdown()
        self.http.server_close()

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The payload of a chat completion."""
        images, text, option = _taken_apart(body)
        if body.get("prompt_logprobs") is not None and self.prompt_logprobs:
            with self.thinking:
                ids, pixels = self._ids(images, text, option, body)
                logprobs = self._logprobs(ids, pixels)
            return {**self._payload("x", "length", len(ids), len(images), 1), "prompt_logprobs": logprobs}
        # Like other servers, one that knows no prompt_logprobs leaves it alone.
        prompt = Prompt(text, max_new_tokens=body["max_tokens"])
        with self.thinking:
            prepared = self.vlm.prepare(Request(images, prompt))
            state = self.vlm.prefill([prepared], self.vlm.encode([prepared]))
            ignore = bool(body.get("ignore_eos")) and self.ignores_end
            (answer,) = self.vlm.decode([prepared], state, ignore_end_token=ignore)
        finish = "length" if answer.new_tokens == body["max_tokens"] else "stop"
        return self._payload(answer.text, finish, len(prepared.input_ids), len(images), answer.new_tokens)

    def _payload(self, text: str, finish: str, prompt_tokens: int, images: int, new_tokens: int) -> dict[str, Any]:
        usage: dict[str, Any] = {"prompt_tokens": prompt_tokens, "completion_tokens": new_tokens}
        usage["total_tokens"] = prompt_tokens + new_tokens
        if self.counts_images and images:
            usage["prompt_tokens_details"] = {"multimodal_tokens": {"image": images * self.vlm.tokens_per_view}}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": NAME,
            "choices": [choice],
            "usage": usage,
        }

    def _ids(
        self, images: tuple[Image.Image, ...], text: str, option: str | None, body: Mapping[str, Any]
    ) -> tuple[list[int], torch.Tensor]:
        """The chat as its template renders it: to `ASSISTANT:`, to the option, or to `</s>` and a newline behind it."""
        named_end = option is not None and option.endswith(END)
        option = option.removesuffix(END) if option is not None else None
        prompt = Prompt(text, continuations=(option,) if option else ())
        prepared = self.vlm.prepare(Request(images, prompt))
        ids = list(prepared.input_ids)
        if option is None:
            assert body["add_generation_prompt"], "the answer is missing"
            return ids, prepared.pixel_values
        assert not body["add_generation_prompt"], "not with an answer"
        *own, end = prepared.continuation_ids[0]
        ids += [*own, end] if named_end else own
        if not body["continue_final_message"] and self.ends_turns:
            ids += [end, *self.vlm.tokenizer("\n", add_special_tokens=False).input_ids]
        return ids, prepared.pixel_values

    @torch.inference_mode()
    def _logprobs(self, ids: list[int], pixels: torch.Tensor) -> list[Any]:
        logits = self.vlm.model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
        table = torch.log_softmax(logits.double(), dim=-1)
        # An image's placeholder may lie outside of the vocabulary.
        values = [float(table[place, token]) if token < table.shape[1] else -1.0 for place, token in enumerate(ids[1:])]
        names = self.vlm.tokenizer.convert_ids_to_tokens(ids[1:])
        entries = zip(ids[1:], values, names, strict=True)
        return [None, *({str(i): {"logprob": v, "rank": 1, "decoded_token": n}} for i, v, n in entries)]


class _Handler(BaseHTTPRequestHandler):
    mini: MiniServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        if not self._admitted():
            return
        if self.path != "/v1/models" or not self.mini.lists_models:
            self._fail(404, "no such page")
            return
        card = {"id": NAME, "object": "model", "created": 1, "owned_by": "tests", "root": "mini://vlm"}
        self._send(200, {"object": "list", "data": [{**card, "max_model_len": self.mini.vlm.context_length}]})

    def do_POST(self) -> None:
        mini = self.mini
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if mini.gone:  # a kept connection outlives the listening socket
            self.close_connection = True
            return
        if not self._admitted():
            return
        with mini.counting:
            mini.requests.append(body)
            mini.in_flight += 1
            mini.most_in_flight = max(mini.most_in_flight, mini.in_flight)
            failure = mini.failures.pop(0) if mini.failures else None
        try:
            text = json.dumps(body["messages"][-1])
            time.sleep(mini.delay_s)
            if failure:
                self._fail(*failure)
            elif self.path != "/v1/chat/completions" or body["model"] != NAME:
                self._fail(404, f"The model `{body['model']}` does not exist.")
            elif mini.refused_text and mini.refused_text in text:
                self._fail(400, "the image is too large for this model")
            else:
                if mini.slow_text and mini.slow_text in text:
                    time.sleep(1.0)
                payload = (mini.answer or mini.complete)(body)
                if body.get("stream"):
                    self._stream(payload)
                else:
                    self._send(200, payload)
        finally:
            with mini.counting:
                mini.in_flight -= 1

    def _admitted(self) -> bool:
        sent = self.headers.get("Authorization", "")
        self.mini.seen_keys.add(sent)
        if self.mini.key is None or sent == f"Bearer {self.mini.key}":
            return True
        # A server that talks too much.
        self._fail(401, f"Incorrect API key provided: {sent}")
        return False

    def _fail(self, status: int, message: Any) -> None:
        plain = isinstance(message, str)
        self._send(status, {"error": {"message": message, "type": "error", "code": status}} if plain else message)

    def _send(self, status: int, payload: Any) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.mini.drip_s and self.path.endswith("completions"):
                for place in range(len(data)):
                    self.wfile.write(data[place : place + 1])
                    self.wfile.flush()
                    time.sleep(self.mini.drip_s)
            else:
                self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client did not wait

    def _stream(self, payload: Mapping[str, Any]) -> None:
        choice = payload["choices"][0]
        text = choice["message"]["content"]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": part} for part in (text[: len(text) // 2], text[len(text) // 2 :])]
        lines = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        lines += [{"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}]
        lines += [{"choices": [], "usage": payload["usage"]}]
        head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": NAME}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for line in lines:
            self.wfile.write(f"data: {json.dumps({**head, **line})}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.02)
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True


def _taken_apart(body: Mapping[str, Any]) -> tuple[tuple[Image.Image, ...], str, str | None]:
    """Images, the question, and the assistant's answer where the chat has one."""
    messages = [message for message in body["messages"] if message["role"] != "system"]
    parts = messages[0]["content"]
    kinds = [part["type"] for part in parts]
    assert kinds == ["image_url"] * (len(parts) - 1) + ["text"], "views first, in order, then the text"
    images = []
    for part in parts[:-1]:
        head, _, data = part["image_url"]["url"].partition(";base64,")
        assert head in ("data:image/png", "data:image/jpeg")
        images.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    return tuple(images), parts[-1]["text"], messages[1]["content"] if len(messages) > 1 else None
