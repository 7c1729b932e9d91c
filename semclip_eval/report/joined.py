"""Accuracy runs and the latency runs of the same configurations: what a question of each costs in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semclip_eval.report.comparisons import Comparison, times
from semclip_eval.report.runs import FinishedRun

MACHINE = ("device", "dtype", "attn")


@dataclass(frozen=True)
class Timings:
    """machine: where all were taken, in words. milliseconds: median of a whole question, by the accuracy run's id."""

    machine: str
    milliseconds: dict[str, float]


def timings(comparison: Comparison, timed: Sequence[FinishedRun]) -> Timings:
    """The latencies that go with the runs of an accuracy comparison, all from one machine, else none.

    Of several machines the one that timed most of the runs, since milliseconds of two machines do not belong on one
    axis; of several runs of one configuration the one with the most questions.
    """
    by_machine: dict[tuple[str, ...], dict[str, FinishedRun]] = {}
    for labelled in comparison.runs:
        for other in timed:
            if not times(other, labelled.run):
                continue
            found = by_machine.setdefault(tuple(other.row[name] for name in MACHINE), {})
            known = found.get(labelled.run.id)
            if known is None or (int(other.row["n"]), known.id) > (int(known.row["n"]), other.id):
                found[labelled.run.id] = other
    if not by_machine or comparison.shared("mode") == "latency":
        return Timings("", {})
    machine, runs = min(by_machine.items(), key=lambda item: (-len(item[1]), item[0]))
    return Timings(
        ", ".join(part for part in machine if part),
        {identity: value for identity, run in runs.items() if (value := run.number("e2e_ms_p50")) is not None},
    )
