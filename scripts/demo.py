"""The main job on the miniature: five selectors over the same V* questions, the table, and what the crop bought.

    python scripts/demo.py [--output FOLDER] [--limit N]

Pins `profile=mini`, so it shows the same thing on every machine. A second call finds the runs finished and only prints.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from semclip_eval.cli import main as semclip_eval
from semclip_eval.console import out
from semclip_eval.results.summary import ROLL_UP, read_rows


def main() -> int:
    """Run the sweep, compare semclip with its neighbours, write the report, and say where to look next."""
    parser = argparse.ArgumentParser(description="The main job on the miniature.")
    parser.add_argument("--output", type=Path, default=Path("results/demo"), help="where the runs go")
    parser.add_argument("--limit", type=int, help="ask only so many questions")
    chosen = parser.parse_args()
    overrides = ["profile=mini", "experiment=demo", f"run.output_dir={chosen.output}"]
    if chosen.limit is not None:
        overrides.append(f"run.limit={chosen.limit}")
    code = semclip_eval(overrides)
    if code:
        return code
    newest = {}
    for row in read_rows(chosen.output / ROLL_UP):
        kept = newest.get(row["selector"])
        if kept is None or row["started_at"] >= kept["started_at"]:
            newest[row["selector"]] = row
    program = os.path.relpath(Path(sys.executable).parent / "semclip-eval")
    folders = {name: run_folder(chosen.output, row) for name, row in newest.items()}
    out.print("\nWhat the crop that matches the question buys, question by question:", style="bold")
    code = semclip_eval(["compare", str(folders["no_crop"]), str(folders["full_crop"]), str(folders["semclip"])])
    if code == 0:
        out.print()
        code = semclip_eval(["report", str(chosen.output)])
    out.print(f"\nAll numbers: {chosen.output / ROLL_UP}", highlight=False, soft_wrap=True)
    out.print(f"Look next:   {chosen.output / 'report' / 'report.html'} in a browser, or", highlight=False)
    out.print(f"             {program} show {folders['semclip']} --question 0", highlight=False, soft_wrap=True)
    return code


def run_folder(output: Path, row: dict[str, str]) -> Path:
    """The folder of a row of runs.csv."""
    return output.joinpath(*(row[name] for name in ("profile", "benchmark", "model", "selector", "run_id")))


if __name__ == "__main__":
    sys.exit(main())
