"""Which failure belongs to which question: a stage that fails for a batch is repeated question by question."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from semclip_eval.answers.recording import Item
from semclip_eval.errors import SemclipEvalError
from semclip_eval.models.base import VLM
from semclip_eval.models.transformers.memory import out_of_memory


def each_at_fault_alone(items: Sequence[Item], stage: Callable[[list[Item]], None], vlm: VLM, device: str) -> None:
    """Run a stage for the items that have not failed yet; only those at fault end in an error.

    Errors that are the whole run's fault (SemclipEvalError) go up. Where memory ran out, what was kept is let go of
    before the questions are asked one by one.
    """
    alive = [item for item in items if item.error is None]
    if not alive:
        return
    try:
        stage(alive)
    except SemclipEvalError:
        raise
    except Exception as error:
        if out_of_memory(error):
            vlm.release_memory()
        if len(alive) == 1:
            alive[0].fail(error)
        empty_device_cache(device, error)
        if len(alive) > 1:
            for item in alive:
                each_at_fault_alone([item], stage, vlm, device)


def empty_device_cache(device: str, error: Exception) -> None:
    """Give cached device memory back after a failure, so that the next question does not inherit it."""
    error.__traceback__ = None  # its frames hold the tensors
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
