"""From the records of a run to its one row, its rows by category, and the roll-up of all runs.

Everything here is derived from `samples.jsonl`, `config.yaml` and `environment.json`; nothing is stored twice.
"""

from __future__ import annotations

import csv
import io
import math
import statistics as standard_statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semclip_eval.console import warn
from semclip_eval.errors import DataError, SemclipEvalError
from semclip_eval.files import read_text, shown
from semclip_eval.measure import flops
from semclip_eval.measure.stages import PARTS, STAGES, stages_sum
from semclip_eval.results.columns import CATEGORY_NAMES, NUMERIC_NAMES, SUMMARY_NAMES
from semclip_eval.results.records import lock, write_atomically
from semclip_eval.results.targets import by_targets
from semclip_eval.scoring.statistics import clustered_accuracy_interval, percentile, wilson_interval

if TYPE_CHECKING:
    from semclip_eval.benchmarks.base import Benchmark

Units = Callable[[Sequence[Mapping[str, Any]]], list[tuple[float, str]]]

SUMMARY = "summary.csv"
CATEGORIES = "categories.csv"
ROLL_UP = "runs.csv"

HIT_COVERAGE = 0.5
# An apostrophe is one of them, so that a text that begins with one is read back as it was.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


def is_hit(record: Mapping[str, Any]) -> bool | None:
    """Do the selected crops cover every target box of the question by at least half of its area?

    None where the question has no boxes or no crop was selected. Half is the threshold of FOCUS (arXiv 2506.21710);
    for a question about two objects both must be covered.
    """
    coverage = record["target_coverage"]
    return None if coverage is None else coverage >= HIT_COVERAGE


def accuracy_row(records: Sequence[Mapping[str, Any]], units: Units) -> dict[str, Any]:
    """Counts, accuracy with its 95 % interval, chance, hit rate and token means of some records.

    The accuracy is the mean of the benchmark's `units`; its interval is Wilson's where every unit is a cluster of its
    own, else it comes from the spread of the clusters (docs/statistics.md).

    `n_scored` is the number of questions that the accuracy is taken over: all but the errors (and, in latency mode,
    the answers of a forced length); an unparsed answer is scored 0 and counted in `n_unparsed` as well. `n_units` is
    the number of units, which is smaller where a unit is several questions.
    """
    answered = [record for record in records if record["status"] != "error"]
    scored = [record for record in answered if record["score"] is not None]
    values = units(scored)
    accuracy, low, high = mean_with_interval(values)
    hits = [hit for record in answered if (hit := is_hit(record)) is not None]
    return {
        "n": len(records),
        "n_scored": len(scored),
        "n_unparsed": sum(record["status"] == "unparsed" for record in records),
        "n_error": len(records) - len(answered),
        "n_units": len(values),
        "accuracy": accuracy,
        "accuracy_ci_low": low,
        "accuracy_ci_high": high,
        "chance_accuracy": _mean(record["chance"] for record in answered),
        "hit_rate": _mean(float(hit) for hit in hits),
        "views_mean": _mean(None if record["views"] is None else len(record["views"]) for record in answered),
        "visual_tokens_mean": _mean(record["visual_tokens"] for record in answered),
        "text_tokens_mean": _mean(record["text_tokens"] for record in answered),
        "new_tokens_mean": _mean(record["new_tokens"] for record in answered),
        "forwards_mean": _mean((record.get("cost") or {}).get("forwards") for record in answered),
        "encoded_tokens_mean": _mean(record.get("encoded_tokens") for record in answered),
    }


