"""FastV: visual tokens that the language model stops reading after its first layers (Chen et al., ECCV 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from semclip_eval.checks import whole_number
from semclip_eval.errors import ConfigError
from semclip_eval.selectors.base import SelectionInput
from semclip_eval.selectors.tools import Tools
from semclip_eval.selectors.wrapper import Wrapper, inner_selector
from semclip_eval.types import Drops, Selection


@dataclass(frozen=True)
class FastV(Wrapper):
    """The inner selector's views; from layer `layer` on the language model reads a part of their visual tokens.

    The part `keep_ratio` (in (0, 1], at least one token) that the prompt's last token attends to most in the layer
    before, mean over heads, all views together; the others' keys are masked from there on, in prefill and decode, and
    positions stay. That is FastV's accuracy exactly and none of its speed, so run.mode=latency is refused. layer:
    0-based, at least 1 (FastV's K: 2 or 3).

    The measure `effective_tokens` is what FastV would compute on: (K N + (L - K) n) / L visual tokens a layer, of N
    that enter and n that are kept, L layers. `visual_tokens` of a record are N.

    Source: arXiv 2403.06764; pkunlp-icler/FastV, `modeling_llama.py` (its variant that masks).
    """

    name: str = "fastv"
    inner: Any = None
    layer: int = 2
    keep_ratio: float = 0.5
    own_needs: ClassVar[frozenset[str]] = frozenset({"drop"})
    measure_names: ClassVar[tuple[str, ...]] = ("effective_tokens",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", inner_selector(self.inner))
        whole_number("selector.layer", self.layer, 1)
        number = isinstance(self.keep_ratio, (int, float)) and not isinstance(self.keep_ratio, bool)
        if not number or not 0 < self.keep_ratio <= 1:
            raise ConfigError(f"selector.keep_ratio={self.keep_ratio}: must be above 0 and at most 1.")
        for need, what in (("drop", "drops tokens inside the model itself"), ("prune", "prunes tokens itself")):
            if need in self.inner.needs:
                raise ConfigError(f"selector.inner={self.inner.name}: {what}; the two cannot be stacked.")

    @property
    def drops(self) -> Drops:  # type: ignore[override]
        """For every answer of the run."""
        return Drops(self.layer, self.keep_ratio)

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        vlm = tools.require_vlm(self.name)
        if self.layer >= vlm.layers:
            raise ConfigError(f"selector.layer={self.layer}: the language model has {vlm.layers} layers, from 0 on.")
        selections = []
        for selection in self.inner.select(inputs, tools):
            tokens = sum(len(view.boxes) for view in vlm.token_boxes([view.size for view in selection.views]))
            kept = self.drops.kept(tokens)
            effective = (self.layer * tokens + (vlm.layers - self.layer) * kept) / vlm.layers
            measures = {**selection.measures, "effective_tokens": effective}
            selections.append(dataclasses.replace(selection, measures=measures))
        return selections
