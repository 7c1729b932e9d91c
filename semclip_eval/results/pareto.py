"""The Pareto front of accuracy against a cost: which runs no other one beats."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (cost, accuracy) that no other one dominates, by cost, then in the order given.

    A point dominates another that costs at least as much and is at most as accurate, unless both are the same: equal
    points stand on the front together.
    """
    places = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1], place))
    kept: list[int] = []
    for place in places:
        if not kept or points[place][1] > points[kept[-1]][1] or points[place] == points[kept[-1]]:
            kept.append(place)
    return kept
