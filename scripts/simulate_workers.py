"""How much of 64 or 512 workers' time is idle, and how large may a block be? In virtual time, with the real scheduler.

    python scripts/simulate_workers.py [--questions 500,3000,9000] [--workers 64,512] [--measured 60]

Seconds of single questions are measured here first, for selectors whose questions cost alike (`no_crop`, `semclip`)
and unlike (`zoom`, `rap`), in CPU time of this process, so that what else runs on the machine does not count. A block
is a sum of questions drawn from them; a distribution with a heavy tail stands beside them. The real driver and
scheduler hand the blocks to workers that exist in virtual time only. Idle share: 1 - busy / (workers x seconds from
the first worker that is ready to the last answer). Models are loaded at once here: what starting costs is another
number.

The last table is the driver's own speed in real time, without workers that need any: blocks and records that it hands
out, takes and writes in a second.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from semclip_eval.compose import compose
from semclip_eval.plan import make_plan
from semclip_eval.results.records import Record, SampleWriter
from semclip_eval.workers.driver import Driver
from semclip_eval.workers.messages import Job
from tests.worker_fakes import VirtualPool

SELECTORS = ("no_crop", "semclip", "zoom", "rap")
SIZES = (1, 2, 4, 8, 16, 32, 64)
MOST_IDLE = 0.05


def measured(selector: str, count: int) -> tuple[list[float], Record]:
    """CPU seconds of so many single questions of the miniature, and a record as they give it."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"selector={selector}", f"run.limit={count + 3}", f"run.output_dir={folder}", "psi.store_mib=0"]
        plan = make_plan(compose([*words, "run.num_workers=0"], profile="mini"))
        asker = plan.source.open(plan.benchmark, plan.config, plan.run, plan.questions).asker
        seconds = []
        for question in plan.questions:
            begin = time.process_time()
            (record,) = asker.ask([question])
            seconds.append(time.process_time() - begin)
    return seconds[3:], record


def idle_share(seconds: Sequence[float], questions: int, size: int, workers: int, seed: int = 0) -> float:
    """Of a run of so many questions in blocks of `size`, whose seconds are drawn from those given."""
    chance = random.Random(seed)
    blocks = [[str(number) for number in range(start, min(start + size, questions))]
              for start in range(0, questions, size)]  # fmt: skip
    costs = [sum(chance.choices(seconds, k=len(block))) for block in blocks]
    pool = VirtualPool(lambda worker, task: (costs[task.number], "answers"), starts=lambda worker: 0.0)
    driver = _driver(pool, workers)
    driver.open()
    begin = pool.clock
    for _ in driver.answers(blocks):
        pass
    return 1 - sum(costs) / (workers * (pool.clock - begin))


def _driver(pool: VirtualPool, workers: int) -> Driver:
    def refuse(question: str, reason: str) -> Record:
        raise AssertionError(f"{question} was given up: {reason}")

    return Driver(pool, Job(0, {}, "simulated", "/"), workers, None, refuse, pool.now)


def driver_speed(record: Record, size: int, workers: int, blocks: int = 4000) -> float:
    """Records that the driver hands out, takes and writes to a file in a second of real time."""
    names = [[f"{number}-{place}" for place in range(size)] for number in range(blocks)]
    pool = VirtualPool(lambda worker, task: (1.0, "answers"))
    driver = _driver(pool, workers)
    driver.open()
    with tempfile.TemporaryDirectory() as folder:
        writer = SampleWriter(Path(folder))
        begin = time.process_time()
        for answered in driver.answers(names):
            for question, _ in answered:  # type: ignore[misc]
                writer.write(replace(record, question_id=question))
        seconds = time.process_time() - begin
        writer.close()
    return size * blocks / seconds


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", default="500,3000,9000")
    parser.add_argument("--workers", default="64,512")
    parser.add_argument("--measured", type=int, default=60)
    options = parser.parse_args()
    counts = [int(word) for word in options.workers.split(",")]
    times: dict[str, list[float]] = {}
    record: Any = None
    for selector in SELECTORS:
        times[selector], record = measured(selector, options.measured)
    chance = random.Random(0)
    times["heavy tail"] = [chance.lognormvariate(0.0, 1.0) for _ in range(1000)]
    print("seconds a question: mean, standard deviation over mean, largest over mean")
    for name, seconds in times.items():
        mean = sum(seconds) / len(seconds)
        spread = (sum((value - mean) ** 2 for value in seconds) / len(seconds)) ** 0.5 / mean
        print(f"  {name:12} {mean:7.3f} {spread:6.2f} {max(seconds) / mean:6.2f}")
    for questions in map(int, options.questions.split(",")):
        for workers in counts:
            print(f"\n{questions} questions, {workers} workers: idle share in % by block size, largest below 5 %")
            print(f"  {'':12}" + "".join(f"{size:>7}" for size in SIZES))
            for name, seconds in times.items():
                shares = {size: idle_share(seconds, questions, size, workers) for size in SIZES}
                fitting = [size for size, share in shares.items() if share < MOST_IDLE]
                row = "".join(f"{100 * share:7.1f}" for share in shares.values())
                print(f"  {name:12}{row}   {max(fitting, default='none')}", flush=True)
    print("\nthe driver's own speed, records/s (CPU time of one core)")
    for size in (1, 8, 64):
        for workers in counts:
            speed = driver_speed(record, size, workers, blocks=4000 if size == 1 else 1000)
            print(f"  block size {size:3}, {workers:4} workers: {speed:8.0f}", flush=True)


if __name__ == "__main__":
    main()
