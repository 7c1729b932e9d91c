"""Which failure belongs to which question: a stage that fails for a batch is repeated question by question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from semclip_eval.answers.recording import Item
from semclip_eval.errors import SemclipEvalError
from semclip_eval.models.base import VLM
from semclip_eval.models.transformers.memory import out_of_memory


def each_at_fault_alone(
    items: Sequence[Item],
    stage: Callable[[list[Item]], None],
    vlm: VLM,
    device: str,
    others: AbstractContextManager[Any] | None = None,
) -> None:
    """Run a stage for the items that have not failed yet; only those at fault end in an error.

    Errors that are the whole run's fault (SemclipEvalError) go up. Where memory ran out, what was kept is let go of
    before the questions are asked one by one. others: entered while questions are asked again, and nothing else
    computes within it; a question that ran out of memory beside others is asked once more, so that its record does not
    depend on who came first.
    """
    alive = [item for item in items if item.error is None]
    if not alive:
        return
    try:
        stage(alive)
    except SemclipEvalError:
        raise
    except Exception as error:
        ran_out = out_of_memory(error)
        if ran_out:
            vlm.release_memory()
        if len(alive) == 1 and not (ran_out and others is not None):
            alive[0].fail(error)
            empty_device_cache(device, error)
            return
        empty_device_cache(device, error)
        with others if others is not None else nullcontext():
            for item in alive:
                each_at_fault_alone([item], stage, vlm, device)


def empty_device_cache(device: str, error: Exception) -> None:
    """Give cached device memory back after a failure, so that the next question does not inherit it."""
    error.__traceback__ = None  # its frames hold the tensors
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
