"""Kill a run and its workers at random moments until it is done: is a record lost, doubled or changed?

    python scripts/chaos.py [--kills 20] [--workers 2] [--executor local] [--seed 0] [run.limit=96 selector=semclip ...]

A run in one process gives the reference. Then the same command with several workers is started again and again. At
random moments, also while it loads, the driver gets SIGKILL or SIGTERM, or a worker gets SIGKILL or SIGSTOP (it hangs,
and `run.worker_timeout_s` finds that out). After each death of the driver every record on disk must be the reference's,
once; at the end the file must be the reference's, byte for byte. A run that is done before all kills are spent begins
anew elsewhere. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-m", "semclip_eval", "profile=mini", "run.batch_size=4", "run.limit=96"]
DRIVER_KILLS = ("driver SIGKILL", "driver SIGTERM")
WORKER_KILLS = ("worker SIGKILL", "worker SIGKILL", "worker SIGSTOP")
# Exit codes of a driver that was stopped, by what it got.
STOPPED = {"driver SIGKILL": -signal.SIGKILL, "driver SIGTERM": 128 + signal.SIGTERM}


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker processes of a driver: spawned ones, or Ray's actors."""
    try:
        children = psutil.Process(driver.pid).children(recursive=True)
        return [
            child for child in children if any("spawn_main" in word or "ray::Actor" in word for word in words(child))
        ]
    except psutil.Error:
        return []


def words(process: psutil.Process) -> list[str]:
    """The command line of a process; empty where it is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def samples_of(folder: Path) -> Path | None:
    """The one samples.jsonl below a folder of results."""
    return next(iter(folder.glob("*/*/*/*/*/samples.jsonl")), None)


def faults(samples: Path | None, reference: list[bytes]) -> list[str]:
    """What is wrong with the whole lines of a file of a run that was stopped."""
    if samples is None:
        return []
    lines = [line for line in samples.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    foreign = [line for line in lines if line not in set(reference)]
    doubled = [line for line, count in Counter(lines).items() if count > 1]
    return [f"changed: {line[:80]!r}" for line in foreign] + [f"doubled: {line[:80]!r}" for line in doubled]


def kill_once(driver: subprocess.Popen[bytes], chance: random.Random, within_s: float) -> str:
    """One kill at a random moment; empty where the run was done before it."""
    moment = time.monotonic() + chance.uniform(0, within_s)
    while time.monotonic() < moment:
        if driver.poll() is not None:
            return ""
        time.sleep(0.02)
    workers = workers_of(driver)
    kind = chance.choice([*DRIVER_KILLS, *WORKER_KILLS] if workers else DRIVER_KILLS)
    target = psutil.Process(driver.pid) if kind in DRIVER_KILLS else chance.choice(workers)
    try:
        target.send_signal(signal.Signals[kind.split()[1]])
    except psutil.Error:
        return ""
    if kind in DRIVER_KILLS:
        driver.wait()
    return kind


def main() -> int:
    """The command; prints what was killed and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="local")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within-s", type=float, default=15.0, help="a kill comes at most so long after the last one")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="run.worker_timeout_s")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    spread = [f"run.workers={options.workers}", f"run.executor={options.executor}"]
    spread.append(f"run.worker_timeout_s={options.timeout_s:g}")
    counts: Counter[str] = Counter()
    problems: list[str] = []
    rounds = starts = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        command = [*COMMAND, *options.overrides]
        subprocess.run([*command, f"run.output_dir={root}/reference"], check=True, capture_output=True)
        reference_file = samples_of(Path(root) / "reference")
        assert reference_file is not None
        reference = reference_file.read_bytes()
        lines = reference.splitlines(keepends=True)
        print(f"reference: {len(lines)} records", flush=True)
        while counts.total() < options.kills and not problems:
            rounds += 1
            folder = Path(root) / f"round{rounds}"
            code: int | None = None
            while code != 0 and not problems:
                starts += 1
                driver = subprocess.Popen(
                    [*command, *spread, f"run.output_dir={folder}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
                kind = ""
                while driver.poll() is None and counts.total() < options.kills:
                    kind = kill_once(driver, chance, options.within_s)
                    if kind:
                        counts[kind] += 1
                        samples = samples_of(folder)
                        done = samples.read_bytes().count(b"\n") if samples else 0
                        print(f"{counts.total():3} {kind}, {done} records on disk", flush=True)
                error = driver.communicate()[1].decode(errors="replace")
                code = driver.returncode
                problems += faults(samples_of(folder), lines)
                # A SIGTERM in the seconds in which Ray starts makes Ray's library abort when the process ends.
                aborted = -signal.SIGABRT if options.executor == "ray" and kind == "driver SIGTERM" else 0
                if code not in (0, STOPPED.get(kind), aborted):
                    problems.append(f"exit code {code} after {kind or 'no kill'}: {error[-2000:]}")
            samples = samples_of(folder)
            if not problems and (samples is None or samples.read_bytes() != reference):
                problems.append(f"{folder.name}: the finished file is not the reference's")
    for problem in problems:
        print(problem)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    print(f"{counts.total()} kills ({kinds}), {starts} starts, {rounds} runs finished: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
