"""Two or more runs over the same questions, question by question: what is the difference, and is it chance?

The first run is the reference. Behind `semclip-eval compare RUN_DIR RUN_DIR ...`. What is compared is what the accuracy
is the mean of: the benchmark's `units`, a question each or, under circular evaluation, all rotations of one. The class
that the run's `config.yaml` names is asked for them; its data are not read.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semclip_eval.components import build
from semclip_eval.errors import ConfigError, DataError, RunFailed, SemclipEvalError
from semclip_eval.files import read_yaml, shown
from semclip_eval.json_output import print_json
from semclip_eval.results.records import SAMPLES, read_samples
from semclip_eval.results.summary import SUMMARY, read_summary
from semclip_eval.scoring.statistics import Interval, mcnemar_exact, paired_interval

if TYPE_CHECKING:
    from rich.console import Console

    from semclip_eval.benchmarks.base import Benchmark

CONFIG = "config.yaml"

EXAMPLES = 5
DEFAULT_REFERENCE = "no_crop"
# Runs that differ in one of these were asked or scored differently, whatever their questions' ids say.
SAME_COLUMNS = ("benchmark", "split", "protocol", "metric", "mode")
SAME_KEYS = ("question", "options", "truth")
WHY_NO_P = "scores are not all 0 or 1, and McNemar's test counts right and wrong answers"
DEPENDENT = "Several questions share an image: the interval counts that in, p does not and can be too small."

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run: its row of `summary.csv`, its records by question id, and its benchmark without the data."""

    folder: Path
    row: Mapping[str, str]
    records: Mapping[str, Record]
    benchmark: Benchmark


@dataclass(frozen=True)
class Pair:
    """A run against the reference, over the questions that neither answered with an error.

    n: those questions; n_units: what the accuracies are means of, fewer than n where a unit is several questions;
    n_clusters: the images (or groups) that the units come from. Accuracies and `difference` (with its 95 % paired
    interval, docs/statistics.md; None for fewer than two) are fractions. only_reference, only_other: the units that
    one run scored higher than the other, in file order, by question id or, where a unit is several questions, by their
    cluster. p: exact McNemar test on their counts, which takes the units as independent; None where scores are not all
    0 or 1. visual_tokens_ratio: the run's mean over the reference's.
    """

    other: Run
    n: int
    n_left_out: int
    n_units: int
    n_clusters: int
    reference_accuracy: float
    other_accuracy: float
    difference: Interval | None
    only_reference: tuple[str, ...]
    only_other: tuple[str, ...]
    p: float | None
    visual_tokens_ratio: float | None

    @property
    def record(self) -> dict[str, Any]:
        """The cells of a CSV that say how the run differs from the reference; fractions, None where not known."""
        return {
            "difference": self.other_accuracy - self.reference_accuracy,
            "difference_ci_low": self.difference.low if self.difference else None,
            "difference_ci_high": self.difference.high if self.difference else None,
            "n_better": len(self.only_other),
            "n_worse": len(self.only_reference),
            "n_paired": self.n_units,
            "mcnemar_p": self.p,
        }


@dataclass(frozen=True)
class Comparison:
    """The reference run and a pair for every other run, in the order given."""

    reference: Run
    pairs: tuple[Pair, ...]


def run_compare(arguments: list[str]) -> int:
    """`semclip-eval compare`: print the comparison, return 0. A refusal is a RunFailed, a wrong path a ConfigError."""
    from semclip_eval.console import out

    parser = argparse.ArgumentParser(
        prog="semclip-eval compare",
        description="Paired comparison of finished runs over the same questions.",
    )
    parser.add_argument("folders", metavar="RUN_DIR", nargs="*", type=Path, help="folder with samples.jsonl")
    parser.add_argument(
        "--reference",
        metavar="SELECTOR",
        help="the run that the others are compared with, by its selector or folder (default: no_crop where there is "
        "one, else the first)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON (docs/json.md)")
    chosen = parser.parse_args(arguments)
    comparison = compare(chosen.folders, chosen.reference)
    if chosen.json:
        print_json(as_json(comparison))
    else:
        render(comparison, out)
    return 0


def compare(run_folders: Sequence[Path], reference: str | None = None) -> Comparison:
    """Pair every run with the reference: the run of that selector (or folder), else no_crop's, else the first.

    Raises ConfigError for fewer than two folders or one that holds no finished run, DataError for a broken file, and
    RunFailed where runs are not over the same questions, put and scored in the same way.
    """
    if len(run_folders) < 2:
        raise ConfigError(f"compare: {len(run_folders)} run folders given, it takes two or more.")
    runs = [read_run(Path(folder)) for folder in run_folders]
    chosen = _reference(runs, reference)
    others = [run for run in runs if run is not chosen]
    for other in others:
        refuse_different(chosen, other)
    return Comparison(chosen, tuple(paired(chosen, other) for other in others))


