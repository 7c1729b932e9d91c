"""Answers that were made elsewhere, looked up instead of computed: no image is opened, no weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future

from semclip_eval.answers.recording import Item, record_of
from semclip_eval.answers.replay import Replay
from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.errors import SemclipEvalError
from semclip_eval.results.records import Record
from semclip_eval.types import Question


class StoredAnswers:
    """Asks blocks of questions of a `Replay`; what was not seen here (views, tokens, times) stays empty."""

    chooses_ahead = False

    def __init__(self, benchmark: Benchmark, answers: Replay) -> None:
        self.benchmark, self.answers = benchmark, answers

    def load(self, question: Question) -> Item:
        """Nothing is read."""
        return Item(question)

    def choose(self, items: Sequence[Item], executor: Executor) -> list[Future[None]]:
        """Nothing is chosen."""
        return []

    def ask(self, questions: Sequence[Question], executor: Executor | None = None) -> list[Record]:
        """The records of a block, in its order."""
        return self.ask_loaded([self.load(question) for question in questions], executor)

    def ask_loaded(self, items: list[Item], executor: Executor | None = None) -> list[Record]:
        """`ask` for items."""
        for item in items:
            try:
                item.prompt = self.benchmark.prompt(item.question)
                item.answer = self.answers.answer(item.question.id)
            except SemclipEvalError:
                raise
            except Exception as error:
                item.fail(error)
        return [record_of(item, self.benchmark, True, lambda new_tokens: None) for item in items]
