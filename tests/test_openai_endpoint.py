"""A served model against a real local server that serves the miniature: answers, refusals, retries, and the key."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from semclip_eval import cli, session
from semclip_eval.errors import ConfigError, ModelError, QuestionError
from semclip_eval.mini.build import build_vstar
from semclip_eval.models.served.endpoint_likelihood import PromptToken, mean_loss, read_tokens
from semclip_eval.models.served.openai_endpoint import OpenAIEndpoint, data_url
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.run import execute
from semclip_eval.types import Prompt, Request
from tests.llava_small import noise_image
from tests.mini_server import END, NAME, MiniServer
from tests.test_configs import composed

KEY = "sk-local-1f6c2a9d77e0"
OPTIONS = ("red", "The color of the star is blue.", "no")


@pytest.fixture(scope="module")
def vlm():
    return Llava15(name="mini_llava", hub_id=None, path="mini://vlm")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vstar")
    build_vstar(folder, questions_per_category=3, split="dev")
    return folder


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    session._loaded.clear()
    yield
    session._loaded.clear()


def served(server: MiniServer, **settings) -> OpenAIEndpoint:
    return OpenAIEndpoint(**{"name": "openai", "base_url": server.base_url, "model": NAME, **settings})


def ask(seed: int = 0, views: int = 1, options: tuple[str, ...] = (), text: str = "", new_tokens: int = 8) -> Request:
    images = tuple(noise_image(10 * seed + view) for view in range(views))
    return Request(images, Prompt(text or f"What is the color of star {seed}?", options, new_tokens))


def answers(model, *requests: Request):
    return model.answer([model.prepare(request) for request in requests])


def run(scenes: Path, output: Path, *overrides: str) -> tuple[Path, list[dict]]:
    shared = ["profile=mini", f"benchmark.path={scenes}", f"run.output_dir={output}", *overrides]
    folder = execute(composed(*shared))
    return folder, [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def at(server: MiniServer, *more: str) -> list[str]:
    return ["model=openai", f"model.base_url={server.base_url}", f"model.model={NAME}", *more]


def without_losses(record: dict) -> dict:
    # A server tells nothing of which its FLOPs could be counted.
    return {key: value for key, value in record.items() if key not in ("option_losses", "candidates", "flops")}


def psi_of(record: dict) -> list[float]:
    return [candidate["psi"] for candidate in record["candidates"]]


@pytest.mark.parametrize("protocol", ["letter", "likelihood"])
def test_a_run_over_http_is_the_direct_run_question_by_question(vlm, scenes, tmp_path, monkeypatch, protocol):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shared = [f"benchmark.protocol={protocol}", "selector=semclip"]
    _, direct = run(scenes, tmp_path / "direct", *shared)
    with MiniServer(vlm, key=KEY) as server:
        folder, over_http = run(scenes, tmp_path / "served", *shared, *at(server))
    # Views, tokens, texts, choices and scores are the very same; losses differ by float arithmetic alone.
    assert [without_losses(record) for record in over_http] == [without_losses(record) for record in direct]
    assert {record["status"] for record in over_http} <= {"ok", "unparsed"}
    for one, other in zip(over_http, direct, strict=True):
        assert one["option_losses"] == pytest.approx(other["option_losses"], abs=1e-4)
        assert psi_of(one) == pytest.approx(psi_of(other), abs=1e-5)
    assert server.most_in_flight > 1
    written = [path for path in (tmp_path / "served").rglob("*") if path.is_file()]
    assert folder / "environment.json" in written
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert server.seen_keys == {f"Bearer {KEY}"}


def test_max_in_flight_is_reached_and_never_exceeded(vlm):
    with MiniServer(vlm, delay_s=0.05) as server:
        model = served(server, max_in_flight=3)
        requests = [ask(seed) for seed in range(7)]
        over_http = answers(model, *requests)
    assert server.most_in_flight == 3
    assert over_http == answers(vlm, *requests)


def test_usage_is_the_sum_of_what_the_server_counted(vlm):
    with MiniServer(vlm) as server:
        model = served(server)
        model.reset()
        requests = [ask(1), ask(2, views=3)]
        batch = [model.prepare(request) for request in requests]
        answers = model.answer(batch)
    direct = [vlm.prepare(request) for request in requests]
    assert model.usage == {
        "requests": 2,
        "prompt_tokens": sum(len(prepared.input_ids) for prepared in direct),
        "completion_tokens": sum(answer.new_tokens for answer in answers),
        "uncounted": 0,
    }
    assert [answer.visual_tokens for answer in answers] == [49, 147]
    assert [answer.text_tokens for answer in answers] == [one.text_tokens for one in direct]


def test_tokens_that_the_server_does_not_tell_apart_stay_unknown(vlm):
    with MiniServer(vlm, counts_images=False) as server:
        model = served(server)
        with_image, without = model.answer([model.prepare(ask(1)), model.prepare(ask(1, views=0))])
    assert (with_image.visual_tokens, with_image.text_tokens) == (None, None)
    assert (without.visual_tokens, without.text_tokens) == (0, vlm.prepare(ask(1, views=0)).text_tokens)


def test_429_and_500_are_retried_after_a_growing_pause(vlm):
    with MiniServer(vlm) as server:
        model = served(server, max_retries=2)
        before = len(server.requests)
        server.failures = [(429, "slow down"), (500, "out of luck")]
        start = time.monotonic()
        over_http = answers(model, ask(3))
    # The client waits 0.5 s, then 1 s, each shortened by at most a quarter.
    assert time.monotonic() - start > 0.75 * 1.5
    assert len(server.requests) == before + 3
    assert over_http == answers(vlm, ask(3))


def test_a_quota_that_stays_exhausted_ends_the_run_with_a_remedy(vlm):
    with MiniServer(vlm) as server:
        model = served(server, max_retries=0)
        server.failures = [(429, "quota exceeded")]
        with pytest.raises(ModelError, match=r"429: .*quota exceeded.*\n.*model\.max_in_flight"):
            answers(model, ask())


def test_a_server_that_goes_away_ends_the_run(vlm):
    with MiniServer(vlm) as server:
        model = served(server, max_retries=0)
    with pytest.raises(ModelError, match=rf"{server.base_url}: cannot be reached .*goes on"):
        answers(model, ask())


def test_one_refused_request_is_one_error_and_nobody_is_asked_twice(vlm, scenes, tmp_path):
    with MiniServer(vlm) as server:
        setup = at(server, "benchmark.protocol=letter", "selector=no_crop", "run.max_error_rate=1")
        _, whole = run(scenes, tmp_path / "whole", *setup)
        asked = len(server.requests)
        refused = whole[2]["question"]
        server.refused_text = refused
        session._loaded.clear()
        _, records = run(scenes, tmp_path / "one_refused", *setup)
    errors = {record["question_id"]: record["error"] for record in records if record["status"] == "error"}
    assert set(errors) == {record["question_id"] for record in whole if record["question"] == refused}
    for error in errors.values():
        assert error["type"] == "QuestionError"
        assert "HTTP 400: " in error["message"]
        assert "the image is too large for this model" in error["message"]
    assert [record for record in records if record["status"] != "error"] == [
        record for record in whole if record["question_id"] not in errors
    ]
    assert len(server.requests) == 2 * asked


def test_a_request_that_takes_too_long_is_an_error_of_its_question(vlm):
    with MiniServer(vlm, slow_text="slow") as server:
        model = served(server, timeout_s=0.4, max_retries=0)
        batch = [model.prepare(ask(1)), model.prepare(ask(2, text="a slow question"))]
        with pytest.raises(QuestionError, match=r"no answer within 0\.4 s in each of 1 tries; raise model\.timeout_s"):
            model.answer(batch)
        assert model.answer(batch[:1]) == answers(vlm, ask(1))


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("too large", "HTTP 422: too large"),
        ({"detail": "Unexpected keys: {'seed'}"}, r"HTTP 422: Unexpected keys: \{'seed'\}"),
        ({"object": "error", "message": "too large", "code": 400}, "HTTP 422: too large"),
        (b"<html>no</html>", "HTTP 422: <html>no</html>"),
    ],
)
def test_the_words_of_a_server_reach_the_error_record(vlm, payload, said):
    with MiniServer(vlm) as server:
        model = served(server)
        server.failures = [(422, payload)]
        with pytest.raises(QuestionError, match=said):
            answers(model, ask())


def test_an_interrupt_does_not_wait_for_the_server(vlm):
    with MiniServer(vlm, slow_text="slow") as server:
        model = served(server)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            answers(model, *(ask(seed, text=f"a slow question {seed}") for seed in range(3)))
        assert time.monotonic() - start < 0.9
        assert answers(model, ask(1)) == answers(vlm, ask(1))


def message(content, **more):
    return {"choices": [{"message": {"role": "assistant", "content": content, **more}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"<html>busy</html>", "not JSON: '<html>busy</html>'"),
        ([1], "the reply is list"),
        ({}, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": ["x"]}, r"choices\[0\] is str"),
        ({"choices": [{"finish_reason": "stop"}]}, "no message"),
        ({"error": {"message": "no such GPU"}}, "no such GPU"),
        (message({"a": 1}), "content is dict"),
        ({"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}, "content filter"),
        (
            {
                "choices": [{"message": {"content": "", "reasoning": "Hm"}, "finish_reason": "length"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 16},
            },
            "spent its 16 tokens on reasoning",
        ),
        (message(None, reasoning_content="It is red, so A."), "reasoning parser"),
        (message("", reasoning="It is red, so A."), "reasoning parser"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_what_is_no_answer_becomes_an_error_and_not_an_answer(vlm, payload, complaint):
    with MiniServer(vlm) as server:
        model = served(server)
        server.answer = lambda body: payload
        with pytest.raises(QuestionError, match=complaint):
            answers(model, ask())


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (message(""), ""),
        (message(None), ""),
        (message(" B \n"), "B"),
        (message([{"type": "text", "text": "B"}]), "B"),
        (message(None, refusal="I cannot say."), "I cannot say."),
    ],
)
def test_an_empty_answer_and_a_refusal_are_answers_for_the_scorer(vlm, payload, text):
    with MiniServer(vlm) as server:
        model = served(server)
        server.answer = lambda body: payload
        (answer,) = answers(model, ask())
    assert (answer.text, answer.new_tokens) == (text, None)
    assert model.usage["uncounted"] == 1


def test_a_wrong_key_ends_the_command_before_any_question(vlm, scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", KEY)
    with MiniServer(vlm, key="another") as server:
        overrides = [f"benchmark.path={scenes}", f"run.output_dir={tmp_path}", "model.api_key_env=MY_KEY"]
        assert cli.main(["profile=mini", *at(server), *overrides]) == 2
    said = capsys.readouterr()
    assert f"{server.base_url}: refuses the key (HTTP 401" in said.err
    assert "MY_KEY holds another key" in said.err
    # The server repeated the key; we do not.
    assert KEY not in said.err + said.out
    assert "***" in said.err
    assert not list(tmp_path.rglob("samples.jsonl"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_key_that_a_server_repeats_is_cleaned_before_its_words_are_cut(vlm, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with MiniServer(vlm) as server:
        model = served(server)
        for start in range(300 - len(KEY), 301):  # the cut at 300 characters falls on every place of the key
            server.failures = [(422, "x" * start + KEY + " is not known")]
            with pytest.raises(QuestionError) as caught:
                answers(model, ask())
            assert KEY[:6] not in str(caught.value)
        server.answer = lambda body: message(f"{KEY} A")
        assert answers(model, ask())[0].text == "*** A"
        server.answer = lambda body: {"error": {"message": "y" * 290 + KEY}}
        with pytest.raises(QuestionError) as caught:
            answers(model, ask())
        assert KEY[:6] not in str(caught.value)


@pytest.mark.parametrize("place", ["model.name", "benchmark.name", "run.output_dir", "model.revision"])
def test_a_key_typed_as_any_value_is_refused_and_written_nowhere(tmp_path, monkeypatch, capsys, place):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["-m", "profile=mini", "model=openai", "model.api_key_env=MY_KEY", f"{place}=x{KEY}"]) == 2
    said = capsys.readouterr()
    assert place in said.err
    assert "MY_KEY" in said.err
    assert KEY not in said.err + said.out
    assert not [path for path in tmp_path.rglob("*") if KEY in str(path)]


def test_a_part_of_the_prompt_larger_than_the_prompt_is_not_counted(vlm):
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"image_tokens": 49}}
    with MiniServer(vlm) as server:
        model = served(server)
        server.answer = lambda body: {**message("B"), "usage": usage}
        (answer,) = answers(model, ask())
    assert (answer.visual_tokens, answer.text_tokens) == (None, None)


def test_a_reply_of_another_model_is_noted(vlm):
    with MiniServer(vlm) as server:
        model = served(server)
        assert model.session_notes["answered_as"] == []
        server.answer = lambda body: {**message("B"), "model": "mini-llava-turbo"}
        answers(model, ask())
        assert model.session_notes["answered_as"] == ["mini-llava-turbo"]
        model.reset()
        assert model.session_notes["answered_as"] == []


def test_a_server_that_sends_a_byte_at_a_time_is_too_slow(vlm):
    with MiniServer(vlm) as server:
        model = served(server, timeout_s=0.5, max_retries=0)
        server.drip_s = 0.05  # every byte well within the timeout, the whole reply some 20 s
        start = time.monotonic()
        with pytest.raises(QuestionError, match=r"no answer within 0\.5 s"):
            answers(model, ask())
        assert time.monotonic() - start < 5


def test_a_reply_without_an_end_is_not_read_to_it(vlm):
    with MiniServer(vlm) as server:
        model = served(server, max_reply_mib=0.01, max_retries=0)
        server.answer = lambda body: message("x" * 20_000)
        with pytest.raises(QuestionError, match=r"larger than 0\.01 MiB; raise model\.max_reply_mib"):
            answers(model, ask())
        server.answer = None
        assert answers(model, ask(1)) == answers(vlm, ask(1))


def test_a_missing_key_is_named_by_its_variable(vlm):
    with MiniServer(vlm, key=KEY) as server, pytest.raises(ModelError, match="variable OPENAI_API_KEY is not set"):
        served(server)


def test_a_key_within_the_config_is_refused_without_repeating_it(vlm, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with MiniServer(vlm, key=KEY) as server, pytest.raises(ConfigError, match="holds the key of") as caught:
        served(server, extra_body={"api_key": KEY})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("value", [KEY, "hf_abcdefgh", ""])
def test_the_key_in_the_place_of_its_variables_name_is_refused_without_repeating_it(value):
    with pytest.raises(ConfigError, match=r"model\.api_key_env: is the NAME") as caught:
        OpenAIEndpoint("openai", "http://127.0.0.1:9/v1", NAME, api_key_env=value)
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:secret@h/v1", "http://h/v1?api_key=secret", "http://h/v1#secret"])
def test_secrets_in_the_url_are_refused_without_repeating_them(url):
    with pytest.raises(ConfigError, match=r"model\.base_url: .*model\.api_key_env") as caught:
        OpenAIEndpoint("openai", url, NAME)
    assert "secret" not in str(caught.value)


def test_an_unknown_model_is_told_what_there_is(vlm):
    with MiniServer(vlm) as server:
        with pytest.raises(ModelError, match=r"no model 'mini-lava'.*\n.*offers: mini-llava\. Did you mean"):
            served(server, model="mini-lava")
        with pytest.raises(ConfigError, match=r"model\.model: not set; .* offers: mini-llava\."):
            served(server, model=None)


def test_a_server_that_lists_no_models_is_asked_all_the_same(vlm):
    with MiniServer(vlm, lists_models=False) as server:
        assert answers(served(server), ask()) == answers(vlm, ask())
        with pytest.raises(ModelError, match=r"no model 'x' .*\n.*usually /v1"):
            served(server, model="x")


def test_a_server_that_is_not_there_is_an_error_at_once():
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:9/v1: cannot be reached"):
        OpenAIEndpoint("openai", "http://127.0.0.1:9/v1", NAME)
    assert time.monotonic() - start < 5


def test_a_model_that_takes_no_images_is_an_error_before_the_run(vlm):
    with (
        MiniServer(vlm, refused_text="image_url") as server,
        pytest.raises(ModelError, match=r"'mini-llava' does not answer a small question with one image: .*HTTP 400"),
    ):
        served(server)


def test_likelihood_is_refused_before_any_question_where_the_server_returns_no_logprobs(vlm, scenes, tmp_path):
    with MiniServer(vlm, prompt_logprobs=False) as server:
        with pytest.raises(ConfigError, match=r"needs the logprobs .*use benchmark\.protocol=letter"):
            run(scenes, tmp_path, "benchmark.protocol=likelihood", *at(server))
        asked = [body["messages"][0]["content"][-1]["text"] for body in server.requests]
    assert len(set(asked)) == 1
    assert "colour of this image" in asked[0]
    assert not [path for path in tmp_path.rglob("samples.jsonl") if path.read_text()]


@torch.inference_mode()
def own_losses(vlm: Llava15, request: Request, with_end: bool) -> list[float]:
    """Mean cross-entropy of each option's tokens by one plain forward of the whole chat."""
    prepared = vlm.prepare(request)
    losses = []
    for option in prepared.continuation_ids:
        own = option if with_end else option[:-1]
        ids = torch.tensor([[*prepared.input_ids, *own]])
        table = torch.log_softmax(vlm.model(input_ids=ids, pixel_values=prepared.pixel_values).logits[0].double(), -1)
        start = len(prepared.input_ids)
        losses.append(-sum(float(table[start + place - 1, token]) for place, token in enumerate(own)) / len(own))
    return losses


