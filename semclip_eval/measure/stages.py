"""Latency by stage, peak memory: context managers around the stages of one question.

In latency mode every stage begins and ends with the device idle (`torch.cuda.synchronize`), so a stage's milliseconds
are its own; on the CPU the wall clock says the same. In accuracy mode nothing is timed: batched and prefetched work has
no latency of one question.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

STAGES = ("load", "select", "prepare", "vision", "prune", "prefill", "decode")
# Parts of a stage that are timed on their own as well (ψ's and `select_vlm` of `select`, `crop` of `prepare`); they do
# not count twice in the stages' sum.
PARTS = ("select_vlm", "psi_crop", "psi_image", "psi_text", "crop")


class StageClock:
    """Milliseconds by stage for one question; a clock that is off costs nothing and measures nothing.

    now: seconds from a fixed moment.
    """

    def __init__(self, device: str, on: bool, now: Callable[[], float] = time.perf_counter) -> None:
        self.device = device
        self.on = on
        self.milliseconds: dict[str, float] = {}
        self._now = now
        self._begin = self._end = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget the last question; the next one begins now."""
        self.milliseconds = {}
        if self.on:
            self._synchronise()
            self._begin = self._end = self._now()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time between entry and exit to the stage `name`."""
        if not self.on:
            yield
            return
        self._synchronise()
        start = self._now()
        yield
        self._synchronise()
        self._end = self._now()
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + (self._end - start) * 1000

    def _synchronise(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self.device)

    def report(self, new_tokens: int | None) -> dict[str, float] | None:
        """The stages that there were in milliseconds, `ttft`, `tpot` (answers of two generated tokens or more), `e2e`.

        E2E runs from `reset` to the end of the last stage: it is measured on its own and holds what lies between the
        stages too (`stages_share`). TTFT is the time from opening the image file to the logits of the first answer
        token; the decode stage holds what follows it. TPOT is the decode stage divided by the tokens after the first.
        None where the clock is off.
        """
        if not self.on:
            return None
        report = {name: round(self.milliseconds[name], 3) for name in (*STAGES, *PARTS) if name in self.milliseconds}
        e2e = (self._end - self._begin) * 1000
        decode = self.milliseconds.get("decode", 0.0)
        report["ttft"] = round(e2e - decode, 3)
        if new_tokens is not None and new_tokens > 1:
            report["tpot"] = round(decode / (new_tokens - 1), 3)
        report["e2e"] = round(e2e, 3)
        return report


def stages_sum(latencies: Mapping[str, float]) -> float:
    """The milliseconds of all stages of a question, parts not counted twice."""
    return sum(latencies[name] for name in STAGES if name in latencies)


def reset_peak_memory(device: str) -> None:
    """Start of the interval that `peak_memory_mib` reports on; nothing to do on the CPU."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device: str) -> float | None:
    """Peak of the memory that torch had allocated on the CUDA device, in MiB; None (not measured) on the CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return float(torch.cuda.max_memory_allocated(device)) / 2**20
