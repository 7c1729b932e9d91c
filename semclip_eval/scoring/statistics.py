"""Intervals and tests for accuracies and for differences of two runs over the same questions. Values are fractions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple


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
    from scipy.special import bdtr

    if b < 0 or c < 0:
        raise ValueError(f"discordant counts {b} and {c}")
    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5)))


def bounded_mean_interval(
    values: Sequence[float],
    clusters: Sequence[str] | None,
    bounds: tuple[float, float],
    pseudo: int,
    level: float = 0.95,
) -> Interval | None:
    """Mean of bounded values and its interval, honest for few values, few clusters and little or no spread.

    `pseudo` more clusters are added at each of the two bounds before a cluster-robust standard error is taken, so that
    values that are all alike do not claim to be certain. With single values in {-1, 0, 1} and `pseudo` 1 this is Bonett
    and Price's interval for paired proportions (Journal of Educational and Behavioral Statistics 37 (2012) 479-488);
    with single values in {0, 1} and 2 it is Agresti and Coull's (The American Statistician 52 (1998) 119-126), both
    with a t quantile in place of the normal one. With clusters of size m a pseudo cluster has the size
    Σm² / Σm, and t has (Σm)² / Σm² + 1 degrees of freedom: the numbers of a design with equal clusters.

    clusters: what each value belongs to; an empty name stands alone, and so does every value where it is None. `mean`
    is the plain mean of the values. None for fewer than two clusters, of which no spread can be estimated. Measured
    coverage: docs/statistics.md, scripts/simulate_coverage.py.
    """
    from scipy.special import stdtrit

    if clusters is not None and len(clusters) != len(values):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters")
    members: dict[object, list[float]] = defaultdict(list)
    for position, value in enumerate(values):
        members[(clusters[position] if clusters is not None else "") or position].append(value)
    if len(members) < 2:
        return None
    sizes = [float(len(group)) for group in members.values()]
    squares = math.fsum(size * size for size in sizes)
    pseudo_size = squares / len(values)
    degrees = len(values) ** 2 / squares + 1
    groups = [(math.fsum(group), size) for group, size in zip(members.values(), sizes, strict=True)]
    groups += [(bound * pseudo_size, pseudo_size) for bound in bounds for _ in range(pseudo)]
    total = math.fsum(size for _, size in groups)
    centre = math.fsum(value for value, _ in groups) / total
    variance = math.fsum((value - centre * size) ** 2 for value, size in groups) / total**2
    half = float(stdtrit(degrees, (1 + level) / 2)) * math.sqrt(variance)
    mean = math.fsum(values) / len(values)
    # The added clusters pull the interval to the middle of the bounds; it always holds the mean beside it.
    low, high = max(bounds[0], centre - half), min(bounds[1], centre + half)
    return Interval(mean, min(low, mean), max(high, mean))


def paired_interval(differences: Sequence[float], clusters: Sequence[str] | None = None) -> Interval | None:
    """95 % interval of the mean of per-question differences in [-1, 1] (second run minus first)."""
    return bounded_mean_interval(differences, clusters, (-1.0, 1.0), pseudo=1)


def clustered_accuracy_interval(scores: Sequence[float], clusters: Sequence[str]) -> Interval | None:
    """95 % interval of the mean of scores in [0, 1], several of which may share a cluster."""
    return bounded_mean_interval(scores, clusters, (0.0, 1.0), pseudo=2)


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile, q in [0, 100], interpolated linearly between order statistics.

    With n sorted values it lies at rank (n - 1) q / 100 counted from 0: type 7 of Hyndman & Fan, The American
    Statistician 50 (1996) 361-365. Raises ValueError for no values or a q outside.
    """
    import numpy as np

    if not values:
        raise ValueError("percentile of no values")
    if not 0 <= q <= 100:
        raise ValueError(f"percentile {q}")
    return float(np.percentile(values, q))