@pytest.mark.parametrize(
    ("ends_turns", "answer_end", "end_token"), [(True, None, END), (False, None, None), (False, END, END)]
)
def test_the_end_token_is_the_templates_or_the_one_named_or_none(vlm, ends_turns, answer_end, end_token):
    request = ask(4, views=2, options=OPTIONS)
    with MiniServer(vlm, ends_turns=ends_turns) as server:
        model = served(server, answer_end=answer_end)
        (answer,) = answers(model, request)
    assert model.end_token == end_token
    assert answer.option_losses == pytest.approx(own_losses(vlm, request, with_end=end_token is not None), abs=1e-4)
    assert (answer.text, answer.new_tokens) == (None, None)


def test_an_end_token_that_is_several_to_the_server_is_refused(vlm):
    with MiniServer(vlm) as server:
        model = served(server, answer_end=" is it")
        with pytest.raises(ConfigError, match=r"model\.answer_end= is it: is not one token"):
            answers(model, ask(options=OPTIONS))


def tokens(*pairs):
    return [None, *(PromptToken(token_id, logprob, "x") for token_id, logprob in pairs)]


def test_mean_loss_by_hand():
    prompt = tokens((5, -9.0), (6, -1.0))
    whole = tokens((5, -9.0), (6, -1.0), (7, -0.5), (8, -1.0), (2, -3.0), (9, -100.0))
    assert mean_loss(prompt, whole, after_end=1) == pytest.approx((0.5 + 1.0 + 3.0) / 3)
    with pytest.raises(QuestionError, match="others once an answer follows"):
        mean_loss(tokens((5, -9.0), (7, -1.0)), whole, after_end=0)
    with pytest.raises(QuestionError, match="no tokens of its own"):
        mean_loss(prompt, tokens((5, -9.0), (6, -1.0), (2, -1.0)), after_end=1)
    for impossible in (-9999.0, float("nan"), 0.5):
        with pytest.raises(QuestionError, match="no probability"):
            mean_loss(prompt, tokens((5, -9.0), (6, -1.0), (7, impossible)), after_end=0)


