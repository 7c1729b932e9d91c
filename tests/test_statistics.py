"""Intervals and tests against hand values, scipy, brute force and their defining properties."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from semclip_eval.errors import QuestionError
from semclip_eval.scoring.likelihood import least_loss
from semclip_eval.scoring.statistics import (
    clustered_accuracy_interval,
    detectable_difference,
    holm,
    mcnemar_exact,
    mcnemar_power,
    paired_interval,
    percentile,
    questions_needed,
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


def test_pairs_of_single_questions_get_bonett_and_prices_interval_with_t() -> None:
    """b + 1 and c + 1 discordant pairs of n + 2, as the paper has it; the t quantile is ours."""
    for n, b, c in ((20, 0, 20), (20, 0, 0), (191, 3, 17), (10, 4, 1), (2, 1, 1)):
        interval = paired_interval([-1.0] * b + [1.0] * c + [0.0] * (n - b - c))
        p_worse, p_better = (b + 1) / (n + 2), (c + 1) / (n + 2)
        error = math.sqrt((p_worse + p_better - (p_better - p_worse) ** 2) / (n + 2))
        half = t.ppf(0.975, n + 1) * error
        assert interval is not None
        assert interval.mean == pytest.approx((c - b) / n)
        assert interval.low == pytest.approx(max(-1, p_better - p_worse - half))
        expected = min(1, p_better - p_worse + half)
        assert interval.high == pytest.approx(max(expected, interval.mean))


def test_an_interval_is_never_certain() -> None:
    every = paired_interval([1.0] * 20)
    assert every is not None
    assert every.high == 1.0
    assert every.low < 0.9
    none = paired_interval([0.0] * 20)
    assert none is not None
    assert -0.2 < none.low < 0 < none.high < 0.2
    right = clustered_accuracy_interval([1.0] * 12, [f"image {n // 3}" for n in range(12)])
    assert right is not None
    assert right.low < 0.9


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, -0.3, 0.0, 0.6, 1.0]), st.sampled_from("abcdefgh")), min_size=2),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_intervals_hold_their_mean_mirror_and_do_not_depend_on_order(
    pairs: list[tuple[float, str]], random: object
) -> None:
    values, clusters = [value for value, _ in pairs], [name for _, name in pairs]
    interval = paired_interval(values, clusters)
    if len(set(clusters)) < 2:
        assert interval is None
        return
    assert interval is not None
    assert -1 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.mean == pytest.approx(sum(values) / len(values))
    mirrored = paired_interval([-value for value in values], clusters)
    assert mirrored == pytest.approx((-interval.mean, -interval.high, -interval.low), abs=1e-12)
    random.shuffle(pairs)  # type: ignore[attr-defined]
    assert paired_interval([value for value, _ in pairs], [name for _, name in pairs]) == pytest.approx(interval)


def test_a_cluster_counts_once_however_often_its_image_is_asked() -> None:
    values = [1.0, 0.0, -1.0, 1.0, 0.0, 1.0, 1.0, 0.0] * 4
    names = [str(position) for position in range(len(values))]
    once = paired_interval(values, names)
    repeated = paired_interval(values * 4, names * 4)
    ignored = paired_interval(values * 4, None)
    assert once is not None
    assert ignored is not None
    assert repeated == pytest.approx(once)
    assert (ignored.high - ignored.low) == pytest.approx((once.high - once.low) / 2, rel=0.1)
    assert paired_interval(values, [""] * len(values)) == pytest.approx(once)  # an empty name stands alone


def test_without_a_spread_to_estimate_there_is_no_interval() -> None:
    assert paired_interval([]) is None
    assert paired_interval([1.0]) is None
    assert paired_interval([1.0, 0.0], ["same", "same"]) is None
    with pytest.raises(ValueError, match="clusters"):
        paired_interval([1.0, 0.0], ["one"])


@pytest.mark.slow
def test_the_coverage_is_at_least_93_percent_everywhere() -> None:
    """Exact for pairs of single questions; simulated where questions share images."""
    from scripts.simulate_coverage import (
        PAIRS,
        worst_accuracy_coverage,
        worst_difference_coverage,
        worst_pair_coverage,
    )

    for n in (n for n in PAIRS if n <= 191):
        assert worst_pair_coverage(n).coverage >= 0.93, n
    for clusters in (5, 10, 20):
        # 600 draws of a coverage of .94: its standard error is .01.
        assert worst_difference_coverage(clusters, 600).coverage >= 0.93 - 0.02
        assert worst_accuracy_coverage(clusters, 600).coverage >= 0.93 - 0.02


@given(st.integers(5, 40), st.sampled_from([0.0, 0.05, 0.2, 0.5]), st.sampled_from([0.0, 0.5]))
@settings(max_examples=12, deadline=None)
def test_the_coverage_of_few_pairs_is_exactly_summed(n: int, discordant: float, split: float) -> None:
    from scripts.simulate_coverage import pair_coverage

    assert pair_coverage(n, discordant, split) >= 0.93


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


def test_holm_hand_values() -> None:
    # Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and never less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    with pytest.raises(ValueError, match="outside"):
        holm([1.2])


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    rejected = set()
    waiting = sorted(range(len(p_values)), key=lambda index: p_values[index])
    while waiting and p_values[waiting[0]] * len(waiting) <= level:
        rejected.add(waiting.pop(0))
    assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected


@pytest.mark.parametrize(
    ("n", "discordant", "difference"), [(1, 0.5, 0.1), (9, 0.6, 0.5), (24, 0.3, -0.2), (30, 1.0, 0)]
)
def test_power_is_the_sum_over_all_outcomes(n: int, discordant: float, difference: float) -> None:
    up, down, same = (discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant
    total = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if mcnemar_exact(b, c) <= 0.05:
                total += math.comb(n, b) * math.comb(n - b, c) * up**b * down**c * same ** (n - b - c)
    assert mcnemar_power(n, discordant, difference) == pytest.approx(total, abs=1e-9)


def test_power_without_discordant_pairs_and_outside() -> None:
    assert mcnemar_power(50, 0.0, 0.0) == 0
    for n, discordant, difference in [(0, 0.2, 0.1), (50, 0.2, 0.3), (50, 1.1, 0.0)]:
        with pytest.raises(ValueError, match="pairs"):
            mcnemar_power(n, discordant, difference)


@pytest.mark.parametrize(("n", "discordant", "level"), [(191, 0.2, 0.05), (191, 0.2, 0.05 / 12), (800, 0.1, 0.05)])
def test_the_detectable_difference_is_found_four_times_in_five(n: int, discordant: float, level: float) -> None:
    difference = detectable_difference(n, discordant, level)
    assert difference is not None
    rng = np.random.default_rng(1)
    draws = rng.multinomial(n, [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant], 4000)
    rejected = np.mean([mcnemar_exact(int(b), int(c)) <= level for b, c, _ in draws])
    # Three standard errors of 4000 draws are 0.019.
    assert abs(rejected - 0.8) < 0.02
    # Nothing smaller will do.
    assert (
        mcnemar_power(n, discordant, difference - 2e-5, level) < 0.8 <= mcnemar_power(n, discordant, difference, level)
    )


@pytest.mark.parametrize("discordant", [0.05, 0.2, 0.4])
def test_the_detectable_difference_nears_connors_formula(discordant: float) -> None:
    """With many pairs the exact test is the normal one: so many questions are needed for its detectable difference."""
    difference = detectable_difference(4000, discordant)
    assert difference is not None
    assert questions_needed(difference, discordant) == pytest.approx(4000, rel=0.05)


def test_what_no_number_of_discordant_pairs_could_show() -> None:
    # Five discordant pairs all one way have p = .0625: none of 191 with 1 % discordant is likely to hold six.
    assert detectable_difference(191, 0.01) is None
    assert detectable_difference(191, 0.0) is None
