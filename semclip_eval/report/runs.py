"""The finished runs below a results folder: row, categories, config and records. What cannot be used is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semclip_eval.answers.replay import EXTERNAL, REVISION_MARK
from semclip_eval.errors import ConfigError, DataError, SemclipEvalError
from semclip_eval.files import read_json, read_yaml
from semclip_eval.results.columns import CATEGORY_NAMES, SUMMARY_NAMES
from semclip_eval.results.records import SAMPLES, read_samples
from semclip_eval.results.summary import (
    CATEGORIES,
    ROLL_UP,
    SUMMARY,
    metric_columns,
    read_rows,
)

# Without these a row cannot be placed; any other column that a file lacks was not measured.
ESSENTIAL = ("run_id", "profile", "benchmark", "protocol", "model", "selector", "mode", "n", "n_error", "accuracy")
ESSENTIAL_OF_CATEGORIES = ("breakdown", "category", "n", "accuracy")
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
# profile/benchmark/model/selector/run_id
DEPTH = "*/*/*/*/*"
# How the configs of this project (and those of its users) say that a selector is a control, not a method.
CONTROL_MARK = "(control)"
KINDS = ("overview", "everything", "method", "control", "oracle")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    row, breakdowns: the cells of `summary.csv` and, by breakdown (`category`, the name of a tag, `all`), those of
    `categories.csv` as text; an empty cell is 'not measured'. config: the resolved config. environment: what
    `environment.json` says. records: the lines of `samples.jsonl`, in order.
    """

    folder: Path
    row: Mapping[str, str]
    breakdowns: Mapping[str, tuple[Mapping[str, str], ...]]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]

    @property
    def id(self) -> str:
        return self.row["run_id"]

    @property
    def selector(self) -> str:
        return self.row["selector"]

    @property
    def categories(self) -> tuple[Mapping[str, str], ...]:
        """The rows by category."""
        return self.breakdowns.get("category", ())

    @property
    def metric_names(self) -> list[str]:
        """The benchmark's own measures, columns of every breakdown."""
        return metric_columns(self.breakdowns["all"])

    @property
    def kind(self) -> str:
        """One of `KINDS`; an oracle is whatever declares that it uses the truth."""
        if self.row["uses_truth"] == "true":
            return "oracle"
        # Whoever replays answers says in the same words which views they are to.
        chosen = self.selector.removeprefix(f"{EXTERNAL}_") if self.replayed else self.selector
        if chosen == "no_crop":
            return "overview"
        if chosen == "full_crop":
            return "everything"
        return "control" if CONTROL_MARK in str(self.config["selector"].get("description")) else "method"

    @property
    def replayed(self) -> bool:
        """Were the answers made elsewhere? Then the model's revision names their file."""
        return self.row["model_revision"].startswith(REVISION_MARK)

    @property
    def random_weights(self) -> bool:
        """Was the model's architecture run without its weights? Then only the latency means something."""
        return bool(self.config["model"].get("load_format") == "dummy")

    def number(self, column: str) -> float | None:
        """A cell of the row as a number; None where it was not measured."""
        return number(self.row.get(column))


@dataclass(frozen=True)
class LeftOut:
    """A run folder, relative to the results folder, that the report does not use, and why."""

    folder: str
    why: str


def number(cell: str | None) -> float | None:
    """A CSV cell as a number; None for an empty or missing one."""
    return float(cell) if cell else None


def read_results(results: Path) -> tuple[list[FinishedRun], list[LeftOut]]:
    """Every finished run below `results`, by path, and the folders that hold something else.

    Raises ConfigError where the folder is missing or holds no finished run.
    """
    if not results.is_dir():
        raise ConfigError(f"{results}: there is no such folder. It is the run.output_dir of a run, results by default.")
    folders = sorted(
        {path.parent for name in (SUMMARY, SAMPLES, CONFIG) for path in results.glob(f"{DEPTH}/{name}")},
        key=lambda folder: folder.relative_to(results).as_posix(),
    )
    runs: list[FinishedRun] = []
    left_out: list[LeftOut] = []
    for folder in folders:
        place = folder.relative_to(results).as_posix()
        try:
            if not (folder / SUMMARY).is_file():
                count = len(read_samples(folder))
                left_out.append(LeftOut(place, f"unfinished, {count} questions so far"))
                continue
            runs.append(_read_run(folder))
        except SemclipEvalError as error:
            left_out.append(LeftOut(place, str(error).replace(f"{folder}/", "").replace(str(folder), place)))
    if not runs:
        raise ConfigError(_nothing(results, left_out))
    return runs, left_out


def _read_run(folder: Path) -> FinishedRun:
    rows = read_rows(folder / SUMMARY)
    categories = read_rows(folder / CATEGORIES)
    config = read_yaml(folder / CONFIG)
    environment = read_json(folder / ENVIRONMENT)
    if len(rows) != 1 or any(column not in rows[0] for column in ESSENTIAL):
        raise DataError(f"{folder / SUMMARY}: is not one row with the columns {', '.join(ESSENTIAL)}.")
    if any(column not in row for row in categories for column in ESSENTIAL_OF_CATEGORIES):
        raise DataError(f"{folder / CATEGORIES}: lacks one of the columns {', '.join(ESSENTIAL_OF_CATEGORIES)}.")
    # A run of an earlier version has not measured what came later.
    rows = [dict.fromkeys(SUMMARY_NAMES, "") | row for row in rows]
    categories = [dict.fromkeys(CATEGORY_NAMES, "") | row for row in categories]
    sections = ("benchmark", "model", "selector", "run")
    if not isinstance(config, Mapping) or not all(isinstance(config.get(name), Mapping) for name in sections):
        raise DataError(f"{folder / CONFIG}: must hold the sections {', '.join(sections)}.")
    if not isinstance(environment, Mapping):
        raise DataError(f"{folder / ENVIRONMENT}: must hold one JSON object.")
    breakdowns = {
        name: tuple(row for row in categories if row["breakdown"] == name)
        for name in dict.fromkeys(row["breakdown"] for row in categories)
    }
    if "all" not in breakdowns:
        raise DataError(f"{folder / CATEGORIES}: lacks the row of all questions.")
    return FinishedRun(folder, rows[0], breakdowns, config, environment, tuple(read_samples(folder)))


def _nothing(results: Path, left_out: Sequence[LeftOut]) -> str:
    elsewhere = sorted(path.parent for path in results.rglob(ROLL_UP) if path.parent != results)
    above = [folder for folder in results.resolve().parents if (folder / ROLL_UP).is_file()]
    if elsewhere or above:
        return f"{results}: holds no finished run itself. Did you mean {[*elsewhere, *above][0]}?"
    first = left_out[0] if left_out else None
    state = f" ({len(left_out)} not usable; {first.folder}: {first.why})" if first else ""
    return (
        f"{results}: holds no finished run{state}.\n"
        f"This makes some: semclip-eval profile=mini experiment=selectors run.limit=60 run.output_dir={results}"
    )