def latency_row(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Percentiles of the stages in milliseconds and their share of E2E; empty where nothing was timed."""
    timed = [record["latency_ms"] for record in records if record["status"] != "error" and record["latency_ms"]]
    row: dict[str, Any] = {}
    for stage in (*STAGES, *PARTS, "ttft", "tpot"):
        row[f"{stage}_ms_p50"] = _percentile([times[stage] for times in timed if stage in times], 50)
    whole = [times["e2e"] for times in timed]
    for q in (25, 50, 75, 90, 99):
        row[f"e2e_ms_p{q}"] = _percentile(whole, q)
    row["stages_share"] = sum(map(stages_sum, timed)) / sum(whole) if sum(whole) else None
    return row


def flops_row(records: Sequence[Mapping[str, Any]], ceilings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Mean analytic GFLOPs a question by stage and, where the questions were timed, how many a second were achieved.

    The whole is not known where a part is not. Only the stages from `select` on compute, but the time is E2E: what a
    question waits for counts. ceilings: of the device (`measure.ceilings`), where they are known.
    """
    counted = [record for record in records if record["status"] != "error" and record.get("flops")]
    row: dict[str, Any] = {}
    for part in flops.PARTS:
        present = [flops.gflops(record["flops"], part) for record in counted if part in record["flops"]]
        row[f"{part}_gflops_mean"] = None if None in present else _mean(present)
    if not counted or any(None in record["flops"].values() for record in counted):
        return row
    whole = [sum(record["flops"].values()) / 1e9 for record in counted]
    row["gflops_mean"] = _mean(whole)
    if all(record["latency_ms"] for record in counted):
        seconds = sum(record["latency_ms"]["e2e"] for record in counted) / 1000
        row["gflops_per_s"] = sum(whole) / seconds if seconds else None
        if seconds and ceilings:
            row["ceiling_share"] = row["gflops_per_s"] / ceilings["gflops_per_s"]
    return row


def mean_with_interval(units: Sequence[tuple[float, str]]) -> tuple[float | None, float | None, float | None]:
    """Mean of the units and its 95 % interval; None where there are no units, or only one cluster.

    For partial credit Wilson's interval is on the safe side: of all scores in [0, 1] with one mean, those that are 0 or
    1 have the largest variance (Bhatia & Davis, American Mathematical Monthly 107 (2000) 353-357).
    """
    if not units:
        return None, None, None
    values = [value for value, _ in units]
    clusters = [cluster for _, cluster in units]
    if len(set(clusters)) == len(clusters):
        wilson = wilson_interval(sum(values), len(values))
        return sum(values) / len(values), *(wilson or (None, None))
    interval = clustered_accuracy_interval(values, clusters)
    mean = sum(values) / len(values)
    return mean, *((interval.low, interval.high) if interval else (None, None))


def category_rows(
    records: Sequence[Mapping[str, Any]], run_id: str, benchmark: Benchmark, measure_names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """A row for each category in the order of first appearance, then for each value of each breakdown, then for all.

    `breakdown` says what a row is one of: `category`, the name of a question tag, `targets` and `target_size` for
    questions with boxes (`targets.by_targets`), or `all`. measure_names: the selector's own numbers.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(("category", record["category"]), []).append(record)
    for breakdown in benchmark.breakdowns:
        for record in records:
            value = record["tags"].get(breakdown)
            if value is not None:
                groups.setdefault((breakdown, value), []).append(record)
    groups |= by_targets(records)
    groups["all", "all"] = list(records)
    return [
        {
            "run_id": run_id,
            "breakdown": breakdown,
            "category": value,
            **accuracy_row(members, benchmark.metric.units),
            **benchmark.metric.further([record for record in members if record["status"] != "error"]),
            **{name: _mean((record.get("measures") or {}).get(name) for record in members) for name in measure_names},
        }
        for (breakdown, value), members in groups.items()
    ]


def read_categories(folder: Path, breakdown: str = "category") -> list[dict[str, str]]:
    """The rows of a run's `categories.csv` that break it down by that."""
    return [row for row in read_rows(folder / CATEGORIES) if row.get("breakdown", "category") == breakdown]


def metric_columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The benchmark's own measures in rows of `categories.csv`: what stands there beside `CATEGORY_NAMES`."""
    return [column for column in (rows[0] if rows else ()) if column not in CATEGORY_NAMES]


def write_run(
    folder: Path,
    row: Mapping[str, Any],
    categories: Sequence[Mapping[str, Any]],
    metric_names: Sequence[str] = (),
) -> None:
    """`categories.csv`, then `summary.csv` (its presence says that the run is finished)."""
    write_atomically(folder / CATEGORIES, csv_text([*CATEGORY_NAMES, *metric_names], categories))
    write_atomically(folder / SUMMARY, csv_text(SUMMARY_NAMES, [row]))


def write_roll_up(output_folder: Path) -> Path:
    """Gather every finished run below the output folder into `runs.csv`, written whole and atomically."""
    path = output_folder / ROLL_UP
    with lock(output_folder, ".runs.lock", wait=True):
        rows = []
        for summary in finished_runs(output_folder):
            try:
                rows.append(read_summary(summary.parent))
            except SemclipEvalError as error:
                warn(f"{error} This run is left out of {ROLL_UP}.")
        write_atomically(path, csv_text(SUMMARY_NAMES, rows))
    return path


def finished_runs(output_folder: Path) -> list[Path]:
    """The `summary.csv` of every finished run: profile/benchmark/model/selector/run_id below the output folder."""
    return sorted(output_folder.glob(f"*/*/*/*/*/{SUMMARY}"))


def read_summary(folder: Path, needed: Sequence[str] = ("run_id", "selector", "n", "n_error")) -> dict[str, str]:
    """The one row of a finished run's `summary.csv`; DataError where it is damaged or lacks a column that is needed."""
    path = folder / SUMMARY
    rows = read_rows(path)
    if len(rows) != 1 or any(name not in rows[0] for name in needed):
        raise DataError(
            f"{shown(path)}: is not the one row of a finished run. Delete it, and the command that made the run writes "
            "it anew from samples.jsonl."
        )
    return rows[0]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of one of our CSV files, cells as text (an empty one is 'not measured'); DataError where it is none."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{shown(path)}: cannot be read as CSV ({error}).") from error
    for number, row in enumerate(rows, start=1):
        if None in row or any(cell is None for cell in row.values()):
            raise DataError(f"{shown(path)}, row {number}: has not as many cells as the header.")
        for name in NUMERIC_NAMES.intersection(row):
            if row[name] and not _is_number(row[name]):
                raise DataError(f"{shown(path)}, row {number}: {name}={row[name]!r} is not a number.")
    return [{name: unguarded(cell) for name, cell in row.items()} for row in rows]


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def guarded(text: str) -> str:
    """The text for a cell: a spreadsheet reads one that begins like a formula as text (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def unguarded(cell: str) -> str:
    """What `guarded` was given."""
    return cell[1:] if cell.startswith("'") else cell


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A whole CSV file; a missing or None value is an empty cell, never zero."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    # csv quotes a carriage return by itself only from Python 3.13 on; unquoted, readers take it for the row's end.
    quoting = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    for row in rows:
        cells = [_cell(row.get(column)) for column in columns]
        (quoting if any("\r" in cell for cell in cells) else writer).writerow(cells)
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    return guarded(value) if isinstance(value, str) else str(value)


def _mean(values: Any) -> float | None:
    present = [float(value) for value in values if value is not None]
    return standard_statistics.fmean(present) if present else None


def _percentile(values: Sequence[float], q: float) -> float | None:
    return percentile(values, q) if values else None
