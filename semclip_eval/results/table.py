"""The table of one run in the terminal: by category, what was answered how well and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from semclip_eval.answers.replay import REVISION_MARK
from semclip_eval.console import out, percent
from semclip_eval.results.summary import CATEGORIES, metric_columns, read_rows, read_summary
from semclip_eval.stacked import Stacked

# A breakdown with more values than this stays in categories.csv.
MOST_VALUES = 12

Row = Mapping[str, str]


def run_table(folder: Path) -> None:
    """Print what one finished run found: accuracy with its interval by category, measures, tokens, latency, the folder.

    The benchmark's measures are columns where they fit the terminal, else a table of their own.
    """
    row = read_summary(folder)
    groups = _groups(read_rows(folder / CATEGORIES))
    all_rows = [line for lines in groups.values() for line in lines]
    measures = metric_columns(all_rows)
    out.print(Text(_title(row, all_rows), style="bold"), highlight=False)
    accuracy = _accuracy_columns(all_rows)
    whole = _table(groups, accuracy | {_heading(name, all_rows): _measure_cells(name, all_rows) for name in measures})
    if not measures or _fits(whole):
        out.print(Stacked(whole))
    else:
        out.print(Stacked(_table(groups, accuracy)))
        out.print()
        out.print(
            Stacked(_table(groups, {_heading(name, all_rows): _measure_cells(name, all_rows) for name in measures}))
        )
    for name, lines in groups.items():
        if not _shown(name, lines):
            out.print(Text(f"by {name}: {len(lines)} values, in {CATEGORIES}", style="dim"))
    if row["e2e_ms_p50"]:
        out.print(_latency_line(row), highlight=False)
    out.print(Text(f"{folder}\n", style="dim"), soft_wrap=True)


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of `categories.csv` by breakdown; without the only category of a benchmark, which `all` repeats."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["breakdown"], []).append(row)
    if len(groups.get("category", ())) == 1:
        del groups["category"]
    return groups


def _shown(name: str, lines: Sequence[Row]) -> bool:
    return name in ("category", "all") or len(lines) <= MOST_VALUES


def _accuracy_columns(all_rows: Sequence[Row]) -> dict[str, list[str]]:
    """Heading and cells, a cell a row, of what every benchmark has; nothing that no row has or the title says."""
    grouped = any(row["n_units"] != row["n_scored"] for row in all_rows)
    columns = {"n": [row["n"] for row in all_rows]}
    if grouped:
        columns["units"] = [row["n_units"] for row in all_rows]
    columns["accuracy %\n(95 %)"] = [accuracy_cell(row) for row in all_rows]
    if not _alike("chance_accuracy", all_rows):
        columns["chance %"] = [percent(row["chance_accuracy"]) for row in all_rows]
    if any(row["hit_rate"] for row in all_rows):
        columns["hit %"] = [percent(row["hit_rate"]) for row in all_rows]
    if not _alike("visual_tokens_mean", all_rows):
        columns["visual\ntokens"] = [number_cell(row["visual_tokens_mean"], 0) for row in all_rows]
    for name in ("unparsed", "error"):
        if any(row[f"n_{name}"] != "0" for row in all_rows):
            columns[name] = [row[f"n_{name}"] for row in all_rows]
    return columns


def _fractions(name: str, all_rows: Sequence[Row]) -> bool:
    return all(0 <= float(row[name]) <= 1 for row in all_rows if row[name])


def _heading(name: str, all_rows: Sequence[Row]) -> str:
    words = name.split("_")
    if _fractions(name, all_rows):
        words = [*words, "%"] if len(words) == 1 else [*words[:-1], f"{words[-1]} %"]
    return "\n".join(words)


def _measure_cells(name: str, all_rows: Sequence[Row]) -> list[str]:
    """Percent for what lies between 0 and 1 in every row, else the number."""
    return [percent(row[name]) if _fractions(name, all_rows) else number_cell(row[name], 1) for row in all_rows]


def _table(groups: Mapping[str, Sequence[Row]], columns: Mapping[str, Sequence[str]]) -> Table:
    """A row for each row of the groups, those of a breakdown under its name; `columns` have a cell for each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("category", overflow="fold")
    for heading in columns:
        trouble = heading in ("unparsed", "error")
        table.add_column(heading, justify="right", style="yellow" if trouble else "", no_wrap=True)
    cells = list(zip(*columns.values(), strict=True))
    place = 0
    for name, lines in groups.items():
        if name not in ("category", "all") and _shown(name, lines):
            table.add_row(Text(f"by {name}", style="dim italic"))
        for line in lines:
            if _shown(name, lines):
                table.add_row(Text(line["category"]), *cells[place], style="bold" if name == "all" else "")
            place += 1
    return table


