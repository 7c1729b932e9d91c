"""Which block a worker is asked next, and what becomes of a block whose worker was lost. No clock, no processes.

A worker has one block in hand and, while there is enough work, a second one whose images it reads ahead. Where a worker
is lost, the block in hand is held against it; whatever the worker had is asked again, each block alone with a worker
from then on, so that the one at fault shows. A block that lost `losses_allowed` workers is asked question by question,
and a single question that did is given up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from semclip_eval.workers.messages import Task


class Scheduler:
    """Hands out blocks of question ids and takes their answers, each question once.

    losses_allowed: how many workers a block, and after it a single question of it, may lose.
    """

    def __init__(self, blocks: Sequence[Sequence[str]], losses_allowed: int = 2, job: int = 0) -> None:
        self.losses_allowed = losses_allowed
        self._job = job
        self._count = 0
        self._waiting: deque[Task] = deque()
        self._open: set[int] = set()
        self._in_hand: dict[int, deque[Task]] = {}
        self._losses: Counter[int] = Counter()
        self._alone: set[int] = set()
        self._winds_up = False
        for block in blocks:
            self._waiting.append(self._task(tuple(block)))

    def _task(self, questions: tuple[str, ...]) -> Task:
        task = Task(self._job, self._count, questions)
        self._count += 1
        self._open.add(task.number)
        return task

    @property
    def finished(self) -> bool:
        """Is every question answered or given up?"""
        return not self._open

    @property
    def unassigned(self) -> int:
        """Blocks that no worker has."""
        return len(self._waiting)

    def add_worker(self, worker: int) -> None:
        """A worker that can be asked."""
        self._in_hand[worker] = deque()

    def is_asked(self, worker: int) -> bool:
        """Has this worker a block in hand?"""
        return bool(self._in_hand.get(worker))

    def next_for(self, worker: int) -> Task | None:
        """The next block for this worker; None where it has enough, or nothing is left."""
        in_hand = self._in_hand[worker]
        if not self._waiting or len(in_hand) >= 2:
            return None
        if in_hand:
            # A block ahead only while no other worker would go without one for it, and no suspect is about.
            suspects = {in_hand[0].number, self._waiting[0].number} & self._alone
            if suspects or len(self._waiting) < len(self._in_hand):
                return None
        task = self._waiting.popleft()
        in_hand.append(task)
        return task

    def wind_up(self) -> None:
        """Hand out nothing more; done when the blocks in hand are, and what was to follow them is not waited for."""
        self._winds_up = True
        self._waiting.clear()
        self._open &= {in_hand[0].number for in_hand in self._in_hand.values() if in_hand}

    def answered(self, worker: int, number: int) -> bool:
        """A worker answered this task; False where somebody else had already, and the answer does not count."""
        in_hand = self._in_hand.get(worker, deque())
        self._in_hand[worker] = deque(task for task in in_hand if task.number != number)
        if number not in self._open:
            return False
        self._open.discard(number)
        if number in self._alone:  # it had been asked of another worker before, and may wait to be asked again
            self._waiting = deque(task for task in self._waiting if task.number != number)
        return True

    def lost(self, worker: int) -> Task | None:
        """A worker is gone; the single question that is given up with it, if any."""
        tasks = [task for task in self._in_hand.pop(worker, ()) if task.number in self._open]
        if self._winds_up:
            self._open -= {task.number for task in tasks}
            return None
        self._alone.update(task.number for task in tasks)
        self._waiting.extendleft(reversed(tasks[1:]))
        if not tasks:
            return None
        suspect = tasks[0]
        self._losses[suspect.number] += 1
        if self._losses[suspect.number] < self.losses_allowed:
            self._waiting.appendleft(suspect)
            return None
        self._open.discard(suspect.number)
        if len(suspect.questions) == 1:
            return suspect
        singles = [self._task((question,)) for question in suspect.questions]
        self._alone.update(task.number for task in singles)
        self._waiting.extendleft(reversed(singles))
        return None
