"""Blocks on their way before they are asked: images read in threads, views chosen and prepared in one more.

While the VLM answers a block, the next ones' images are decoded, ψ scores their crops and their views become pixels, so
that the device does not wait for either. One thread chooses, block after block in their order, so ψ and the selector
meet the same questions in the same company as without it, and choose the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from semclip_eval.answers.recording import Item
from semclip_eval.benchmarks.decoded import memory_of
from semclip_eval.types import Question

MIB = 2**20
# Decoded images that wait to be asked; one block is read ahead whatever its size.
LIMIT_MIB = 1024


class ReadsAhead(Protocol):
    """What of an asker the threads use."""

    @property
    def chooses_ahead(self) -> bool:
        """May views be chosen while another block is being answered?"""

    def load(self, question: Question) -> Item:
        """Read what is needed of one question."""

    def choose(self, items: Sequence[Item], executor: Executor) -> list[Future[None]]:
        """Choose the views of a loaded block, and begin to prepare them; a future of each that is being prepared."""


@dataclass(frozen=True)
class BlockAhead:
    """A block that is being read, and chosen where `chosen` is not None."""

    loads: list[Future[Item]]
    chosen: Future[list[Future[None]]] | None

    def items(self) -> list[Item]:
        """The items, waited for; an error that is the whole run's fault (SemclipEvalError) is raised here."""
        for prepared in self.chosen.result() if self.chosen is not None else ():
            prepared.result()
        return [load.result() for load in self.loads]

    @property
    def size(self) -> int:
        """Bytes of the images that are decoded by now."""
        done = [load.result() for load in self.loads if load.done() and load.exception() is None]
        return sum(memory_of(item.image) for item in done if item.image is not None)


class Ahead:
    """The threads: `threads` of them read and prepare, one more chooses. Close it when all is asked."""

    def __init__(self, asker: ReadsAhead, threads: int) -> None:
        self._asker, self._threads = asker, threads
        self.executor = ThreadPoolExecutor(threads, "read-ahead")
        self._chooser = ThreadPoolExecutor(1, "choose-ahead") if asker.chooses_ahead else None

    def begin(self, questions: Sequence[Question]) -> BlockAhead:
        """Begin to read a block, and to choose its views once those begun before have theirs."""
        loads = [self.executor.submit(self._asker.load, question) for question in questions]
        return BlockAhead(loads, self._chooser.submit(self._choose, loads) if self._chooser is not None else None)

    def _choose(self, loads: Sequence[Future[Item]]) -> list[Future[None]]:
        return self._asker.choose([load.result() for load in loads], self.executor)

    def blocks(self, blocks: Sequence[Sequence[Question]]) -> Iterator[list[Item]]:
        """Every block's items in order; while the caller has one, as many images are ahead as keep the threads busy."""
        unread = deque(blocks)
        waiting: deque[BlockAhead] = deque()
        while unread or waiting:
            self._fill(waiting, unread)
            block = waiting.popleft()
            self._fill(waiting, unread)
            yield block.items()

    def _fill(self, waiting: deque[BlockAhead], unread: deque[Sequence[Question]]) -> None:
        while unread and self._has_room(waiting):
            waiting.append(self.begin(unread.popleft()))

    def _has_room(self, waiting: Sequence[BlockAhead]) -> bool:
        if not waiting:
            return True
        if sum(block.size for block in waiting) >= LIMIT_MIB * MIB:
            return False
        # While one block is chosen, the next one is read.
        blocks = 1 if self._chooser is None else 2
        return len(waiting) < blocks or sum(len(block.loads) for block in waiting) < 2 * self._threads

    def close(self) -> None:
        """Let go of what was not asked, and wait for the threads."""
        for pool in (self._chooser, self.executor):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
