"""Published accuracies checked by arithmetic: a share of n questions is a count, and a whole is made of its parts.

A printed accuracy is rounded or cut off, so it allows a count k of n only where 100 k / n comes out as printed. An
overall accuracy is the mean of its parts weighted by their questions. Neither needs the authors' data.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from semclip_eval.errors import ConfigError, DataError

COLUMNS = ("benchmark", "model", "method", "parts", "overall", "source")
_PRINTED = re.compile(r"(?:(?P<name>\S+) )?(?P<percent>\d+(?:\.\d+)?) of (?P<n>[1-9]\d*)")


@dataclass(frozen=True)
class Printed:
    """An accuracy as printed: percent with its digits, over n questions. name: the part's; empty for the whole."""

    name: str
    percent: str
    n: int

    @property
    def value(self) -> Fraction:
        return Fraction(Decimal(self.percent))

    @property
    def unit(self) -> Fraction:
        """One of the last printed digit."""
        digits = -int(Decimal(self.percent).as_tuple().exponent)
        return Fraction(1, 10**digits)

    def shows(self, percent: Fraction) -> str:
        """How a percentage comes out as printed: `rounded` (half up or to even), `cut off`, or empty if it does not."""
        above = 2 * (percent - self.value)
        to_even = above == self.unit and self.percent[-1] in "02468"
        if -self.unit <= above < self.unit or to_even:
            return "rounded"
        return "cut off" if self.value <= percent < self.value + self.unit else ""

    @property
    def counts(self) -> range:
        """The counts of n that come out as printed, rounded or cut off."""
        low = math.ceil((self.value - self.unit / 2) * self.n / 100)
        high = math.floor((self.value + self.unit) * self.n / 100)
        if high >= low and not self.shows(Fraction(100 * high, self.n)):
            high -= 1  # cutting off excludes the upper end
        return range(max(low, 0), min(high, self.n) + 1)

    @property
    def rounded(self) -> bool:
        """Does a count come out as printed by rounding?"""
        return any(self.shows(Fraction(100 * count, self.n)) == "rounded" for count in self.counts)


@dataclass(frozen=True)
class Published:
    """One published result: its parts (none where only the whole is printed), the whole, and where it stands."""

    benchmark: str
    model: str
    method: str
    parts: tuple[Printed, ...]
    overall: Printed
    source: str


@dataclass(frozen=True)
class Finding:
    """What the arithmetic says of a result.

    recomputed: the mean of the printed parts by their questions, in percent; None without parts. problems: what cannot
    be. remarks: what can, but was not rounded from counts.
    """

    published: Published
    recomputed: Fraction | None
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def verdict(self) -> str:
        if self.problems:
            return "; ".join((*self.problems, *self.remarks))
        return "consistent" + (f" ({'; '.join(self.remarks)})" if self.remarks else "")


def check(published: Published) -> Finding:
    """Every printed accuracy against the counts of its n, and the whole against its parts."""
    problems: list[str] = []
    remarks: list[str] = []
    for part in published.parts:
        _check_count(part, problems, remarks)
    whole = published.overall
    if not published.parts:
        _check_count(whole, problems, remarks)
        return Finding(published, None, tuple(problems), tuple(remarks))
    recomputed = sum((part.value * part.n for part in published.parts), Fraction(0)) / whole.n
    if _adds_up(published):
        _check_count(whole, problems, remarks)
    elif whole.shows(recomputed):
        # Only the parts' printed digits went into it: off by a digit, and no sign of other data.
        remarks.append(f"{whole.percent} is the mean of the printed parts, which no count of {whole.n} gives")
    else:
        problems.append(f"the parts make {float(recomputed):.2f}, printed is {whole.percent}")
        if not whole.counts:
            problems.append(_no_count(whole))
    return Finding(published, recomputed, tuple(problems), tuple(remarks))


def _check_count(printed: Printed, problems: list[str], remarks: list[str]) -> None:
    if not printed.counts:
        problems.append(_no_count(printed))
    elif not printed.rounded:
        remarks.append(f"{printed.percent} is cut off, not rounded")


def _no_count(printed: Printed) -> str:
    return f"no count of {printed.n} gives {printed.percent}"


def _adds_up(published: Published) -> bool:
    """Is there a count of the whole that is a sum of counts of the parts? A part without a count has any near it."""
    low = high = 0
    for part in published.parts:
        counts = part.counts
        if counts:
            low, high = low + counts[0], high + counts[-1]
        else:
            low += math.floor((part.value - part.unit) * part.n / 100)
            high += math.ceil((part.value + part.unit) * part.n / 100)
    return any(low <= count <= high for count in published.overall.counts)


def read_published(path: Path) -> list[Published]:
    """The results of a CSV file with the columns of `COLUMNS`; ConfigError for a missing file, DataError for its lines.

    parts: `NAME PERCENT of N`, separated by `; `, or empty; overall: `PERCENT of N`, where N is the sum over the parts.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DataError(f"{path}: the header must be {','.join(COLUMNS)}.")
            return [_row(row, f"{path}, line {reader.line_num}") for row in reader]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no CSV file in UTF-8 ({error}).") from error


def _row(row: dict[str, str | None], place: str) -> Published:
    cells = {name: row.get(name) for name in COLUMNS}
    missing = [name for name, cell in cells.items() if cell is None or (not cell and name != "parts")]
    if missing or None in row:
        raise DataError(f"{place}: {missing[0] if missing else 'more cells than the header'} is missing or too many.")
    texts = {name: cell or "" for name, cell in cells.items()}
    parts = tuple(_printed(text, place) for text in texts["parts"].split("; ") if text)
    overall = _printed(texts["overall"], place)
    if parts and sum(part.n for part in parts) != overall.n:
        raise DataError(f"{place}: the parts hold {sum(part.n for part in parts)} questions, overall {overall.n}.")
    return Published(texts["benchmark"], texts["model"], texts["method"], parts, overall, texts["source"])


def _printed(text: str, place: str) -> Printed:
    match = _PRINTED.fullmatch(text.strip())
    if match is None:
        raise DataError(f"{place}: {text!r} must read `NAME PERCENT of N`, such as `direct_attributes 74.78 of 115`.")
    if Decimal(match["percent"]) > 100:
        raise DataError(f"{place}: {match['percent']} is no percentage.")
    return Printed(match["name"] or "", match["percent"], int(match["n"]))


def markdown(findings: Sequence[Finding]) -> str:
    """The results with what the arithmetic says of each, as a Markdown table."""
    from semclip_eval.report.table import Cell, Column, Row, Table
    from semclip_eval.report.table import markdown as written

    headings = ("benchmark", "model", "method", "parts", "overall", "source", "arithmetic")
    rows = tuple(
        Row(
            tuple(
                map(
                    Cell,
                    (
                        found.published.benchmark, found.published.model, found.published.method,
                        " / ".join(part.percent for part in found.published.parts), found.published.overall.percent,
                        found.published.source, found.verdict,
                    ),
                )
            )
        )
        for found in findings
    )  # fmt: skip
    text = written(Table("published", "", tuple(Column(name, numeric=False) for name in headings), rows))
    return text.strip() + "\n"
