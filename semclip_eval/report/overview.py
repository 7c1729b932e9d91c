"""All benchmarks side by side: a row for each model and selector, a column for each set of questions.

Accuracies of different benchmarks are never averaged: their chance levels, metrics and sizes differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semclip_eval.report.comparisons import SHARED, Comparison
from semclip_eval.report.contents import DUMMY_WARNING, MINI_WARNING, ORIGIN, name_cell, origin
from semclip_eval.report.lines import Line
from semclip_eval.report.table import DASH, Cell, Column, Footnotes, Row, Table, percent, points

# What makes two comparisons two columns; those that differ only in the model stand below each other.
_MODEL = ("model", "model_revision")
_QUESTIONS = tuple(column for column in SHARED if column not in _MODEL)


def overview_table(found: Sequence[tuple[Comparison, Sequence[Line]]]) -> Table | None:
    """Accuracy, and below it the difference to no_crop in points; None for a single comparison in accuracy mode."""
    scored = [(comparison, rows) for comparison, rows in found if comparison.shared("mode") == "accuracy"]
    if len(scored) < 2:
        return None
    keys = list(dict.fromkeys(_key(comparison) for comparison, _ in scored))
    named = dict(zip(keys, _column_names(keys), strict=True))
    several_models = len({_model(comparison) for comparison, _ in scored}) > 1
    footnotes = Footnotes()
    # A selector with its variants, such as `semclip (top_k=2)`, is one row wherever it was run.
    rows: dict[tuple[Any, ...], dict[tuple[str, ...], Line]] = {}
    for comparison, lines in scored:
        for line in lines:
            identity = (_model(comparison), line.run.kind, line.run.selector, line.labelled.differs)
            rows.setdefault(identity, {})[_key(comparison)] = line
    order = [_model(comparison) for comparison, _ in scored]
    ranked = sorted(rows.items(), key=lambda item: order.index(item[0][0]))
    table_rows = []
    for (model, *_), cells in ranked:
        first = next(iter(cells.values()))
        own = [_cell(cells.get(key)) for key in keys]
        name = name_cell(first, footnotes)
        columns = (name, *([Cell(model[0])] if several_models else []), *own)
        table_rows.append(Row(columns, style=first.run.id, oracle=first.run.kind == "oracle"))
    caption = "Accuracy, %, and the difference to no_crop in points, all benchmarks."
    if any(comparison.shared("profile") == "mini" for comparison, _ in scored):
        caption += f" Miniature results: {MINI_WARNING}."
    if any(comparison.random_weights for comparison, _ in scored):
        caption += f" Random weights: {DUMMY_WARNING.partition(': ')[2]}."
    return Table(
        name="overview",
        caption=caption,
        columns=(
            Column("selector", numeric=False),
            *([Column("model", numeric=False)] if several_models else []),
            *(Column(named[key], minor=_facts(key, scored)) for key in keys),
        ),
        rows=tuple(table_rows),
        notes=footnotes.listed(),
        record_columns=(*ORIGIN, "n", *_RECORD),
        records=tuple(_record(line) for _, lines in scored for line in lines),
    )


def _model(comparison: Comparison) -> tuple[str, str, bool]:
    return comparison.shared("model"), comparison.shared("model_revision"), comparison.random_weights


def _key(comparison: Comparison) -> tuple[str, ...]:
    return tuple(comparison.shared(column) for column in _QUESTIONS)


def _column_names(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """The benchmark, and of protocol, seed and the rest only what tells two columns of one benchmark apart."""
    cells = [dict(zip(_QUESTIONS, key, strict=True)) for key in keys]
    names = []
    for own in cells:
        namesakes = [other for other in cells if other["benchmark"] == own["benchmark"]]
        differing = [
            column
            for column in _QUESTIONS
            if column not in ("benchmark", "n") and len({other[column] for other in namesakes}) > 1
        ]
        parts = [f"{column} {own[column]}" if column == "seed" else own[column] for column in differing]
        names.append(" ".join([own["benchmark"], *parts]))
    return names


def _facts(key: tuple[str, ...], scored: Sequence[tuple[Comparison, Sequence[Line]]]) -> str:
    """Number of questions and chance level."""
    comparison = next(comparison for comparison, _ in scored if _key(comparison) == key)
    chance = comparison.runs[0].run.number("chance_accuracy")
    return f"n {comparison.shared('n')}" + ("" if chance is None else f", chance {percent(chance)}")


def _cell(line: Line | None) -> Cell:
    if line is None:
        return Cell(DASH)
    pair = line.pair
    minor = points(pair.other_accuracy - pair.reference_accuracy) if pair is not None else ""
    return Cell(percent(line.run.number("accuracy")), minor)


_RECORD = "accuracy accuracy_ci_low accuracy_ci_high chance_accuracy difference visual_tokens_mean".split()


def _record(line: Line) -> dict[str, Any]:
    pair = line.pair
    difference = pair.other_accuracy - pair.reference_accuracy if pair is not None else None
    return (
        origin(line.run, line.labelled.differs)
        | {column: line.run.row.get(column) for column in ("n", *_RECORD)}
        | {"difference": difference}
    )
