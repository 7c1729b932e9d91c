"""While one block is answered the next ones are read and chosen, and nothing that is written depends on it."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from typing import Any

import pytest
from PIL import Image

from semclip_eval.answers import ahead as ahead_module
from semclip_eval.answers.ahead import Ahead
from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.config import RunConfig
from semclip_eval.crops import Grid
from semclip_eval.errors import ModelError
from semclip_eval.run import execute
from semclip_eval.selectors.attention import Attention
from semclip_eval.selectors.no_crop import NoCrop
from semclip_eval.selectors.semclip import SemClip
from semclip_eval.selectors.sparse import Sparse
from tests.fakes import SEMCLIP, ComputedVLM, DrawnBenchmark, TextReader, config

WAIT_S = 20


def pipeline(selector=None, psi=None, vlm=None, benchmark=None, **run: Any) -> Pipeline:
    return Pipeline(
        benchmark or DrawnBenchmark(),
        selector or SemClip(),
        Grid("grid", 2, 2),
        psi or TextReader(),
        vlm or ComputedVLM(),
        RunConfig(device="cpu", dtype="float32", **run),
    )


def records(asker: Pipeline, threads: int, size: int = 2) -> list[dict[str, Any]]:
    questions = asker.benchmark.questions()
    blocks = [questions[start : start + size] for start in range(0, len(questions), size)]
    with closing(Ahead(asker, threads)) as ahead:
        answered = [asker.ask_loaded(items, ahead.executor) for items in ahead.blocks(blocks)]
    return [json.loads(record.line()) for block in answered for record in block]


class WatchedPsi(TextReader):
    """Says which questions it has scored, in which order and company."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []
        self.scored = threading.Condition()

    def score(self, requests):
        with self.scored:
            self.calls.append(tuple(request.text for request in requests))
            self.scored.notify_all()
        return super().score(requests)


def test_psi_scores_the_next_block_while_the_vlm_answers_this_one():
    psi = WatchedPsi()

    class Patient(ComputedVLM):
        blocks = 0

        def decode(self, batch, state, ignore_end_token=False):
            self.blocks += 1
            with psi.scored:
                # Ends at once unless the following block is never chosen meanwhile.
                assert psi.scored.wait_for(lambda: len(psi.calls) > self.blocks or self.blocks == 5, WAIT_S)
            return super().decode(batch, state, ignore_end_token)

    assert records(pipeline(psi=psi, vlm=Patient()), 2) == records(pipeline(), 1, size=10)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_psi_meets_the_questions_in_their_order_and_blocks(threads):
    psi = WatchedPsi()
    asker = pipeline(psi=psi)
    records(asker, threads, size=3)
    texts = [question.text for question in asker.benchmark.questions()]
    assert psi.calls == [tuple(texts[start : start + 3]) for start in range(0, 10, 3)]


def test_the_block_at_hand_and_few_images_ahead_are_in_memory(monkeypatch):
    loaded: list[str] = []
    lock = threading.Lock()

    class Counted(DrawnBenchmark):
        def _question(self, index):
            question = super()._question(index)
            load = question.load_image

            def counted():
                with lock:
                    loaded.append(question.id)
                return load()

            object.__setattr__(question, "load_image", counted)
            return question

    benchmark = Counted(count=40)
    asker = pipeline(benchmark=benchmark, selector=NoCrop())
    questions = benchmark.questions()
    with closing(Ahead(asker, 2)) as ahead:
        for number, _ in enumerate(ahead.blocks([[question] for question in questions])):
            time.sleep(0.002)
            assert len(loaded) <= number + 1 + 4  # this block, and two images a thread
    loaded.clear()
    monkeypatch.setattr(ahead_module, "LIMIT_MIB", 0)
    with closing(Ahead(asker, 2)) as ahead:
        for number, _ in enumerate(ahead.blocks([[question] for question in questions])):
            time.sleep(0.002)
            # An image whose size is not known yet takes no room, so one more than the next may have begun.
            assert len(loaded) <= number + 1 + 4


def test_images_that_take_too_much_memory_are_not_read_ahead(monkeypatch):
    monkeypatch.setattr(ahead_module, "LIMIT_MIB", 0)
    benchmark = DrawnBenchmark(count=6)
    with closing(Ahead(pipeline(benchmark=benchmark), 4)) as ahead:
        first = ahead.begin(benchmark.questions()[:1])
        first.items()
        assert first.size == 60 * 40 * 4
        assert not ahead._has_room([first])
        assert ahead._has_room([])


@pytest.mark.parametrize(
    ("selector", "chooses"),
    [(NoCrop(), True), (SemClip(), True), (Attention(), False), (Sparse(inner=NoCrop()), False)],
)
def test_a_choice_that_needs_the_vlm_waits_for_its_turn(selector, chooses):
    class Able(ComputedVLM):
        capabilities = frozenset({"attention", "prune", "class_attention", "gradients"})

    assert pipeline(selector=selector, vlm=Able()).chooses_ahead is chooses


