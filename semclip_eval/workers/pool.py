"""What a driver needs of a set of workers, wherever they run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from semclip_eval.workers.messages import Event, Message


class Pool(ABC):
    """Workers by number; a number is never used twice. `slot` says which share of the machine a worker has (its GPUs);
    a worker that replaces another one takes its slot.
    """

    @property
    @abstractmethod
    def workers(self) -> Mapping[int, int]:
        """The slot of every worker that was started and is not known to be gone."""

    @abstractmethod
    def start(self, slot: int) -> int:
        """Start a worker; its number. An `Alive` follows when it is up."""

    @abstractmethod
    def send(self, worker: int, message: Message) -> None:
        """Tell a worker something; one that is gone shows in an event, not here."""

    @abstractmethod
    def kill(self, worker: int) -> None:
        """End a worker now, whatever it does. It is forgotten: no `Lost` needs to follow."""

    @abstractmethod
    def events(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; waits for the first event, at most so long."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def describe_wait(self) -> str:
        """Why no worker may be up yet, as far as the pool knows."""
        return "models are loading"
