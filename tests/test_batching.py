"""`run.batch_size=auto`: how many questions a block takes, what memory teaches, and that no answer depends on it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from semclip_eval.answers.batching import MOST, questions_at_once
from semclip_eval.answers.failures import Attempts
from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.answers.recording import Item
from semclip_eval.api import load_vlm
from semclip_eval.config import RunConfig
from semclip_eval.crops import Grid
from semclip_eval.models.served.endpoint_client import Endpoint
from semclip_eval.models.served.openai_endpoint import OpenAIEndpoint
from semclip_eval.models.transformers import memory
from semclip_eval.results.summary import read_rows
from semclip_eval.run import execute
from semclip_eval.selectors.full_crop import FullCrop
from semclip_eval.selectors.no_crop import NoCrop
from semclip_eval.workers.layout import idle_hint
from tests.fakes import ComputedVLM, DrawnBenchmark, config


class Roomy(ComputedVLM):
    """Has room for `room` tokens; a view is 100 of them, a prompt 10, an option's answer 5."""

    room: int | None = 1000

    def tokens_at_once(self):
        return self.room

    def prepare(self, request):
        prepared = super().prepare(request)
        prepared.visual_tokens, prepared.text_tokens = 100 * len(request.images), 10
        prepared.continuation_ids = [[0] * 5 for _ in request.prompt.continuations]
        prepared.max_new_tokens = request.prompt.max_new_tokens
        return prepared


def at_once(vlm: Any, selector: Any = None, benchmark: Any = None) -> int:
    benchmark = benchmark or DrawnBenchmark()
    run = RunConfig(device="cpu", dtype="float32")
    pipeline = Pipeline(benchmark, selector or NoCrop(), Grid("grid", 2, 2), None, vlm, run)
    return questions_at_once(pipeline, benchmark.questions())


def test_as_many_questions_as_there_is_room_for_their_views_prompt_and_options():
    assert at_once(Roomy()) == 1000 // (100 + 10 + 4 * 5)
    assert at_once(Roomy(), FullCrop()) == 1  # 5 views are 530 tokens
    assert at_once(Roomy(), benchmark=DrawnBenchmark(protocol="letter")) == 1000 // (100 + 10 + 4)


@pytest.mark.parametrize(("room", "expected"), [(None, 1), (1, 1), (10**9, MOST)])
def test_within_bounds(room, expected):
    vlm = Roomy()
    vlm.room = room
    assert at_once(vlm) == expected


def test_questions_that_cannot_be_read_decide_nothing():
    assert at_once(Roomy(), benchmark=DrawnBenchmark(count=10, broken=["q0"])) == 1000 // 130
    assert at_once(Roomy(), benchmark=DrawnBenchmark(count=10, broken=[f"q{n}" for n in range(10)])) == 1


def test_a_server_is_asked_more_than_it_answers_at_a_time(monkeypatch):
    monkeypatch.setattr(Endpoint, "check", lambda *arguments: None)
    vlm = OpenAIEndpoint("served", base_url="http://127.0.0.1:9/v1", model="m", max_in_flight=3)
    assert at_once(vlm) == 12


def test_room_on_a_gpu_by_the_formula(monkeypatch):
    """LLaVA-1.5-7B in bfloat16 on 80 GiB: 0.5 MiB of cache a token, five times, and its widest layer's activations."""
    import torch

    llama = SimpleNamespace(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * gib))
    token = 5 * (2 * 32 * 4096 * 2) + (2 * 11008 + 8 * 4096) * 2
    assert memory.tokens_at_once(llama, "bfloat16", {"cuda:0": 14 * gib}, 4) == 33 * gib // token
    # Two devices: the one with less room; and never more than keep it busy.
    assert memory.tokens_at_once(llama, "bfloat16", {"cuda:0": 14 * gib, "cuda:1": 70 * gib}, 4) == 5 * gib // token
    llama.num_key_value_heads, llama.head_dim = 2, 64
    assert memory.tokens_at_once(llama, "bfloat16", {"cuda:0": 1}, 0) == memory.MOST_TOKENS
    assert memory.tokens_at_once(llama, "float32", {"cpu": 1}, 0) == memory.CPU_TOKENS


def test_the_miniature_answers_alike_at_any_size(tmp_path):
    """The default (`auto`) is a real batch here, and chooses what batches of one choose."""
    from semclip_eval.compose import compose

    records = {}
    for size in ("auto", "1"):
        words = ["benchmark=vstar", "selector=no_crop", "run.limit=18", f"run.output_dir={tmp_path}"]
        words += [] if size == "auto" else ["run.batch_size=1"]
        folder = execute(compose(words, profile="mini"))
        records[size] = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        (row,) = read_rows(folder / "summary.csv")
        assert (int(row["batch_size"]) > 1) is (size == "auto")
    for many, one in zip(records["auto"], records["1"], strict=True):
        assert many["choice"] == one["choice"]
        assert many["option_losses"] == pytest.approx(one["option_losses"], abs=1e-4)


def test_the_miniature_says_what_room_there_is():
    assert load_vlm("mini_llava", profile="mini", device="cpu").tokens_at_once() == memory.CPU_TOKENS


class Changing(Roomy):
    """Its room is what the test says at the time."""

    room = 1000


def test_a_run_that_goes_on_keeps_its_blocks(tmp_path):
    composed = config(tmp_path)
    composed["model"]["_target_"] = "tests.test_batching.Changing"
    folder = execute(composed)
    assert json.loads((folder / "environment.json").read_text())["batch_size"] == 7
    whole = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text("".join(whole.splitlines(keepends=True)[:3]))
    (folder / "summary.csv").unlink()
    Changing.room = 200
    try:
        execute(composed)
    finally:
        Changing.room = 1000
    assert json.loads((folder / "environment.json").read_text())["batch_size"] == 7
    assert (folder / "samples.jsonl").read_text() == whole
    assert read_rows(folder / "summary.csv")[0]["batch_size"] == "7"


@pytest.mark.parametrize(
    ("questions", "workers", "size", "better"),
    [(9000, 64, 16, None), (9000, 64, 32, 17), (191, 8, 10, 2), (10, 8, 2, 1), (10, 8, 1, None), (10, 1, 10, None)],
)
def test_workers_that_will_wait_are_told_of(questions, workers, size, better):
    said = idle_hint(questions, workers, size)
    assert (said is None) is (better is None)
    assert said is None or f"run.batch_size={better} " in said


def items(count: int) -> list[Item]:
    return [Item(question) for question in DrawnBenchmark(count=count).questions()]


def test_memory_that_ran_out_is_remembered(capsys):
    asked: list[int] = []

    def stage(batch):
        asked.append(len(batch))
        if len(batch) > 3:
            raise MemoryError

    attempts = Attempts(ComputedVLM(), "cpu")
    attempts.run(items(10), stage)
    assert asked == [10, 5, 3, 2, 3, 2]
    assert attempts.most == 3
    asked.clear()
    attempts.run(items(8), stage)
    assert asked == [3, 3, 2]
    assert "10 questions" in capsys.readouterr().err


def test_every_question_is_asked_in_halves_and_those_that_never_fit_alone_fail():
    answered: list[str] = []

    def stage(batch):
        if any(item.question.id == "q2" for item in batch):
            raise MemoryError
        answered.extend(item.question.id for item in batch)

    given = items(6)
    Attempts(ComputedVLM(), "cpu").run(given, stage)
    assert sorted(answered) == ["q0", "q1", "q3", "q4", "q5"]
    assert [item.question.id for item in given if item.error is not None] == ["q2"]
