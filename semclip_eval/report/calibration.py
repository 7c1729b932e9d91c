"""Does ψ know when it is right? Hit rate and accuracy by ψ's margin, the best candidate's score minus the second best.

Over questions with one target box: where there are several, one crop can seldom cover them all, whatever ψ thinks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from semclip_eval.report.comparisons import Comparison
from semclip_eval.report.contents import ORIGIN, caption, name_cell, origin
from semclip_eval.report.lines import Line
from semclip_eval.report.table import Cell, Column, Footnotes, Row, Table, percent
from semclip_eval.results.summary import is_hit
from semclip_eval.scoring.statistics import wilson_interval

GROUPS = 5
# With fewer questions a fifth of them tells nothing.
FEWEST = 50


@dataclass(frozen=True)
class Group:
    """Questions of neighbouring margins, from low to high: how many, how many of them hits, their scores' sum."""

    n: int
    hits: int
    score: float
    low: float
    high: float

    @property
    def hit_rate(self) -> float:
        return self.hits / self.n

    @property
    def hit_interval(self) -> tuple[float, float]:
        """Wilson's, 95 %."""
        interval = wilson_interval(self.hits, self.n)
        assert interval is not None
        return interval


@dataclass(frozen=True)
class Calibration:
    """Of one run: `GROUPS` groups of equal size, by margin, and how well the margin tells hits from misses.

    separation: of all pairs of a hit and a miss the part in which the hit has the larger margin, ties half (the area
    under the ROC curve; 0.5: the margin says nothing); None where all or none are hits.
    """

    line: Line
    groups: tuple[Group, ...]
    separation: float | None


def calibrations(comparison: Comparison, rows: Sequence[Line]) -> list[Calibration]:
    """The runs whose ψ scored the candidates of enough questions with one target box; none in latency mode."""
    if comparison.shared("mode") == "latency" or comparison.random_weights:
        return []
    found = [_calibration(line) for line in rows if line.run.kind != "oracle"]
    return [calibration for calibration in found if calibration is not None]


def margin(record: Mapping[str, Any]) -> float | None:
    """The best candidate's ψ minus the second best's; None with fewer than two scored candidates."""
    scores = [candidate["psi"] for candidate in record.get("candidates") or () if candidate.get("psi") is not None]
    if len(scores) < 2:
        return None
    best, second = sorted(scores, reverse=True)[:2]
    return float(best - second)


def _calibration(line: Line) -> Calibration | None:
    measured = sorted(
        (value, hit, float(record["score"]))
        for record in line.run.records
        if record["status"] != "error"
        and record["score"] is not None
        and len(record["target_boxes"] or ()) == 1
        and (hit := is_hit(record)) is not None
        and (value := margin(record)) is not None
    )
    if len(measured) < FEWEST:
        return None
    ends = [round(len(measured) * number / GROUPS) for number in range(GROUPS + 1)]
    parts = [measured[start:stop] for start, stop in pairwise(ends)]
    groups = tuple(
        Group(len(part), sum(hit for _, hit, _ in part), sum(score for *_, score in part), part[0][0], part[-1][0])
        for part in parts
    )
    return Calibration(
        line, groups, separation([value for value, hit, _ in measured if hit], [v for v, hit, _ in measured if not hit])
    )


def separation(hits: Sequence[float], misses: Sequence[float]) -> float | None:
    """See `Calibration`: Mann and Whitney's U over the number of pairs."""
    if not hits or not misses:
        return None
    # Mean ranks by hand: scipy.stats takes a second to import.
    _, place, count = np.unique([*hits, *misses], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place][: len(hits)]
    return float((ranks.sum() - len(hits) * (len(hits) + 1) / 2) / (len(hits) * len(misses)))


def calibration_table(comparison: Comparison, found: Sequence[Calibration]) -> Table | None:
    """A row for each fifth of each run; None where nothing could be measured."""
    if not found:
        return None
    footnotes = Footnotes()
    rows, records = [], []
    for calibration in found:
        line = calibration.line
        told = "every question is a hit, or every one a miss: nothing to tell apart"
        if calibration.separation is not None:
            told = (
                f"of a hit and a miss, the hit has the larger margin in {percent(calibration.separation)} % of all "
                "pairs; 50 % would say that the margin tells nothing"
            )
        name = name_cell(line, footnotes)
        name = Cell(name.text, name.minor, name.notes + footnotes.mark(told))
        for number, group in enumerate(calibration.groups, start=1):
            low, high = group.hit_interval
            scores = wilson_interval(group.score, group.n)
            rows.append(
                Row(
                    (
                        name,
                        Cell(f"{number} of {GROUPS}", f"{group.low:.3g} to {group.high:.3g}"),
                        Cell(str(group.n)),
                        Cell(percent(group.hit_rate), f"{percent(low)} to {percent(high)}"),
                        Cell(
                            percent(group.score / group.n),
                            f"{percent(scores[0])} to {percent(scores[1])}" if scores else "",
                        ),
                    ),
                    style=line.run.id,
                )
            )
            records.append(
                origin(line.run, line.labelled.differs)
                | {"margin_low": group.low, "margin_high": group.high, "n": group.n, "hit_rate": group.hit_rate}
                | {"hit_rate_ci_low": low, "hit_rate_ci_high": high, "accuracy": group.score / group.n}
                | {"separation": calibration.separation}
            )
    columns = "margin_low margin_high n hit_rate hit_rate_ci_low hit_rate_ci_high accuracy separation".split()
    return Table(
        name="psi_margin",
        caption=f"Hit rate and accuracy by the margin of ψ, questions with one target box: {caption(comparison)}",
        columns=(
            Column("selector", numeric=False),
            Column("margin of ψ", numeric=False),
            Column("n"),
            Column("hit rate,\N{NO-BREAK SPACE}%"),
            Column("accuracy,\N{NO-BREAK SPACE}%"),
        ),
        rows=tuple(rows),
        notes=footnotes.listed(),
        record_columns=(*ORIGIN, *columns),
        records=tuple(records),
    )
