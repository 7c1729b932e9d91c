"""Workers as Ray actors, on one machine or on a cluster. Ray is an extra: `pip install 'semclip-eval[ray]'`."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from semclip_eval.errors import ConfigError, Terminated
from semclip_eval.workers.messages import Alive, Event, Lost, Message, Task
from semclip_eval.workers.pool import Pool


def connected_ray() -> Any:
    """The module `ray`, connected: to the cluster that `RAY_ADDRESS` or `ray start` names, else one of its own here."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "run.executor=ray: Ray is not installed; pip install 'semclip-eval[ray]', or run.executor=local for "
            "processes of this machine."
        ) from error
    if not ray.is_initialized():
        with _our_signals():
            try:
                ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
            except SystemExit:
                raise Terminated from None  # Ray's own answer to a SIGTERM that comes meanwhile
            except ConnectionError as error:
                raise ConfigError(f"run.executor=ray: no cluster answers ({error}); check RAY_ADDRESS.") from error
    return ray


@contextlib.contextmanager
def _our_signals() -> Iterator[None]:
    """Ray installs a handler of its own for SIGTERM, which would end the driver with exit code 1."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Actor:
    """The Ray actor around a `BlockWorker`; `expect` runs beside the block that is being answered."""

    def __init__(self, number: int, is_quiet: bool) -> None:
        from semclip_eval.workers.worker import BlockWorker

        self._worker = BlockWorker(number, is_quiet)
        self._number = number

    def alive(self) -> Alive:
        """The actor has found a place and is up."""
        return Alive(self._number)

    def expect(self, task: Task) -> None:
        """See `BlockWorker.expect`."""
        self._worker.expect(task)

    def reply(self, message: Message) -> Event:
        """See `BlockWorker.reply`."""
        return self._worker.reply(message)


class RayPool(Pool):
    """Actors without restarts: the driver replaces them. gpus: of each worker, 0 on the CPU; may be a fraction."""

    def __init__(self, gpus: float) -> None:
        self._ray = connected_ray()
        self._gpus = gpus
        groups = {"ahead": 1}
        self._actor = self._ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, concurrency_groups=groups)(Actor)
        self._actors: dict[int, Any] = {}
        self._slots: dict[int, int] = {}
        self._replies: dict[Any, int] = {}
        self._started = 0

    @property
    def workers(self) -> Mapping[int, int]:
        return dict(self._slots)

    def start(self, slot: int) -> int:
        number = self._started
        self._started += 1
        self._actors[number] = self._actor.remote(number, slot > 0)
        self._slots[number] = slot
        self._replies[self._actors[number].alive.remote()] = number
        return number

    def send(self, worker: int, message: Message) -> None:
        if worker not in self._actors:
            return
        actor = self._actors[worker]
        if isinstance(message, Task):
            actor.expect.options(concurrency_group="ahead").remote(message)
        self._replies[actor.reply.remote(message)] = worker

    def kill(self, worker: int) -> None:
        self._slots.pop(worker)
        self._ray.kill(self._actors.pop(worker))
        self._replies = {reply: number for reply, number in self._replies.items() if number != worker}

    def events(self, timeout_s: float) -> list[Event]:
        replies = list(self._replies)
        if not replies:
            time.sleep(timeout_s)
            return []
        first, _ = self._ray.wait(replies, num_returns=1, timeout=max(timeout_s, 0.001))
        if not first:
            return []
        done, _ = self._ray.wait(replies, num_returns=len(replies), timeout=0)
        events: list[Event] = []
        for reply in done:
            # A worker that is gone answers everything that it was still to answer with the same error.
            number = self._replies.pop(reply, None)
            if number is None:
                continue
            try:
                events.append(self._ray.get(reply))
            except self._ray.exceptions.RayError as error:
                if number in self._actors:
                    self.kill(number)
                    events.append(Lost(number, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"))
        return events

    def close(self) -> None:
        for worker in list(self._actors):
            with contextlib.suppress(self._ray.exceptions.RayError):
                self.kill(worker)

    def describe_wait(self) -> str:
        free = self._ray.available_resources()
        return (
            f"Ray has {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free; a worker takes 1 CPU and "
            f"{self._gpus:g} GPUs, and loads its model"
        )
