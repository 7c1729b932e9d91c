"""A review as tables: accuracy and cost with the fronts, then the tests; for readers, and as records for a CSV file."""

from __future__ import annotations

from statistics import median
from typing import Any

from semclip_eval.report.contents import ORIGIN, accuracy_cell, caption, origin, p_doubt
from semclip_eval.report.table import (
    DASH,
    Cell,
    Column,
    Footnotes,
    Row,
    Table,
    decimal,
    p_value,
    percent,
    points,
)
from semclip_eval.review.rows import COSTS, Review, ReviewRow

# What stands beside a cost in which no other run beats this one.
ON_FRONT = "•"
SEES_TRUTH = "sees the truth (boxes or answers): an upper bound, not a method, and on no front"
NO_BREAK = "\N{NO-BREAK SPACE}"

_RECORD = (
    "n n_scored n_unparsed n_error accuracy accuracy_ci_low accuracy_ci_high chance_accuracy hit_rate views_mean "
    "visual_tokens_mean encoded_tokens_mean forwards_mean e2e_ms_p50 latency_n latency_device latency_dtype "
    "front_tokens front_forwards front_ms reference_run_id difference difference_ci_low difference_ci_high n_better "
    "n_worse n_paired discordant mcnemar_p mcnemar_p_holm n_tests max_p verdict detectable_difference "
    "detectable_difference_strictest note"
).split()
RECORD_COLUMNS = (*ORIGIN, *_RECORD)


def cost_table(review: Review) -> Table:
    """Accuracy and cost of every run; a dot beside each cost in which no other run beats it."""
    footnotes = Footnotes()
    return Table(
        name="costs",
        caption=caption(review.comparison),
        columns=(
            Column("selector", numeric=False),
            Column(f"accuracy,{NO_BREAK}% (95{NO_BREAK}%)"),
            Column("tokens read"),
            Column("tokens encoded"),
            Column("VLM forwards"),
            Column(f"E2E,{NO_BREAK}ms"),
        ),
        rows=tuple(
            Row(
                cells=(
                    _name(row, footnotes),
                    accuracy_cell(row.run.row),
                    _cost(row, "tokens"),
                    Cell(decimal(row.run.number("encoded_tokens_mean"))),
                    _cost(row, "forwards"),
                    _cost(row, "ms"),
                ),
                style=row.run.id,
                oracle=row.sees_truth,
            )
            for row in review.rows
        ),
        notes=footnotes.listed(),
        record_columns=RECORD_COLUMNS,
        records=tuple(_record(review, row) for row in review.rows),
    )


def _cost(row: ReviewRow, name: str) -> Cell:
    value = row.cost(name)
    text = decimal(value, 0 if name == "tokens" or (value or 0) >= 100 else 1)
    return Cell(f"{ON_FRONT} {text}" if name in row.fronts else text)


def _name(row: ReviewRow, footnotes: Footnotes) -> Cell:
    """The selector, its budget, and the mark of one that sees the truth."""
    return Cell(row.run.selector, row.labelled.differs, footnotes.mark(SEES_TRUTH) if row.sees_truth else "")


def test_table(review: Review) -> Table:
    """Each run against the reference: difference, discordants, p, Holm's p, detectable difference, verdict."""
    footnotes = Footnotes()
    return Table(
        name="tests",
        caption=f"Each row minus the reference {review.reference.name}, question by question.",
        columns=(
            Column("selector", numeric=False),
            Column(f"difference, points (95{NO_BREAK}%)"),
            Column(f"{DASH}/+"),
            Column("p"),
            Column("p, Holm"),
            Column("MDD, points"),
            Column("verdict", numeric=False),
        ),
        rows=tuple(
            _test_row(row, footnotes)
            for row in review.rows
            if row.labelled is not review.reference
        ),
        notes=footnotes.listed(),
    )  # fmt: skip


