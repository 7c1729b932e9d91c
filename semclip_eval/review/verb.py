"""`semclip-eval review`: prints the tables, and writes them with their plots where an output folder is named."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from semclip_eval.console import notice, out
from semclip_eval.report import table as tables
from semclip_eval.report.table import Cell, Table
from semclip_eval.results.summary import csv_text
from semclip_eval.review.rows import COSTS, Review, review
from semclip_eval.review.tables import RECORD_COLUMNS, cost_table, sentences, test_table

MARKDOWN, COMMA_SEPARATED = "review.md", "review.csv"
UNITS = {"tokens": "visual tokens", "forwards": "VLM forwards", "ms": "E2E ms"}


def run_review(arguments: list[str]) -> int:
    """The verb; ConfigError for a folder without runs to compare, or an output folder that cannot be written."""
    parser = argparse.ArgumentParser(
        prog="semclip-eval review",
        description="The table that a reviewer asks for: selectors at their budgets, Pareto fronts, corrected tests.",
    )
    parser.add_argument("results", type=Path, help="a results folder (the run.output_dir of the runs)")
    parser.add_argument(
        "--reference",
        metavar="SELECTOR",
        help="what the others are tested against: a selector, a row's name or a run id (default: semclip)",
    )
    parser.add_argument("--max-p", type=float, default=0.05, help="level of the corrected tests (default 0.05)")
    parser.add_argument(
        "--discordant",
        type=float,
        metavar="SHARE",
        help="for the detectable differences, instead of the observed share",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"write {MARKDOWN}, {COMMA_SEPARATED} and the plots"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    chosen = parser.parse_args(arguments)
    reviews, left_out = review(chosen.results, chosen.reference, chosen.max_p, chosen.discordant)
    for folder in left_out:
        notice(f"left out: {folder.folder}: {folder.why}")
    if chosen.json:
        records = [record for each in reviews for record in cost_table(each).records]
        print(json.dumps(records, ensure_ascii=False, indent=1))
    else:
        told: set[str] = set()
        for each in reviews:
            _print(each, told)
    if chosen.output is not None:
        from semclip_eval.report.verb import write

        write(chosen.output, files(reviews))
        notice(f"{MARKDOWN}, {COMMA_SEPARATED} and the plots: {chosen.output}")
    return 0


def files(reviews: Sequence[Review]) -> dict[str, bytes]:
    """The files of a review by their names relative to its folder; the same runs give the same bytes."""
    from semclip_eval.report.plots import cost_plot
    from semclip_eval.report.style import styles

    written: dict[str, bytes] = {}
    sections = []
    marks = styles([each.comparison for each in reviews])
    for each in reviews:
        section = markdown(each)
        for name in COSTS:
            if name == "ms" and len(each.devices) > 1:
                continue
            plot = cost_plot(name, UNITS[name], [(row.labelled, row.cost(name)) for row in each.rows], marks)
            if plot is None:
                continue
            place = f"plots/{each.comparison.slug}.{plot.name}"
            written[f"{place}.png"] = plot.png
            written[f"{place}.svg"] = plot.svg.encode()
            section += f"\n![{tables.escape_markdown(plot.title)}]({place}.png)\n"
        sections.append(section)
    records = [record for each in reviews for record in cost_table(each).records]
    written[MARKDOWN] = "\n".join(sections).encode()
    written[COMMA_SEPARATED] = csv_text(RECORD_COLUMNS, records).encode()
    return written


def markdown(each: Review) -> str:
    """Both tables of a review with what must be known to read them."""
    title = tables.escape_markdown(each.comparison.title)
    notes = "\n".join(f"* {tables.escape_markdown(text)}" for text in sentences(each))
    return f"## {title}\n\n{tables.markdown(cost_table(each))}\n{tables.markdown(test_table(each))}\n{notes}\n"


def _print(each: Review, told: set[str]) -> None:
    """Print a review; a sentence that an earlier one told is not told again."""
    for table in (cost_table(each), test_table(each)):
        out.print(table.caption, style="bold", highlight=False)
        _print_table(table)
        for letter, text in table.notes:
            out.print(f"({letter}) {text}", style="italic dim", highlight=False)
        out.print()
    for text in sentences(each):
        if text not in told:
            out.print(text, style="dim", highlight=False)
    told.update(sentences(each))
    out.print()


def _print_table(table: Table) -> None:
    from rich.table import Table as Printed
    from rich.text import Text

    printed = Printed(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in table.columns:
        # A word a line, so that eighty columns suffice.
        heading = Text(column.heading.replace(" ", "\n"))
        printed.add_column(
            heading, justify="right" if column.numeric else "left", overflow="fold", no_wrap=column.numeric
        )
    for row in table.rows:
        printed.add_row(*(Text(_cell(cell)) for cell in row.cells))
    out.print(printed)


def _cell(cell: Cell) -> str:
    minor = f" ({cell.minor.replace(' to ', ', ')})" if cell.minor else ""
    return cell.text + minor + "".join(f" ({letter})" for letter in cell.notes)