def _fits(table: Table) -> bool:
    # Asked of a console that is wide enough, so that nothing is made narrower for the answer.
    wide = Console(width=10_000)
    return Measurement.get(wide, wide.options, table).maximum <= out.width


def _alike(name: str, all_rows: Sequence[Row]) -> bool:
    return len({row[name] for row in all_rows}) == 1


def _title(row: Row, all_rows: Sequence[Row]) -> str:
    """What was run, and what all rows of the table have in common."""
    parts = [
        f"{row['benchmark']} ({row['profile']} profile, {row['protocol']})",
        row["model"] + _whose(row["model_revision"]),
        row["selector"] + (" (sees the annotated boxes)" if row["uses_truth"] == "true" else ""),
    ]
    parts += [row[name] for name in ("crops", "psi") if row[name]]
    if row["visual_tokens_mean"] and _alike("visual_tokens_mean", all_rows):
        parts.append(f"{number_cell(row['visual_tokens_mean'], 0)} visual tokens")
    if row["chance_accuracy"] and _alike("chance_accuracy", all_rows):
        parts.append(f"chance {percent(row['chance_accuracy'])} %")
    return " · ".join(parts)


def _whose(revision: str) -> str:
    """What must be known of a model before its numbers are read."""
    if revision.startswith("dummy"):
        return " (random weights)"
    return " (answers made elsewhere)" if revision.startswith(REVISION_MARK) else ""


def accuracy_cell(row: Row) -> str:
    """Percent with its interval, such as `48.7 (41.7-55.7)`."""
    if not row["accuracy_ci_low"]:
        return percent(row["accuracy"])
    return f"{percent(row['accuracy'])} ({percent(row['accuracy_ci_low'])}-{percent(row['accuracy_ci_high'])})"


def number_cell(text: str, digits: int) -> str:
    """A CSV cell with that many decimals; `-` where it was not measured."""
    return "-" if text == "" else f"{float(text):.{digits}f}"


def _achieved(row: Row) -> str:
    """What a latency run computed a second, and which share of the device's ceiling that is, where they are known."""
    if not row.get("gflops_per_s"):
        return ""
    share = f", {percent(row['ceiling_share'])} % of its matrix product" if row.get("ceiling_share") else ""
    return f", {number_cell(row['gflops_per_s'], 0)} GFLOP/s{share}"


def _latency_line(row: Row) -> str:
    stages = ("load", "select", "prepare", "vision", "prefill", "decode")
    medians = ", ".join(f"{name} {number_cell(row[f'{name}_ms_p50'], 1)}" for name in stages)
    memory = f", peak memory {number_cell(row['peak_memory_mib'], 0)} MiB" if row["peak_memory_mib"] else ""
    return (
        f"Latency on {row['device']} in {row['dtype']}, ms a question: E2E p50 {number_cell(row['e2e_ms_p50'], 1)}, "
        f"p90 {number_cell(row['e2e_ms_p90'], 1)}, p99 {number_cell(row['e2e_ms_p99'], 1)} "
        f"(p50 by stage: {medians}){memory}{_achieved(row)}"
    )