def _test_row(row: ReviewRow, footnotes: Footnotes) -> Row:
    name = _name(row, footnotes)
    pair = row.pair
    if pair is None:
        dash = Cell(DASH)
        cells = (Cell(DASH, notes=footnotes.mark(row.why_no_pair)), dash, dash, dash, dash, dash)
        return Row((name, *cells), style=row.run.id, oracle=row.sees_truth)
    doubt = p_doubt(pair)
    left_out = f"{pair.n_left_out} questions left out for an error in one run or both" if pair.n_left_out else ""
    difference = Cell(
        points(pair.other_accuracy - pair.reference_accuracy),
        f"{points(pair.difference.low)} to {points(pair.difference.high)}" if pair.difference else "",
        footnotes.mark(left_out) if left_out else "",
    )
    detectable = DASH if row.detectable is None else f"{100 * row.detectable:.1f}"
    return Row(
        (
            name, difference, Cell(f"{len(pair.only_reference)}/{len(pair.only_other)}"),
            Cell(p_value(pair.p), notes=footnotes.mark(doubt) if doubt else ""), Cell(p_value(row.p_holm)),
            Cell(detectable), Cell(row.verdict or DASH),
        ),
        style=row.run.id,
        oracle=row.sees_truth,
    )  # fmt: skip


def sentences(review: Review) -> list[str]:
    """What must be known to read the tables, a sentence a line."""
    told = [
        f"{ON_FRONT} on the Pareto front: of the runs that do not see the truth, none is as accurate for less of this "
        "cost or more accurate for as much. Tokens read are those that reach the language model; forwards are those "
        "that the selector spends before the answer."
    ]
    if not any(row.timed for row in review.rows):
        told.append(
            "E2E was not measured: the same command with run.mode=latency, and a smaller run.limit, times the runs."
        )
    elif len(review.devices) > 1:
        told.append(f"E2E was timed on several devices ({'; '.join(review.devices)}): it has no front.")
    else:
        told.append(f"E2E: median of the latency runs of the same configurations, on {review.devices[0]}.")
    if review.tests:
        tests = "test" if review.tests == 1 else "tests"
        told.append(
            f"{DASH}/+: questions that the reference or the row scored higher. p: exact McNemar test; p, Holm: "
            f"corrected for the {review.tests} {tests} of this table; verdict: at {review.level:g} after that."
        )
        told.append(_power_sentence(review))
    return told


def _power_sentence(review: Review) -> str:
    tested = [row for row in review.rows if row.p_holm is not None and row.pair is not None]
    text = (
        "MDD, minimum detectable difference: what one test at this level finds with 80 % power on as many questions, "
        f"of which as many are discordant; {DASH} where no difference would be."
    )
    both = [row for row in tested if row.detectable is not None and row.detectable_strictest is not None]
    if both:
        middle = sorted(both, key=lambda row: (row.discordant or 0.0, row.run.id))[(len(both) - 1) // 2]
        assert middle.pair is not None
        n = round(median(row.pair.n_units for row in both if row.pair is not None))
        text += (
            f" For {n} questions, {percent(middle.discordant)} % of them discordant: {percent(middle.detectable)} "
            f"points, and {percent(middle.detectable_strictest)} at the strictest step of the correction."
        )
    return text


def _record(review: Review, row: ReviewRow) -> dict[str, Any]:
    run, pair, timed = row.run, row.pair, row.timed
    record: dict[str, Any] = dict.fromkeys(RECORD_COLUMNS) | origin(run, row.labelled.differs)
    record |= {column: _number(run.row[column]) for column in _RECORD if column in run.row}
    record |= {f"front_{name}": name in row.fronts for name in COSTS}
    record |= {
        "uses_truth": row.sees_truth,
        "seed": _number(run.row["seed"]),
        "e2e_ms_p50": row.cost("ms"),
        "latency_n": None if timed is None else int(timed.row["n"]),
        "latency_device": None if timed is None else timed.row["device"],
        "latency_dtype": None if timed is None else timed.row["dtype"],
        "reference_run_id": review.reference.run.id,
        "max_p": review.level,
        "n_tests": review.tests,
        "verdict": row.verdict or ("reference" if row.labelled is review.reference else None),
        "note": row.why_no_pair,
    }
    if pair is not None:
        record |= {
            **pair.record,
            "discordant": row.discordant,
            "mcnemar_p_holm": row.p_holm,
            "detectable_difference": row.detectable,
            "detectable_difference_strictest": row.detectable_strictest,
            "note": p_doubt(pair),
        }
    return record


def _number(cell: str) -> int | float | None:
    """A CSV cell as a number; None for an empty one."""
    return None if not cell else int(cell) if cell.isdigit() else float(cell)
