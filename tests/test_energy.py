"""Energy and clocks by a fake NVML; nothing, and no error, where there is none."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from semclip_eval import run
from semclip_eval.answers import answering
from semclip_eval.measure import energy
from semclip_eval.results.summary import read_summary
from tests.fakes import config


class FakeNvml(ModuleType):
    """One device that uses 250 mJ between two readings; `refuses` names calls that it cannot answer."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    class NVMLError(Exception):
        pass

    def __init__(self, refuses: tuple[str, ...] = ()) -> None:
        super().__init__("pynvml")
        self.refuses, self.millijoules = refuses, 5_000_000

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "refuses"):

            def refuse(*arguments: Any) -> None:
                raise FakeNvml.NVMLError(name)

            return refuse
        return super().__getattribute__(name)

    def nvmlInit(self) -> None: ...  # noqa: N802 (NVML's own names)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return f"handle of {uuid}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        assert handle == "handle of GPU-cuda:1"
        self.millijoules += 250
        return self.millijoules

    def nvmlDeviceGetClockInfo(self, handle: str, clock: int) -> int:  # noqa: N802
        return {1: 1410, 2: 2619}[clock]

    def nvmlDeviceGetMaxClockInfo(self, handle: str, clock: int) -> int:  # noqa: N802
        return {1: 1980, 2: 2619}[clock]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:  # noqa: N802
        return 700_000

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"570.1"


@pytest.fixture
def uuids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "device_uuid", lambda device: f"GPU-{device}")


def test_counters_in_joules_watts_and_megahertz(monkeypatch: pytest.MonkeyPatch, uuids: None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    counters = energy.DeviceCounters("cuda:1")
    before, after = counters.energy_j(), counters.energy_j()
    assert (before, after) == (5000.25, 5000.5)
    assert energy.energy_between(before, after, 5) == pytest.approx(0.05)
    assert counters.describe() == {
        "sm_clock_mhz": 1410, "memory_clock_mhz": 2619, "max_sm_clock_mhz": 1980, "max_memory_clock_mhz": 2619,
        "power_limit_w": 700.0, "driver": "570.1",
    }  # fmt: skip


def test_what_a_device_cannot_say_is_none(monkeypatch: pytest.MonkeyPatch, uuids: None) -> None:
    monkeypatch.setitem(
        sys.modules, "pynvml", FakeNvml(("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetEnforcedPowerLimit"))
    )
    counters = energy.DeviceCounters("cuda:1")
    assert counters.energy_j() is None
    described = counters.describe() or {}
    assert (described["power_limit_w"], described["sm_clock_mhz"]) == (None, 1410)
    for refused in ("nvmlInit", "nvmlDeviceGetHandleByUUID"):
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml((refused,)))
        counters = energy.DeviceCounters("cuda:1")
        assert counters.energy_j() is counters.describe() is None


def test_without_the_package_or_a_gpu_there_is_nothing_to_read(monkeypatch: pytest.MonkeyPatch, uuids: None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert energy.DeviceCounters("cpu").energy_j() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    counters = energy.DeviceCounters("cuda:1")
    assert counters.energy_j() is counters.describe() is None
    assert energy.energy_between(None, None, 5) is energy.energy_between(1.0, 2.0, 0) is None


def test_a_run_says_joules_a_question_and_the_clocks(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, uuids: None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setattr(answering, "DeviceCounters", lambda device: energy.DeviceCounters("cuda:1"))
    folder = run.execute(config(tmp_path, benchmark__count=5))
    assert float(read_summary(folder)["energy_j_mean"]) == pytest.approx(0.25 / 5)
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["device_state"]["power_limit_w"] == 700.0
    monkeypatch.setattr(answering, "DeviceCounters", energy.DeviceCounters)
    folder = run.execute(config(tmp_path, benchmark__count=4))
    assert read_summary(folder)["energy_j_mean"] == ""
    assert json.loads((folder / "environment.json").read_text(encoding="utf-8"))["device_state"] is None
