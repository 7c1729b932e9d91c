"""The tables by category and by the benchmark's other breakdowns, and its own measures (precision, recall, F1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from semclip_eval.report.comparisons import Comparison
from semclip_eval.report.contents import ORIGIN, accuracy_cell, caption, name_cell, origin
from semclip_eval.report.lines import Line
from semclip_eval.report.runs import number
from semclip_eval.report.table import DASH, Cell, Column, Footnotes, Row, Table, decimal, percent

# With more categories than this they stand below each other.
MOST_CATEGORY_COLUMNS = 6
CATEGORY = "category"

_RECORD = (
    "category n n_scored n_unparsed n_error accuracy accuracy_ci_low accuracy_ci_high chance_accuracy hit_rate "
    "visual_tokens_mean n_units"
).split()


def breakdown_tables(comparison: Comparison, rows: Sequence[Line]) -> tuple[Table, ...]:
    """A table of accuracies for the categories and for each further breakdown of the benchmark.

    Runs by values, or the other way round where there are many values. None for a breakdown of a single value, in
    latency mode, or where nothing was scored.
    """
    names = dict.fromkeys(name for line in rows for name in line.run.breakdowns if name != "all")
    found = [_breakdown_table(comparison, rows, name) for name in names]
    return tuple(table for table in found if table is not None)


def _breakdown_table(comparison: Comparison, rows: Sequence[Line], breakdown: str) -> Table | None:
    by_line = [line.run.breakdowns.get(breakdown, ()) for line in rows]
    names = list(dict.fromkeys(row["category"] for own in by_line for row in own))
    scored = any(row["accuracy"] for own in by_line for row in own)
    if len(names) < 2 or not scored or comparison.shared("mode") == "latency":
        return None
    footnotes = Footnotes()
    arranged = _by_run if len(names) <= MOST_CATEGORY_COLUMNS else _by_value
    columns, table_rows = arranged(breakdown, names, rows, footnotes)
    return Table(
        name="categories" if breakdown == CATEGORY else f"by_{re.sub(r'[^A-Za-z0-9_.-]+', '_', breakdown)}",
        caption=f"Accuracy by {breakdown}, %: {caption(comparison)}",
        columns=tuple(columns),
        rows=tuple(table_rows),
        notes=footnotes.listed(),
        record_columns=(*ORIGIN, *_RECORD),
        records=tuple(
            origin(line.run, line.labelled.differs) | {column: row[column] for column in _RECORD}
            for line, own in zip(rows, by_line, strict=True)
            for row in own
        ),
    )


def _by_run(
    breakdown: str, names: Sequence[str], rows: Sequence[Line], footnotes: Footnotes
) -> tuple[list[Column], list[Row]]:
    columns = [Column("selector", numeric=False)]
    for name in names:
        known = _known(breakdown, name, rows)
        chance = number(known["chance_accuracy"])
        columns.append(
            Column(name, minor=f"n {known['n']}" + ("" if chance is None else f", chance {percent(chance)}"))
        )
    table_rows = []
    for line in rows:
        own = {row["category"]: accuracy_cell(row) for row in line.run.breakdowns.get(breakdown, ())}
        cells = (name_cell(line, footnotes), *(own.get(name, Cell(DASH)) for name in names))
        table_rows.append(Row(cells, style=line.run.id, oracle=line.run.kind == "oracle"))
    return columns, table_rows


def _by_value(
    breakdown: str, names: Sequence[str], rows: Sequence[Line], footnotes: Footnotes
) -> tuple[list[Column], list[Row]]:
    columns = [Column(breakdown, numeric=False), Column("n"), Column("chance,\N{NO-BREAK SPACE}%")]
    for line in rows:
        cell = name_cell(line, footnotes)
        columns.append(Column(cell.text, style=line.run.id, minor=cell.minor, notes=cell.notes))
    table_rows = []
    for name in names:
        known = _known(breakdown, name, rows)
        cells = [Cell(name), Cell(known["n"]), Cell(percent(number(known["chance_accuracy"])))]
        for line in rows:
            own = [row for row in line.run.breakdowns.get(breakdown, ()) if row["category"] == name]
            cells.append(accuracy_cell(own[0]) if own else Cell(DASH))
        table_rows.append(Row(tuple(cells)))
    return columns, table_rows


def _known(breakdown: str, name: str, rows: Sequence[Line]) -> Mapping[str, str]:
    """The first run's row of a value."""
    return next(row for line in rows for row in line.run.breakdowns.get(breakdown, ()) if row["category"] == name)


def measure_table(comparison: Comparison, rows: Sequence[Line]) -> Table | None:
    """The benchmark's own measures: a row a run, and one for each of its categories where those are few.

    The CSV has every row of every breakdown. None for a benchmark without measures and in latency mode.
    """
    names = list(dict.fromkeys(name for line in rows for name in line.run.metric_names))
    if not names or comparison.shared("mode") == "latency":
        return None
    footnotes = Footnotes()
    several = any(1 < len(line.run.categories) <= MOST_CATEGORY_COLUMNS for line in rows)
    all_rows = [row for line in rows for own in line.run.breakdowns.values() for row in own]
    fractions = {name: all(0 <= float(row[name]) <= 1 for row in all_rows if row.get(name)) for name in names}
    table_rows = []
    for line in rows:
        shown = [*(line.run.categories if several else ()), *line.run.breakdowns["all"]]
        for row in shown:
            cells = [name_cell(line, footnotes)]
            cells += [Cell(row["category"])] if several else []
            for name in names:
                value = number(row.get(name))
                cells.append(Cell(percent(value) if fractions[name] else decimal(value, 1)))
            table_rows.append(Row(tuple(cells), style=line.run.id, oracle=line.run.kind == "oracle"))
    headings = [name.replace("_", " ") + (",\N{NO-BREAK SPACE}%" if fractions[name] else "") for name in names]
    return Table(
        name="measures",
        caption=f"The benchmark's own measures: {caption(comparison)}",
        columns=(
            Column("selector", numeric=False),
            *([Column(CATEGORY, numeric=False)] if several else []),
            *map(Column, headings),
        ),
        rows=tuple(table_rows),
        notes=footnotes.listed(),
        record_columns=(*ORIGIN, "breakdown", "category", "n", "n_scored", *names),
        records=tuple(
            origin(line.run, line.labelled.differs) | dict(row)
            for line in rows
            for own in line.run.breakdowns.values()
            for row in own
        ),
    )
