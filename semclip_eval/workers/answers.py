"""The answers of several workers, for `semclip_eval.run`. They stay, with their models, for the next job of a sweep."""

from __future__ import annotations

import atexit
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from semclip_eval import session
from semclip_eval.answers.answering import Answers, Closing
from semclip_eval.answers.recording import Item, record_of
from semclip_eval.console import notice
from semclip_eval.errors import QuestionError
from semclip_eval.modes import Mode
from semclip_eval.plan import Plan
from semclip_eval.results.records import Record
from semclip_eval.types import Question
from semclip_eval.workers.driver import Driver
from semclip_eval.workers.layout import Layout
from semclip_eval.workers.messages import Job, Report
from semclip_eval.workers.pool import Pool
from semclip_eval.workers.worker import job_config

_kept: dict[Layout, Pool] = {}
_jobs = itertools.count(1)


class WorkerLost(QuestionError):
    """Every worker that was asked this question alone was lost."""


class WorkerAnswers(Answers):
    """Blocks come as they are answered, not in order."""

    def __init__(self, plan: Plan, mode: Mode, layout: Layout, blocks: int) -> None:
        self._plan, self._mode = plan, mode
        self._layout = layout
        session.forget("psi")  # what this process holds of the devices is the workers' now
        session.forget("model")
        self._driver = Driver(
            _pool(layout),
            Job(next(_jobs), job_config(plan.config), plan.run_id, os.getcwd(), layout.threads),
            min(layout.workers, max(1, blocks)),
            plan.run.worker_timeout_s,
            self._given_up,
        )
        self.described = self._driver.open()

    def answered(self, blocks: Sequence[list[Question]]) -> Iterator[list[Record]]:
        yield from self._driver.answers([[question.id for question in block] for block in blocks])

    def wind_up(self) -> None:
        self._driver.wind_up()

    def closing(self) -> Closing:
        reports = self._driver.report()
        workers: dict[str, Any] = {
            "executor": self._layout.executor,
            "workers": list(self._driver.took_part.values()),
            "workers_lost": self._driver.losses,
        }
        notes = {"psi_truncation": (counts := merged_truncations(reports)) or None, **workers}
        return Closing(_measured(reports), notes, counts)

    def _given_up(self, question: str, reason: str) -> Record:
        item = Item(next(known for known in self._plan.questions if known.id == question))
        item.fail(WorkerLost(f"every worker that was asked this question alone was lost; the last one {reason}"))
        return record_of(item, self._plan.benchmark, False, lambda new_tokens: None)


def merged_truncations(reports: Sequence[Report]) -> dict[str, int]:
    """Counts of all workers together; a text that two of them read counts twice."""
    counts = [report.truncations for report in reports if report.truncations]
    if not counts:
        return {}
    return {
        "texts": sum(count["texts"] for count in counts),
        "truncated": sum(count["truncated"] for count in counts),
        "longest": max(count["longest"] for count in counts),
        "context": counts[0]["context"],
    }


def _measured(reports: Sequence[Report]) -> Mapping[str, Any]:
    """The columns as the workers measured them; of their peaks of memory the largest."""
    if not reports:
        return {}
    peaks = [report.measured["peak_memory_mib"] for report in reports if report.measured.get("peak_memory_mib")]
    return {**reports[0].measured, "peak_memory_mib": max(peaks, default=None)}


def _pool(layout: Layout) -> Pool:
    pool = _kept.get(layout)
    if pool is None:
        close_workers()
        what = "Ray actors" if layout.executor == "ray" else "processes"
        notice(f"Starting {layout.workers} workers ({what}); each loads its own model.")
        pool = _kept[layout] = _new_pool(layout)
        # Last registered, first called: before multiprocessing waits for a worker that hangs, and before Ray is gone.
        atexit.unregister(close_workers)
        atexit.register(close_workers)
    return pool


def _new_pool(layout: Layout) -> Pool:
    if layout.executor == "ray":
        from semclip_eval.workers.ray_pool import RayPool

        return RayPool(layout.gpus)
    from semclip_eval.workers.local_pool import LocalPool

    return LocalPool(layout.devices)


def close_workers() -> None:
    """End the workers that were kept for a next job."""
    while _kept:
        _kept.popitem()[1].close()
