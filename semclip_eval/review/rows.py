"""The rows of a review: every run with its costs, the fronts it stands on, and its paired test against the reference.

Nothing is decided after the numbers were seen: the reference is named before, and Holm's correction runs over every
test that the table prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semclip_eval.errors import ConfigError, SemclipEvalError
from semclip_eval.report.comparisons import (
    Comparison,
    Labelled,
    base_settings,
    comparisons,
    latency_run,
    newest_of_each,
)
from semclip_eval.report.runs import FinishedRun, LeftOut, read_results
from semclip_eval.results.comparison import Pair, Run, paired, read_run, refuse_different
from semclip_eval.results.pareto import front
from semclip_eval.scoring.statistics import detectable_difference, holm

# What a front is drawn against: visual tokens that the language model reads, VLM forwards that the selector spends, and
# milliseconds from question to answer.
COSTS = ("tokens", "forwards", "ms")
DEFAULT_REFERENCE = "semclip"


@dataclass(frozen=True)
class ReviewRow:
    """A run, what it costs, and its test against the reference.

    timed: the latency run of the same configuration. fronts: those of `COSTS` on whose Pareto front the run stands;
    none for one that sees the truth. pair: this run against the reference; None for the reference itself and where
    `why_no_pair` says why. p_holm: Holm's adjusted p; None where McNemar's test does not apply. discordant: the share
    of questions that only one of the two scored higher, or the given one. detectable: the smallest difference that one
    test at the level finds with 80 % power, detectable_strictest: the same at Holm's first step (level over tests);
    None where no difference would be found. verdict: of the corrected test, `better` or `worse` than the reference, or
    `not told apart`.
    """

    labelled: Labelled
    timed: FinishedRun | None
    fronts: frozenset[str] = frozenset()
    pair: Pair | None = None
    why_no_pair: str = ""
    p_holm: float | None = None
    discordant: float | None = None
    detectable: float | None = None
    detectable_strictest: float | None = None
    verdict: str = ""

    @property
    def run(self) -> FinishedRun:
        return self.labelled.run

    @property
    def sees_truth(self) -> bool:
        return self.run.kind == "oracle"

    def cost(self, name: str) -> float | None:
        """Of `COSTS`; None where it was not measured."""
        if name == "ms":
            return None if self.timed is None else self.timed.number("e2e_ms_p50")
        return self.run.number({"tokens": "visual_tokens_mean", "forwards": "forwards_mean"}[name])


@dataclass(frozen=True)
class Review:
    """The rows of one comparison, in its order. level: of the corrected tests; tests: how many Holm corrects over."""

    comparison: Comparison
    reference: Labelled
    rows: tuple[ReviewRow, ...]
    level: float
    tests: int

    @property
    def devices(self) -> tuple[str, ...]:
        """On what, and in which number format, the milliseconds were taken; several cannot be compared."""
        places = (f"{row.timed.row['device']} in {row.timed.row['dtype']}" for row in self.rows if row.timed)
        return tuple(dict.fromkeys(places))


def review(
    results: Path, reference: str | None = None, level: float = 0.05, discordant: float | None = None
) -> tuple[list[Review], list[LeftOut]]:
    """A review for every set of comparable accuracy runs below `results`, and the run folders that are left out.

    reference: a selector, a row's name or a run id; of several rows the first in the table's order. By default
    `semclip`, else the first row. discordant: a share to take for the observed ones in the detectable differences.
    Raises ConfigError for a folder without such runs, a reference that no comparison has, and a level or share outside
    of 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"--max-p {level:g}: must lie between 0 and 1, such as 0.05.")
    if discordant is not None and not 0 < discordant <= 1:
        raise ConfigError(f"--discordant {discordant:g}: must be a share above 0 and up to 1, such as 0.2.")
    runs, left_out = read_results(results)
    timed = [run for run in runs if run.row["mode"] == "latency"]
    asked = [run for run in runs if run.row["mode"] != "latency" and not run.random_weights]
    kept = newest_of_each(asked)
    left_out += [
        LeftOut(run.folder.relative_to(results).as_posix(), "a newer run has the same settings")
        for run in asked
        if run not in kept
    ]
    alone = [comparison for comparison in comparisons(kept) if len(comparison.runs) == 1]
    left_out += [LeftOut(comparison.title, "a single run, with nothing to compare it to") for comparison in alone]
    found = [comparison for comparison in comparisons(kept) if len(comparison.runs) > 1]
    if not found:
        raise ConfigError(
            f"{results}: holds no two accuracy runs to compare. This makes some: "
            f"semclip-eval experiment=review run.output_dir={results}"
        )
    chosen = [(comparison, _reference(comparison, reference)) for comparison in found]
    having = [(comparison, labelled) for comparison, labelled in chosen if labelled is not None]
    if not having:
        names = dict.fromkeys(labelled.name for comparison in found for labelled in comparison.runs)
        raise ConfigError(
            f"--reference {reference}: no run has that selector, name or id. There are: {', '.join(names)}."
        )
    left_out += [
        LeftOut(comparison.title, f"has no run of the reference {reference}")
        for comparison, labelled in chosen
        if labelled is None
    ]
    return [_review(comparison, labelled, timed, level, discordant) for comparison, labelled in having], left_out


