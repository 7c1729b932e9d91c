"""Attention guidance: the overview and the region that the VLM itself looks at when it is asked.

ViCrop (Zhang et al., arXiv 2502.17422; saccharomycetes/mllms_know, `llava_methods.py`, `qwen2_5_methods.py`) and its
descendants LASER (arXiv 2602.04304) and entropy gradients (arXiv 2604.08456) under one set of settings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from semclip_eval.checks import require_member, whole_number
from semclip_eval.errors import ConfigError
from semclip_eval.relevance.base import PatchMap
from semclip_eval.selectors.base import SelectionInput, Selector, with_overview
from semclip_eval.selectors.maps import array, coarse, in_image, joined, tiles_of
from semclip_eval.selectors.tools import SelectorVLM, Tools
from semclip_eval.selectors.windows import adaptive_window, best_candidate, regular_map
from semclip_eval.types import Request, Selection, TraceStep

MAPS = ("raw", "ratio", "difference", "laser", "gradient", "entropy_gradient")
COMPARED = ("ratio", "difference", "laser")
BOXES = ("window", "candidate")
QUERIES = ("last", "text")


@dataclass(frozen=True)
class Attention(Selector):
    """The overview and one crop where the VLM's map of the question is high.

    map: from the query tokens to each visual token, mean over heads, in `layer`:
    - `raw`: the attention A. `ratio`: A / A of `reference_prompt`, elementwise (ViCrop's relative attention).
      `difference`: max(0, A - A of `reference_prompt`).
    - `laser`: the difference, head by head, in the layer where its norm is largest for this question (the mean of the
      `top_heads` largest norms over the visual tokens; `layer` is not used), mean over heads.
    - `gradient`: A * max(0, d log p / d A), p of the likeliest first answer token (ViCrop's grad-att).
    - `entropy_gradient`: norm of d H / d v for each visual token's projected feature v, H the entropy of the first
      answer token.
    layer: 0-based, negative from the end. query: the prompt's `last` token, or the mean over its `text`. over: what is
    looked at; 0: the overview alone; else tiles of about so many pixels: rows = ceil(H / over), columns =
    max(1, floor(rows * W / H)), each asked alone and the maps put side by side as they are (ViCrop high: 1024).
    box: `window` (ViCrop's, base side `side` in pixels of the image) or `candidate` (of the crop scheme, the highest
    mean). instruction: follows the question and the reference prompt. max_forwards: the bound for a question.

    The question is put without its options. Forwards a question: pictures x 1, x 2 where a reference is compared;
    gradients count a backward each.
    """

    name: str = "attention"
    map: str = "ratio"
    layer: int = 14
    query: str = "last"
    over: int = 0
    box: str = "window"
    side: float = 336
    top_heads: int = 4
    reference_prompt: str = "Write a general description of the image."
    instruction: str = "\nAnswer the question using a single word or phrase."
    max_forwards: int | None = None

    def __post_init__(self) -> None:
        require_member("selector.map", self.map, MAPS)
        require_member("selector.query", self.query, QUERIES)
        require_member("selector.box", self.box, BOXES)
        if isinstance(self.layer, bool) or not isinstance(self.layer, int):
            raise ConfigError(f"selector.layer={self.layer}: must be a whole number, 0 for the first layer.")
        whole_number("selector.over", self.over, 0)
        whole_number("selector.top_heads", self.top_heads, 1)
        whole_number("selector.max_forwards", self.max_forwards, 1, or_null="no bound")
        number = isinstance(self.side, (int, float)) and not isinstance(self.side, bool)
        if not number or not 1 <= self.side < math.inf:
            raise ConfigError(f"selector.side={self.side}: must be a length in pixels, at least 1.")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the map is read from, and the crop scheme where it offers the boxes."""
        source = "gradients" if self.map in ("gradient", "entropy_gradient") else "attention"
        return frozenset({source, "candidates"} if self.box == "candidate" else {source})

    def most_views(self, candidates: int) -> int:
        return 2

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        vlm = tools.require_vlm(self.name)
        if self.map != "laser" and not -vlm.layers <= self.layer < vlm.layers:
            raise ConfigError(f"selector.layer={self.layer}: the language model has {vlm.layers} layers, from 0 on.")
        return [self._selection(item, vlm) for item in inputs]

    def _selection(self, item: SelectionInput, vlm: SelectorVLM) -> Selection:
        width, height = item.image.size
        relevance = self._map(item, vlm)
        cells = regular_map(relevance, width, height)
        steps = [TraceStep("map", box, value) for box, value in coarse(cells, width, height)]
        if self.box == "window":
            crop = adaptive_window(cells, width, height, self.side)
        else:
            index, means = best_candidate(relevance, item.candidates)
            crop = item.candidates[index]
            steps += [TraceStep("candidate", box, mean) for box, mean in zip(item.candidates, means, strict=True)]
        return dataclasses.replace(with_overview(item.image, [crop]), trace=tuple(steps))

    def _map(self, item: SelectionInput, vlm: SelectorVLM) -> PatchMap:
        """The map over the whole image, in its pixels."""
        tiles = tiles_of(*item.image.size, self.over)
        pictures = [item.image.crop(tile) for tile in tiles] if len(tiles) > 1 else [item.image]
        parts = [
            in_image(values, vlm.token_boxes([picture.size])[0], tile)
            for values, picture, tile in zip(self._values(item, pictures, vlm), pictures, tiles, strict=True)
        ]
        return joined(parts)

    def _values(self, item: SelectionInput, pictures: Sequence[Image.Image], vlm: SelectorVLM) -> list[np.ndarray]:
        """A value for each visual token of each picture."""
        asked = [self._request(item, picture, item.text) for picture in pictures]
        if self.map == "entropy_gradient":
            gradients = vlm.gradients(asked, "entropy", features=True)
            return [array(each.features.norm(dim=-1)) for each in gradients]
        if self.map == "gradient":
            return [
                array((each.attention_weights * each.attention.clamp(min=0))[0].mean(0))
                for each in vlm.gradients(asked, "argmax", layers=[self.layer])
            ]
        layers = list(range(vlm.layers)) if self.map == "laser" else [self.layer]
        asked += [self._request(item, picture, self.reference_prompt) for picture in pictures if self.map in COMPARED]
        # (layers, heads, visual tokens), the mean over the query tokens.
        rows = [array(each.weights.mean(2)) for each in vlm.attention(asked, layers, self.query)]  # type: ignore[arg-type]
        question, reference = rows[: len(pictures)], rows[len(pictures) :]
        if self.map == "laser":
            return [_laser(*pair, self.top_heads) for pair in zip(question, reference, strict=True)]
        means = [row[0].mean(0) for row in question]
        if self.map == "raw":
            return means
        pairs = zip(means, (row[0].mean(0) for row in reference), strict=True)
        if self.map == "ratio":
            return [a / np.maximum(b, np.finfo(np.float64).tiny) for a, b in pairs]
        return [np.maximum(0, a - b) for a, b in pairs]

    def _request(self, item: SelectionInput, picture: Image.Image, text: str) -> Request:
        return item.request([picture], text + self.instruction)


def _laser(question: np.ndarray, reference: np.ndarray, top_heads: int) -> np.ndarray:
    """The contrast in the layer where it is strongest; (layers, heads, visual tokens) in, (visual tokens) out."""
    contrast = np.maximum(0, question - reference)
    norms = np.sort(np.linalg.norm(contrast, axis=-1), axis=-1)[:, ::-1]
    layer = int(norms[:, :top_heads].mean(axis=1).argmax())
    return contrast[layer].mean(axis=0)  # type: ignore[no-any-return]
