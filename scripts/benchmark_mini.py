"""Throughput of each selector on the miniature, and how long the command line takes to start.

    python scripts/benchmark_mini.py [--limit N] [--repeats R]

Runs every selector `repeats` times over the same questions in fresh result folders (models stay loaded, the first
round warms up and is not counted) and prints the median questions per second, the ratio to `no_crop`, and the ratio of
visual tokens, which is what the time would follow if it followed the tokens alone. Then the wall time of commands that
must answer at once. Ratios within one run are comparable between machines; the absolute numbers are this machine's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.table import Table

from semclip_eval import console
from semclip_eval.cli import main as semclip_eval
from semclip_eval.results.summary import ROLL_UP, read_rows

SELECTORS = ("no_crop", "full_crop", "semclip", "random_crop", "oracle")
QUICK_COMMANDS = (("--help",), ("list",), ("list", "selector"))


def main() -> int:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description="Throughput on the miniature and start-up times.")
    parser.add_argument("--limit", type=int, default=200, help="questions in a run")
    parser.add_argument("--repeats", type=int, default=3, help="counted rounds")
    chosen = parser.parse_args()
    speeds: dict[str, list[float]] = {name: [] for name in SELECTORS}
    tokens: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for repeat in range(chosen.repeats + 1):
            output = Path(temporary) / str(repeat)
            overrides = ["profile=mini", f"run.limit={chosen.limit}", f"run.output_dir={output}"]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                code = semclip_eval(["-m", f"selector={','.join(SELECTORS)}", *overrides])
            if code:
                return code
            for row in read_rows(output / ROLL_UP):
                tokens[row["selector"]] = float(row["visual_tokens_mean"])
                if repeat:
                    speeds[row["selector"]].append(float(row["questions_per_s"]))
    table = Table(title=f"{chosen.limit} questions, median of {chosen.repeats} rounds", title_justify="left")
    for name in ("selector", "questions/s", "time over no_crop", "tokens over no_crop"):
        table.add_column(name, justify="left" if name == "selector" else "right")
    base = statistics.median(speeds["no_crop"])
    for name in SELECTORS:
        speed = statistics.median(speeds[name])
        table.add_row(name, f"{speed:.1f}", f"{base / speed:.2f}", f"{tokens[name] / tokens['no_crop']:.2f}")
    console.out.print(table)
    for command in QUICK_COMMANDS:
        console.out.print(f"semclip-eval {' '.join(command)}: {start_up_ms(command):.0f} ms", highlight=False)
    return 0


def start_up_ms(command: tuple[str, ...], repeats: int = 5) -> float:
    """Median wall time of a fresh process in milliseconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "semclip_eval", *command], check=True, capture_output=True)
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
