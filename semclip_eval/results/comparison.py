"""Two or more runs over the same questions, question by question: what is the difference, and is it chance?

The first run is the reference. Behind `semclip-eval compare RUN_DIR RUN_DIR ...`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semclip_eval.errors import ConfigError, DataError, RunFailed
from semclip_eval.results.records import SAMPLES, read_samples
from semclip_eval.results.summary import SUMMARY, read_rows
from semclip_eval.scoring.statistics import Interval, mcnemar_exact, paired_bootstrap

if TYPE_CHECKING:
    from rich.console import Console

SEED = 0
EXAMPLES = 5
# Runs that differ in one of these were asked or scored differently, whatever their questions' ids say.
SAME_COLUMNS = ("benchmark", "split", "protocol", "metric", "mode")
SAME_KEYS = ("question", "options", "truth")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run: its row of `summary.csv` and its records by question id."""

    folder: Path
    row: Mapping[str, str]
    records: Mapping[str, Record]


@dataclass(frozen=True)
class Pair:
    """A run against the reference, over the questions that neither answered with an error.

    Accuracies and `difference` (with its 95 % paired bootstrap interval over images; None for fewer than two) are
    fractions. only_reference, only_other: ids of the questions that one run scored higher than the other, in file
    order. p: exact McNemar test on their counts. visual_tokens_ratio: the run's mean over the reference's.
    """

    other: Run
    n: int
    n_left_out: int
    reference_accuracy: float
    other_accuracy: float
    difference: Interval | None
    only_reference: tuple[str, ...]
    only_other: tuple[str, ...]
    p: float
    visual_tokens_ratio: float | None


@dataclass(frozen=True)
class Comparison:
    """The reference run and a pair for every other run, in the order given."""

    reference: Run
    pairs: tuple[Pair, ...]


