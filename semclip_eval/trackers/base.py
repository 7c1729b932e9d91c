"""What every tracker is given of a finished run, and what it must do with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semclip_eval.files import read_yaml
from semclip_eval.json_output import typed_row
from semclip_eval.results.summary import CATEGORIES, metric_columns, read_rows, read_summary

PROJECT = "semclip-eval"
CONFIG = "config.yaml"


@dataclass(frozen=True)
class TrackedRun:
    """A finished run.

    folder: where it lies. row: `summary.csv` as values, None for what was not measured. rows: those of
    `categories.csv`, likewise. measures: names of the benchmark's and the selector's own measures. config: resolved.
    """

    folder: Path
    row: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    measures: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The run as a person would call it."""
        return " ".join(str(self.row[key]) for key in ("benchmark", "model", "selector", "run_id"))

    @property
    def metrics(self) -> dict[str, float]:
        """Every number that was measured: columns by their names, then `BREAKDOWN/VALUE/COLUMN` for the breakdowns.

        Fractions and milliseconds as in the files. A slash in a value becomes an underscore.
        """
        numbers = _numbers(self.row)
        for row in self.rows:
            if row["breakdown"] == "all":
                numbers |= {name: row[name] for name in self.measures if row[name] is not None}
                continue
            place = f"{row['breakdown']}/{str(row['category']).replace('/', '_')}"
            numbers |= {f"{place}/{name}": value for name, value in _numbers(row).items()}
        return numbers

    @property
    def texts(self) -> dict[str, str]:
        """What names the run: the text columns of `summary.csv`, without those that are empty."""
        return {name: str(value) for name, value in self.row.items() if isinstance(value, (str, bool))}

    @property
    def settings(self) -> dict[str, Any]:
        """The config with dotted keys: `run.seed`, `selector.top_k`; sections that the run does not use left out."""
        return dict(_flat(self.config, ""))


class Tracker(ABC):
    """Somewhere that finished runs are shown; made anew for each run, its package imported in `write`."""

    @abstractmethod
    def write(self, run: TrackedRun) -> str:
        """Write the run and return where it can be seen. Raises whatever its package raises."""


def tracked_run(folder: Path) -> TrackedRun:
    """The finished run in `folder`."""
    rows = read_rows(folder / CATEGORIES)
    return TrackedRun(
        folder=folder,
        row=typed_row(read_summary(folder)),
        rows=tuple(typed_row(row) for row in rows),
        measures=tuple(metric_columns(rows)),
        config=read_yaml(folder / CONFIG),
    )


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in row.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _flat(value: Mapping[str, Any], place: str) -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{place}.{key}".lstrip(".")
        if isinstance(inner, Mapping):
            items += _flat(inner, name)
        elif inner is not None:
            items.append((name, inner))
    return items
