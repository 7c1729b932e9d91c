"""Sparse visual tokens: the inner selector's views, of whose tokens the language model reads a part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semclip_eval.checks import require_member, whole_number
from semclip_eval.errors import ConfigError
from semclip_eval.models.insight import TokenBoxes
from semclip_eval.selectors import token_scores
from semclip_eval.selectors.base import PruneInput, SelectionInput
from semclip_eval.selectors.tools import Tools
from semclip_eval.selectors.wrapper import Wrapper, inner_selector
from semclip_eval.types import Kept, Selection

SCORES = ("random", "uniform", "dense_psi", "cls", "max_min", "conditional_dpp")
_NEEDS = {"dense_psi": "psi", "cls": "class_attention", "conditional_dpp": "psi"}
SCOPES = ("view", "question")
POSITIONS = ("kept", "renumbered")


@dataclass(frozen=True)
class Sparse(Wrapper):
    """Drops visual tokens of the inner selector's views between the vision encoder and the prefill.

    score: `random` (seeded by run and question); `uniform` (equal distances); `dense_psi` (ψ's map of patches, one pass
    a view); `cls` (the encoder's class token's attention, second last layer, mean over heads: VisionZip's dominant
    tokens); `max_min` (DivPrune); `conditional_dpp` (CDPruner, with dense ψ as relevance). keep_ratio: the part of the
    tokens that is kept, in (0, 1]. keep_tokens: instead, how many: of each view with scope=view, of all views together
    with scope=question. scope: whether views compete for tokens; random and uniform share the budget out in proportion.
    positions: `kept` leaves position ids as they were, `renumbered` closes the gaps. theta: see
    `token_scores.conditional_dpp`.

    Tokens without a place (a newline at the end of a row) are kept where their row keeps one, beyond the budget.
    Raises ConfigError for a value, and where both or neither of keep_ratio and keep_tokens are given.
    """

    name: str = "sparse"
    inner: Any = None
    score: str = "dense_psi"
    keep_ratio: float | None = 0.5
    keep_tokens: int | None = None
    scope: str = "view"
    positions: str = "kept"
    theta: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", inner_selector(self.inner))
        require_member("selector.score", self.score, SCORES)
        require_member("selector.scope", self.scope, SCOPES)
        require_member("selector.positions", self.positions, POSITIONS)
        if "prune" in self.inner.needs:
            raise ConfigError(
                f"selector.inner={self.inner.name}: prunes tokens itself; two prunings cannot be stacked."
            )
        if "drop" in self.inner.needs:
            raise ConfigError(
                f"selector.inner={self.inner.name}: drops tokens inside the model; the two cannot be stacked."
            )
        if (self.keep_ratio is None) == (self.keep_tokens is None):
            raise ConfigError(
                f"selector.keep_ratio={self.keep_ratio}, selector.keep_tokens={self.keep_tokens}: give one of them and "
                "set the other to null."
            )
        _require_fraction("selector.keep_ratio", self.keep_ratio, including_one=True)
        _require_fraction("selector.theta", self.theta, including_one=False)
        whole_number("selector.keep_tokens", self.keep_tokens, 1, or_null="keep_ratio says how many")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """`prune`, what the score needs, and what the inner selector needs."""
        own = {"prune", *([_NEEDS[self.score]] if self.score in _NEEDS else [])}
        return frozenset(own).union(self.inner.needs)

    def psi_work(self, item: SelectionInput, selection: Selection) -> tuple[int, int] | None:
        """That of the inner selector; none where only the score of the tokens reads ψ."""
        return super().psi_work(item, selection) if "psi" in self.inner.needs else (0, 0)

    def psi_maps(self, item: SelectionInput, selection: Selection) -> int:
        """A picture a view where ψ scores the tokens."""
        return len(selection.views) if _NEEDS.get(self.score) == "psi" else 0

    def most_kept(self, visual_tokens: int) -> int:
        if self.keep_ratio is not None:
            return max(1, math.floor(self.keep_ratio * visual_tokens))
        return min(visual_tokens, int(self.keep_tokens or 0))

    def prune(self, inputs: Sequence[PruneInput], tools: Tools) -> list[Kept | None]:
        return [self._kept(pruning, tools) for pruning in inputs]

    def _kept(self, pruning: PruneInput, tools: Tools) -> Kept | None:
        placed = [np.flatnonzero(~_without_place(boxes)) for boxes in pruning.boxes]
        counts = [len(tokens) for tokens in placed]
        budget = self._budget(counts)
        if budget is None:
            return None
        chosen = self._chosen(pruning, placed, budget, tools)
        indices = tuple(
            _with_row_ends(tokens[view].tolist(), boxes)
            for tokens, view, boxes in zip(placed, chosen, pruning.boxes, strict=True)
        )
        return Kept(indices, self.positions)  # type: ignore[arg-type]

    def _budget(self, counts: Sequence[int]) -> list[int] | None:
        """Tokens that each view keeps (scope=view), or in one number all of them; None where all are kept."""
        groups = list(counts) if self.scope == "view" else [sum(counts)]
        if self.keep_ratio is not None:
            kept = [min(count, max(1, math.floor(self.keep_ratio * count + 0.5))) for count in groups]
        else:
            kept = [min(count, int(self.keep_tokens or 0)) for count in groups]
        return None if kept == groups else kept

    def _chosen(
        self, pruning: PruneInput, placed: Sequence[np.ndarray], budget: Sequence[int], tools: Tools
    ) -> list[list[int]]:
        """For each view, which of its placed tokens are kept, ascending."""
        counts = [len(tokens) for tokens in placed]
        if self.score in ("random", "uniform"):
            shares = budget if self.scope == "view" else token_scores.shared_out(budget[0], counts)
            return [
                token_scores.evenly_spaced(count, share)
                if self.score == "uniform"
                else token_scores.drawn(count, share, pruning.item.seed, pruning.item.question_id, view)
                for view, (count, share) in enumerate(zip(counts, shares, strict=True))
            ]
        rows = self._rows(pruning, placed, tools)
        if self.scope == "view":
            return [self._of(row, share) for row, share in zip(rows, budget, strict=True)]
        together = self._of({name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, budget[0])
        starts = np.cumsum([0, *counts])
        return [
            [token - start for token in together if start <= token < stop]
            for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        ]

    def _of(self, row: dict[str, np.ndarray], count: int) -> list[int]:
        if self.score == "max_min":
            return token_scores.max_min(row["features"], count)
        if self.score == "conditional_dpp":
            return token_scores.conditional_dpp(row["features"], row["scores"], count, self.theta)
        return token_scores.best(row["scores"], count)

    def _rows(self, pruning: PruneInput, placed: Sequence[np.ndarray], tools: Tools) -> list[dict[str, np.ndarray]]:
        """What the score is made of, for the placed tokens of each view."""
        rows: list[dict[str, np.ndarray]] = [{} for _ in placed]
        if self.score in ("dense_psi", "conditional_dpp"):
            for row, tokens, scores in zip(rows, placed, self._dense(pruning, tools), strict=True):
                row["scores"] = scores[tokens]
        if self.score == "cls":
            for row, tokens, view in zip(rows, placed, pruning.tokens, strict=True):
                row["scores"] = view.class_attention.double().cpu().numpy()[tokens]
        if self.score in ("max_min", "conditional_dpp"):
            for row, tokens, view in zip(rows, placed, pruning.tokens, strict=True):
                row["features"] = view.features.double().cpu().numpy()[tokens]
        return rows

    def _dense(self, pruning: PruneInput, tools: Tools) -> list[np.ndarray]:
        """ψ's map of each view under each of its tokens; NaN for padding."""
        item = pruning.item
        pictures = [(view.pixels(item.image), item.text) for view in pruning.selection.views]
        maps = tools.require_psi(self.name).patch_maps(pictures)
        return [
            relevance.at(np.where(boxes.padding[:, None], np.nan, boxes.boxes))
            for relevance, boxes in zip(maps, pruning.boxes, strict=True)
        ]


def _require_fraction(key: str, value: object, including_one: bool) -> None:
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= 1 or (value == 1 and not including_one):  # type: ignore[operator]
        raise ConfigError(f"{key}={value}: must be above 0 and {'at most' if including_one else 'below'} 1, or null.")


def _without_place(boxes: TokenBoxes) -> np.ndarray:
    missing: np.ndarray = np.isnan(boxes.boxes).any(axis=1)
    return missing


def _with_row_ends(kept: list[int], boxes: TokenBoxes) -> tuple[int, ...]:
    """Kept tokens with the tokens without a place that end a row of which something is kept; ascending."""
    chosen = set(kept)
    begin = 0
    for token in np.flatnonzero(_without_place(boxes)).tolist():
        if any(other in chosen for other in range(begin, token)):
            chosen.add(token)
        begin = token + 1
    return tuple(sorted(chosen))