def _reference(comparison: Comparison, name: str | None) -> Labelled | None:
    wanted = DEFAULT_REFERENCE if name is None else name
    exact = [each for each in comparison.runs if wanted in (each.name, each.run.id)]
    same = exact or [each for each in comparison.runs if each.run.selector == wanted]
    return next(iter(same), comparison.runs[0] if name is None else None)


def _review(
    comparison: Comparison, reference: Labelled, timed: Sequence[FinishedRun], level: float, discordant: float | None
) -> Review:
    against = read_run(reference.run.folder)
    pairs: list[tuple[Pair | None, str]] = [
        (None, "") if labelled is reference else _paired(against, reference.run, labelled.run)
        for labelled in comparison.runs
    ]
    tested = [index for index, (pair, _) in enumerate(pairs) if pair is not None and pair.p is not None]
    adjusted = dict(zip(tested, holm([p for index in tested if (p := _p(pairs[index][0])) is not None]), strict=True))
    rows = []
    for index, (labelled, (pair, why)) in enumerate(zip(comparison.runs, pairs, strict=True)):
        twin = latency_run(labelled.run, timed)
        if pair is None:
            rows.append(ReviewRow(labelled, twin, why_no_pair=why))
            continue
        p_holm = adjusted.get(index)
        share = discordant or (len(pair.only_reference) + len(pair.only_other)) / pair.n_units
        rows.append(
            ReviewRow(
                labelled, twin, pair=pair, p_holm=p_holm, discordant=share,
                detectable=None if p_holm is None else detectable_difference(pair.n_units, share, level),
                detectable_strictest=(
                    None if p_holm is None else detectable_difference(pair.n_units, share, level / len(tested))
                ),
                verdict=_verdict(pair, p_holm, level),
            )
        )  # fmt: skip
    return Review(comparison, reference, tuple(_with_fronts(rows)), level, len(tested))


def _p(pair: Pair | None) -> float | None:
    return None if pair is None else pair.p


def _paired(against: Run, reference: FinishedRun, run: FinishedRun) -> tuple[Pair | None, str]:
    """The run against the reference, or why not: runs of other settings would be tested for those as well."""
    theirs, mine = base_settings(reference), base_settings(run)
    key = next((key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)), None)
    if key is not None:
        return None, f"{key}={mine.get(key)}, unlike the reference"
    try:
        other = read_run(run.folder)
        refuse_different(against, other)
        return paired(against, other), ""
    except SemclipEvalError as error:
        return None, " ".join(str(error).split()).rstrip(".")


def _verdict(pair: Pair, p_holm: float | None, level: float) -> str:
    if p_holm is None:
        return ""
    if p_holm > level:
        return "not told apart"
    return "better" if pair.other_accuracy > pair.reference_accuracy else "worse"


def _with_fronts(rows: Sequence[ReviewRow]) -> list[ReviewRow]:
    """The rows with the fronts they stand on; no front of milliseconds where they come from several devices."""
    standing: dict[int, set[str]] = {index: set() for index in range(len(rows))}
    timed_on = {(row.timed.row["device"], row.timed.row["dtype"]) for row in rows if row.timed}
    for name in COSTS:
        if name == "ms" and len(timed_on) > 1:
            continue
        points = [
            (index, (cost, accuracy))
            for index, row in enumerate(rows)
            if not row.sees_truth
            and (cost := row.cost(name)) is not None
            and (accuracy := row.run.number("accuracy")) is not None
        ]
        for place in front([point for _, point in points]):
            standing[points[place][0]].add(name)
    return [ReviewRow(**{**row.__dict__, "fronts": frozenset(standing[index])}) for index, row in enumerate(rows)]
