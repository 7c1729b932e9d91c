"""Workers as processes of this machine, each with its share of the CUDA devices."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue

from semclip_eval.workers.messages import Alive, Event, Lost, Message, Task
from semclip_eval.workers.pool import Pool

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
END_S = 2.0


class LocalPool(Pool):
    """Spawned processes and pipes. devices: what each slot's `CUDA_VISIBLE_DEVICES` is; empty on the CPU."""

    def __init__(self, devices: Sequence[str] = ()) -> None:
        self._devices = devices
        self._context = get_context("spawn")
        self._processes: dict[int, tuple[SpawnProcess, Connection]] = {}
        self._slots: dict[int, int] = {}
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._started = 0

    @property
    def workers(self) -> Mapping[int, int]:
        return dict(self._slots)

    def start(self, slot: int) -> int:
        number = self._started
        self._started += 1
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve, args=(theirs, number, slot > 0), daemon=True, name=f"semclip-eval worker {number}"
        )
        with _environment({VISIBLE_DEVICES: self._devices[slot]} if self._devices else {}):
            process.start()
        theirs.close()
        self._processes[number], self._slots[number] = (process, ours), slot
        # A thread each: a worker that stops in the middle of a message must not hold up the others.
        threading.Thread(target=self._receive, args=(number, process, ours), daemon=True).start()
        return number

    def send(self, worker: int, message: Message) -> None:
        with contextlib.suppress(OSError, KeyError):
            self._processes[worker][1].send(message)

    def kill(self, worker: int) -> None:
        process, _ = self._processes.pop(worker)
        self._slots.pop(worker)
        process.kill()

    def events(self, timeout_s: float) -> list[Event]:
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=max(timeout_s, 0.001)))
            while True:
                events.append(self._events.get_nowait())
        for event in events:
            if isinstance(event, Lost):
                self._processes.pop(event.worker, None)
                self._slots.pop(event.worker, None)
        return events

    def close(self) -> None:
        for process, _ in self._processes.values():
            process.kill()
        for process, connection in self._processes.values():
            process.join(END_S)
            # Only now: the thread that reads of it has seen its end.
            with contextlib.suppress(OSError):
                connection.close()
        self._processes, self._slots = {}, {}

    def _receive(self, number: int, process: SpawnProcess, connection: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._events.put(connection.recv())
        process.join(END_S)
        self._events.put(Lost(number, _reason(process.exitcode)))


def _reason(exit_code: int | None) -> str:
    if exit_code is None:
        return "closed its pipe"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a process that is started inside."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(connection: Connection, number: int, is_quiet: bool) -> None:
    """What a worker process does: answer messages until the driver is gone."""
    # Ctrl-C goes to every process of a terminal, a scheduler's signals to all of a job; the driver decides what
    # becomes of its workers.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    from semclip_eval.workers.worker import BlockWorker

    worker = BlockWorker(number, is_quiet)
    inbox: SimpleQueue[Message] = SimpleQueue()

    def receive() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = connection.recv()
                if isinstance(message, Task):
                    worker.expect(message)
                inbox.put(message)
        os._exit(0)  # the driver is gone, and nobody waits for what is being asked

    threading.Thread(target=receive, daemon=True).start()
    connection.send(Alive(number))
    while True:
        connection.send(worker.reply(inbox.get()))