@pytest.mark.parametrize("raw", [None, [], [None, {}], [None, {"1": {}, "2": {}}], [None, {"1": 0.5}], [None, None]])
def test_other_shapes_of_prompt_logprobs_are_refused(raw):
    with pytest.raises(QuestionError, match="prompt_logprobs"):
        read_tokens(raw)


def test_latency_mode_streams_a_fixed_length_and_times_the_first_token(vlm, scenes, tmp_path):
    with MiniServer(vlm) as server:
        setup = at(server, "benchmark.protocol=letter", "selector=no_crop", "run.mode=latency")
        _, records = run(scenes, tmp_path, *setup, "run.limit=2", "run.warmup=1", "run.new_tokens=5")
    streamed = [body for body in server.requests if body.get("stream")]
    assert len(streamed) == 3
    assert all(body["ignore_eos"] and body["max_tokens"] == 5 for body in streamed)
    for record in records:
        times = record["latency_ms"]
        assert (record["status"], record["new_tokens"], record["visual_tokens"]) == ("ok", 5, 49)
        # The server pauses 20 ms after every piece of the answer; the first one ends the prefill.
        assert times["decode"] > 35
        assert times["prefill"] > 15
        assert times["e2e"] >= times["ttft"] + times["decode"] - 0.01
        assert times["tpot"] == pytest.approx(times["decode"] / 4, abs=0.01)


