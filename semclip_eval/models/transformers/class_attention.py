"""How much a CLIP tower's class token attends to each patch, without the full attention matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from semclip_eval.lazy import library

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")


def class_token_attention(layer: Any, states: torch.Tensor) -> torch.Tensor:
    """Attention of the first token to all tokens in one layer, mean over heads, from the layer's input.

    layer: of a `CLIPEncoder`. states: (pictures, tokens with the class token, width). Float32 (pictures, tokens). For
    the second last layer it is what `outputs.attentions[-2][:, :, 0].mean(1)` is with eager attention: FasterVLM's
    (arXiv 2412.01818) score of a token.
    """
    states = layer.layer_norm1(states)
    heads, size = layer.self_attn.num_heads, layer.self_attn.head_dim
    query = layer.self_attn.q_proj(states[:, 0]).unflatten(-1, (heads, size))
    key = layer.self_attn.k_proj(states).unflatten(-1, (heads, size))
    scores = torch.einsum("vhd,vthd->vht", query, key).float() * layer.self_attn.scale
    return torch.softmax(scores, dim=-1).mean(dim=1)


@contextmanager
def layer_input(layer: Any) -> Iterator[list[torch.Tensor]]:
    """Within it, what the layer is called with is appended to the list: (pictures, tokens, width) a call."""
    states: list[torch.Tensor] = []

    def keep(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        states.append(arguments[0] if arguments else named["hidden_states"])

    hook = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield states
    finally:
        hook.remove()
