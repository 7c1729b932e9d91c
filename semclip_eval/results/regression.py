"""`semclip-eval regress`: does a run still find what the baseline says it found?

A baseline is a CSV in the long form: the columns of `KEYS` name a run, `category` a row of it (`all` for its summary),
`quantity` a column, then the `value` and the `tolerance` within which a run agrees with it. A tolerance of 0 means
exactly equal.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from semclip_eval.console import out
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.files import shown
from semclip_eval.json_output import number, print_json
from semclip_eval.results.junit import write_junit
from semclip_eval.results.records import output_error, write_atomically
from semclip_eval.results.summary import (
    SUMMARY,
    csv_text,
    finished_runs,
    metric_columns,
    read_categories,
    read_rows,
    read_summary,
)

KEYS = ("profile", "benchmark", "protocol", "model", "selector", "crops", "psi", "mode", "seed", "n")
COLUMNS = (*KEYS, "category", "quantity", "value", "tolerance")
# What --write keeps of a run. Counts and tokens are exact; accuracies, hit rates and the benchmark's own measures may
# move by the few questions that another processor's arithmetic can tip over: 0.03, or one unit where that is more.
EXACT = ("n_error", "n_unparsed", "views_mean", "visual_tokens_mean")
MOVABLE = ("accuracy", "hit_rate")
TOLERANCE = 0.03


@dataclass(frozen=True)
class Finding:
    """One number of the baseline beside the run's; `measured` is None where the run does not have it.

    key: the baseline's cells that name the run (`KEYS`).
    """

    key: Mapping[str, str]
    category: str
    quantity: str
    expected: float
    tolerance: float
    measured: float | None

    @property
    def run(self) -> str:
        """The run in a few words."""
        return " ".join(self.key[name] for name in ("benchmark", "protocol", "selector", "crops") if self.key[name])

    @property
    def agrees(self) -> bool:
        """Within the tolerance, with room for the rounding of a printed decimal."""
        return self.measured is not None and abs(self.measured - self.expected) <= self.tolerance + 1e-9


def run_regress(arguments: list[str]) -> int:
    """The verb: 0 where every number of the baseline agrees, 1 with a table of those that moved."""
    parser = argparse.ArgumentParser(
        prog="semclip-eval regress", description="Compare a run, or all runs below a folder, with a baseline."
    )
    parser.add_argument("run_dir", type=Path, help="the folder of one run, or a results folder with several")
    parser.add_argument("baseline", type=Path, help="the CSV with the expected numbers and their tolerances")
    parser.add_argument("--write", action="store_true", help="write the baseline from the runs instead of comparing")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write JUnit XML, a test case a number, for a CI")
    parser.add_argument("--json", action="store_true", help="print JSON (docs/json.md)")
    chosen = parser.parse_args(arguments)
    if chosen.write and chosen.junit is not None:
        raise ConfigError("--junit: --write compares nothing; leave one of the two out.")
    folders = run_folders(chosen.run_dir)
    if chosen.write:
        write_baseline(folders, chosen.baseline)
        if chosen.json:
            print_json({"baseline": shown(chosen.baseline), "runs_written": len(folders)})
        else:
            out.print(f"{chosen.baseline}: {len(folders)} runs written", highlight=False)
        return 0
    findings = check(folders, read_baseline(chosen.baseline), single=(chosen.run_dir / SUMMARY).is_file())
    moved = [finding for finding in findings if not finding.agrees]
    if chosen.junit is not None:
        write_junit(chosen.junit, findings)
    if chosen.json:
        print_json(as_json(chosen.baseline, findings))
        return 1 if moved else 0
    if not moved:
        out.print(f"{len(findings)} numbers agree with {chosen.baseline}", highlight=False, soft_wrap=True)
        return 0
    out.print(_table(moved, f"{len(moved)} of {len(findings)} numbers do not agree with {chosen.baseline}"))
    return 1


def as_json(baseline: Path, findings: Sequence[Finding]) -> dict[str, Any]:
    """Every number of the baseline beside the one measured, those that agree too."""
    return {
        "baseline": shown(baseline),
        "agrees": all(finding.agrees for finding in findings),
        "n": len(findings),
        "n_moved": sum(not finding.agrees for finding in findings),
        "numbers": [
            {
                **{name: cell or None for name, cell in finding.key.items() if name not in ("seed", "n")},
                **{name: number(finding.key[name]) for name in ("seed", "n")},
                "category": finding.category,
                "quantity": finding.quantity,
                "expected": finding.expected,
                "tolerance": finding.tolerance,
                "measured": finding.measured,
                "agrees": finding.agrees,
            }
            for finding in findings
        ],
    }


def run_folders(folder: Path) -> list[Path]:
    """The run itself, or every finished run below a results folder; ConfigError where there is none."""
    if (folder / SUMMARY).is_file():
        return [folder]
    folders = [summary.parent for summary in finished_runs(folder)]
    if not folders:
        raise ConfigError(f"{folder}: neither a finished run nor a results folder with one (no {SUMMARY} below it).")
    return folders


def read_baseline(path: Path) -> list[dict[str, str]]:
    """The baseline's rows; DataError naming file and line where a column or a number is wrong."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such baseline; --write makes one from a run.")
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path}: holds no rows, so it could never disagree.")
    for line, row in enumerate(rows, start=2):
        missing = [column for column in COLUMNS if row.get(column) is None]
        if missing:
            raise DataError(f"{path}, line {line}: has no column {missing[0]!r}.")
        for column in ("value", "tolerance"):
            if number(row[column]) is None:
                raise DataError(f"{path}, line {line}: {column}={row[column]!r} is not a number.")
    return rows


