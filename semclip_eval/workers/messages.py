"""What a driver and its workers tell each other. Plain data, so that it travels through a pipe or through Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semclip_eval.results.records import Record


@dataclass(frozen=True)
class Job:
    """What a worker opens: a resolved config, whose run must turn out to be `run_id` where the worker lives too.

    number: tells the jobs of a process from each other. folder: relative paths begin there. threads: of torch in each
    worker, None where the environment decides.
    """

    number: int
    config: Mapping[str, Any]
    run_id: str
    folder: str
    threads: int | None = None


@dataclass(frozen=True)
class Task:
    """A block, or a single question of one that workers died of. `questions` are ids, in the block's order."""

    job: int
    number: int
    questions: tuple[str, ...]


@dataclass(frozen=True)
class ReportRequest:
    """All is asked: what do ψ, the model and the device have to say of this job?"""

    job: int


Message = Job | Task | ReportRequest


@dataclass(frozen=True)
class Alive:
    """The worker's process is up; it has loaded nothing yet."""

    worker: int


@dataclass(frozen=True)
class Ready:
    """A job is open. `described`: see `Answers`."""

    worker: int
    job: int
    host: str
    described: Mapping[str, Any]


@dataclass(frozen=True)
class Answered:
    """The records of a task, in its order."""

    worker: int
    job: int
    task: int
    records: list[Record]


@dataclass(frozen=True)
class Report:
    """`measured`: columns of the summary; `notes`: for environment.json; `truncations`: see `Relevance.truncations`."""

    worker: int
    job: int
    measured: Mapping[str, Any]
    notes: Mapping[str, Any]
    truncations: Mapping[str, int]


@dataclass(frozen=True)
class Failed:
    """An error that is the whole run's fault. `kind`: its class in `semclip_eval.errors`; empty for a traceback."""

    worker: int
    job: int
    kind: str
    text: str


@dataclass(frozen=True)
class Lost:
    """The worker is gone: died, was killed, or its machine went away."""

    worker: int
    reason: str


Event = Alive | Ready | Answered | Report | Failed | Lost
