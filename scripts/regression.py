"""The regression that CI runs: a small split of the miniature against results/baselines/mini.csv.

    python scripts/regression.py [--write] [--output FOLDER]

Runs the main selectors and controls by likelihood, and semclip by letter, always from the first question (an earlier
result would only prove itself). Exit code 0 where every number agrees, 1 with a table of those that moved.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from semclip_eval.cli import main as semclip_eval

BASELINE = Path("results/baselines/mini.csv")
COMMON = ["profile=mini", "benchmark=vstar", "run.limit=120"]
SWEEPS = [
    ["-m", "selector=no_crop,full_crop,semclip,random_crop,oracle"],
    ["selector=semclip", "benchmark.protocol=letter"],
]


def main() -> int:
    """Run the split in a folder of its own and compare, or write the baseline."""
    parser = argparse.ArgumentParser(description="The miniature against its baseline.")
    parser.add_argument("--write", action="store_true", help="write the baseline anew")
    parser.add_argument("--output", type=Path, help="keep the runs here (default: a temporary folder)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        output = chosen.output or Path(temporary)
        for sweep in SWEEPS:
            code = semclip_eval([*sweep, *COMMON, f"run.output_dir={output}"])
            if code:
                return code
        return semclip_eval(["regress", str(output), str(BASELINE), *(["--write"] if chosen.write else [])])


if __name__ == "__main__":
    sys.exit(main())