class Stumbling(TextReader):
    """Fails for a batch with a certain question in it, by `error`."""

    def __init__(self, at: str, error: Exception) -> None:
        super().__init__()
        self.at, self.error = at, error

    def score(self, requests):
        if any(self.at in request.text for request in requests):
            raise self.error
        return super().score(requests)


def test_a_psi_that_fails_ahead_costs_the_question_at_fault_alone():
    expected = records(pipeline(), 1)
    found = records(pipeline(psi=Stumbling("number 5?", ArithmeticError("no"))), 2, size=3)
    assert [record["question_id"] for record in found if record["status"] == "error"] == ["q5"]
    assert [record for record in found if record["status"] != "error"] == [
        record for record in expected if record["question_id"] != "q5"
    ]


def test_memory_that_ran_out_is_remembered_by_what_chooses_ahead():
    ran_out = []

    class Large(TextReader):
        def score(self, requests):
            if len(requests) > 1:
                ran_out.append(len(requests))
                raise MemoryError
            return super().score(requests)

    benchmark = DrawnBenchmark(count=60)
    found = records(pipeline(psi=Large(), benchmark=benchmark), 1, size=3)
    assert found == records(pipeline(benchmark=benchmark), 1)
    # The first of 20 blocks teaches it; two more may have begun by then.
    assert len(ran_out) <= 6


def test_an_error_of_the_whole_run_comes_after_the_blocks_before_it():
    asker = pipeline(psi=Stumbling("number 5?", ModelError("these weights are broken")))
    questions = asker.benchmark.questions()
    answered: list[str] = []

    def answer_all() -> None:
        with closing(Ahead(asker, 2)) as ahead:
            for items in ahead.blocks([[question] for question in questions]):
                answered.extend(record.question_id for record in asker.ask_loaded(items, ahead.executor))

    with pytest.raises(ModelError):
        answer_all()
    assert answered == ["q0", "q1", "q2", "q3", "q4"]


def test_a_run_that_fails_in_psi_keeps_what_was_answered_and_goes_on(tmp_path):
    changes = {"selector": SEMCLIP, "run__batch_size": 1}
    whole = (execute(config(tmp_path / "whole", **changes)) / "samples.jsonl").read_text()
    broken = config(tmp_path / "part", **changes)
    TextReader.score, original = _failing_at("number 6?"), TextReader.score
    try:
        with pytest.raises(ModelError):
            execute(broken)
    finally:
        TextReader.score = original
    (part,) = (tmp_path / "part").rglob("samples.jsonl")
    assert len(part.read_text().splitlines()) == 6
    assert (execute(broken) / "samples.jsonl").read_text() == whole


def _failing_at(text: str) -> Any:
    original = TextReader.score

    def score(self, requests):
        if any(text in request.text for request in requests):
            raise ModelError("these weights are broken")
        return original(self, requests)

    return score


def test_a_question_that_ran_out_of_memory_beside_psi_is_asked_once_more_without_it():
    asking = threading.Event()

    class Crowded(ComputedVLM):
        failed = 0

        def prefill(self, batch, features):
            if not self.failed and batch[0].prompt.text.endswith("number 1?"):
                self.failed += 1
                raise MemoryError("beside ψ")
            asking.set()

    vlm = Crowded()
    found = records(pipeline(vlm=vlm), 2, size=1)
    assert vlm.failed == 1
    assert found == records(pipeline(), 1)


def test_a_question_too_large_for_the_memory_is_an_error_after_two_tries():
    class Small(ComputedVLM):
        tries = 0

        def prefill(self, batch, features):
            if any(prepared.prompt.text.endswith("number 1?") for prepared in batch):
                self.tries += 1
                raise MemoryError("too large")

    vlm = Small()
    found = records(pipeline(vlm=vlm), 2, size=1)
    assert [record["question_id"] for record in found if record["status"] == "error"] == ["q1"]
    assert vlm.tries == 2


def test_an_image_that_is_opened_lazily_is_decoded_where_it_is_read(tmp_path):
    Image.new("RGB", (60, 40), (9, 9, 9)).save(tmp_path / "a.png")

    class Lazy(DrawnBenchmark):
        def _question(self, index):
            question = super()._question(index)
            object.__setattr__(question, "load_image", lambda: Image.open(tmp_path / "a.png"))
            return question

    asker = pipeline(benchmark=Lazy(count=3))
    item = asker.load(asker.benchmark.questions()[0])
    assert item.image is not None
    assert not item.image.tile  # what Pillow has still to decode
    assert {record["status"] for record in records(asker, 4)} == {"ok"}


def test_closing_does_not_ask_what_is_left():
    psi = WatchedPsi()
    asker = pipeline(psi=psi, benchmark=DrawnBenchmark(count=50))
    questions = asker.benchmark.questions()
    with closing(Ahead(asker, 2)) as ahead:
        next(ahead.blocks([[question] for question in questions]))
    assert len(psi.calls) < 10
    assert threading.active_count() < 20