def test_latency_mode_refuses_a_server_that_stops_when_it_likes(vlm):
    with MiniServer(vlm, ignores_end=False) as server:
        model = served(server, mode="latency")
        batch = [model.prepare(ask(text="What is the color of the star?", new_tokens=64))]
        state = model.prefill(batch, model.encode(batch))
        with pytest.raises(ConfigError, match=r"run\.mode=latency needs .*asked for 64 tokens, this one made \d"):
            model.decode(batch, state, ignore_end_token=True)


def test_what_is_sent_is_what_the_config_says(vlm):
    with MiniServer(vlm) as server:
        served(
            server, detail="high", system_prompt="Be brief.", temperature=None, seed=None,
            extra_body={"top_k": 1, "chat_template_kwargs": {"enable_thinking": False}},
        )  # fmt: skip
        full = server.requests[-1]
        server.answer = lambda body: message("grey")
        served(server, max_tokens_field="max_completion_tokens", seed=7)
        plain = server.requests[-1]
    assert full["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in full["messages"][1]["content"]] == ["image_url", "text"]
    assert full["messages"][1]["content"][0]["image_url"]["detail"] == "high"
    assert (full["top_k"], full["chat_template_kwargs"]) == (1, {"enable_thinking": False})
    assert not {"temperature", "seed"} & set(full)
    assert (plain["temperature"], plain["seed"], plain["max_completion_tokens"]) == (0.0, 7, 16)
    assert "max_tokens" not in plain
    assert "detail" not in plain["messages"][0]["content"][0]["image_url"]


@pytest.mark.parametrize("size", [(1, 1), (97, 3), (64, 80)])
def test_png_keeps_every_pixel_and_jpeg_is_close(size):
    image = noise_image(3).resize(size)
    head, _, data = data_url(image, "png", 95).partition(",")
    decoded = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, decoded.mode) == ("data:image/png;base64", "RGB")
    assert decoded.tobytes() == image.tobytes()
    head, _, data = data_url(image, "jpeg", 100).partition(",")
    decoded = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, decoded.format, decoded.size) == ("data:image/jpeg;base64", "JPEG", size)
    assert max(high for _, high in ImageChops.difference(decoded, image).getextrema()) <= 8


