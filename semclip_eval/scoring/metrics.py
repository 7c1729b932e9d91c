"""What the scores of many questions come to: the one accuracy of a row, and a benchmark's further numbers.

A scorer gives each answer a value (`Benchmark.score`); a metric makes one number of many values. It reads records as
`samples.jsonl` has them, and never an image or a model, so a finished run can be counted again.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from semclip_eval.scoring.yes_no import yes_no_metrics

Records = Sequence[Mapping[str, Any]]


class Metric:
    """The mean of the scored questions' values, which is what most benchmarks report.

    name: what the mean is called in the column `metric`. further_names: what `further` gives, columns of
    `categories.csv`. A subclass changes `units` where the accuracy is not over single questions, and `further`.
    """

    further_names: tuple[str, ...] = ()

    def __init__(self, name: str = "accuracy") -> None:
        self.name = name

    def units(self, records: Records) -> list[tuple[float, str]]:
        """The scoring units that accuracy averages: a value in [0, 1] and its cluster, here one a scored record.

        Where several units share a cluster, the interval counts clusters, else it is Wilson's. Which units there are
        must not depend on the scores: a comparison pairs them.
        """
        return [(record["score"], record["cluster"]) for record in records if record["score"] is not None]

    def further(self, records: Records) -> dict[str, float | None]:
        """A value for each of `further_names`, over records without errors; None where one is not defined."""
        return {}

    @property
    def is_over_questions(self) -> bool:
        """Is every scored question one unit, so that the accuracy is known while a run goes on?"""
        return type(self).units is Metric.units


class CircularAccuracy(Metric):
    """CircularEval (Liu et al., arXiv 2307.06281): a question is right where all rotations of its options are.

    A question with an error, or of which not every rotation was asked (tag `rotations`), counts nowhere: what is not
    known is not wrong. `plain_accuracy` is the part of the rotations that are right.
    """

    further_names = ("plain_accuracy",)

    def __init__(self) -> None:
        super().__init__("circular_accuracy")

    def units(self, records: Records) -> list[tuple[float, str]]:
        """One value for each question all of whose rotations were scored: 1 where all are right."""
        rotations: dict[str, list[Mapping[str, Any]]] = {}
        for record in records:
            if record["score"] is not None:
                rotations.setdefault(record["cluster"], []).append(record)
        return [
            (float(all(record["score"] == 1 for record in members)), cluster)
            for cluster, members in rotations.items()
            if len(members) == int(members[0]["tags"]["rotations"])
        ]

    def further(self, records: Records) -> dict[str, float | None]:
        scores = [record["score"] for record in records if record["score"] is not None]
        return {"plain_accuracy": sum(scores) / len(scores) if scores else None}


class CycleAverage(Metric):
    """HR-Bench: `cycle_average` is the mean of the accuracies by cycle (lmms-eval, `hrbench_aggregate_results`)."""

    further_names = ("cycle_average",)

    def further(self, records: Records) -> dict[str, float | None]:
        cycles: dict[str, list[float]] = {}
        for record in records:
            if record["score"] is not None:
                cycles.setdefault(record["tags"]["cycle"], []).append(record["score"])
        averages = [sum(scores) / len(scores) for scores in cycles.values()]
        return {"cycle_average": sum(averages) / len(averages) if averages else None}


class YesNoMeasures(Metric):
    """POPE: precision, recall and F1 of "yes", the part of yes, and the mean of the categories' F1.

    That mean, given where the records are of several categories, is what LLaVA's paper reports for POPE (85.9 for
    LLaVA-1.5-7B). None where a category has no F1. Formulas: `scoring.yes_no.yes_no_metrics`.
    """

    further_names = ("precision", "recall", "f1", "yes_ratio", "category_mean_f1")

    def further(self, records: Records) -> dict[str, float | None]:
        scored = [record for record in records if record["score"] is not None]
        by_category: dict[str, list[Mapping[str, Any]]] = {}
        for record in scored:
            by_category.setdefault(record["category"], []).append(record)
        scores = [score for members in by_category.values() if (score := yes_no_metrics(members)["f1"]) is not None]
        complete = len(by_category) > 1 and len(scores) == len(by_category)
        return {**yes_no_metrics(scored), "category_mean_f1": statistics.fmean(scores) if complete else None}
