"""What a VLM tells a selector about itself: where its visual tokens lie, what it attends to, its gradients and values.

Nothing here imports torch; tensors are named in the docstrings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from semclip_eval.types import View

# What a family can do beyond answering; `VLM.capabilities` is a subset of these. `drop`: honour `Request.drops`.
CAPABILITIES = ("confidence", "attention", "gradients", "values", "prune", "class_attention", "boxes", "drop")


@dataclass(frozen=True)
class ViewTokens:
    """One view after the vision encoder and the projector, as the language model would read it.

    features: (visual tokens, hidden size of the language model). class_attention: (visual tokens), float32, the
    attention of the encoder's class token (mean over heads, second last layer); None where it was not asked for.
    deepstack: (visual tokens, levels x hidden size), what the language model's first layers, level by level, add to a
    visual token (DeepStack, arXiv 2406.04334); None where the family has none.
    """

    features: Any
    class_attention: Any = None
    deepstack: Any = None


@dataclass(frozen=True)
class TokenBoxes:
    """Where each visual token of one view lies.

    boxes: float64 (visual tokens, 4) as (left, top, right, bottom) in pixels of the view, not cut to it: a token of a
    padded border lies outside. NaN where a token has no place (a newline, a separator). padding: bool (visual tokens),
    true where the rectangle shares no pixel with the view. thumbnail: bool (visual tokens), true for the tokens of a
    smaller picture of the whole view that a family adds to its tiles.
    """

    boxes: np.ndarray
    padding: np.ndarray
    thumbnail: np.ndarray

    def in_image(self, view: View) -> np.ndarray:
        """`boxes` in pixels of the original image; for a collage those of the part that holds a token's centre.

        NaN for padding, for tokens without a place, and for a collage's tokens on the canvas between the parts.
        """
        import numpy as np

        boxes: np.ndarray = np.where(self.padding[:, None], np.nan, self.boxes)
        if view.kind != "collage":
            moved: np.ndarray = boxes + np.array([view.box.left, view.box.top] * 2)
            return moved
        centres = np.stack([boxes[:, [0, 2]].mean(1), boxes[:, [1, 3]].mean(1)], axis=1)
        mapped = np.full_like(boxes, np.nan)
        for source, place in view.parts:
            inside = ((centres >= place[:2]) & (centres < place[2:])).all(1)
            mapped[inside] = boxes[inside] + np.array([source.left - place.left, source.top - place.top] * 2)
        return mapped


@dataclass(frozen=True)
class AttentionRows:
    """Attention of the language model from some positions of a prompt to its visual tokens.

    weights: float32 tensor (layers, heads, queries, visual tokens) on the CPU, softmax over the whole prompt, so a row
    need not sum to one. The visual tokens are those of all views in order; `view_tokens` says how many each has.
    queries: the positions of the rows in the prompt, counted in tokens. spans: for each row the characters (first, one
    behind the last) of the prompt's text that its token stands for, None for a token of the template.
    """

    weights: Any
    queries: tuple[int, ...]
    view_tokens: tuple[int, ...]
    spans: tuple[tuple[int, int] | None, ...] = ()


@dataclass(frozen=True)
class Gradients:
    """Gradients of a scalar of the first answer token.

    attention: (layers, heads, visual tokens), d scalar / d attention of the last prompt token. features: (visual
    tokens, hidden size), d scalar / d projected visual features (`ViewTokens.features`; `deepstack` is held fixed).
    Both float32 on the CPU; None where not asked for.
    attention_weights: the attention itself, as in `attention`. scalar: its value.
    """

    scalar: float
    attention: Any = None
    attention_weights: Any = None
    features: Any = None


@dataclass(frozen=True)
class Values:
    """Value vectors of the language model after the prefill.

    visual: float32 (layers, visual tokens, value heads x head size), text: the same for the prompt's text tokens after
    the last visual one, rest: for its other tokens (before and between the views), all on the CPU. text_pieces: the
    tokens of `text` as text, to find a word's tokens by. heads: the number of value heads.
    """

    visual: Any
    text: Any
    text_pieces: tuple[str, ...]
    view_tokens: tuple[int, ...]
    rest: Any
    heads: int


Query = Literal["last", "text"]
Target = Literal["argmax", "entropy"]
Layers = Sequence[int]