def test_a_view_that_cannot_be_sent_is_an_error_of_its_question():
    with pytest.raises(QuestionError, match="mode L"):
        data_url(Image.new("L", (4, 4)), "png", 95)
    with pytest.raises(QuestionError, match="empty"):
        data_url(Image.new("RGB", (0, 4)), "png", 95)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_format", "webp"),
        ("detail", "most"),
        ("max_tokens_field", "length"),
        ("max_in_flight", 0),
        ("max_in_flight", True),
        ("max_retries", -1),
        ("timeout_s", 0),
        ("timeout_s", "long"),
        ("jpeg_quality", 101),
        ("temperature", -0.1),
        ("seed", 0.5),
        ("extra_body", [1]),
        ("base_url", "localhost:8000"),
        ("base_url", "ftp://h/v1"),
        ("mode", "fast"),
    ],
)
def test_wrong_values_are_named_with_their_key(key, value):
    settings = {"name": "openai", "base_url": "http://127.0.0.1:9/v1", "model": NAME, key: value}
    with pytest.raises(ConfigError, match=rf"model\.{key}"):
        OpenAIEndpoint(**settings)


def test_fields_that_the_program_sets_are_not_for_extra_body():
    with pytest.raises(ConfigError, match=r"model\.extra_body\.max_tokens"):
        OpenAIEndpoint("openai", "http://127.0.0.1:9/v1", NAME, extra_body={"max_tokens": 5})


def test_without_the_client_library_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelError, match=r"pip install 'semclip-eval\[served\]'"):
        OpenAIEndpoint("openai", "http://127.0.0.1:9/v1", NAME)


def test_the_batch_follows_max_in_flight_unless_said_otherwise():
    assert composed("model=openai", "model.max_in_flight=5")["run"]["batch_size"] == 5
    assert composed("model=openai", "run.batch_size=2")["run"]["batch_size"] == 2


def test_the_revision_tells_served_models_apart():
    section = composed("model=openai", "model.model=a/b", "model.base_url=http://h:1/v1")["model"]
    assert session.model_revision(section) == "a/b@http://h:1/v1"