def _reference(runs: Sequence[Run], name: str | None) -> Run:
    wanted = DEFAULT_REFERENCE if name is None else name
    same = [run for run in runs if wanted in (run.row.get("selector"), run.row.get("run_id"), str(run.folder))]
    if len(same) == 1 or (same and name is None):
        return same[0]
    if name is None:
        return runs[0]
    names = ", ".join(dict.fromkeys(str(run.row.get("selector")) for run in runs))
    found = "several runs are" if same else "none of the runs is"
    raise ConfigError(f"--reference {name}: {found} of that selector ({names}); name a run's folder to be exact.")


def read_run(folder: Path) -> Run:
    """A finished run's row, records and benchmark; ConfigError where there is none, DataError where it is damaged."""
    for name in (SUMMARY, SAMPLES, CONFIG):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder} has no {name}. Name the folder of a finished run (the one with config.yaml); "
                "the same command that started a run finishes it."
            )
    row = read_summary(folder, SAME_COLUMNS)
    return as_run(folder, row, read_samples(folder), read_yaml(folder / CONFIG))


def as_run(folder: Path, row: Mapping[str, str], lines: Sequence[Record], config: Any) -> Run:
    """A finished run whose files are read already, checked as `read_run` does."""
    records = {str(record["question_id"]): record for record in lines}
    for identity, record in records.items():
        missing = [key for key in (*SAME_KEYS, "status", "score", "cluster") if key not in record]
        if missing:
            raise DataError(f"{folder / SAMPLES}: the record of question {identity} has no `{missing[0]}`.")
    if not records:
        raise DataError(f"{folder / SAMPLES}: holds no records.")
    return Run(folder, row, records, _benchmark(folder / CONFIG, config))


