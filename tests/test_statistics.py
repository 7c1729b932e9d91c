"""Intervals and tests against hand values, scipy, brute force and their defining properties."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from semclip_eval.errors import QuestionError
from semclip_eval.scoring.likelihood import least_loss
from semclip_eval.scoring.statistics import (
    cluster_bootstrap,
    mcnemar_exact,
    paired_bootstrap,
    percentile,
    wilson_interval,
)


def test_wilson_hand_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(0, 0) is None


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_wilson_agrees_with_scipy_and_mirrors(counts: tuple[int, int], level: float) -> None:
    k, n = counts
    interval = wilson_interval(k, n, level)
    reference = binomtest(k, n).proportion_ci(level, method="wilson")
    assert interval == pytest.approx((reference.low, reference.high), abs=1e-9)
    mirrored = wilson_interval(n - k, n, level)
    assert interval is not None
    assert mirrored is not None
    assert mirrored == pytest.approx((1 - interval[1], 1 - interval[0]), abs=1e-9)
    assert 0 <= interval[0] <= k / n <= interval[1] <= 1


def test_wilson_takes_partial_credit_and_refuses_nonsense() -> None:
    low, high = wilson_interval(10.5, 20) or (0.0, 0.0)
    assert wilson_interval(10, 20)[0] < low < high < wilson_interval(11, 20)[1]  # type: ignore[index]
    for k, n in ((21, 20), (-1, 20)):
        with pytest.raises(ValueError, match="successes"):
            wilson_interval(k, n)


def test_mcnemar_hand_values() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 5) == 2 / 32
    assert mcnemar_exact(1, 9) == 2 * (1 + 10) / 1024
    assert mcnemar_exact(3, 3) == 1.0
    assert mcnemar_exact(0, 2000) == pytest.approx(0.0, abs=1e-300)
    with pytest.raises(ValueError, match="discordant"):
        mcnemar_exact(-1, 3)


@given(st.integers(0, 6), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_mcnemar_by_listing_every_outcome(b: int, c: int) -> None:
    n = b + c
    heads = [sum(flips) for flips in product((0, 1), repeat=n)]
    as_extreme = sum(abs(n - 2 * count) >= abs(b - c) for count in heads)
    assert mcnemar_exact(b, c) == pytest.approx(as_extreme / 2**n, rel=1e-12)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_agrees_with_scipy(b: int, c: int) -> None:
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-6)


def naive_bootstrap(groups: list[list[float]], samples: int, seed: int) -> tuple[float, float]:
    """Draw whole groups, one by one, and take the mean of what was drawn."""
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(samples):
        drawn = [value for index in rng.integers(0, len(groups), len(groups)) for value in groups[index]]
        means.append(sum(drawn) / len(drawn))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def test_bootstrap_agrees_with_drawing_one_by_one() -> None:
    rng = np.random.default_rng(5)
    values = [float(value) for value in rng.choice([-1.0, 0.0, 1.0], 60, p=[0.1, 0.5, 0.4])]
    names = [f"image {position // 4}" for position in range(60)]
    groups = [values[start : start + 4] for start in range(0, 60, 4)]
    for clusters, reference in ((None, [[value] for value in values]), (names, groups)):
        interval = cluster_bootstrap(values, clusters, seed=1)
        assert interval is not None
        assert interval.mean == pytest.approx(sum(values) / 60)
        assert interval[1:] == pytest.approx(naive_bootstrap(reference, 4000, seed=2), abs=0.02)


def test_bootstrap_of_unequal_clusters_weighs_questions_not_clusters() -> None:
    interval = cluster_bootstrap([1.0] * 9 + [0.0], ["big"] * 9 + ["small"], seed=0)
    assert interval is not None
    assert interval.mean == pytest.approx(0.9)
    assert (interval.low, interval.high) == (0.0, 1.0)  # two clusters: both big, both small or one of each


def test_repeating_every_question_narrows_the_interval_only_when_clusters_are_ignored() -> None:
    values = [1.0, 0.0, -1.0, 1.0, 0.0, 1.0, 1.0, 0.0] * 4
    names = [str(position) for position in range(len(values))]
    once = paired_bootstrap(values, names, seed=3)
    repeated = paired_bootstrap(values * 4, names * 4, seed=3)
    ignored = paired_bootstrap(values * 4, None, seed=3)
    assert once is not None
    assert repeated is not None
    assert ignored is not None
    assert repeated == pytest.approx(once)
    assert (ignored.high - ignored.low) == pytest.approx((once.high - once.low) / 2, rel=0.1)


@given(
    st.lists(st.sampled_from([-1.0, -0.3, 0.0, 0.6, 1.0]), min_size=2, max_size=40), st.randoms(use_true_random=False)
)
@settings(max_examples=30, deadline=None)
def test_bootstrap_is_deterministic_and_blind_to_order(values: list[float], random: object) -> None:
    first = paired_bootstrap(values, seed=7, samples=500)
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert paired_bootstrap(shuffled, seed=7, samples=500) == first
    assert first is not None
    assert min(values) - 1e-12 <= first.low <= first.high <= max(values) + 1e-12
    flipped = paired_bootstrap([-value for value in values], seed=7, samples=500)
    assert flipped is not None
    assert flipped.mean == pytest.approx(-first.mean)


def test_blocks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(0).normal(size=50))
    whole = paired_bootstrap(values, seed=4, samples=1000)
    monkeypatch.setattr("semclip_eval.scoring.statistics.BLOCK_CELLS", 501)
    assert paired_bootstrap(values, seed=4, samples=1000) == whole


def test_bootstrap_without_spread_to_estimate() -> None:
    assert paired_bootstrap([]) is None
    assert paired_bootstrap([1.0]) is None
    assert paired_bootstrap([1.0, 0.0], ["same", "same"]) is None
    assert paired_bootstrap([1.0, 0.0], ["", ""]) is not None  # an empty name stands alone
    with pytest.raises(ValueError, match="clusters"):
        paired_bootstrap([1.0, 0.0], ["one"])


def test_percentile_hand_values() -> None:
    assert percentile([15, 20, 35, 40, 50], 40) == pytest.approx(29.0)
    assert percentile([3, 1, 2], 0) == 1
    assert percentile([3, 1, 2], 100) == 3
    assert percentile([7], 90) == 7
    for values, q in (([], 50), ([1.0], 101), ([1.0], -1)):
        with pytest.raises(ValueError, match="percentile"):
            percentile(values, q)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile_agrees_with_numpy(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-6)


def test_least_loss_takes_the_smallest_and_never_a_tie() -> None:
    assert least_loss([2.0, 1.5, 3.0]) == 1
    assert least_loss([0.5, 1.5]) == 0
    assert least_loss([1.0, 1.0, 2.0]) is None
    assert least_loss([2.0, 1.0, 1.0]) is None
    assert least_loss([1.0, 2.0, 2.0]) == 0
    assert least_loss([1.0, math.nextafter(1.0, 0.0)]) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_loss_that_is_no_number_is_an_error(bad: float, place: int) -> None:
    losses = [1.0, 2.0, 3.0]
    losses[place] = bad
    with pytest.raises(QuestionError, match=f"option {place}"):
        least_loss(losses)