def run_compare(arguments: list[str]) -> int:
    """`semclip-eval compare`: print the comparison, return 0. A refusal is a RunFailed, a wrong path a ConfigError."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="semclip-eval compare",
        description="Paired comparison of finished runs over the same questions; the first one is the reference.",
    )
    parser.add_argument("folders", metavar="RUN_DIR", nargs="*", type=Path, help="folder with samples.jsonl")
    render(compare(parser.parse_args(arguments).folders), Console())
    return 0


def compare(run_folders: Sequence[Path]) -> Comparison:
    """Pair every run with the first one.

    Raises ConfigError for fewer than two folders or one that holds no finished run, DataError for a broken file, and
    RunFailed where runs are not over the same questions, put and scored in the same way.
    """
    if len(run_folders) < 2:
        raise ConfigError(f"compare: {len(run_folders)} run folders given, it takes two or more.")
    reference, *others = [_read_run(Path(folder)) for folder in run_folders]
    for other in others:
        _refuse_different(reference, other)
    return Comparison(reference, tuple(_pair(reference, other) for other in others))


def _read_run(folder: Path) -> Run:
    for name in (SUMMARY, SAMPLES):
        if not (folder / name).is_file():
            raise ConfigError(
                f"compare: {folder} has no {name}. Name the folder of a finished run (the one with config.yaml); "
                "the same command that started a run finishes it."
            )
    rows = read_rows(folder / SUMMARY)
    if len(rows) != 1 or any(column not in rows[0] for column in SAME_COLUMNS):
        raise DataError(f"{folder / SUMMARY}: must be one row with the columns {', '.join(SAME_COLUMNS)}.")
    records = {str(record["question_id"]): record for record in read_samples(folder)}
    for identity, record in records.items():
        missing = [key for key in (*SAME_KEYS, "status", "score") if key not in record]
        if missing:
            raise DataError(f"{folder / SAMPLES}: the record of question {identity} has no `{missing[0]}`.")
    if not records:
        raise DataError(f"{folder / SAMPLES}: holds no records.")
    return Run(folder, rows[0], records)


def _refuse_different(reference: Run, other: Run) -> None:
    for column in SAME_COLUMNS:
        if reference.row[column] != other.row[column]:
            raise RunFailed(
                f"compare refused: {column} is {reference.row[column]!r} in {reference.folder} and "
                f"{other.row[column]!r} in {other.folder}. Only runs of one benchmark, protocol and mode can be paired."
            )
    differ = [
        identity
        for identity in (*reference.records, *(i for i in other.records if i not in reference.records))
        if not _same_question(reference.records.get(identity), other.records.get(identity))
    ]
    if differ:
        raise RunFailed(
            f"compare refused: {len(differ)} questions differ between {reference.folder} and {other.folder}, for "
            f"instance {differ[0]}. Both runs need the same data, run.limit and run.seed."
        )


def _same_question(first: Record | None, second: Record | None) -> bool:
    return first is not None and second is not None and all(first[key] == second[key] for key in SAME_KEYS)


def _pair(reference: Run, other: Run) -> Pair:
    both = [
        (identity, record, other.records[identity])
        for identity, record in reference.records.items()
        if record["score"] is not None and other.records[identity]["score"] is not None
    ]
    if not both:
        raise RunFailed(
            f"compare refused: no question was answered and scored in both {reference.folder} and {other.folder} "
            "(latency mode scores no generated answers)."
        )
    differences = [second["score"] - first["score"] for _, first, second in both]
    # Questions about one image rise and fall together; a question of no cluster stands for itself.
    clusters = [str(first.get("cluster") or first.get("image_id") or "") for _, first, _ in both]
    only_reference = tuple(i for (i, _, _), d in zip(both, differences, strict=True) if d < 0)
    only_other = tuple(i for (i, _, _), d in zip(both, differences, strict=True) if d > 0)
    return Pair(
        other=other,
        n=len(both),
        n_left_out=len(reference.records) - len(both),
        reference_accuracy=_mean([first["score"] for _, first, _ in both]),
        other_accuracy=_mean([second["score"] for _, _, second in both]),
        difference=paired_bootstrap(differences, clusters, seed=SEED),
        only_reference=only_reference,
        only_other=only_other,
        p=mcnemar_exact(len(only_reference), len(only_other)),
        visual_tokens_ratio=_tokens_ratio([(first, second) for _, first, second in both]),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _tokens_ratio(records: Sequence[tuple[Record, Record]]) -> float | None:
    tokens = [(first.get("visual_tokens"), second.get("visual_tokens")) for first, second in records]
    counted = [(first, second) for first, second in tokens if first is not None and second is not None]
    reference = sum(first for first, _ in counted)
    return sum(second for _, second in counted) / reference if reference else None


def render(comparison: Comparison, console: Console) -> None:
    """Print the comparison: a table with a row for each run, then some of the questions on which they part."""
    from rich.markup import escape
    from rich.table import Table

    runs = [comparison.reference, *(pair.other for pair in comparison.pairs)]
    reference, *names = [escape(name) for name in _names(runs)]
    row = comparison.reference.row
    console.print(
        f"{escape(row['benchmark'])} ({escape(row['split'])}), protocol {escape(row['protocol'])}, "
        f"{escape(row['metric'])} in percent; reference: {reference}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for heading in ("n", "accuracy", "difference", "-/+", "p", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, pair in zip(names, comparison.pairs, strict=True):
        table.add_row(
            name,
            str(pair.n),
            f"{100 * pair.reference_accuracy:.1f} → {100 * pair.other_accuracy:.1f}",
            _difference(pair),
            f"{len(pair.only_reference)}/{len(pair.only_other)}",
            f"{pair.p:.3f}" if pair.p >= 0.001 else f"{pair.p:.1e}",
            "" if pair.visual_tokens_ratio is None else f"×{pair.visual_tokens_ratio:.2f}",
        )
    console.print(table)
    for name, pair in zip(names, comparison.pairs, strict=True):
        if pair.n_left_out:
            console.print(f"{name}: {pair.n_left_out} questions left out of both, an error in one of them")
        for what, ids in (("worse", pair.only_reference), ("better", pair.only_other)):
            if ids:
                more = f" and {len(ids) - EXAMPLES} more" if len(ids) > EXAMPLES else ""
                shown = escape(", ".join(ids[:EXAMPLES]))
                console.print(f"{name}, {what} than the reference on: {shown}{more}", highlight=False)
    console.print(
        "difference: run minus reference in points, with its 95 % paired bootstrap interval over images; -/+: "
        "questions that only the reference or only the run got right; p: exact McNemar test on them; tokens: visual "
        "tokens, run over reference.",
        style="dim",
    )


def _difference(pair: Pair) -> str:
    points = 100 * (pair.other_accuracy - pair.reference_accuracy)
    if pair.difference is None:
        return f"{points:+.1f}"
    return f"{points:+.1f} [{100 * pair.difference.low:+.1f}, {100 * pair.difference.high:+.1f}]"


def _names(runs: Sequence[Run]) -> list[str]:
    """The shortest names that tell the runs apart: the selector, the model where it differs, the run id at need."""
    rows = [run.row for run in runs]
    columns = ["selector"] if len({row.get("model") for row in rows}) == 1 else ["model", "selector"]
    names = [" ".join(row.get(column) or "?" for column in columns) for row in rows]
    if len(set(names)) < len(names):
        names = [
            f"{name} {row.get('run_id') or run.folder.name}" for name, row, run in zip(names, rows, runs, strict=True)
        ]
    return names
