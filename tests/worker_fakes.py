"""Workers that exist in virtual time only: a pool for the driver whose clock moves with its events."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

from semclip_eval.workers.messages import Alive, Answered, Event, Job, Lost, Message, Ready, Report, Task
from semclip_eval.workers.pool import Pool

Fate = Literal["answers", "dies", "hangs"]
# What a worker does with a task: how long it takes, and what comes of it.
Behaviour = Callable[[int, Task], tuple[float, Fate]]


class VirtualPool(Pool):
    """behaviour: of a worker with a task. starts: seconds until a worker is ready, or None where it dies while loading.
    Records are stood for by (question, worker).
    """

    def __init__(self, behaviour: Behaviour, starts: Callable[[int], float | None] = lambda worker: 1.0) -> None:
        self.clock = 0.0
        self.asked: list[tuple[int, tuple[str, ...]]] = []
        self.killed: list[int] = []
        self._behaviour, self._starts = behaviour, starts
        self._slots: dict[int, int] = {}
        self._queues: dict[int, list[Task]] = {}
        self._heap: list[tuple[float, int, Event]] = []
        self._order = itertools.count()
        self.started = 0

    def now(self) -> float:
        return self.clock

    @property
    def workers(self) -> Mapping[int, int]:
        return dict(self._slots)

    def start(self, slot: int) -> int:
        number, self.started = self.started, self.started + 1
        self._slots[number], self._queues[number] = slot, []
        self._later(0.0, Alive(number))
        return number

    def send(self, worker: int, message: Message) -> None:
        if isinstance(message, Job):
            delay = self._starts(worker)
            ready = Ready(worker, message.number, "here", {"device": "cpu"})
            self._later(
                1.0 if delay is None else delay, Lost(worker, "was killed by SIGKILL") if delay is None else ready
            )
        elif isinstance(message, Task):
            self._queues[worker].append(message)
            if len(self._queues[worker]) == 1:
                self._begin(worker)
        else:
            self._later(0.0, Report(worker, message.job, {}, {}, {}))

    def kill(self, worker: int) -> None:
        self.killed.append(worker)
        self._slots.pop(worker)
        self._queues.pop(worker)

    def events(self, timeout_s: float) -> list[Event]:
        if not self._heap or self._heap[0][0] > self.clock + timeout_s:
            self.clock += timeout_s
            return []
        self.clock, _, event = heapq.heappop(self._heap)
        if event.worker not in self._slots:
            return []
        if isinstance(event, Lost):
            self._slots.pop(event.worker)
            self._queues.pop(event.worker)
        elif isinstance(event, Answered):
            self._queues[event.worker].pop(0)
            if self._queues[event.worker]:
                self._begin(event.worker)
        return [event]

    def close(self) -> None:
        self._slots = {}

    def _begin(self, worker: int) -> None:
        task = self._queues[worker][0]
        self.asked.append((worker, task.questions))
        seconds, fate = self._behaviour(worker, task)
        if fate == "hangs":
            return
        records: list[Any] = [(question, worker) for question in task.questions]
        answer = Answered(worker, task.job, task.number, records)
        self._later(seconds, answer if fate == "answers" else Lost(worker, "was killed by SIGKILL"))

    def _later(self, seconds: float, event: Event) -> None:
        heapq.heappush(self._heap, (self.clock + seconds, next(self._order), event))
