"""The driver's side: starts workers, hands them blocks, replaces those that die or hang, and yields records.

It knows neither processes nor Ray (`pool.Pool`), nor which block is next (`scheduler.Scheduler`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from semclip_eval import errors
from semclip_eval.console import notice, warn
from semclip_eval.errors import RunFailed, SemclipEvalError
from semclip_eval.results.records import Record
from semclip_eval.workers.messages import Alive, Answered, Event, Failed, Job, Lost, Ready, Report, ReportRequest
from semclip_eval.workers.pool import Pool
from semclip_eval.workers.scheduler import Scheduler

# Workers that may be lost before they were ready, one after another, before no further one is started.
FAILED_STARTS = 3
# Every worker may be lost twice in a row (a cluster that reboots) while some questions about one image are given up.
LOSSES_PER_WORKER, FURTHER_LOSSES = 2, 12
REPORT_S = 60.0
SAY_WAIT_EVERY_S = 60.0


@dataclass
class _Worker:
    slot: int
    # Was the job sent? A worker of an earlier job is sent it before it may be up.
    is_told: bool = False
    is_ready: bool = False
    deadline: float | None = None
    seen: dict[str, Any] = field(default_factory=dict)


class Driver:
    """Asks the blocks of one job.

    workers: how many at a time. timeout_s: for loading, and for each block; None: for ever. error_record: what becomes
    of a question that is given up (id, reason). now: a clock in seconds.
    """

    def __init__(
        self,
        pool: Pool,
        job: Job,
        workers: int,
        timeout_s: float | None,
        error_record: Callable[[str, str], Record],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool, self.job, self.timeout_s, self.now = pool, job, timeout_s, now
        self._error_record = error_record
        self._target = workers
        self._scheduler = Scheduler([], job=job.number)
        self._workers: dict[int, _Worker] = {}
        self._reports: list[Report] = []
        self._failed_starts = self._losses_in_a_row = 0
        self.losses = 0
        # Of every worker that was ready once, by number: host, device and how many questions it answered.
        self.took_part: dict[int, dict[str, Any]] = {}

    def open(self) -> dict[str, Any]:
        """Start the workers, and wait for the first one that is ready: its versions, machine and device."""
        for worker, slot in list(self.pool.workers.items())[: self._target]:
            self._workers[worker] = _Worker(slot, is_told=True, deadline=self._deadline())
            self.pool.send(worker, self.job)
        self._fill()
        said = self.now()
        while not any(worker.is_ready for worker in self._workers.values()):
            self._handle_events()
            said = self._say_wait(said)
        return next(worker.seen for worker in self._workers.values() if worker.is_ready)

    def answers(self, blocks: Sequence[Sequence[str]]) -> Iterator[list[Record]]:
        """The records of blocks of question ids: as they come, a block's own in its order, every question once."""
        self._scheduler = Scheduler(blocks, job=self.job.number)
        said = self.now()
        for number, worker in self._workers.items():
            if worker.is_ready:
                self._scheduler.add_worker(number)
                self._ask(number)
        while not self._scheduler.finished:
            yield from self._handle_events()
            said = self._say_wait(said)

    def wind_up(self) -> None:
        """Hand out no further block: `answers` ends with those in hand. One whose worker is lost is not asked again."""
        self._scheduler.wind_up()

    def report(self) -> list[Report]:
        """What the workers that are ready have to say at the end; one that is lost meanwhile says nothing."""
        asked = [number for number, worker in self._workers.items() if worker.is_ready]
        for number in asked:
            self._workers[number].deadline = self.now() + REPORT_S
            self.pool.send(number, ReportRequest(self.job.number))
        self._target = 0
        while {report.worker for report in self._reports}.union(set(asked) - set(self._workers)) != set(asked):
            self._handle_events()
        return self._reports

    def _say_wait(self, said: float) -> float:
        """Say now and then that no worker is ready; when that was said last, or was not so."""
        if any(worker.is_ready for worker in self._workers.values()):
            return self.now()
        if self.now() - said > SAY_WAIT_EVERY_S:
            notice(f"Waiting for the first of {self._target} workers: {self.pool.describe_wait()}.")
            return self.now()
        return said

    def _deadline(self) -> float | None:
        return None if self.timeout_s is None else self.now() + self.timeout_s

    def _fill(self) -> None:
        """Start workers until there are enough; none where starting keeps failing."""
        if self._failed_starts >= FAILED_STARTS:
            return
        used = {worker.slot for worker in self._workers.values()}
        for slot in range(self._target):
            if slot not in used and len(self._workers) < self._target:
                self._workers[self.pool.start(slot)] = _Worker(slot)

    def _handle_events(self) -> list[list[Record]]:
        deadlines = [worker.deadline for worker in self._workers.values() if worker.deadline is not None]
        wait = min([1.0, *(max(0.0, deadline - self.now()) for deadline in deadlines)])
        records = [block for event in self.pool.events(wait) for block in self._handle(event)]
        now = self.now()
        for number, worker in list(self._workers.items()):
            if worker.deadline is not None and now >= worker.deadline:
                self.pool.kill(number)
                records += self._lose(number, self._lateness(worker))
        return records

    def _lateness(self, worker: _Worker) -> str:
        what = "did not answer" if worker.is_ready else "was not ready"
        limit = f"run.worker_timeout_s={self.timeout_s:g}" if self._target and self.timeout_s else f"{REPORT_S:g} s"
        return f"{what} within {limit}"

    def _handle(self, event: Event) -> list[list[Record]]:
        worker = self._workers.get(event.worker)
        if isinstance(event, Answered):
            return self._take(event)
        if worker is None or getattr(event, "job", self.job.number) != self.job.number:
            return []
        if isinstance(event, Alive):
            worker.deadline = self._deadline()
            if not worker.is_told:  # a job that is opened twice would be opened while it is asked
                worker.is_told = True
                self.pool.send(event.worker, self.job)
        elif isinstance(event, Ready):
            self._welcome(event, worker)
        elif isinstance(event, Report):
            worker.deadline = None
            self._reports.append(event)
        elif isinstance(event, Failed):
            raise as_error(event)
        elif isinstance(event, Lost):
            return self._lose(event.worker, event.reason)
        return []

    def _welcome(self, event: Ready, worker: _Worker) -> None:
        worker.is_ready, worker.deadline, worker.seen = True, None, dict(event.described)
        self._failed_starts = 0
        device = str(event.described.get("device"))
        devices = {str(other["device"]) for other in self.took_part.values()}
        if devices and device not in devices:
            warn(
                f"Worker {event.worker} runs on {device}, others on {', '.join(sorted(devices))}: answers of two kinds "
                "of devices agree up to float arithmetic only."
            )
        self.took_part[event.worker] = {"host": event.host, "device": device, "questions": 0}
        self._scheduler.add_worker(event.worker)
        self._ask(event.worker)

    def _ask(self, number: int) -> None:
        was_asked = self._scheduler.is_asked(number)
        while (task := self._scheduler.next_for(number)) is not None:
            self.pool.send(number, task)
        if not was_asked:
            self._workers[number].deadline = self._deadline() if self._scheduler.is_asked(number) else None

    def _take(self, event: Answered) -> list[list[Record]]:
        if event.job != self.job.number:
            return []
        counts = self._scheduler.answered(event.worker, event.task)
        if counts:
            self._losses_in_a_row = 0
            self.took_part[event.worker]["questions"] += len(event.records)
        if event.worker in self._workers:
            worker = self._workers[event.worker]
            worker.deadline = self._deadline() if self._scheduler.is_asked(event.worker) else None
            self._ask(event.worker)
        return [event.records] if counts else []

    def _lose(self, number: int, reason: str) -> list[list[Record]]:
        """Replace a worker; the error record of a question that is given up with it, if any."""
        worker = self._workers.pop(number)
        self.losses += 1
        self._losses_in_a_row += 1
        self._failed_starts += not worker.is_ready
        what = "what it was asked is asked again" if worker.is_ready else "it had not loaded yet"
        warn(f"Worker {number} was lost ({reason}); {what}.")
        given_up = self._scheduler.lost(number)
        if self._scheduler.unassigned or not any(other.is_ready for other in self._workers.values()):
            self._fill()
        if self._target:
            self._check_losses(reason)
        for other, state in self._workers.items():
            if state.is_ready:
                self._ask(other)  # one may have been idle
        if given_up is None:
            return []
        return [[self._error_record(given_up.questions[0], reason)]]

    def _check_losses(self, reason: str) -> None:
        """RunFailed where it makes no sense to go on."""
        if not self._workers:
            raise RunFailed(
                f"{self._failed_starts} workers in a row were lost before they were ready; the last one {reason}. Is "
                "the memory enough for run.workers models? run.workers=1 shows what happens in one process."
            )
        if self._losses_in_a_row > LOSSES_PER_WORKER * self._target + FURTHER_LOSSES:
            raise RunFailed(
                f"{self._losses_in_a_row} workers in a row were lost without an answer; the last one {reason}. "
                "Everything done so far is kept; run.workers=1 shows what happens in one process."
            )


def as_error(event: Failed) -> Exception:
    """The worker's error as one of ours; a fault of the program keeps the worker's traceback."""
    kind = getattr(errors, event.kind, None) if event.kind else None
    if isinstance(kind, type) and issubclass(kind, SemclipEvalError):
        return kind(event.text)
    return RuntimeError(f"in worker {event.worker}:\n{event.text}")
