"""Intervals and tests for accuracies and for differences of two runs over the same questions. Values are fractions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

# Cells of one block of bootstrap weights: 2 million int64 take 16 MB.
BLOCK_CELLS = 2_000_000


class Interval(NamedTuple):
    """A mean and the two ends of its interval."""

    mean: float
    low: float
    high: float


def wilson_interval(k: float, n: int, level: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval for k successes in n trials; None for n = 0.

    k may be fractional (a sum of partial credits). Wilson, JASA 22 (1927) 209-212:
    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    """
    if n == 0:
        return None
    if not 0 <= k <= n:
        raise ValueError(f"{k} successes in {n} trials")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = k / n
    center = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At k = 0 and k = n the end is 0 or 1 exactly; rounding must not put it a hair inside or outside.
    low = 0.0 if k == 0 else max(0.0, (center - half) / scale)
    high = 1.0 if k == n else min(1.0, (center + half) / scale)
    return low, high


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p of McNemar's test with b and c discordant pairs: twice the smaller binomial(b + c, 1/2) tail.

    1 where nothing is discordant. McNemar, Psychometrika 12 (1947) 153-157, in its exact binomial form.
    """
    if b < 0 or c < 0:
        raise ValueError(f"discordant counts {b} and {c}")
    n = b + c
    term = tail = 1
    for i in range(min(b, c)):
        term = term * (n - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence[str] | None = None,
    seed: int = 0,
    samples: int = 10_000,
    level: float = 0.95,
) -> Interval | None:
    """Percentile bootstrap interval of the mean, drawing whole clusters with replacement.

    `clusters` names what each value belongs to; an empty name stands alone, and so does every value where it is None.
    Deterministic, and independent of the order of the values. None for fewer than two clusters, of which no spread can
    be estimated. Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    import numpy as np

    if clusters is not None and len(clusters) != len(values):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters")
    members: dict[object, list[float]] = defaultdict(list)
    for position, value in enumerate(values):
        members[(clusters[position] if clusters is not None else "") or position].append(value)
    if len(members) < 2:
        return None
    # Clusters with the same sum and size are interchangeable: it is enough to draw how often each kind occurs.
    sums = [(math.fsum(group), len(group)) for group in members.values()]
    kinds, counts = np.unique(np.array(sums, dtype=np.float64), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    block = max(1, BLOCK_CELLS // len(kinds))
    for start in range(0, samples, block):
        size = min(block, samples - start)
        weights = rng.multinomial(len(members), counts / len(members), size=size)
        totals = weights @ kinds
        means[start : start + size] = totals[:, 0] / totals[:, 1]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(math.fsum(values) / len(values), float(low), float(high))


def paired_bootstrap(
    differences: Sequence[float],
    clusters: Sequence[str] | None = None,
    seed: int = 0,
    samples: int = 10_000,
    level: float = 0.95,
) -> Interval | None:
    """Bootstrap interval of the mean of per-question differences (second run minus first); see `cluster_bootstrap`."""
    return cluster_bootstrap(differences, clusters, seed, samples, level)


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile, q in [0, 100], interpolated linearly between order statistics.

    With n sorted values it lies at rank (n - 1) q / 100 counted from 0: type 7 of Hyndman & Fan, The American
    Statistician 50 (1996) 361-365. Raises ValueError for no values or a q outside.
    """
    if not values:
        raise ValueError("percentile of no values")
    if not 0 <= q <= 100:
        raise ValueError(f"percentile {q}")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * q / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)
