"""How many workers a run has, and what each of them gets of the machine: `run.workers` and its companions, settled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semclip_eval.config import RunConfig
from semclip_eval.devices import cuda_device_count
from semclip_eval.errors import ConfigError

# Blocks a worker, of which the last ones leave others waiting.
ENOUGH_BLOCKS = 8


@dataclass(frozen=True)
class Layout:
    """executor: `local` or `ray`. workers: at a time. gpus: of each, 0 on the CPU; below 1 where several share one.
    devices: `CUDA_VISIBLE_DEVICES` of each local worker. threads: of torch in each, None where the environment says.
    """

    executor: str
    workers: int
    gpus: float
    devices: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def is_own_process(self) -> bool:
        """Does the driver ask the questions itself?"""
        return self.executor == "local" and self.workers == 1


def layout_of(run: RunConfig, model: Mapping[str, Any]) -> Layout:
    """The layout of a run; ConfigError for more workers than the machine has devices for.

    model: the resolved section. A Ray cluster is connected to where the layout depends on it.
    """
    on_gpu = run.device.startswith("cuda")
    gpus = run.gpus_per_worker if on_gpu else 0
    if (run.executor, run.workers) == ("local", 1):
        return Layout("local", 1, gpus)
    if ":" in run.device:
        raise ConfigError(
            f"run.device={run.device}: is one device, and run.workers={run.workers} wants one for each worker; use "
            "run.device=cuda, and CUDA_VISIBLE_DEVICES to choose among them."
        )
    if gpus > 1 and "device_map" in model and model["device_map"] is None:
        raise ConfigError(f"run.gpus_per_worker={gpus:g}: this model would use one of them; add model.device_map=auto.")
    if run.executor == "ray":
        return _on_ray(run, gpus)
    visible = _visible_devices() if on_gpu else []
    most = _most_workers(len(visible), gpus) if on_gpu else None
    workers = _count(run.workers, most)
    if most is not None and workers > most:
        raise ConfigError(
            f"run.workers={workers}: {len(visible)} CUDA devices with run.gpus_per_worker={gpus:g} are enough for "
            f"{most}; use run.workers=auto, or run.gpus_per_worker=0.5 for two workers on a device."
        )
    devices = tuple(_devices_of(slot, visible, gpus) for slot in range(workers)) if on_gpu else ()
    return Layout("local", workers, gpus, devices, _threads(usable_cpus(), workers))


def idle_hint(questions: int, workers: int, batch_size: int) -> str | None:
    """What to say where blocks that `run.batch_size=auto` made leave workers idle at the end; None where they do not.

    With `ENOUGH_BLOCKS` a worker less than 5 % of the time is idle (scripts/simulate_workers.py).
    """
    fitting = max(1, questions // (ENOUGH_BLOCKS * workers))
    if workers == 1 or batch_size <= fitting:
        return None
    return (
        f"{workers} workers share {questions} questions in blocks of {batch_size}: some will wait for the last ones. "
        f"run.batch_size={fitting} shares them more evenly."
    )


def _on_ray(run: RunConfig, gpus: float) -> Layout:
    from semclip_eval.workers.ray_pool import connected_ray

    resources = connected_ray().cluster_resources()
    most = _most_workers(int(resources.get("GPU", 0)), gpus) if gpus else None
    workers = _count(run.workers, most)
    return Layout("ray", workers, gpus, threads=_threads(int(resources.get("CPU", 1)), workers))


def _count(workers: int | str, most: int | None) -> int:
    if workers == "auto":
        return max(1, most or 1)
    return int(workers)


def _most_workers(devices: int, gpus: float) -> int:
    return devices // int(gpus) if gpus >= 1 else devices * round(1 / gpus)


def _devices_of(slot: int, visible: list[str], gpus: float) -> str:
    if gpus < 1:
        return visible[slot // round(1 / gpus)]
    each = int(gpus)
    return ",".join(visible[slot * each : (slot + 1) * each])


def _visible_devices() -> list[str]:
    """The names that `CUDA_VISIBLE_DEVICES` gives to the devices that torch would see."""
    count = cuda_device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def _threads(cpus: int, workers: int) -> int | None:
    """Threads of torch in each worker, so that all together are those of one process."""
    if "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, cpus // workers)


def usable_cpus() -> int:
    """Physical cores, or fewer where this process may use fewer."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
