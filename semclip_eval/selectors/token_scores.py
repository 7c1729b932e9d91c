"""Which visual tokens to keep: greedy and ranked choices, as pure functions of features and scores.

Sources: DivPrune (vbdi/divprune, `llava_arch.py`), CDPruner (Theia-4869/CDPruner, `llava_arch.py`), and the greedy
maximum of a determinantal point process of Chen, Zhang and Zhou (NeurIPS 2018). All arithmetic is in float64, and
scores closer than `TIE` count as equal, the earlier token first: float rounding that changes with the batch does not
change the choice.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np

TIE = 1e-5


def best(scores: np.ndarray, count: int) -> list[int]:
    """The `count` tokens with the highest scores, ascending; NaN comes last, the earlier of equal ones first."""
    ranks = np.round(np.nan_to_num(scores, nan=-np.inf, neginf=-np.inf) / TIE)
    return sorted(np.argsort(-ranks, kind="stable")[:count].tolist())


def evenly_spaced(tokens: int, count: int) -> list[int]:
    """`count` of `tokens` at equal distances: the middle of each of `count` equal stretches."""
    return [(2 * number + 1) * tokens // (2 * count) for number in range(count)]


def drawn(tokens: int, count: int, *names: object) -> list[int]:
    """`count` of `tokens` without replacement, ascending; a function of `names` (seed, question, view) alone."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    generator = random.Random(int.from_bytes(digest, "big"))
    keys = [generator.random() for _ in range(tokens)]
    return sorted(sorted(range(tokens), key=keys.__getitem__)[:count])


def similarities(features: np.ndarray) -> np.ndarray:
    """Cosines (n, n) of features (n, width)."""
    units = features.astype(np.float64)
    units = units / np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    cosines: np.ndarray = units @ units.T
    return cosines


def max_min(features: np.ndarray, count: int) -> list[int]:
    """DivPrune: each token is the farthest (1 - cosine) from those chosen before it, ascending.

    The first is the token whose nearest neighbour is farthest.
    """
    distance = 1 - similarities(features)
    if len(distance) == 1:
        return [0][:count]
    apart = distance.copy()
    np.fill_diagonal(apart, np.inf)
    chosen = [_first_best(apart.min(axis=1))]
    nearest = distance[chosen[0]].copy()
    while len(chosen) < count:
        nearest[chosen] = -np.inf
        chosen.append(_first_best(nearest))
        nearest = np.minimum(nearest, distance[chosen[-1]])
    return sorted(chosen[:count])


def conditional_dpp(features: np.ndarray, relevance: np.ndarray, count: int, theta: float | None = None) -> list[int]:
    """CDPruner: the greedy maximum of det L over `count` tokens, L = diag(r) S diag(r), ascending.

    S: cosines of `features`. r: `relevance` brought to 0 .. 1, (relevance - min + 1e-6) / (max - min); NaN counts as
    the minimum. theta: in (0, 1), weighs relevance against diversity by r -> exp(theta / (2 (1 - theta)) r); None
    leaves r as it is, as the published code does.
    """
    finite = relevance[np.isfinite(relevance)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    r = (np.nan_to_num(relevance, nan=low) - low + 1e-6) / max(high - low, 1e-6)
    if theta is not None:
        r = np.exp(theta / (2 * (1 - theta)) * r)
    kernel = r[:, None] * similarities(features) * r[None, :]
    return sorted(greedy_map(kernel, count))


def greedy_map(kernel: np.ndarray, count: int) -> list[int]:
    """Greedy maximum a posteriori of the DPP with this kernel (n, n): at most `count` items, in the order chosen.

    Each step takes the item that multiplies the determinant most, by Cholesky rows that are extended one at a time.
    Where nothing is left to gain (all others lie in the span of those chosen), the earliest others fill up.
    """
    items = len(kernel)
    gains = np.diag(kernel).astype(np.float64).copy()
    rows = np.zeros((min(count, items), items))
    chosen: list[int] = []
    for step in range(min(count, items)):
        open_gains = gains.copy()
        open_gains[chosen] = -np.inf
        item = _first_best_relative(open_gains)
        chosen.append(item)
        if gains[item] <= 1e-12:
            continue
        rows[step] = (kernel[item] - rows[:step, item] @ rows[:step]) / np.sqrt(gains[item])
        gains = gains - rows[step] ** 2
    return chosen


def shared_out(count: int, tokens: Sequence[int]) -> list[int]:
    """`count` tokens over views of so many tokens each, in proportion, at least one a view where there are as many.

    By largest remainders, the earlier view first.
    """
    total = sum(tokens)
    count = min(count, total)
    exact = [count * number / total for number in tokens] if total else [0.0 for _ in tokens]
    parts = [int(share) for share in exact]
    order = sorted(range(len(tokens)), key=lambda view: (parts[view] - exact[view], view))
    for view in order[: count - sum(parts)]:
        parts[view] += 1
    return parts


def _first_best(scores: np.ndarray) -> int:
    return int(np.flatnonzero(scores >= scores.max() - TIE)[0])


def _first_best_relative(scores: np.ndarray) -> int:
    """As `_first_best`, with a tie that is relative: the gains of a determinant shrink by orders of magnitude."""
    highest = scores.max()
    return int(np.flatnonzero(scores >= highest - TIE * abs(highest))[0])
