"""A worker's side: opens a job as the driver did, and answers blocks. The same in a process and in a Ray actor."""

from __future__ import annotations

import os
import socket
import threading
import traceback
from typing import Any

from semclip_eval import console
from semclip_eval.answers.ahead import Ahead, BlockAhead
from semclip_eval.answers.sources import Opened
from semclip_eval.environment import describe
from semclip_eval.errors import ConfigError, SemclipEvalError
from semclip_eval.measure.stages import reset_peak_memory
from semclip_eval.modes import mode_of
from semclip_eval.plan import make_plan
from semclip_eval.types import Question
from semclip_eval.workers.messages import Answered, Event, Failed, Job, Message, Ready, Report, ReportRequest, Task


class BlockWorker:
    """One worker. `expect` may be called from another thread while a block is being answered."""

    def __init__(self, number: int, is_quiet: bool) -> None:
        self.number = number
        # What all workers would say alike is said by one of them.
        console.err.quiet = is_quiet
        self._opened: Opened | None = None
        self._questions: dict[str, Question] = {}
        self._device = "cpu"
        self._ahead: Ahead | None = None
        self._job: int | None = None
        # Of what is expected: `expect` comes at any time, also while a job is being opened.
        self._lock = threading.Lock()
        self._begun: dict[int, BlockAhead] = {}

    def reply(self, message: Message) -> Event:
        """Do what a message asks for. Errors are replies too: the driver decides."""
        try:
            if isinstance(message, Job):
                return self._open(message)
            if isinstance(message, Task):
                return self._answer(message)
            return self._report(message)
        except SemclipEvalError as error:
            kind = next(base for base in type(error).__mro__ if base.__module__ == SemclipEvalError.__module__)
            return Failed(self.number, _job(message), kind.__name__, str(error))
        except Exception:
            return Failed(self.number, _job(message), "", traceback.format_exc())

    def expect(self, task: Task) -> None:
        """Begin to read the images of a task that will be asked, and to choose its views."""
        with self._lock:
            if self._ahead is not None and task.job == self._job:
                self._begun[task.number] = self._ahead.begin(self._asked_in(task))

    def _open(self, job: Job) -> Ready:
        if os.path.isdir(job.folder):  # another machine may lack it, and need it for nothing
            os.chdir(job.folder)
        if job.threads is not None:
            import torch

            torch.set_num_threads(job.threads)
        plan = make_plan(job.config)
        if plan.run_id != job.run_id:
            raise ConfigError(
                f"the worker on {socket.gethostname()} finds other data, weights or code than the driver (run "
                f"{plan.run_id} there, {job.run_id} here): give every machine the same package and the same files."
            )
        with self._lock:
            before, self._ahead, self._begun = self._ahead, None, {}
        if before is not None:
            before.close()
        self._questions = {question.id: question for question in plan.questions}
        self._device = plan.run.device
        self._opened = plan.source.open(plan.benchmark, plan.config, plan.run, plan.questions)
        threads = mode_of(plan.run).threads
        with self._lock:
            self._job, self._ahead = job.number, Ahead(self._opened.asker, threads) if threads else None
        reset_peak_memory(plan.run.device)
        described = {**describe(plan.run.device), "batch_size": self._opened.batch_size}
        return Ready(self.number, job.number, socket.gethostname(), described)

    def _answer(self, task: Task) -> Answered:
        asker, ahead = self._job_at_hand().asker, self._ahead
        if ahead is None:
            records = asker.ask(self._asked_in(task))
        else:
            with self._lock:
                begun = self._begun.pop(task.number, None)
            begun = begun or ahead.begin(self._asked_in(task))
            records = asker.ask_loaded(begun.items(), ahead.executor)
        return Answered(self.number, task.job, task.number, records)

    def _asked_in(self, task: Task) -> list[Question]:
        return [self._questions[question] for question in task.questions]

    def _report(self, request: ReportRequest) -> Report:
        opened = self._job_at_hand()
        truncations = opened.relevance.truncations if opened.relevance is not None else {}
        notes = opened.notes()
        return Report(self.number, request.job, opened.measured(self._device), notes, truncations)

    def _job_at_hand(self) -> Opened:
        if self._opened is None:
            raise RuntimeError("a worker was asked before it was given a job")
        return self._opened


def _job(message: Message) -> int:
    return message.number if isinstance(message, Job) else message.job


def job_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a run as each of its workers opens it: in that worker's own process."""
    return {**config, "run": {**config["run"], "executor": "local", "workers": 1}}
