"""The tables at the end of a sweep: its runs by benchmark, then benchmarks by selectors; what failed stands in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group
from rich.table import Table
from rich.text import Text

from semclip_eval.config import NOT_IN_RUN_ID
from semclip_eval.console import percent
from semclip_eval.files import read_text
from semclip_eval.results.summary import read_categories, read_summary
from semclip_eval.results.table import accuracy_cell, number_cell
from semclip_eval.stacked import Stacked

# With more categories than this a row would not fit a terminal.
MOST_CATEGORIES = 3
FAILED = "failed"
NOT_APPLICABLE = "n/a"
ORACLE = " *"
ORACLE_NOTE = "* sees the annotated boxes: an upper bound, not a method"

# What tells two runs apart in a table without a word on their settings.
SHOWN_NAMES = ("benchmark", "model", "protocol", "crops", "selector")
E2E = "E2E ms p50\n(p25-p75)"
CARRIED_OUT = frozenset(f"run.{name}" for name in NOT_IN_RUN_ID)

Row = Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """A job that did not finish, by the names that the table shows, and why; one that does not apply did not fail."""

    benchmark: str
    model: str
    selector: str
    protocol: str
    message: str
    applicable: bool = True

    @property
    def label(self) -> str:
        """The job in one line."""
        return f"benchmark={self.benchmark} model={self.model} selector={self.selector}"

    @property
    def word(self) -> str:
        """What stands in the place of an accuracy."""
        return FAILED if self.applicable else NOT_APPLICABLE

    @property
    def row(self) -> Row:
        """The job as a row of the tables: its names, `outcome`, and nothing measured."""
        names = {name: getattr(self, name) for name in ("benchmark", "model", "selector", "protocol")}
        return {**names, "outcome": self.word}


def sweep_tables(jobs: Sequence[Path | Failure], title: str) -> list[Group]:
    """The jobs in the order in which they ran, each by its run folder or as a failure.

    One table for a single benchmark; for several a grouped one and, where no cell of it would hold two runs, a matrix.
    """
    rows = _told_apart(jobs, [job.row if isinstance(job, Failure) else read_summary(job) for job in jobs])
    if len({row["benchmark"] for row in rows}) <= 1:
        return [_single(jobs, rows, title)]
    matrix = _matrix(rows)
    return [_grouped(rows, title), *([matrix] if matrix is not None else [])]


def _told_apart(jobs: Sequence[Path | Failure], rows: Sequence[Row]) -> list[Row]:
    """The rows with `setting`: where several have the same names, the keys of their configs in which they differ."""
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(row.get(name) for name in SHOWN_NAMES), []).append(number)
    named = [dict(row) for row in rows]
    for places in groups.values():
        if len(places) == 1:
            continue
        configs = {place: _config(job) for place in places if isinstance(job := jobs[place], Path)}
        differing = [
            key
            for key in dict.fromkeys(key for config in configs.values() for key in config)
            if len({config.get(key) for config in configs.values()}) > 1
        ]
        for place, config in configs.items():
            named[place]["setting"] = "\n".join(f"  {key}={config[key]}" for key in differing if key in config)
    return list(named)


def _config(folder: Path) -> dict[str, str]:
    """The values of a run's config by dotted key, but for where it lies and how it was carried out."""
    flat: dict[str, str] = {}

    def add(section: Mapping[str, Any], prefix: str) -> None:
        for key, value in section.items():
            if isinstance(value, Mapping):
                add(value, f"{prefix}{key}.")
            elif f"{prefix}{key}" not in CARRIED_OUT:
                flat[f"{prefix}{key}"] = "null" if value is None else str(value)

    add(yaml.safe_load(read_text(folder / "config.yaml")), "")
    return flat


def _single(jobs: Sequence[Path | Failure], rows: Sequence[Row], title: str) -> Group:
    """A row a run over one benchmark, with its categories where they are few.

    Columns that say the same in every row go into the title, so that the table fits a terminal of eighty columns.
    """
    by_category = {
        job: {row["category"]: row["accuracy"] for row in read_categories(job)}
        for job in jobs
        if not isinstance(job, Failure)
    }
    shared = [name for name in ("benchmark", "profile", "model", "protocol", "crops", "n") if _same(rows, name)]
    own = [name for name in ("benchmark", "model", "protocol", "crops") if name not in shared]
    first = next(iter(by_category.values()), {})
    categories = [name for name in first if all(name in one for one in by_category.values())]
    if not 2 <= len(categories) <= MOST_CATEGORIES:
        categories = []
    table = _table()
    for name in (*own, "selector"):
        table.add_column(name, no_wrap=True)
    for name in (*([] if "n" in shared else ["n"]), "accuracy %\n(95 %)"):
        table.add_column(name, justify="right", no_wrap=True)
    looks = any(float(row.get("forwards_mean") or 0) > 0 for row in rows)
    timed = _is_timed(rows)
    last = [*(["extra\nforwards"] if looks else []), *([E2E] if timed else [] if looks else ["questions\n/s"])]
    for name in (*(name.replace("_", "\n") for name in categories), "hit %", "visual\ntokens", *last):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for job, row in zip(jobs, rows, strict=True):
        names = (Text(row.get(name) or "-") for name in own)
        if isinstance(job, Failure):
            table.add_row(*names, Text(job.selector), *([] if "n" in shared else [""]), _outcome(job.row))
            continue
        table.add_row(
            *names,
            Text(_selector(row)),
            *([] if "n" in shared else [row["n"]]),
            accuracy_cell(row),
            *(percent(by_category[job][name]) for name in categories),
            *_costs(row, timed, looks),
        )
    return _under(_titled(title, rows, shared), table, rows, keys=len(own) + 1)


