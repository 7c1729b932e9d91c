"""Two and four workers against one process with the same number of threads in all: how much sooner are they done?

    python scripts/bench_workers.py [--workers 2,4] [--questions 191] [--rounds 3] [--executor local]
                                    [--output results/bench] [selector=semclip ...]

For each number of workers the threads in all are that number, or the machine's cores where these are more; a worker
has its share of them (OMP_NUM_THREADS). Every measurement is a sweep of two runs in one command, of which the second
counts: models are loaded by then, and workers stay. Sides take turns (one, workers, one, workers), medians over the
rounds. Only an idle machine gives figures worth keeping.

The workers' file must be that of one process with as many threads as each of them has, byte for byte (else exit code
1); other numbers of threads add numbers up in another order. Writes workers.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from semclip_eval.results.summary import read_rows
from semclip_eval.workers.layout import usable_cpus

# The first run only warms up; seeds make two runs of it, and change no answer of a selector without chance.
SEEDS = ("1", "2")


def measured(words: list[str], workers: int, threads: int) -> tuple[float, bytes]:
    """Questions a second of the second run of a sweep, and its samples.jsonl. threads: of each process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "semclip_eval", "-m", "profile=mini", *words, f"run.workers={workers}"]
        command += [f"run.seed={','.join(SEEDS)}", f"run.output_dir={folder}"]
        environment = {**os.environ, "PYTHONPATH": sys.path[0], "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        rows = {path.parent: read_rows(path)[0] for path in Path(folder).glob("*/*/*/*/*/summary.csv")}
        (run,) = (run for run, row in rows.items() if row["seed"] == SEEDS[1])
        return float(rows[run]["questions_per_s"]), (run / "samples.jsonl").read_bytes()


def compared(options: argparse.Namespace, workers: int) -> dict[str, Any]:
    """A row of the table."""
    words = [f"run.limit={options.questions}", "run.batch_size=8", "psi.store_mib=0"]
    words += options.overrides or ["selector=semclip"]
    each = max(1, usable_cpus() // workers)
    content = measured(words, 1, each)[1]
    alone, together, same = [], [], True
    for _ in range(options.rounds):
        alone.append(measured(words, 1, each * workers)[0])
        speed, other = measured([*words, f"run.executor={options.executor}"], workers, each)
        together.append(speed)
        same = same and content == other
    one, many = statistics.median(alone), statistics.median(together)
    return {
        "executor": options.executor,
        "workers": workers,
        "threads_in_all": each * workers,
        "cpus": usable_cpus(),
        "questions": options.questions,
        "rounds": options.rounds,
        "one_process_questions_per_s": f"{one:.2f}",
        "workers_questions_per_s": f"{many:.2f}",
        "ratio": f"{many / one:.3f}",
        "identical": str(same).lower(),
    }


def main() -> int:
    """The command; prints a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="2,4")
    parser.add_argument("--questions", type=int, default=191)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    parser.add_argument("--output", type=Path, default=Path("results/bench"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    rows = []
    for workers in map(int, options.workers.split(",")):
        rows.append(compared(options, workers))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "workers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0 if all(row["identical"] == "true" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
