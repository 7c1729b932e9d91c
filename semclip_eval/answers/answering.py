"""Who answers the blocks of a run: this process, or several workers (`semclip_eval.workers`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from semclip_eval.answers.ahead import Ahead
from semclip_eval.environment import describe
from semclip_eval.measure.ceilings import known as known_ceilings
from semclip_eval.measure.energy import DeviceCounters, energy_between
from semclip_eval.measure.stages import reset_peak_memory
from semclip_eval.modes import Mode
from semclip_eval.plan import Plan
from semclip_eval.results.records import Record
from semclip_eval.types import Question


@dataclass(frozen=True)
class Closing:
    """What is known when all is asked. measured: columns of the summary. notes: for environment.json. truncations: how
    much of the texts ψ could read (`Relevance.truncations`).
    """

    measured: Mapping[str, Any]
    notes: Mapping[str, Any]
    truncations: Mapping[str, int] = field(default_factory=dict)


class Answers(ABC):
    """Ready to answer: models are loaded.

    described: versions, machine and device (`environment.describe`), and `batch_size`, the questions of a block.
    """

    described: Mapping[str, Any]

    def warm_up(self, questions: Sequence[Question]) -> None:  # noqa: B027 (optional)
        """Ask these before the clock counts; nothing is kept."""

    @abstractmethod
    def answered(self, blocks: Sequence[list[Question]]) -> Iterator[list[Record]]:
        """The records of every block, a block's own in its order."""

    @abstractmethod
    def closing(self) -> Closing:
        """What is to be said at the end."""


class OwnProcess(Answers):
    """The answers of this process; blocks come in order."""

    def __init__(self, plan: Plan, mode: Mode) -> None:
        self._device, self._threads = plan.run.device, mode.threads
        self._opened = plan.source.open(plan.benchmark, plan.config, plan.run, plan.questions)
        self._counters = DeviceCounters(plan.run.device)
        ceilings = known_ceilings(plan.run.device, plan.run.dtype) if mode.times else None
        self.described = {
            **describe(plan.run.device),
            "batch_size": self._opened.batch_size,
            "ceilings": None if ceilings is None else asdict(ceilings),
            "device_state": self._counters.describe(),
        }
        self._first_call_ms: float | None = None
        self._energy_j: float | None = None

    def warm_up(self, questions: Sequence[Question]) -> None:
        # Allocations, kernels and caches settle.
        latencies = [self._opened.asker.ask([question])[0].latency_ms for question in questions]
        self._first_call_ms = latencies[0]["e2e"] if latencies and latencies[0] else None
        reset_peak_memory(self._device)

    def answered(self, blocks: Sequence[list[Question]]) -> Iterator[list[Record]]:
        before = self._counters.energy_j()
        yield from self._records(blocks)
        self._energy_j = energy_between(before, self._counters.energy_j(), sum(map(len, blocks)))

    def _records(self, blocks: Sequence[list[Question]]) -> Iterator[list[Record]]:
        asker = self._opened.asker
        if not self._threads:
            yield from (asker.ask(block) for block in blocks)
            return
        with closing(Ahead(asker, self._threads)) as ahead:
            for items in ahead.blocks(blocks):
                yield asker.ask_loaded(items, ahead.executor)

    def closing(self) -> Closing:
        relevance = self._opened.relevance
        truncations = relevance.truncations if relevance is not None else {}
        measured = {
            **self._opened.measured(self._device),
            "first_call_ms": self._first_call_ms,
            "energy_j_mean": self._energy_j,
        }
        return Closing(measured, self._opened.notes(), truncations)
