"""Dropping visual tokens between the vision encoder and the prefill: the one place that slices a prompt.

A dropped token takes its embedding, what DeepStack adds to it, its place in the mask and its position id with it. With
`positions=kept` the result is that of masking the dropped tokens out; `renumbered` closes the gaps.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from semclip_eval.errors import QuestionError
from semclip_eval.lazy import library
from semclip_eval.models.base import ModelInputs
from semclip_eval.models.insight import ViewTokens
from semclip_eval.types import Kept

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

POSITIONS = ("kept", "renumbered")


def pruned(
    prepared: ModelInputs, tokens: Sequence[ViewTokens], kept: Kept, image_id: int
) -> tuple[ModelInputs, list[ViewTokens]]:
    """The prompt and its views' tokens with only the kept ones; text stays whole, the last text token with it.

    Raises QuestionError where the indices are not ascending tokens of their view.
    """
    _check(kept, [len(view.features) for view in tokens])
    is_visual = torch.tensor([token == image_id for token in prepared.input_ids])
    places = is_visual.nonzero()[:, 0]
    starts = [0]
    for view in tokens:
        starts.append(starts[-1] + len(view.features))
    chosen = [start + index for start, view in zip(starts, kept.indices, strict=False) for index in view]
    keep = ~is_visual
    keep[places[chosen]] = True
    positions = prepared.positions[:, keep]
    if kept.positions == "renumbered":
        positions = _closed(positions)
    ids = [token for token, stays in zip(prepared.input_ids, keep.tolist(), strict=True) if stays]
    sliced = [_sliced(view, list(indices)) for view, indices in zip(tokens, kept.indices, strict=True)]
    return replace(
        prepared,
        input_ids=tuple(ids),
        visual_tokens=len(chosen),
        encoded_tokens=prepared.visual_tokens,
        view_tokens=tuple(len(indices) for indices in kept.indices),
        positions=positions,
    ), sliced


def _sliced(view: ViewTokens, indices: list[int]) -> ViewTokens:
    """Everything that belongs to the tokens `indices` of a view."""

    def of(tensor: Any) -> Any:
        return None if tensor is None else tensor[indices]

    return ViewTokens(of(view.features), of(view.class_attention), of(view.deepstack))


def _check(kept: Kept, counts: Sequence[int]) -> None:
    if kept.positions not in POSITIONS:
        raise QuestionError(f"positions={kept.positions}: must be {' or '.join(POSITIONS)}")
    if len(kept.indices) != len(counts):
        raise QuestionError(f"kept tokens of {len(kept.indices)} views were named, the question has {len(counts)}")
    for number, (indices, count) in enumerate(zip(kept.indices, counts, strict=True)):
        ascending = all(first < second for first, second in itertools.pairwise(indices))
        if not ascending or (indices and not 0 <= indices[0] <= indices[-1] < count):
            raise QuestionError(f"view {number}: kept tokens must be ascending indices below {count}")


def _closed(positions: torch.Tensor) -> torch.Tensor:
    """Position ids (axes, length) without gaps, in their order.

    With one axis they count from 0. With several (time, row, column) each distinct id is replaced by its rank among all
    that are left, so that rows and columns keep their order and the text goes on behind them.
    """
    ranks: torch.Tensor = torch.unique(positions, return_inverse=True)[1]
    return ranks.reshape(positions.shape)
