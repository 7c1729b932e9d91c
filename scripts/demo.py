"""The main job on the miniature: selectors over the same V* questions, what the crop bought, and three better choices.

    python scripts/demo.py [--output FOLDER] [--limit N] [--steps-limit N]

Pins `profile=mini`, so it shows the same thing on every machine. A second call finds the runs finished and only prints.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semclip_eval.cli import main as semclip_eval
from semclip_eval.console import err, notice, out, percent
from semclip_eval.results.comparison import Pair, Run, paired, read_run
from semclip_eval.results.summary import ROLL_UP, read_rows

STEPS_LIMIT = 600
# Questions of the report that are shown with their image.
PICTURES = 300
# The steps ask about images that the sweep has seen: ψ's crop embeddings are kept on disk for them.
BASE = ("profile=mini", "psi.store_mib=64")


@dataclass(frozen=True)
class Step:
    """One thing done better: the overrides of the worse and the better run; two_targets: only questions about two."""

    name: str
    worse: tuple[str, ...]
    better: tuple[str, ...]
    two_targets: bool = False


STEPS = (
    Step("a finer grid: 2x2 → 4x4", ("crops=grid2x2",), ()),
    Step("ψ reads phrases, not all", ("psi.text=question",), ()),
    Step(
        "two crops, one a phrase, for two things",
        (),
        ("selector.top_k=2", "selector.each_phrase=true"),
        two_targets=True,
    ),
)


def main() -> int:
    """Run the sweep, compare semclip with its neighbours, take the steps, write the report, say where to look next."""
    parser = argparse.ArgumentParser(description="The main job on the miniature.")
    parser.add_argument("--output", type=Path, default=Path("results/demo"), help="where the runs go")
    parser.add_argument("--limit", type=int, help="ask only so many questions")
    parser.add_argument("--steps-limit", type=int, default=STEPS_LIMIT, help="questions of the second table")
    chosen = parser.parse_args()
    overrides = [*BASE, "experiment=demo", f"run.output_dir={chosen.output}"]
    if chosen.limit is not None:
        overrides.append(f"run.limit={chosen.limit}")
    code = semclip_eval(overrides)
    if code:
        return code
    newest = newest_rows(chosen.output)
    program = os.path.relpath(Path(sys.executable).parent / "semclip-eval")
    folders = {name: run_folder(chosen.output, row) for name, row in newest.items()}
    out.print("\nWhat the crop that matches the question buys, question by question:", style="bold")
    code = semclip_eval(["compare", *(str(folders[name]) for name in ("no_crop", "random_crop", "semclip"))])
    if code == 0:
        code = show_steps(chosen.output / "steps", min(chosen.steps_limit, chosen.limit or chosen.steps_limit))
    if code == 0:
        out.print()
        code = semclip_eval(["report", str(chosen.output), "--pictures", str(PICTURES)])
    out.print(f"\nAll numbers: {chosen.output / ROLL_UP}", highlight=False, soft_wrap=True)
    out.print(f"Look next:   {chosen.output / 'report' / 'report.html'} in a browser, or", highlight=False)
    out.print(f"             {program} show {folders['semclip']} --question 0", highlight=False, soft_wrap=True)
    return code


def show_steps(output: Path, limit: int) -> int:
    """Ask a part of the questions again with one setting changed, and print each paired difference."""
    from rich.table import Table

    notice(f"What better choices are worth, on {limit} of the questions:")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step", overflow="fold")
    for heading in ("questions", "accuracy %", "difference [95 %]", "p", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in STEPS:
        runs = []
        for changed in (step.worse, step.better):
            code, run = asked(output, limit, changed)
            if code or run is None:
                return code
            runs.append(run)
        before, after = (about_two(run) if step.two_targets else run for run in runs)
        # A small limit may draw no question about two targets.
        table.add_row(step.name, *(cells(paired(before, after)) if before.records else "-----"))
    out.print("\nWhat better choices are worth (same questions, one setting changed; p: exact McNemar):", style="bold")
    out.print(table)
    return 0


def asked(output: Path, limit: int, changed: tuple[str, ...]) -> tuple[int, Run | None]:
    """A run of semclip with these settings changed; finished runs are found again."""
    before = {folder: row["started_at"] for folder, row in rows_by_folder(output).items()}
    command = [*BASE, "run.batch_size=16", f"run.limit={limit}", f"run.output_dir={output}"]
    selector = [] if any(text.startswith("selector=") for text in changed) else ["selector=semclip"]
    with quiet():
        code = semclip_eval([*command, *selector, *changed])
    if code:
        return code, None
    now = rows_by_folder(output)
    new = [folder for folder in now if folder not in before]
    if new:
        return 0, read_run(new[0])
    # Finished before: the run whose config is this one.
    return 0, read_run(next(folder for folder in now if matches(folder, changed)))


def matches(folder: Path, changed: tuple[str, ...]) -> bool:
    """Is this the run with exactly these settings changed?"""
    import yaml

    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    wanted: dict[str, Any] = {"selector.name": "semclip", "crops.name": "grid4x4", "psi.text": "noun_phrases"}
    wanted |= {"selector.top_k": 1, "selector.each_phrase": False}
    for text in changed:
        key, _, value = text.partition("=")
        key = f"{key}.name" if key in ("selector", "crops") else key
        wanted[key] = yaml.safe_load(value)
    if wanted["selector.name"] != "semclip":
        wanted = {"selector.name": wanted["selector.name"]}
    return all(lookup(config, key) == value for key, value in wanted.items())


def lookup(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = (value or {}).get(part)
    return value


def about_two(run: Run) -> Run:
    """The run's direct questions about two things."""
    records = {
        name: record
        for name, record in run.records.items()
        if record["category"] == "direct_attributes" and len(record["target_boxes"]) == 2
    }
    return replace(run, records=records)


def cells(pair: Pair) -> tuple[str, ...]:
    """A row of the table of steps, after its name."""
    before, after = percent(pair.reference_accuracy), percent(pair.other_accuracy)
    mean, low, high = pair.difference or (float("nan"),) * 3
    p = "-" if pair.p is None else f"{pair.p:.1e}" if pair.p < 0.001 else f"{pair.p:.3f}"
    ratio = "-" if pair.visual_tokens_ratio is None else f"×{pair.visual_tokens_ratio:.2f}"
    return str(pair.n), f"{before} → {after}", f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", p, ratio


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of the runs inside is printed."""
    before = out.quiet, err.quiet
    out.quiet = err.quiet = True
    try:
        yield
    finally:
        out.quiet, err.quiet = before


def newest_rows(output: Path) -> dict[str, dict[str, str]]:
    """The newest row of each selector."""
    newest: dict[str, dict[str, str]] = {}
    for row in read_rows(output / ROLL_UP):
        kept = newest.get(row["selector"])
        if kept is None or row["started_at"] >= kept["started_at"]:
            newest[row["selector"]] = row
    return newest


def rows_by_folder(output: Path) -> dict[Path, dict[str, str]]:
    """All rows of a results folder by their runs' folders."""
    file = output / ROLL_UP
    return {run_folder(output, row): row for row in read_rows(file)} if file.is_file() else {}


def run_folder(output: Path, row: Mapping[str, str]) -> Path:
    """The folder of a row of runs.csv."""
    return output.joinpath(*(row[name] for name in ("profile", "benchmark", "model", "selector", "run_id")))


if __name__ == "__main__":
    sys.exit(main())
