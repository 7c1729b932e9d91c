"""How many CUDA devices torch would see, found without importing torch where that is certain.

The CUDA driver's own library tells in milliseconds; torch takes seconds to import. Where the two may disagree (a driver
older than torch's CUDA, ROCm), torch is asked.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from functools import cache
from pathlib import Path

from semclip_eval.errors import ConfigError

DRIVER = "libcuda.so.1"


def cuda_device_count() -> int:
    """What `torch.cuda.device_count()` gives, and 0 where `torch.cuda.is_available()` is false."""
    built = torch_cuda_version()
    driver = driver_devices() if built is not None else None
    if built is not None and driver is None:
        return 0
    if built is not None and driver is not None and driver[0] >= built[0]:
        return driver[1]
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@cache
def torch_cuda_version() -> tuple[int, int] | None:
    """The CUDA version that torch is built for; None where that is not known, or it is built for something else."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        try:
            text = (Path(folder) / "version.py").read_text(encoding="utf-8")
        except OSError:
            continue
        version = re.search(r"^cuda\b[^=]*= ['\"](\d+)\.(\d+)", text, re.MULTILINE)
        return (int(version[1]), int(version[2])) if version else None
    return None


@cache
def driver_devices() -> tuple[int, int] | None:
    """The driver's CUDA version (major) and how many devices it shows this process; None without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    calls = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDriverGetVersion(ctypes.byref(version)),
        lambda: driver.cuDeviceGetCount(ctypes.byref(count)),
    )
    if any(call() != 0 for call in calls):
        return None
    return version.value // 1000, count.value


def reading_threads() -> int:
    """Threads that read images ahead for one model: the process's cores, shared by the CUDA devices; 2 to 8 of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(2, cores // max(1, cuda_device_count())))


def detected_profile() -> str:
    """`full` where there is a CUDA device, `mini` where there is none."""
    return "full" if cuda_device_count() else "mini"


def settled_device(device: str, here: bool = True) -> str:
    """`cpu`, `cuda` or `cuda:N` for a `run.device`; ConfigError for one that this machine has not.

    here: false where another machine will use the device.
    """
    if device == "auto":
        return "cuda" if cuda_device_count() else "cpu"
    kind, _, number = str(device).partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise ConfigError(f"run.device={device}: must be auto, cpu, cuda or cuda:N.")
    if here and kind == "cuda" and int(number or 0) >= cuda_device_count():
        raise ConfigError(f"run.device={device}: this machine has {cuda_device_count()} CUDA devices.")
    return str(device)
