"""Two one-thread processes with averaged gradients: nearly twice the speed of one process with two threads here."""

import datetime
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

WORKERS = 2


def _worker(rank: int, function: Callable[..., None], rendezvous: str, arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=WORKERS,
        timeout=datetime.timedelta(minutes=10),
    )
    function(rank, *arguments)
    dist.barrier()
    dist.destroy_process_group()


def run_workers(function: Callable[..., None], folder: Path, *arguments: object) -> None:
    """Call `function(rank, *arguments)` in every worker and wait; an exception in one ends all."""
    folder.mkdir(parents=True, exist_ok=True)
    rendezvous = folder / f"rendezvous-{os.getpid()}"
    rendezvous.unlink(missing_ok=True)
    spawn(_worker, args=(function, str(rendezvous), arguments), nprocs=WORKERS)
    rendezvous.unlink(missing_ok=True)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the workers, in one all-reduce."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= WORKERS
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def fill_missing_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Zero gradients where a batch did not reach a parameter, so that all workers reduce the same vector."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


class Optimizers:
    """Muon for weight matrices, AdamW for embeddings, norms and biases, with one learning-rate factor for both."""

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], muon_lr: float, adam_lr: float
    ) -> None:
        self.muon = torch.optim.Muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=0.01)
        self.adam = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.01)
        self._base = (muon_lr, adam_lr)
        self.parameters = [*matrices, *others]

    def step(self, factor: float) -> None:
        """One update at `factor` times the base learning rates; gradients are averaged, clipped and cleared here."""
        fill_missing_gradients(self.parameters)
        average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, base in zip((self.muon, self.adam), self._base, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
