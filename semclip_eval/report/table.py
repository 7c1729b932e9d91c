"""A table as text in three formats. Cells come from data: each writer escapes what its format would take as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from semclip_eval.results.summary import csv_text

DASH = "–"
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Cell:
    """What a reader sees: the text, a second thing beside it (an interval), and the letters of its footnotes."""

    text: str
    minor: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Row:
    """Cells from left to right, the first of which names the row. style: id of the run whose mark it carries."""

    cells: tuple[Cell, ...]
    style: str = ""
    oracle: bool = False


@dataclass(frozen=True)
class Column:
    """A heading and what it says beside it; numbers stand right. style: id of the run whose mark it carries."""

    heading: str
    numeric: bool = True
    style: str = ""
    minor: str = ""
    notes: str = ""

    @property
    def cell(self) -> Cell:
        """The heading as a cell."""
        return Cell(self.heading, self.minor, self.notes)


@dataclass(frozen=True)
class Table:
    """The same numbers twice: for readers (rounded, percent), and for programs (fractions, six digits).

    name: the end of its file names. notes: letter and text of each footnote. records: a mapping a CSV row, with the
    keys `record_columns`.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[tuple[str, str], ...] = ()
    record_columns: tuple[str, ...] = ()
    records: tuple[dict[str, Any], ...] = ()


@dataclass
class Footnotes:
    """Gives equal texts one letter, in the order in which they come up."""

    letters: dict[str, str] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        """The letter of this text."""
        return self.letters.setdefault(text, _letter(len(self.letters)))

    def listed(self) -> tuple[tuple[str, str], ...]:
        """Letter and text of each."""
        return tuple((letter, text) for text, letter in self.letters.items())


def _letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[index % 26] * (index // 26 + 1)


def percent(value: float | None) -> str:
    """A fraction as percent with one decimal, a dash where it was not measured."""
    return DASH if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of fractions in percentage points with its sign, a dash where there is none."""
    if value is None:
        return DASH
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def decimal(value: float | None, digits: int = 0) -> str:
    """A number, a dash where it was not measured."""
    return DASH if value is None else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """A mean count: whole where it is whole, else with one decimal."""
    return decimal(value, 0 if value is None or float(value).is_integer() else 1)


def p_value(value: float | None) -> str:
    """Three decimals; below them `<0.001`."""
    return DASH if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def csv(table: Table) -> str:
    """The records; a missing value is an empty cell, never zero."""
    return csv_text(table.record_columns, table.records)


def markdown(table: Table) -> str:
    """A pipe table (GitHub flavoured) with its caption above and its notes below."""
    head = [_markdown_cell(column.cell) for column in table.columns]
    lines = [escape_markdown(table.caption), "", _pipes(head)]
    lines.append(_pipes(["---:" if column.numeric else ":---" for column in table.columns]))
    lines += [_pipes([_markdown_cell(cell) for cell in row.cells]) for row in table.rows]
    if table.notes:
        lines += ["", *(f"({letter}) {escape_markdown(text)}  " for letter, text in table.notes)]
    return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text) + (f" ({escape_markdown(cell.minor)})" if cell.minor else "")
    return text + "".join(f" ({letter})" for letter in cell.notes)


def escape_markdown(text: str) -> str:
    """One line in which nothing is markup; underscores inside words are left, for Markdown leaves them too."""
    line = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*|\[\]~$#!])", r"\\\1", line)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)


def latex(table: Table) -> str:
    """A `tabular` for the package booktabs, with caption and notes, to be put into a paper with \\input."""
    align = "".join("r" if column.numeric else "l" for column in table.columns)
    head = " & ".join(_latex_cell(column.cell) for column in table.columns)
    lines = [
        "% \\usepackage{booktabs}, and textcomp before LaTeX 2020",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape_latex(table.caption)}}}",
        f"\\begin{{tabular}}{{{align}}}",
        "\\toprule",
        f"{head} \\\\",
        "\\midrule",
        *(f"{' & '.join(_latex_cell(cell) for cell in row.cells)} \\\\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    lines += [f"\\par\\footnotesize $^{{{letter}}}$ {escape_latex(text)}" for letter, text in table.notes]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text) + (f" ({escape_latex(cell.minor)})" if cell.minor else "")
    return text + (f"$^{{{','.join(cell.notes)}}}$" if cell.notes else "")


_LATEX = {
    "\\": "\\textbackslash{}",
    "&": "\\&",
    "%": "\\%",
    "$": "\\$",
    "#": "\\#",
    "_": "\\_",
    "{": "\\{",
    "}": "\\}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "\\textquotedbl{}",
    "'": "\\textquotesingle{}",
    "`": "\\textasciigrave{}",
    # After the end of a row, `[` and `*` would be taken as its arguments.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    # A minus is one, and two hyphens are not a dash.
    "−": "$-$",
    "-": "{-}",
    "–": "--",
    "×": "$\\times$",
    "ψ": "$\\psi$",
    "·": "$\\cdot$",
    "†": "$\\dagger$",
    "Δ": "$\\Delta$",
}


def escape_latex(text: str) -> str:
    """One line in which nothing is a command; other letters of Unicode are left to the engine."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def one_line(text: str) -> str:
    """Without line ends and without control characters."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    """Without control characters and lone surrogates, which no format can show; line ends and tabs are left."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
