"""How much of the time an accelerator would be busy: the product's pipeline in front of a device that only waits.

    python scripts/bench_pipeline.py [--output FOLDER] [--questions N] [--rounds R] [--vlm-ms MS] [--psi-ms MS]

The device is simulated: whatever the VLM and ψ would compute is a sleep of a given length with a lock around it, one
question or crop at a time, and everything before it is real: files, decoding, ψ's crops, views, tokens, records. So the
share says what the code around a device keeps it waiting for, on these cores, and nothing of a real GPU's speed. The
lengths are chosen, not measured. Three ways: no threads, images read ahead, and views chosen ahead too (the product's).
Medians of the wall time over the rounds; run it on a machine that does nothing else.

Writes `pipeline.csv` and `pipeline_environment.json`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from bench_common import PSI_READS, Parts, enlarged, markdown, write_environment, write_rows

from semclip_eval.answers.ahead import Ahead
from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.api import load_selector
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.config import RunConfig
from semclip_eval.console import notice, out
from semclip_eval.modes import mode_of
from semclip_eval.types import Answer

SELECTORS = ("no_crop", "semclip", "full_crop")
SIZES = {"504 px": 1, "2016 px": 4}
WAYS = ("nothing ahead", "read ahead", "chosen ahead")
HEADINGS = {"size": "images", "selector": "selector", "batch_size": "batch", "device_ms": "device ms a question",
            **{way: f"busy, {way}" for way in WAYS}}  # fmt: skip


class Device:
    """Computes nothing, one thing at a time."""

    def __init__(self) -> None:
        self.busy_s = 0.0
        self._lock = threading.Lock()

    def work(self, milliseconds: float) -> None:
        """Takes so long, and whoever asks meanwhile waits."""
        with self._lock:
            time.sleep(milliseconds / 1000)
            self.busy_s += milliseconds / 1000


class ReadOnly(Pipeline):
    """Reads images ahead and chooses when a block's turn has come."""

    chooses_ahead = False  # type: ignore[assignment]


def simulate(parts: Parts, device: Device, vlm_ms: float, psi_ms: float) -> None:
    """Put the device in place of what the models compute; ψ's scores are noise, every answer is the first option."""

    def encode(batch: Sequence[Any]) -> Sequence[Any]:
        device.work(0.2 * vlm_ms * len(batch))
        return batch

    def prefill(batch: Sequence[Any], features: Any) -> Sequence[Any]:
        device.work(0.5 * vlm_ms * len(batch))
        return batch

    def decode(batch: Sequence[Any], state: Any, ignore_end_token: bool = False) -> list[Answer]:
        device.work(0.3 * vlm_ms * len(batch))
        return [Answer(option_losses=tuple(map(float, range(len(each.continuation_ids))))) for each in batch]

    def embed(kind: str, batch: torch.Tensor) -> list[torch.Tensor]:
        device.work(psi_ms * len(batch))
        return list(torch.nn.functional.normalize(torch.randn(len(batch), 64), dim=-1))

    parts.vlm.encode, parts.vlm.prefill, parts.vlm.decode, parts.psi._embed = encode, prefill, decode, embed


def ask(parts: Parts, benchmark: VStar, selector: Any, way: str, batch_size: int) -> None:
    """All questions, in one of the ways."""
    threads = 0 if way == WAYS[0] else "auto"
    run = RunConfig(device="cpu", dtype="float32", batch_size=batch_size, num_workers=threads)
    psi = parts.psi if "psi" in selector.needs else None
    scheme = parts.scheme() if "candidates" in selector.needs else None
    kind = Pipeline if way == WAYS[2] else ReadOnly
    pipeline = kind(benchmark, selector, scheme, psi, parts.vlm, run, PSI_READS)
    questions = benchmark.questions()
    blocks = [questions[start : start + batch_size] for start in range(0, len(questions), batch_size)]
    count = mode_of(run).threads
    if not count:
        for block in blocks:
            pipeline.ask(block)
        return
    with closing(Ahead(pipeline, count)) as ahead:
        for items in ahead.blocks(blocks):
            pipeline.ask_loaded(items, ahead.executor)


def main() -> int:
    """Measure every cell, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="where table and images go")
    parser.add_argument("--questions", type=int, default=48, help="questions of a cell")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds")
    parser.add_argument("--vlm-ms", type=float, default=80.0, help="milliseconds of the VLM for a question")
    parser.add_argument("--psi-ms", type=float, default=0.8, help="milliseconds of ψ for a crop or text")
    chosen = parser.parse_args()
    parts, device = Parts(), Device()
    parts.psi.load()
    simulate(parts, device, chosen.vlm_ms, chosen.psi_ms)
    rows = []
    for size, factor in SIZES.items():
        benchmark = VStar(path=str(enlarged(chosen.output / "images", factor, chosen.questions)))
        for name in SELECTORS:
            selector = load_selector(name)
            for batch_size in (1, 4):
                notice(f"{size}, {name}, batches of {batch_size}")
                shares: dict[str, list[float]] = {way: [] for way in WAYS}
                for number in range(chosen.rounds + 1):
                    for way, values in shares.items():
                        device.busy_s, start = 0.0, time.perf_counter()
                        ask(parts, benchmark, selector, way, batch_size)
                        if number:  # the first round warms up
                            values.append(device.busy_s / (time.perf_counter() - start))
                row = {"size": size, "selector": name, "batch_size": batch_size}
                row["device_ms"] = round(1000 * device.busy_s / len(benchmark.questions()), 1)
                rows.append(row | {way: round(statistics.median(values), 2) for way, values in shares.items()})
    write_rows(chosen.output / "pipeline.csv", rows)
    write_environment(chosen.output / "pipeline_environment.json", questions=chosen.questions, rounds=chosen.rounds,
                      vlm_ms=chosen.vlm_ms, psi_ms=chosen.psi_ms)  # fmt: skip
    out.print(markdown(rows, HEADINGS), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
