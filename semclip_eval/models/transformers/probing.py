"""Attention of a transformers language model, row by row: taken while it runs, without full matrices.

transformers' fast attention functions return no weights, and `eager` computes and keeps all of them. Here a registered
attention function runs sdpa as ever and computes, for the layers and the last query rows that are asked for, the
weights beside it. Its mask function is registered with it: without one, left padding would be ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from semclip_eval.lazy import library
from semclip_eval.models.transformers.attention_function import attention_function

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")


NAME = "semclip_eval_probe"


@dataclass
class Probe:
    """What to take, and what was taken.

    layers: 0-based. rows: how many of the last query rows (the prompts are padded on the left). differentiable: compute
    the whole layer from the explicit weights, so that gradients with respect to them exist. weights: by layer, float32
    (batch, heads, rows, keys); the whole matrix where differentiable.
    """

    layers: frozenset[int]
    rows: int
    differentiable: bool = False
    weights: dict[int, torch.Tensor] = field(default_factory=dict)


_active: Probe | None = None


@contextmanager
def probing(model: Any, probe: Probe) -> Iterator[None]:
    """Let the language model of `model` run under the probe; its own attention function comes back at the end."""
    global _active
    with attention_function(model, NAME, _attention):
        _active = probe
        try:
            yield
        finally:
            _active = None


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    probe, layer = _active, int(getattr(module, "layer_idx", -1))
    if probe is None or layer not in probe.layers:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **keywords
        )
    if probe.differentiable:
        weights = attention_weights(module, query, key, attention_mask, scaling, query.shape[2])
        probe.weights[layer] = weights
        values = _repeated(module, value)
        return (weights.to(value.dtype) @ values).transpose(1, 2).contiguous(), None
    probe.weights[layer] = attention_weights(module, query, key, attention_mask, scaling, probe.rows)
    return sdpa_attention_forward(  # type: ignore[no-any-return]
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **keywords
    )


def attention_weights(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    rows: int,
) -> torch.Tensor:
    """Softmax over the keys for the last `rows` queries, float32 (batch, heads, rows, keys)."""
    length, keys = query.shape[2], key.shape[2]
    rows = min(rows, length)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query[:, :, length - rows :] @ _repeated(module, key).transpose(2, 3)).float() * scale
    if mask is None:
        allowed = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
        scores = scores.masked_fill(~allowed[length - rows :], float("-inf"))
    elif mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask[:, :, length - rows :, :keys], float("-inf"))
    else:
        scores = scores + mask[:, :, length - rows :, :keys]
    # A row of padding attends to nothing; it is nobody's, and must not spoil gradients with NaN.
    return torch.nan_to_num(torch.softmax(scores, dim=-1))


def _repeated(module: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Key or value heads, each as often as query heads share it (grouped-query attention)."""
    groups = int(getattr(module, "num_key_value_groups", 1))
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


def last_layers(layers: Sequence[int], count: int) -> list[int]:
    """Layers as 0-based numbers, negative ones counted from the end; ValueError for one that the model has not."""
    numbers = [layer + count if layer < 0 else layer for layer in layers]
    if any(not 0 <= number < count for number in numbers):
        raise ValueError(f"layers {list(layers)}: the language model has {count}, counted from 0")
    return numbers
