"""How often does a 95 % interval hold the truth? Coverage of the intervals that this package prints.

    python scripts/simulate_coverage.py [--repetitions 1500]

Pairs of single questions: exact, by summing over all outcomes. Clusters (several questions about an image): simulated,
with clusters of equal and of very unequal sizes, from independent to fully alike. Prints the worst case of each n over
discordant shares 0 to 0.5 (or accuracies 0.02 to 0.98) and how they split.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from semclip_eval.scoring.statistics import Interval, clustered_accuracy_interval, paired_interval

PAIRS = (5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 70, 100, 150, 191, 250, 300, 400, 500)
CLUSTERS = (5, 10, 20, 50, 100)
DISCORDANT = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
SPLITS = (0.0, 0.1, 0.25, 0.5)
ACCURACIES = (0.02, 0.1, 0.3, 0.5, 0.8, 0.95, 0.98)
ALIKE = (0.0, 0.5, 1.0)
SIZES: dict[str, tuple[int, ...]] = {"4": (4,), "18": (18,), "1 to 12": (1, 2, 4, 12)}
# Outcomes rarer than this are left out of the sums; together they cannot move a coverage by 1e-6.
NEGLIGIBLE = 1e-12


class Worst(NamedTuple):
    """The smallest coverage and where it was met."""

    coverage: float
    where: str


def pair_coverage(n: int, discordant: float, split: float) -> float:
    """Exact coverage of the paired interval for n single questions.

    discordant: probability that the two runs part on a question; split: the first run's share of it.
    """
    worse, better = discordant * split, discordant * (1 - split)
    truth = better - worse
    covered = 0.0
    for b in range(n + 1):
        for c in range(n - b + 1):
            probability = _trinomial(n, b, c, worse, better)
            if probability < NEGLIGIBLE:
                continue
            interval = paired_interval([-1.0] * b + [1.0] * c + [0.0] * (n - b - c))
            covered += probability * _holds(interval, truth)
    return covered


def _trinomial(n: int, b: int, c: int, worse: float, better: float) -> float:
    counts, chances = (b, c, n - b - c), (worse, better, 1 - worse - better)
    if any(count and chance <= 0 for count, chance in zip(counts, chances, strict=True)):
        return 0.0
    logarithm = math.lgamma(n + 1)
    for count, chance in zip(counts, chances, strict=True):
        logarithm += (count * math.log(chance) if count else 0.0) - math.lgamma(count + 1)
    return math.exp(logarithm)


def _holds(interval: Interval | None, truth: float) -> bool:
    return interval is not None and interval.low - 1e-9 <= truth <= interval.high + 1e-9


def worst_pair_coverage(n: int) -> Worst:
    """Over all discordant shares and splits."""
    return min(
        Worst(pair_coverage(n, discordant, split), f"discordant {discordant}, split {split}")
        for discordant, split in itertools.product(DISCORDANT, SPLITS)
    )


def cluster_coverage(
    interval_of: Callable[[Sequence[float], Sequence[str]], Interval | None],
    clusters: int,
    sizes: Sequence[int],
    values: Sequence[float],
    chances: Sequence[float],
    alike: float,
    repetitions: int,
    seed: int = 0,
) -> float:
    """Simulated coverage where questions come in clusters; a question takes its cluster's value with chance `alike`."""
    rng = np.random.default_rng(seed)
    truth = float(np.dot(values, chances))
    covered = 0
    for _ in range(repetitions):
        size = rng.choice(sizes, clusters)
        owner = np.repeat(np.arange(clusters), size)
        shared = rng.choice(values, clusters, p=chances)[owner]
        own = rng.choice(values, len(owner), p=chances)
        drawn = np.where(rng.random(len(owner)) < alike, shared, own)
        covered += _holds(interval_of(drawn.tolist(), [f"image {number}" for number in owner]), truth)
    return covered / repetitions


def worst_difference_coverage(clusters: int, repetitions: int) -> Worst:
    """The paired interval over clusters."""
    return min(
        Worst(
            cluster_coverage(
                paired_interval,
                clusters,
                sizes,
                (-1.0, 0.0, 1.0),
                (discordant * split, 1 - discordant, discordant * (1 - split)),
                alike,
                repetitions,
            ),
            f"sizes {name}, discordant {discordant}, split {split}, alike {alike}",
        )
        for (name, sizes), discordant, split, alike in itertools.product(
            SIZES.items(), DISCORDANT[2::2], SPLITS[::3], ALIKE
        )
    )


def worst_accuracy_coverage(clusters: int, repetitions: int) -> Worst:
    """The interval of an accuracy over clusters."""
    return min(
        Worst(
            cluster_coverage(
                clustered_accuracy_interval, clusters, sizes, (0.0, 1.0), (1 - accuracy, accuracy), alike, repetitions
            ),
            f"sizes {name}, accuracy {accuracy}, alike {alike}",
        )
        for (name, sizes), accuracy, alike in itertools.product(SIZES.items(), ACCURACIES, ALIKE)
    )


def main() -> None:
    """Print the worst case of every n."""
    parser = argparse.ArgumentParser(description="Coverage of the intervals that the package prints.")
    parser.add_argument("--repetitions", type=int, default=1500, help="of each simulated case")
    parser.add_argument("--pairs", type=int, nargs="*", default=PAIRS, help="numbers of single questions")
    parser.add_argument("--clusters", type=int, nargs="*", default=CLUSTERS, help="numbers of clusters")
    chosen = parser.parse_args()
    print("| interval | n | smallest coverage | met at |\n| --- | --- | --- | --- |")
    for n in chosen.pairs:
        print(f"| difference, single questions (exact) | {n} | %.3f | %s |" % worst_pair_coverage(n), flush=True)
    for n in chosen.clusters:
        print(
            f"| difference, clusters | {n} | %.3f | %s |" % worst_difference_coverage(n, chosen.repetitions), flush=True
        )
        print(f"| accuracy, clusters | {n} | %.3f | %s |" % worst_accuracy_coverage(n, chosen.repetitions), flush=True)


if __name__ == "__main__":
    main()
