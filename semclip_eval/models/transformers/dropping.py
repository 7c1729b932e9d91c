"""Visual tokens that a language model stops reading on its way, by masking their keys: what FastV computes.

FastV (arXiv 2403.06764; pkunlp-icler/FastV, `modeling_llama.py`) drops the visual tokens that the last token of the
prompt attends to least in layer K - 1 (mean over heads); from layer K on the others, which keep their positions, are
all that there is. To mask the keys of the dropped ones in those layers, in prefill and decode, gives the same answers,
since nothing reads what still passes in their places. It saves no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semclip_eval.lazy import library
from semclip_eval.models.transformers.attention_function import attention_function
from semclip_eval.models.transformers.probing import attention_weights
from semclip_eval.types import Drops

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

NAME = "semclip_eval_dropping"


@dataclass
class Dropping:
    """What is dropped of a batch of left-padded prompts.

    drops: for each prompt, None where all is read. dropped: bool (prompts, padded length), filled in by the prefill,
    whose layers choose by `visual`, bool (prompts, padded length); in decode that is None.
    """

    drops: tuple[Drops | None, ...]
    dropped: torch.Tensor
    visual: torch.Tensor | None = None

    @classmethod
    def of_prompts(cls, drops: Sequence[Drops | None], visual: torch.Tensor) -> Dropping | None:
        """Before a prefill; None where no prompt drops anything."""
        return cls(tuple(drops), torch.zeros_like(visual), visual) if any(drops) else None

    def of_rows(self, rows: Sequence[int]) -> Dropping:
        """After the prefill: for sequences that go on from these prompts."""
        return Dropping(tuple(self.drops[row] for row in rows), self.dropped[list(rows)])

    def choose(self, layer: int, weights: torch.Tensor) -> None:
        """Choose for the prompts that drop behind `layer`; weights: (prompts, heads, 1, padded length)."""
        if self.visual is None:
            return
        for row, drops in enumerate(self.drops):
            if drops is not None and drops.layer == layer + 1:
                places = self.visual[row].nonzero()[:, 0]
                kept = drops.kept(len(places))
                scores = weights[row, :, -1].mean(0)[places.to(weights.device)]
                order = torch.sort(scores, descending=True, stable=True).indices.to(places.device)
                self.dropped[row, places[order[kept:]]] = True

    def mask(self, layer: int, mask: torch.Tensor | None, queries: int, keys: int, device: Any) -> torch.Tensor | None:
        """The layer's boolean mask (True: may attend) without the dropped keys; a place always reads itself."""
        from_here = [drops is not None and drops.layer <= layer for drops in self.drops]
        if not any(from_here):
            return mask
        read = torch.ones(len(from_here), keys, dtype=torch.bool, device=device)
        hidden = self.dropped & torch.tensor(from_here, device=self.dropped.device)[:, None]
        read[:, : hidden.shape[1]] = ~hidden.to(device)
        places = torch.arange(keys, device=device)
        itself = places[keys - queries :, None] == places
        if mask is None:
            mask = (places[keys - queries :, None] >= places)[None, None]
        return mask[..., :keys] & (read[:, None, None] | itself)


_active: Dropping | None = None


@contextmanager
def reading(model: Any, dropping: Dropping | None) -> Iterator[None]:
    """Let the language model of `model` read without what is dropped; None changes nothing."""
    global _active
    if dropping is None:
        yield
        return
    with attention_function(model, NAME, _attention):
        _active = dropping
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

    dropping, layer = _active, int(getattr(module, "layer_idx", -1))
    mask = attention_mask
    if dropping is not None:
        mask = dropping.mask(layer, attention_mask, query.shape[2], key.shape[2], query.device)
        if dropping.visual is not None and any(drops and drops.layer == layer + 1 for drops in dropping.drops):
            dropping.choose(layer, attention_weights(module, query, key, mask, scaling, 1))
    return sdpa_attention_forward(  # type: ignore[no-any-return]
        module, query, key, value, mask, dropout=dropout, scaling=scaling, **keywords
    )
