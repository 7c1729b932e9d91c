"""The tables of the report: accuracy and cost, latency by stage, and what was run (`breakdowns` has the rest)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semclip_eval.report.comparisons import Comparison
from semclip_eval.report.lines import LATENCY_COLUMNS, Line, timed_stages
from semclip_eval.report.runs import FinishedRun, number
from semclip_eval.report.table import (
    DASH,
    Cell,
    Column,
    Footnotes,
    Row,
    Table,
    count,
    decimal,
    p_value,
    percent,
    points,
)
from semclip_eval.results.columns import HEADINGS
from semclip_eval.results.comparison import WHY_NO_P, Pair

MINI_WARNING = "generated scenes and small trained models, which say nothing about LLaVA or V*"
DUMMY_WARNING = "random weights (model.load_format=dummy): the accuracies mean nothing, only the costs do"
SHARED_CLUSTERS = "several questions share an image, which the interval counts in and p does not: p can be too small"
ORACLE_NOTE = "sees the annotated boxes: an upper bound, not a method"

MAIN_LATENCY = ("e2e_ms_p50", "e2e_ms_p90", "ttft_ms_p50")
# What every CSV row says of where its numbers come from.
ORIGIN = (
    "profile benchmark split protocol model model_revision dataset_revision mode seed selector differs_in crops psi "
    "uses_truth run_id"
).split()


def main_table(comparison: Comparison, rows: Sequence[Line]) -> Table:
    """Accuracy, difference to no_crop and cost of every run; latency columns only where something was timed."""
    footnotes = Footnotes()
    timed = [column for column in MAIN_LATENCY if any(column in line.latency for line in rows)]
    columns = (
        Column("selector", numeric=False),
        *(
            Column(heading)
            for heading in (
                "accuracy,\N{NO-BREAK SPACE}%",
                "difference to no_crop",
                "p",
                "hit rate,\N{NO-BREAK SPACE}%",
                "views",
            )
        ),
        *(Column(heading) for heading in ("visual tokens", "×\N{NO-BREAK SPACE}full_crop", "unparsed", "errors")),
        *(Column(HEADINGS[column]) for column in timed),
    )
    recorded = [column for column in LATENCY_COLUMNS if any(column in line.latency for line in rows)]
    return Table(
        name="main",
        caption=f"Accuracy and cost: {caption(comparison)}",
        columns=columns,
        rows=tuple(_main_row(line, footnotes, timed) for line in rows),
        notes=footnotes.listed(),
        record_columns=(*ORIGIN, *_MAIN_RECORD, *recorded),
        records=tuple(_main_record(line, recorded) for line in rows),
    )


def caption(comparison: Comparison) -> str:
    """What all rows of a table share, with chance and the warnings that must travel with the numbers."""
    parts = [comparison.shared(column) for column in ("benchmark", "protocol", "model")]
    parts += [f"{comparison.shared('n')} questions", f"seed {comparison.shared('seed')}"]
    chance = comparison.runs[0].run.number("chance_accuracy")
    if chance is not None:
        parts.append(f"chance {percent(chance)} %")
    if comparison.shared("mode") == "latency":
        parts.append("latency mode")
    text = ", ".join(parts) + "."
    if comparison.shared("profile") == "mini":
        text += f" Miniature results: {MINI_WARNING}."
    if comparison.random_weights:
        text += f" Random weights: {DUMMY_WARNING.partition(': ')[2]}."
    return text


def _main_row(line: Line, footnotes: Footnotes, timed: Sequence[str]) -> Row:
    run, pair = line.run, line.pair
    difference, p = Cell(DASH), Cell(DASH)
    if pair is not None:
        left_out = ""
        if pair.n_left_out:
            left_out = f"left out of the pairs for an error in one run or both: {pair.n_left_out} of the questions"
        difference = Cell(
            points(pair.other_accuracy - pair.reference_accuracy),
            f"{points(pair.difference.low)} to {points(pair.difference.high)}" if pair.difference else "",
            footnotes.mark(left_out) if left_out else "",
        )
        p = Cell(p_value(pair.p), notes=footnotes.mark(doubt) if (doubt := p_doubt(pair)) else "")
    elif not line.why_no_pair:
        difference = Cell("reference")
    else:
        difference = Cell(DASH, notes=footnotes.mark(line.why_no_pair))
    ratio = Cell(decimal(line.tokens_ratio, 2), notes=footnotes.mark(line.why_no_ratio) if line.why_no_ratio else "")
    return Row(
        cells=(
            name_cell(line, footnotes),
            accuracy_cell(run.row),
            difference,
            p,
            Cell(percent(run.number("hit_rate"))),
            Cell(count(run.number("views_mean"))),
            Cell(count(run.number("visual_tokens_mean"))),
            ratio,
            Cell(run.row["n_unparsed"]),
            Cell(run.row["n_error"]),
            *(Cell(decimal(line.latency.get(column), 1)) for column in timed),
        ),
        style=run.id,
        oracle=run.kind == "oracle",
    )


def p_doubt(pair: Pair) -> str:
    """Why there is no p, or why it is smaller than it should be; empty for single questions about single images."""
    if pair.p is None:
        return WHY_NO_P
    return SHARED_CLUSTERS if pair.n_clusters < pair.n_units else ""


def name_cell(line: Line, footnotes: Footnotes) -> Cell:
    """The selector, in what it differs from its namesakes, and the mark of an oracle."""
    mark = footnotes.mark(ORACLE_NOTE) if line.run.kind == "oracle" else ""
    return Cell(line.run.selector, line.labelled.differs, mark)


def accuracy_cell(row: Mapping[str, str]) -> Cell:
    """Percent with its interval, from a row of summary.csv or categories.csv."""
    low, high = number(row["accuracy_ci_low"]), number(row["accuracy_ci_high"])
    interval = f"{percent(low)} to {percent(high)}" if low is not None and high is not None else ""
    return Cell(percent(number(row["accuracy"])), interval)


_MAIN_RECORD = (
    "n n_scored n_unparsed n_error accuracy accuracy_ci_low accuracy_ci_high chance_accuracy difference "
    "difference_ci_low difference_ci_high n_better n_worse n_paired mcnemar_p reference_run_id comparison_note "
    "hit_rate views_mean visual_tokens_mean visual_tokens_ratio_to_full_crop"
).split()


def origin(run: FinishedRun, differs: str) -> dict[str, Any]:
    """The columns of `ORIGIN` of a run, for a CSV row."""
    return {**{column: run.row.get(column) for column in ORIGIN}, "differs_in": differs}


def _main_record(line: Line, recorded: Sequence[str]) -> dict[str, Any]:
    pair = line.pair
    record = origin(line.run, line.labelled.differs) | {column: line.run.row.get(column) for column in _MAIN_RECORD}
    record |= {
        "comparison_note": line.why_no_pair,
        "visual_tokens_ratio_to_full_crop": line.tokens_ratio,
        **{column: line.latency.get(column) for column in recorded},
    }
    if pair is not None:
        record |= {
            **pair.record,
            "comparison_note": p_doubt(pair),
            "reference_run_id": line.reference.id if line.reference else None,
        }
    return record


def stage_table(comparison: Comparison, rows: Sequence[Line]) -> Table | None:
    """Medians by stage and percentiles of the whole; None where nothing was timed (accuracy mode)."""
    timed = [line for line in rows if line.latency]
    if not timed:
        return None
    footnotes = Footnotes()
    stages = timed_stages(timed)
    keys = [f"{stage}_ms_p50" for stage in stages] + [
        column for column in LATENCY_COLUMNS if any(column in line.latency for line in timed)
    ]
    headings = [*stages, *(HEADINGS[key].removesuffix(", ms") for key in keys[len(stages) :])]
    memory = [line for line in timed if line.run.row["peak_memory_mib"]]
    return Table(
        name="latency",
        caption=f"Latency in ms, by stage at the median: {caption(comparison)}",
        columns=(
            Column("selector", numeric=False),
            *(Column(heading) for heading in headings),
            *([Column(HEADINGS["peak_memory_mib"])] if memory else []),
        ),
        rows=tuple(
            Row(
                cells=(
                    name_cell(line, footnotes),
                    *(Cell(decimal(line.latency.get(key), 1)) for key in keys),
                    *([Cell(decimal(line.run.number("peak_memory_mib")))] if memory else []),
                ),
                style=line.run.id,
                oracle=line.run.kind == "oracle",
            )
            for line in timed
        ),
        notes=footnotes.listed(),
        record_columns=(*ORIGIN, "device", "dtype", "attn", *keys, "peak_memory_mib"),
        records=tuple(
            origin(line.run, line.labelled.differs)
            | {key: line.run.row[key] for key in ("device", "dtype", "attn", "peak_memory_mib")}
            | {key: line.latency.get(key) for key in keys}
            for line in timed
        ),
    )


_RUN_COLUMNS = (
    "profile benchmark protocol n dataset_revision model model_revision crops psi psi_revision mode device dtype attn "
    "batch_size seed package_version git_commit started_at"
).split()


def run_table(found: Sequence[Comparison]) -> Table:
    """What was run: a row a run, with everything that names models, data, code and machine.

    What is the same for all stands in the caption and not in a column; the CSV has every column.
    """
    labelled = [labelled_run for comparison in found for labelled_run in comparison.runs]
    rows = [labelled_run.run.row for labelled_run in labelled]
    shared = [key for key in _RUN_COLUMNS if len({row[key] for row in rows}) == 1]
    own = [key for key in _RUN_COLUMNS if key not in shared]
    common = ", ".join(f"{HEADINGS[key]} {rows[0][key]}" for key in shared if rows[0][key])
    return Table(
        name="what_was_run",
        caption=f"What was run. The same for every run: {common}.",
        columns=(
            Column("selector", numeric=False),
            Column("run", numeric=False),
            *(Column(HEADINGS[key], numeric=key in ("n", "batch_size", "seed")) for key in own),
        ),
        rows=tuple(
            Row(
                (
                    Cell(labelled_run.run.selector, labelled_run.differs),
                    Cell(labelled_run.run.id),
                    *(Cell(labelled_run.run.row[key] or DASH) for key in own),
                ),
                style=labelled_run.run.id,
            )
            for labelled_run in labelled
        ),
        record_columns=("selector", "differs_in", "run_id", "split", "uses_truth", *_RUN_COLUMNS),
        records=tuple({**labelled_run.run.row, "differs_in": labelled_run.differs} for labelled_run in labelled),
    )
