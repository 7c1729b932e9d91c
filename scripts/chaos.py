"""Kill a run and its workers at random moments until it is done: is a record lost, doubled or changed?

    python scripts/chaos.py [--kills 20] [--world mini] [--workers 2] [--executor local] [--seed 0]
                            [--csv results/bench/chaos.csv] [run.limit=96 selector=semclip ...]

A run in one process gives the reference. Then the same command with several workers is started again and again. At
random moments, also while it loads and while it writes its tables, the driver gets SIGKILL, SIGTERM or SIGINT, a worker
SIGKILL, SIGSEGV or SIGSTOP (it hangs, and `run.worker_timeout_s` finds that out), or all workers SIGKILL at once. After
each death of the driver every record on disk must be the reference's, once; at the end the file must be the
reference's, byte for byte. A run that is done before all kills are spent begins anew elsewhere. Exit code 1 where
anything differs.

--world drawn asks a model that computes its answers without torch, so that a process starts in half a second of CPU
time and a thousand kills take an hour; `mini` asks the miniature. With --executor ray a Ray cluster of its own stands
while drivers come and go. --csv appends a line for each kill: phase is `load` (nothing asked yet by this driver), `ask`
or `end` (all records on disk), moment_s counts from the driver's start, restarts are the run's so far, and identical
says whether the run that was hit came out right in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
DRIVER_KILLS = ("driver SIGKILL", "driver SIGTERM", "driver SIGINT")
WORKER_KILLS = ("worker SIGKILL", "worker SIGKILL", "worker SIGSEGV", "worker SIGSTOP", "workers SIGKILL")
# Where most records are on disk: how many kills wait for the last one, and meet the writing of the tables.
AT_THE_END = 0.5
MOST = 0.75
WRITING_S = 0.15
# How many drivers are left alone until they have written something, or are done; the others are met loading as well.
UNTIL_IT_ASKS = 0.7
# What a run says that lost its workers three times in a row while they loaded: it gives up, as it should.
NO_WORKERS = "in a row were lost"
MINI = ("profile=mini", "run.batch_size=4", "run.limit=96")
DRAWN = ("profile=full", "benchmark=drawn", "model=computed", "psi=reader", "crops=grid2x2", "selector=semclip",
         "run.device=cpu", "run.batch_size=4")  # fmt: skip
DRAWN_CONFIGS = {
    "benchmark/drawn": "_target_: tests.fakes.DrawnBenchmark\nname: drawn\ncount: 640\n",
    "model/computed": "_target_: tests.fakes.ComputedVLM\nname: computed\ndelay_s: 0.05\n",
    "psi/reader": "_target_: tests.fakes.TextReader\nname: reader\ntext: question\n",
}


@dataclass(frozen=True)
class Kill:
    """One line of the CSV file."""

    seed: int
    world: str
    executor: str
    run: int
    kind: str
    phase: str
    moment_s: float
    records: int
    restarts: int
    identical: bool = False


class Chaos:
    """The kills of one seed. problems: what went wrong, empty where nothing did."""

    def __init__(self, options: argparse.Namespace, root: Path, environment: dict[str, str]) -> None:
        self.options, self.root = options, root
        self.environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
        self.chance = random.Random(options.seed)
        self.kills: list[Kill] = []
        self.problems: list[str] = []
        self.starts = self.runs = 0
        self._command = [sys.executable, "-m", "semclip_eval", *self._world(), *options.overrides]
        self._reference: list[bytes] = []
        self._stopped: list[psutil.Process] = []

    def _world(self) -> list[str]:
        if self.options.world == "mini":
            return list(MINI)
        # Threads are settled here: to set them would import torch in every worker.
        self.environment.setdefault("OMP_NUM_THREADS", "1")
        return drawn_world(self.root / "configs")

    def run(self) -> None:
        """Kill until all kills are spent or something is wrong."""
        alone = [*self._command, f"run.output_dir={self.root}/reference"]
        subprocess.run(alone, check=True, capture_output=True, env=self.environment)
        self._reference = lines_of(self.root / "reference")
        print(f"reference: {len(self._reference)} records", flush=True)
        while len(self.kills) < self.options.kills and not self.problems:
            self.runs += 1
            self._one_run(self.root / f"run{self.runs}")

    def _one_run(self, folder: Path) -> None:
        before, first_start = len(self.kills), self.starts
        code: int | None = None
        while code != 0 and not self.problems:
            code = self._one_driver(folder, self.starts - first_start)
        if not self.problems and content_of(folder) != b"".join(self._reference):
            self.problems.append(f"{folder.name}: the finished file is not the reference's")
        hit = [Kill(**{**asdict(kill), "identical": not self.problems}) for kill in self.kills[before:]]
        self.kills[before:] = hit
        if self.options.csv:
            _append(Path(self.options.csv), hit)
        outcome = "PROBLEM" if self.problems else "identical"
        print(f"run {self.runs}: {len(hit)} kills, {self.starts - first_start} starts, {outcome}", flush=True)

    def _one_driver(self, folder: Path, restarts: int) -> int:
        options = self.options
        self.starts += 1
        spread = [f"run.workers={options.workers}", f"run.executor={options.executor}"]
        spread += [f"run.worker_timeout_s={options.timeout_s:g}", f"run.output_dir={folder}"]
        with tempfile.TemporaryFile() as said:
            driver = subprocess.Popen(
                [*self._command, *spread], stdout=subprocess.DEVNULL, stderr=said, env=self.environment
            )
            begin, kind, at_start = time.monotonic(), "", len(lines_of(folder))
            if self.chance.random() < UNTIL_IT_ASKS:
                self._wait_for(driver, folder, at_start + 1)
            while driver.poll() is None and len(self.kills) < options.kills:
                kind = self._kill_once(driver, folder)
                if not kind:
                    continue
                moment, records = round(time.monotonic() - begin, 3), len(lines_of(folder))
                phase = "end" if records == len(self._reference) else "load" if records == at_start else "ask"
                where = (options.seed, options.world, options.executor, self.runs)
                self.kills.append(Kill(*where, kind, phase, moment, records, restarts))
            driver.wait()
            self._end_stopped()
            said.seek(0)
            error = said.read().decode(errors="replace")
        self.problems += self._faults(folder)
        if driver.returncode not in self._expected(kind, error):
            self.problems.append(f"exit code {driver.returncode} after {kind or 'no kill'}: {error[-2000:]}")
        return driver.returncode

    def _expected(self, kind: str, error: str) -> set[int]:
        """Exit codes that the last kill of a driver may lead to."""
        codes = {0}
        if kind in DRIVER_KILLS:
            number = signal.Signals[kind.split()[1]]
            # Before the interpreter has come to our handler, and after it has left it, the signal ends it.
            codes |= {-number} if number == signal.SIGKILL else {128 + number, -number}
            if number == signal.SIGINT:
                codes.add(1)  # met by the interpreter while it imports
        if self.options.executor == "ray" and kind == "driver SIGTERM":
            codes.add(-signal.SIGABRT)  # Ray's library in the seconds in which it starts
        if NO_WORKERS in error:
            codes.add(1)
        return codes

    def _faults(self, folder: Path) -> list[str]:
        """What is wrong with the whole lines of a run that was stopped."""
        lines, known = lines_of(folder), set(self._reference)
        foreign = [line for line in lines if line not in known]
        doubled = [line for line, count in Counter(lines).items() if count > 1]
        return [f"changed: {line[:80]!r}" for line in foreign] + [f"doubled: {line[:80]!r}" for line in doubled]

    def _kill_once(self, driver: subprocess.Popen[bytes], folder: Path) -> str:
        """One kill at a random moment; empty where the run was done before it."""
        is_near = len(lines_of(folder)) > MOST * len(self._reference)
        at_the_end = is_near and self.chance.random() < AT_THE_END
        wait = self.chance.uniform(0, WRITING_S if at_the_end else self.options.within_s)
        if at_the_end:
            self._wait_for(driver, folder, len(self._reference))
        moment = time.monotonic() + wait
        while (left := moment - time.monotonic()) > 0 and driver.poll() is None:
            time.sleep(min(0.02, left))
        if driver.poll() is not None:
            return ""
        workers = [] if at_the_end else workers_of(driver, self.options.executor)
        kind = self.chance.choice([*DRIVER_KILLS, *WORKER_KILLS] if workers else DRIVER_KILLS)
        number = signal.Signals[kind.split()[1]]
        targets = [psutil.Process(driver.pid)] if kind in DRIVER_KILLS else workers
        if kind.startswith("worker "):
            targets = [self.chance.choice(workers)]
        try:
            for target in targets:
                target.send_signal(number)
        except psutil.Error:
            return ""
        if number == signal.SIGSTOP:
            self._stopped += targets
        if kind in DRIVER_KILLS:
            driver.wait()
        return kind

    def _wait_for(self, driver: subprocess.Popen[bytes], folder: Path, records: int) -> None:
        """Until so many records are on disk, or the driver has ended."""
        while len(lines_of(folder)) < records and driver.poll() is None:
            time.sleep(0.01)

    def _end_stopped(self) -> None:
        """A worker that was stopped cannot notice that its driver is gone."""
        for process in self._stopped:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._stopped = []


def drawn_world(configs: Path) -> list[str]:
    """The words of a run over the drawn world, whose configs are written into this folder."""
    for name, text in DRAWN_CONFIGS.items():
        path = configs / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ["--config-dir", str(configs), *DRAWN]


def workers_of(driver: subprocess.Popen[bytes], executor: str) -> list[psutil.Process]:
    """The worker processes of a driver: spawned ones, or the actors of our Ray cluster."""
    parent, mark = (os.getpid(), "ray::Actor") if executor == "ray" else (driver.pid, "spawn_main")
    try:
        children = psutil.Process(parent).children(recursive=True)
    except psutil.Error:
        return []
    return [child for child in children if any(mark in word for word in _words(child))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def content_of(folder: Path) -> bytes:
    """The one samples.jsonl below a folder of results; nothing where there is none."""
    samples = next(iter(folder.glob("*/*/*/*/*/samples.jsonl")), None)
    return samples.read_bytes() if samples else b""


def lines_of(folder: Path) -> list[bytes]:
    """Its whole lines."""
    return [line for line in content_of(folder).splitlines(keepends=True) if line.endswith(b"\n")]


def _append(path: Path, kills: list[Kill]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Kill)], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows({**asdict(kill), "identical": str(kill.identical).lower()} for kill in kills)


@contextlib.contextmanager
def ray_cluster(executor: str, cpus: int) -> Iterator[dict[str, str]]:
    """A Ray cluster that stands while drivers come and go; the environment that leads them to it."""
    if executor != "ray":
        yield {}
        return
    from ray.cluster_utils import Cluster

    arguments: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False}
    os.environ["PYTHONPATH"] = str(ROOT)  # Ray's workers are children of the cluster, not of a driver
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        yield {"RAY_ADDRESS": cluster.address}
    finally:
        cluster.shutdown()


def main() -> int:
    """The command; prints what was killed and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--world", choices=("mini", "drawn"), default="mini")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within-s", type=float, help="at most so long from one kill to the next (15; drawn: 2.5)")
    parser.add_argument("--timeout-s", type=float, help="run.worker_timeout_s (60; drawn: 5)")
    parser.add_argument("--csv", help="append a line for each kill")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    is_drawn = options.world == "drawn"
    options.within_s = options.within_s or (2.5 if is_drawn else 15.0)
    options.timeout_s = options.timeout_s or (5.0 if is_drawn else 60.0)
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as root,
        ray_cluster(options.executor, options.workers) as environment,
    ):
        chaos = Chaos(options, Path(root), environment)
        chaos.run()
    for problem in chaos.problems:
        print(problem)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(kill.kind for kill in chaos.kills).items()))
    print(f"{len(chaos.kills)} kills ({kinds}), {chaos.starts} starts, {chaos.runs} runs finished: "
          f"{len(chaos.problems)} problems")  # fmt: skip
    return 1 if chaos.problems else 0


if __name__ == "__main__":
    sys.exit(main())