def _benchmark(path: Path, config: Any) -> Benchmark:
    """The benchmark object of a run with the config of that path, for its units; nothing of its data is read."""
    try:
        benchmark: Benchmark = build("benchmark", config["benchmark"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: names no benchmark ({' '.join(str(error).split())}).") from error
    except DataError:
        raise
    except SemclipEvalError as error:
        raise ConfigError(
            f"compare: {path} names a benchmark that cannot be built here, and it is what says which answers count "
            f"together: {error}"
        ) from error
    return benchmark


def refuse_different(reference: Run, other: Run) -> None:
    """RunFailed where the two are not over the same questions, put and scored in the same way."""
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
    return (
        first is not None
        and second is not None
        and (
            all(first[key] == second[key] for key in SAME_KEYS)
            and (first.get("hint") or "") == (second.get("hint") or "")
        )
    )


def differing(reference: Run, other: Run, keys: Sequence[str]) -> list[str]:
    """The ids of the questions whose records differ in one of the keys, in file order."""
    return [
        name
        for name, record in reference.records.items()
        if any(record.get(key) != other.records[name].get(key) for key in keys)
    ]


def paired(reference: Run, other: Run) -> Pair:
    """The run against the reference, question by question; RunFailed where nothing can be paired."""
    both = [
        # What belongs together is a matter of the question, and the same for both: the reference says it.
        (first := _clustered(record), {**other.records[identity], "cluster": first["cluster"]})
        for identity, record in reference.records.items()
        if record["score"] is not None and other.records[identity]["score"] is not None
    ]
    before = reference.benchmark.metric.units([first for first, _ in both])
    after = reference.benchmark.metric.units([second for _, second in both])
    if not before:
        raise RunFailed(
            f"compare refused: no question was answered and scored in both {reference.folder} and {other.folder} "
            "(latency mode scores no generated answers)."
        )
    clusters = [cluster for _, cluster in before]
    if clusters != [cluster for _, cluster in after]:
        raise RunFailed(
            f"compare refused: the accuracies of {reference.folder} and {other.folder} are over different units, which "
            f"{type(reference.benchmark.metric).__name__}.units makes depend on the scores."
        )
    # A unit of one question carries its id; one of several has the name of their cluster.
    single = len(before) == len(both)
    names = [str(first["question_id"]) for first, _ in both] if single else clusters
    values = [(first, second) for (first, _), (second, _) in zip(before, after, strict=True)]
    differences = [second - first for first, second in values]
    only_reference = tuple(name for name, difference in zip(names, differences, strict=True) if difference < 0)
    only_other = tuple(name for name, difference in zip(names, differences, strict=True) if difference > 0)
    countable = all(value in (0, 1) for pair in values for value in pair)
    return Pair(
        other=other,
        n=len(both),
        n_left_out=len(reference.records) - len(both),
        n_units=len(values),
        n_clusters=len(set(clusters) - {""}) + clusters.count(""),
        reference_accuracy=_mean([first for first, _ in values]),
        other_accuracy=_mean([second for _, second in values]),
        difference=paired_interval(differences, clusters),
        only_reference=only_reference,
        only_other=only_other,
        p=mcnemar_exact(len(only_reference), len(only_other)) if countable else None,
        visual_tokens_ratio=_tokens_ratio(both),
    )


def _clustered(record: Record) -> Record:
    """Record with its cluster (scores on one image are correlated)."""
    return {**record, "cluster": str(record["cluster"] or record.get("image_id") or "")}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _tokens_ratio(records: Sequence[tuple[Record, Record]]) -> float | None:
    tokens = [(first.get("visual_tokens"), second.get("visual_tokens")) for first, second in records]
    counted = [(first, second) for first, second in tokens if first is not None and second is not None]
    reference = sum(first for first, _ in counted)
    return sum(second for _, second in counted) / reference if reference else None


def render(comparison: Comparison, console: Console) -> None:
    """Print the comparison: a table with a row for each run, then some of the questions on which they part."""
    from rich.table import Table

    from semclip_eval.stacked import Stacked

    runs = [comparison.reference, *(pair.other for pair in comparison.pairs)]
    reference, *names = _names(runs)
    row = comparison.reference.row
    console.print(
        f"{row['benchmark']} ({row['split']}), protocol {row['protocol']}, {row['metric']} in percent; "
        f"reference: {reference}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for heading in ("n", "accuracy", "difference", "-/+", "p", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, pair in zip(names, comparison.pairs, strict=True):
        table.add_row(
            name,
            str(pair.n_units),
            f"{100 * pair.reference_accuracy:.1f} → {100 * pair.other_accuracy:.1f}",
            _difference(pair),
            f"{len(pair.only_reference)}/{len(pair.only_other)}",
            "-" if pair.p is None else f"{pair.p:.3f}" if pair.p >= 0.001 else f"{pair.p:.1e}",
            "" if pair.visual_tokens_ratio is None else f"×{pair.visual_tokens_ratio:.2f}",
        )
    console.print(Stacked(table))
    for name, pair in zip(names, comparison.pairs, strict=True):
        if pair.n_left_out:
            console.print(f"{name}: {pair.n_left_out} questions left out of both, an error in one of them")
        if pair.n_units < pair.n:
            console.print(f"{name}: {pair.n} questions in {pair.n_units} groups, each of which is one score (n, -/+)")
        for what, ids in (("worse", pair.only_reference), ("better", pair.only_other)):
            if ids:
                more = f" and {len(ids) - EXAMPLES} more" if len(ids) > EXAMPLES else ""
                shown = ", ".join(ids[:EXAMPLES])
                console.print(f"{name}, {what} than the reference on: {shown}{more}", highlight=False)
    if any(pair.p is None for pair in comparison.pairs):
        console.print(f"p -: {WHY_NO_P}; the interval is the one to read.", highlight=False)
    elif any(pair.n_clusters < pair.n_units for pair in comparison.pairs):
        console.print(DEPENDENT, highlight=False)
    console.print(
        "difference: run minus reference in points, with its 95 % paired interval; -/+: how many "
        "the reference or the run scored higher; p: exact McNemar test on them; tokens: visual tokens, run over "
        "reference.",
        style="dim",
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values: fractions as fractions, a run after the other in the order given."""
    reference = comparison.reference
    names = _names([reference, *(pair.other for pair in comparison.pairs)])
    return {
        **{column: reference.row[column] for column in SAME_COLUMNS},
        "reference": _named(names[0], reference),
        "runs": [
            {
                **_named(name, pair.other),
                "n": pair.n,
                "n_left_out": pair.n_left_out,
                "n_units": pair.n_units,
                "n_clusters": pair.n_clusters,
                "reference_accuracy": pair.reference_accuracy,
                "accuracy": pair.other_accuracy,
                "difference": pair.other_accuracy - pair.reference_accuracy,
                "difference_ci_low": None if pair.difference is None else pair.difference.low,
                "difference_ci_high": None if pair.difference is None else pair.difference.high,
                "only_reference": pair.only_reference,
                "only_run": pair.only_other,
                "p": pair.p,
                "p_takes_units_as_independent": pair.p is not None and pair.n_clusters < pair.n_units,
                "visual_tokens_ratio": pair.visual_tokens_ratio,
            }
            for name, pair in zip(names[1:], comparison.pairs, strict=True)
        ],
    }


def _named(name: str, run: Run) -> dict[str, Any]:
    columns = ("selector", "model", "run_id")
    return {"name": name, **{column: run.row.get(column) or None for column in columns}, "run_dir": shown(run.folder)}


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
