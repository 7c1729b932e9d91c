"""The regression that CI runs: a small split of every miniature benchmark against results/baselines/mini.csv.

    python scripts/regression.py [--write] [--output FOLDER] [--junit FILE]

V* with the main selectors and controls by likelihood, and semclip by letter; every other benchmark with the main
selectors. Always from the first question (an earlier result would only prove itself). Exit code 0 where every number
agrees, 1 with a table of those that moved.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from semclip_eval.cli import main as semclip_eval
from semclip_eval.console import notice
from semclip_eval.listing import describe_group
from semclip_eval.paths import config_folder

BASELINE = Path("results/baselines/mini.csv")
MAIN = "selector=no_crop,full_crop,semclip"
# Those with a split of their own below, and the one that has no data of its own.
APART = ("vstar", "hrbench8k", "custom")
OTHERS = ",".join(name for name in describe_group("benchmark", [config_folder()]) if name not in APART)
SWEEPS = [
    ["-m", "benchmark=vstar", "selector=no_crop,full_crop,semclip,random_crop,oracle", "run.limit=120"],
    ["benchmark=vstar", "selector=semclip", "benchmark.protocol=letter", "run.limit=120"],
    # Few questions, in batches: what this must notice is a loader, a prompt or a parser that has changed.
    ["-m", f"benchmark={OTHERS}", MAIN, "run.limit=40", "run.batch_size=8"],
    # Its images take most of the time, and its code is that of hrbench4k.
    ["-m", "benchmark=hrbench8k", MAIN, "run.limit=16", "run.batch_size=8"],
]


def main() -> int:
    """Run the split in a folder of its own and compare, or write the baseline."""
    parser = argparse.ArgumentParser(description="The miniature against its baseline.")
    parser.add_argument("--write", action="store_true", help="write the baseline anew")
    parser.add_argument("--output", type=Path, help="keep the runs here (default: a temporary folder)")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit XML, a test case a number")
    chosen = parser.parse_args()
    # Two small models gain little by a second thread, and on a busy machine waiting for it costs three times as much.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        output = chosen.output or Path(temporary)
        for sweep in SWEEPS:
            code = semclip_eval([*sweep, "profile=mini", f"run.output_dir={output}"])
            if code:
                return code
        notice(f"{time.perf_counter() - begin:.0f} s")
        flags = ["--write"] if chosen.write else []
        flags += ["--junit", chosen.junit] if chosen.junit else []
        return semclip_eval(["regress", str(output), str(BASELINE), *flags])


if __name__ == "__main__":
    sys.exit(main())
