"""Energy, clocks and power limit of the CUDA device by NVML; None throughout where there is no NVML to ask.

NVML's counter of total energy (`nvmlDeviceGetTotalEnergyConsumption`, Volta and later) is the whole device's, in
millijoules, whatever else runs on it. It is read before the first and after the last question, not around stages: it
moves in steps of tens of milliseconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


class DeviceCounters:
    """The counters of one CUDA device (`cuda`, `cuda:N`); on the CPU, or without the package nvidia-ml-py, none."""

    def __init__(self, device: str) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        if not device.startswith("cuda"):
            return
        try:
            self._nvml = importlib.import_module("pynvml")
        except ImportError:
            return
        self._handle = self._ask(lambda: self._opened(device))

    def _opened(self, device: str) -> Any:
        self._nvml.nvmlInit()
        # By UUID: NVML numbers all devices of the machine, torch those that CUDA_VISIBLE_DEVICES leaves.
        return self._nvml.nvmlDeviceGetHandleByUUID(device_uuid(device))

    def _ask(self, question: Callable[[], Any]) -> Any:
        """What NVML answers; None for what this device or driver cannot say."""
        try:
            return question()
        except self._nvml.NVMLError:
            return None

    def energy_j(self) -> float | None:
        """Joules that the device has used since its driver was loaded."""
        if self._handle is None:
            return None
        millijoules = self._ask(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if millijoules is None else millijoules / 1000

    def describe(self) -> dict[str, Any] | None:
        """Clocks (MHz) now and at most, the power limit (W) and the driver, for environment.json."""
        if self._handle is None:
            return None
        nvml, handle = self._nvml, self._handle
        limit = self._ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        return {
            "sm_clock_mhz": self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "memory_clock_mhz": self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            "max_sm_clock_mhz": self._ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "max_memory_clock_mhz": self._ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            "power_limit_w": None if limit is None else limit / 1000,
            "driver": _text(self._ask(nvml.nvmlSystemGetDriverVersion)),
        }


def energy_between(before: float | None, after: float | None, questions: int) -> float | None:
    """Joules a question; None where the counter was not read, or nothing was asked."""
    return None if before is None or after is None or not questions else (after - before) / questions


def device_uuid(device: str) -> str:
    """NVML's name of torch's device."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
