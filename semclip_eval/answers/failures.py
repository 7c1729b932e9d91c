"""Which failure belongs to which question: a stage that fails for a batch is repeated for parts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from semclip_eval.answers.recording import Item
from semclip_eval.console import notice
from semclip_eval.errors import SemclipEvalError
from semclip_eval.models.base import VLM
from semclip_eval.models.transformers.memory import out_of_memory

Stage = Callable[[list[Item]], None]


@dataclass
class Attempts:
    """Runs a stage for batches; only the questions at fault end in an error.

    Errors that are the whole run's fault (SemclipEvalError) go up. Where memory ran out, what was kept is let go of,
    halves are asked, and `most`, the questions that have room at once, holds for the batches that follow. After another
    failure the questions are asked one by one. others: entered while questions are asked again, and nothing else
    computes within it; a question that ran out of memory beside others is asked once more, so that its record does not
    depend on who came first. None: nobody else computes.
    """

    vlm: VLM
    device: str
    others: AbstractContextManager[Any] | None = None
    most: int | None = None

    def run(self, items: Sequence[Item], stage: Stage) -> None:
        """The stage for those items that have not failed yet."""
        for batch in self.batches(items):
            self._attempt(batch, stage, self.others)

    def batches(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Those items that have not failed yet, as many at a time as memory is known to have room for."""
        alive = [item for item in items if item.error is None]
        while alive:
            size = self.most or len(alive)
            yield alive[:size]
            alive = alive[size:]

    def _attempt(self, batch: list[Item], stage: Stage, others: AbstractContextManager[Any] | None) -> None:
        try:
            stage(batch)
            return
        except SemclipEvalError:
            raise
        except Exception as error:
            ran_out = out_of_memory(error)
            if ran_out:
                self.vlm.release_memory()
            if len(batch) == 1 and not (ran_out and others is not None):
                batch[0].fail(error)
                empty_device_cache(self.device, error)
                return
            empty_device_cache(self.device, error)
        half = (len(batch) + 1) // 2
        if ran_out and len(batch) > 1:
            self.most = min(half, self.most or half)
            notice(f"{len(batch)} questions at once ran out of memory: from here on {self.most} are asked at once.")
        with others if others is not None else nullcontext():
            while batch:
                size = min(self.most or half, half) if ran_out else 1
                self._attempt(batch[:size], stage, None)
                batch = batch[size:]


def empty_device_cache(device: str, error: Exception) -> None:
    """Give cached device memory back after a failure, so that the next question does not inherit it."""
    error.__traceback__ = None  # its frames hold the tensors
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
