"""Intervals and tests for accuracies and for differences of two runs over the same questions. Values are fractions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

# Quantiles of the normal distribution: a two-sided test at 5 %, and a power of 80 %.
Z_ALPHA, Z_POWER = 1.959964, 0.841621


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p of every test, in the order given: at most alpha where his step-down procedure rejects.

    With m tests and p sorted, the i-th smallest becomes the largest of (m - j + 1) p_j over j <= i, at most 1. It keeps
    the chance of one false rejection or more at alpha, however the tests depend on each other. Holm, Scandinavian
    Journal of Statistics 6 (1979) 65-70.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values outside of 0 and 1: {p_values}")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def mcnemar_power(n: int, discordant: float, difference: float, level: float = 0.05) -> float:
    """The chance that `mcnemar_exact` on n pairs is at most `level`, exactly.

    discordant: the share of pairs that differ, in the population; difference: of the two accuracies, at most
    `discordant`. The number of discordant pairs is binomial(n, discordant); given m of them, those in favour of one run
    are binomial(m, (1 + difference / discordant) / 2), and the test rejects where either tail holds few enough: the
    unconditional power of Connor, Biometrics 43 (1987) 207-211, without his normal approximation.
    """
    import numpy as np
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    if n < 1 or not 0 <= abs(difference) <= discordant <= 1:
        raise ValueError(f"{n} pairs, {discordant} of them discordant, difference {difference}")
    if discordant == 0:
        return 0.0
    m = np.arange(n + 1)
    weights = np.exp(
        gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1) + xlogy(m, discordant) + xlog1py(n - m, -discordant)
    )
    likely = weights > 1e-14
    m, weights = m[likely], weights[likely]
    # The largest count of the rarer side with which m pairs reject; -1 where none does.
    z = NormalDist().inv_cdf(level / 2)
    most = np.maximum(np.floor((m + z * np.sqrt(m)) / 2), -1.0)
    while (more := 2 * bdtr(np.minimum(most + 1, m), m, 0.5) <= level).any():
        most[more] += 1
    while (fewer := (most >= 0) & (2 * bdtr(np.maximum(most, 0), m, 0.5) > level)).any():
        most[fewer] -= 1
    favour = (1 + difference / discordant) / 2
    rejected = bdtr(np.maximum(most, 0), m, favour) + bdtr(np.maximum(most, 0), m, 1 - favour)
    return float((weights * np.where(most >= 0, rejected, 0.0)).sum())


def detectable_difference(n: int, discordant: float, level: float = 0.05, power: float = 0.8) -> float | None:
    """The smallest difference of two accuracies that `mcnemar_exact` on n pairs finds with this power.

    By bisection of `mcnemar_power`, to 1e-5. None where even the largest one, all discordant pairs in favour of one
    run, is found less often.
    """
    if not 0 < discordant <= 1 or mcnemar_power(n, discordant, discordant, level) < power:
        return None
    low, high = 0.0, discordant
    while high - low > 1e-5:
        middle = (low + high) / 2
        if mcnemar_power(n, discordant, middle, level) < power:
            low = middle
        else:
            high = middle
    return high


def questions_needed(difference: float, discordant: float) -> int | None:
    """Questions for a paired test at 5 % to find `difference` with 80 % power, where `discordant` of the pairs differ.

    n = (z_a sqrt(d) + z_b sqrt(d - D^2))^2 / D^2 (Connor, Biometrics 43 (1987) 207-211). None for no difference.
    """
    if difference == 0 or discordant <= 0:
        return None
    spread = max(discordant - difference**2, 0.0)
    return math.ceil((Z_ALPHA * math.sqrt(discordant) + Z_POWER * math.sqrt(spread)) ** 2 / difference**2)


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