def check(folders: Sequence[Path], baseline: Sequence[Mapping[str, str]], single: bool) -> list[Finding]:
    """Every number of the baseline beside the one measured.

    With `single` only the rows of that one run count, and ConfigError says so where the baseline has none; else a run
    that the baseline expects and that is not there is a disagreement.
    """
    measured: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for folder in folders:
        row = read_summary(folder)
        measured[_key(row)] = {"all": row | _measures(folder)} | {
            line["category"]: line for line in read_categories(folder)
        }
    if single:
        baseline = [row for row in baseline if _key(row) in measured]
        if not baseline:
            key = next(iter(measured))
            named = ", ".join(f"{name}={value}" for name, value in zip(KEYS, key, strict=True))
            raise ConfigError(f"The baseline has no row for this run ({named}): regress a run of its kind, or --write.")
    findings = []
    for expected in baseline:
        text = measured.get(_key(expected), {}).get(expected["category"], {}).get(expected["quantity"], "")
        findings.append(
            Finding(
                key={name: expected[name] for name in KEYS},
                category=expected["category"],
                quantity=expected["quantity"],
                expected=float(expected["value"]),
                tolerance=float(expected["tolerance"]),
                measured=_measured(text, expected["quantity"]),
            )
        )
    return findings


def _measured(cell: str, quantity: str) -> float | None:
    if not cell:
        return None
    value = number(cell)
    if value is None:
        raise DataError(f"The baseline's quantity {quantity!r} is {cell!r} in the run, which is not a number.")
    return float(value)


def write_baseline(folders: Sequence[Path], path: Path) -> None:
    """A baseline of these runs; a tolerance that the file had for a number before is kept."""
    kept: dict[tuple[str, ...], str] = {}
    if path.is_file():
        kept = {_identity(row): row["tolerance"] for row in read_baseline(path)}
    rows = []
    for folder in folders:
        summary = read_summary(folder)
        key = {name: summary[name] for name in KEYS}
        measures = _measures(folder)
        lines = [("all", summary | measures, (*EXACT, *MOVABLE, *measures))]
        lines += [(line["category"], line, ("accuracy",)) for line in read_categories(folder)]
        for category, cells, quantities in lines:
            for quantity in quantities:
                if cells[quantity]:
                    number = {**key, "category": category, "quantity": quantity, "value": cells[quantity]}
                    tolerance = 0.0 if quantity in EXACT else _tolerance(cells)
                    rows.append({**number, "tolerance": kept.get(_identity(number), f"{tolerance:g}")})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    write_atomically(path, csv_text(COLUMNS, rows))


def _measures(folder: Path) -> dict[str, str]:
    """The benchmark's own measures over all questions."""
    rows = read_categories(folder, "all")
    return {name: row[name] for row in rows for name in metric_columns(rows)}


def _tolerance(cells: Mapping[str, str]) -> float:
    """0.03, or one unit of the accuracy where there are so few that one is more; rounded up to whole percent."""
    units = int(cells["n_units"] or 0)
    return max(TOLERANCE, math.ceil(100 / units) / 100) if units else TOLERANCE


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in KEYS)


def _identity(row: Mapping[str, str]) -> tuple[str, ...]:
    return (*_key(row), row["category"], row["quantity"])


def _table(findings: Sequence[Finding], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold red")
    for name in ("run", "category", "quantity"):
        table.add_column(name, overflow="fold", no_wrap=name == "quantity")
    for name in ("baseline", "tolerance", "measured"):
        table.add_column(name, justify="right")
    for finding in findings:
        measured = "missing" if finding.measured is None else f"{finding.measured:.6g}"
        table.add_row(
            finding.run,
            finding.category,
            finding.quantity,
            f"{finding.expected:.6g}",
            f"±{finding.tolerance:g}",
            measured,
        )
    return table
