"""A machine that is wanted back: what is being asked is finished after SIGTERM, and the SIGUSR2 of submitit.

Outside of asking, a signal acts at once. While blocks are asked it waits for the blocks in hand, at most the grace
that the run allows; a second signal waits for nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from semclip_eval.errors import Terminated

Handler = Callable[[int, FrameType | None], object]


class Terminate:
    """Our handler of SIGTERM: ends what is running like Ctrl-C does. Files are closed, workers ended.

    `came` says that it was called: a library that waits may raise an interrupt of its own for ours.
    """

    def __init__(self) -> None:
        self.came = threading.Event()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one changes nothing; SIGKILL follows
        self.came.set()
        raise Terminated


@contextmanager
def terminable(terminate: Terminate) -> Iterator[None]:
    """SIGTERM (a scheduler takes the machine back) ends what runs inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class BlockEnds:
    """Holds signals back until `reached` is called at the end of a block. `wanted`: has one come?"""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._before: dict[int, Handler] = {}
        self._number: int | None = None

    @property
    def wanted(self) -> bool:
        """Is the machine wanted back?"""
        return self._number is not None

    def reached(self) -> None:
        """No block is in hand: the signal that came, if any, acts now (and does not return, as a rule)."""
        if self._number is not None:
            number, self._number = self._number, None
            self._before[number](number, None)

    def hold(self) -> None:
        """From now on signals wait."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            handler = signal.getsignal(number)
            # Of SIGTERM ours alone: what another library makes of it (submitit: nothing) is not the end of the run.
            if callable(handler) and (number != signal.SIGTERM or isinstance(handler, Terminate)):
                self._before[number] = handler
                signal.signal(number, self._note)

    def let_go(self) -> None:
        """Handlers are what they were."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None or self._grace_s <= 0:
            self._number = None
            self._before[number](number, frame)
            return
        self._number = number
        # The blocks in hand may take too long: then it comes again.
        again = threading.Timer(self._grace_s, self._repeat)
        again.daemon = True
        again.start()

    def _repeat(self) -> None:
        if self._number is not None:
            os.kill(os.getpid(), self._number)


@contextmanager
def at_block_ends(grace_s: float) -> Iterator[BlockEnds]:
    """Signals that want the machine back wait for `BlockEnds.reached`, at most so many seconds; 0: they do not wait."""
    ends = BlockEnds(grace_s)
    if threading.current_thread() is not threading.main_thread():
        yield ends
        return
    ends.hold()
    try:
        yield ends
    finally:
        ends.let_go()
        ends.reached()