def _grouped(rows: Sequence[Row], title: str) -> Group:
    """A group of rows for each benchmark, named once: under its name the protocol and the model where they differ."""
    shared = [name for name in ("profile", "model", "protocol", "crops") if _same(rows, name)]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("benchmark", "protocol", "model")), []).append(row)
    crops = "crops" not in shared
    table = _table()
    for name in ("benchmark", "selector", *(["crops"] if crops else [])):
        table.add_column(name, no_wrap=True)
    timed = _is_timed(rows)
    for name in ("n", "accuracy %\n(95 %)", "hit %", "visual\ntokens", E2E if timed else "asked\n/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for (benchmark, protocol, model), members in groups.items():
        names = [benchmark]
        names += [protocol] if "protocol" not in shared and protocol else []
        names += [model] if "model" not in shared else []
        if table.row_count:
            table.add_row()
        for place in range(max(len(names), len(members))):
            cells = [Text(names[place] if place < len(names) else "", style="dim" if place else "")]
            if place < len(members):
                row = members[place]
                cells += [Text(_selector(row)), *([Text(row.get("crops") or "-")] if crops else [])]
                if "accuracy" in row:
                    cells += map(Text, (row["n"], accuracy_cell(row), *_costs(row, timed)))
                else:
                    cells += [Text(""), _outcome(row)]
            table.add_row(*cells)
    return _under(_titled(title, rows, shared), table, rows, keys=3 if crops else 2)


def _matrix(rows: Sequence[Row]) -> Group | None:
    """Accuracy, visual tokens and, where timed, E2E, benchmarks by selectors.

    None where a cell would hold two runs, or for one column.
    """
    timed = _is_timed(rows)
    selectors = list(dict.fromkeys(row["selector"] for row in rows))
    own = [name for name in ("model", "protocol") if not _same_by_benchmark(rows, name)]
    cells: dict[tuple[str, ...], dict[str, Text]] = {}
    for row in rows:
        line = cells.setdefault((row["benchmark"], *(row[name] for name in own)), {})
        if row["selector"] in line:
            return None
        measured = "accuracy" in row
        parts = [percent(row["accuracy"]), number_cell(row["visual_tokens_mean"], 0)] if measured else []
        parts += [number_cell(row.get("e2e_ms_p50", ""), 1)] if measured and timed else []
        line[row["selector"]] = Text(" · ".join(parts)) if measured else _outcome(row)
    if len(selectors) < 2 or len(cells) < 2:
        return None
    table = _table()
    for name in ("benchmark", *own):
        table.add_column(name, no_wrap=True)
    for name in selectors:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for names, line in cells.items():
        table.add_row(*map(Text, names), *(line.get(selector, "") for selector in selectors))
    title = "Accuracy % · visual tokens a question" + (" · E2E ms p50" if timed else "")
    return _under(title, table, (), keys=1 + len(own))


def _outcome(row: Row) -> Text:
    return Text(row["outcome"], style="red" if row["outcome"] == FAILED else "dim")


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _under(title: str, table: Table, rows: Sequence[Row], keys: int) -> Group:
    """Title, table and the note on oracles; rich's own titles would be broken at the width of the table.

    keys: how many of the first columns name a row.
    """
    oracle = any(row.get("uses_truth") == "true" for row in rows)
    return Group(
        Text(title, style="bold"), Stacked(table, keys), *([Text(ORACLE_NOTE, style="italic dim")] if oracle else [])
    )


def _titled(title: str, rows: Sequence[Row], shared: Sequence[str]) -> str:
    """The title with what is the same in every row that says it."""
    parts = [title]
    for name in shared:
        cell = next((row[name] for row in rows if row.get(name)), "")
        parts.append(f"{cell} questions" if name == "n" and cell else cell)
    return " · ".join(part for part in parts if part)


def _selector(row: Row) -> str:
    mark = ORACLE if row.get("uses_truth") == "true" else ""
    return "\n".join(part for part in (row["selector"] + mark, row.get("setting")) if part)


def _is_timed(rows: Sequence[Row]) -> bool:
    """Is one of them a run in latency mode?"""
    return any(row.get("e2e_ms_p50") for row in rows)


def _milliseconds(row: Row) -> str:
    """The median and the quartiles of E2E, such as `12.3 (12.0-13.1)`."""
    if not row.get("e2e_ms_p25"):
        return number_cell(row.get("e2e_ms_p50", ""), 1)
    p25, p50, p75 = (number_cell(row[f"e2e_ms_p{q}"], 1) for q in (25, 50, 75))
    return f"{p50} ({p25}-{p75})"


def _costs(row: Row, timed: bool, looks: bool = False) -> list[str]:
    """Hit rate, visual tokens (`59 of 98` where some were dropped), and what `timed` and `looks` ask for.

    looks: extra forwards. timed: milliseconds. Questions a second where it is neither.
    """
    tokens = number_cell(row["visual_tokens_mean"], 0)
    encoded = number_cell(row.get("encoded_tokens_mean") or row["visual_tokens_mean"], 0)
    last = [number_cell(row.get("forwards_mean") or "0", 1)] if looks else []
    last += [_milliseconds(row)] if timed else [] if looks else [number_cell(row["questions_per_s"], 1)]
    return [percent(row["hit_rate"]), tokens if tokens == encoded else f"{tokens} of {encoded}", *last]


def _same(rows: Sequence[Row], name: str) -> bool:
    """Is the cell the same in every row that has one?"""
    return len({row[name] for row in rows if row.get(name)}) <= 1


def _same_by_benchmark(rows: Sequence[Row], name: str) -> bool:
    """Is the cell the same in every row of a benchmark?"""
    return all(
        _same([row for row in rows if row["benchmark"] == benchmark], name)
        for benchmark in {row["benchmark"] for row in rows}
    )
