"""HiDe: the regions that each word of the target attends to, on a canvas that keeps their layout (arXiv 2510.00054)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from semclip_eval.checks import require_member, whole_number
from semclip_eval.errors import ConfigError
from semclip_eval.models.insight import AttentionRows
from semclip_eval.relevance.phrases import noun_phrases
from semclip_eval.selectors.base import SelectionInput, Selector, overview
from semclip_eval.selectors.components import (
    compact,
    high_regions,
    merged,
    smooth,
    widened_by,
    without_noise,
)
from semclip_eval.selectors.maps import array, coarse, in_image, joined, tiles_of
from semclip_eval.selectors.tools import SelectorVLM, Tools
from semclip_eval.selectors.windows import regular_map
from semclip_eval.types import BLACK, Selection, TraceStep

ENTITIES = ("generated", "noun_phrases")
BACKGROUNDS = {"white": (255, 255, 255), "black": BLACK}
OPENED, CLOSED = "<FINAL_OUTPUT>", "</FINAL_OUTPUT>"
# The rules of the source's prompt (`Hide/Qwen2.5/inference.py`), said shorter.
EXTRACTION = """\
List the things (objects, people, animals, places) that this question is about.
- Write each as a noun. Put its adjectives behind it as "with PROPERTY TYPE": "the large blue truck" becomes
  "truck with large size with blue color".
- Turn possessives round: "the woman's handbag" becomes "handbag of woman".
- Keep a phrase that describes a part of a thing: "man in a shirt with green color". Keep compound nouns whole.
- Where things are related ("next to", "on the left of"), list both and leave the relation out.
- Lower case, one line, separated by ", ", without articles and question words.
Write the list between <FINAL_OUTPUT> and </FINAL_OUTPUT> and nothing else.
Example: "Is the green surfboard on the left side of the purple umbrella?" gives
<FINAL_OUTPUT>surfboard with green color, umbrella with purple color</FINAL_OUTPUT>
Question: {question}"""


@dataclass(frozen=True)
class Hide(Selector):
    """The overview and a collage of the regions that the words of the target attend to.

    The entities of the question (`entities`: `generated` by the VLM after the prompt `extraction`, as published, or
    `noun_phrases` by rule) are put into `search`, and the VLM reads that beside the overview once. The map of a token
    is its attention to the visual tokens, mean over `layers` (0-based; null: all) and all heads, under a Gaussian of
    `sigma` cells, scaled to 0 .. 1. The words of `search` before {entities} are noise: their mean map is taken off the
    map of every later token, what is left above 0 is scaled to 0 .. 1 again. The parts of each such map at or above
    `threshold`, connected over corners too, give boxes; boxes that overlap or touch become one around both. On the
    collage rows and columns of pixels that no box reaches are cut out; what lies between the boxes is `background`.
    Where no map rises above the noise the overview is shown alone.

    trailing: how many tokens of the prompt's template behind the entities have a map too (1: Qwen's end of turn, which
    the source does not cut off). over: tiles of about so many pixels, each read alone, maps side by side; 0, as
    published: the overview. margin: pixels added to every side of a region (published: none). Forwards: one a tile, and
    one generation where `entities=generated`.

    Measures: `regions`, how many there are in the collage; `shown`, their part of the image.

    Source: Tennine2077/HiDe, `Hide/Qwen2.5/inference.py`, `Hide/utils.py` (`process`), `Hide/Get_box.py`.
    """

    name: str = "hide"
    entities: str = "generated"
    extraction: str = EXTRACTION
    extraction_tokens: int = 128
    search: str = "Search the following entities in the images: {entities}"
    layers: tuple[int, ...] | None = None
    sigma: float = 3
    threshold: float = 0.7
    trailing: int = 1
    background: str = "white"
    over: int = 0
    margin: int = 0
    max_forwards: int | None = None
    measure_names: ClassVar[tuple[str, ...]] = ("regions", "shown")

    def __post_init__(self) -> None:
        require_member("selector.entities", self.entities, ENTITIES)
        require_member("selector.background", self.background, tuple(BACKGROUNDS))
        for key, part in (("extraction", "{question}"), ("search", "{entities}")):
            if part not in str(getattr(self, key)):
                raise ConfigError(f"selector.{key}={getattr(self, key)!r}: must contain {part}.")
        if self.layers is not None:
            if not self.layers or not all(type(layer) is int for layer in self.layers):
                raise ConfigError(f"selector.layers={self.layers}: must be whole numbers, or null for all layers.")
            object.__setattr__(self, "layers", tuple(self.layers))
        for key, low, high in (("sigma", 0.0, math.inf), ("threshold", 1e-6, 1.0)):
            value = getattr(self, key)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high or math.isinf(value):
                bounds = "at least 0" if key == "sigma" else "above 0 and at most 1"
                raise ConfigError(f"selector.{key}={value}: must be a number {bounds}.")
        whole_number("selector.extraction_tokens", self.extraction_tokens, 1)
        for key in ("trailing", "over", "margin"):
            whole_number(f"selector.{key}", getattr(self, key), 0)
        whole_number("selector.max_forwards", self.max_forwards, 1, or_null="no bound")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Attention, and answers where the entities are generated."""
        return frozenset({"attention", "vlm"} if self.entities == "generated" else {"attention"})

    def most_views(self, candidates: int) -> int:
        return 2

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        vlm = tools.require_vlm(self.name)
        for layer in self.layers or ():
            if not -vlm.layers <= layer < vlm.layers:
                raise ConfigError(f"selector.layers={list(self.layers or ())}: the language model has {vlm.layers}.")
        return [self._selection(item, vlm) for item in inputs]

    def _selection(self, item: SelectionInput, vlm: SelectorVLM) -> Selection:
        width, height = item.image.size
        maps = self._maps(item, self._entities(item, vlm), vlm)
        regions = [
            widened_by(box, self.margin, width, height)
            for cells in maps
            for box in high_regions(cells, self.threshold, width, height)
        ]
        boxes = merged(regions)
        steps = [TraceStep("map", *pair) for pair in coarse(maps.mean(axis=0), width, height)] if len(maps) else []
        steps += [TraceStep("region", box, None) for box in boxes]
        views = [compact(boxes, BACKGROUNDS[self.background])] if boxes else []
        shown = sum(box.area for box in boxes) / (width * height)
        measures = {"regions": float(len(boxes)), "shown": shown}
        return Selection((overview(item.image), *views), trace=tuple(steps), measures=measures)

    def _entities(self, item: SelectionInput, vlm: SelectorVLM) -> str:
        """What is searched for; the question itself where it names nothing."""
        if self.entities == "noun_phrases":
            return ", ".join(noun_phrases(item.text)) or item.text
        text = self.extraction.replace("{question}", item.text)
        (answer,) = vlm.answer([item.request([], text, max_new_tokens=self.extraction_tokens)])
        return (answer.text or "").split(OPENED)[-1].split(CLOSED)[0].strip() or item.text

    def _maps(self, item: SelectionInput, entities: str, vlm: SelectorVLM) -> np.ndarray:
        """(tokens, rows, columns): the maps of the tokens from the entities on, without the noise."""
        text = self.search.replace("{entities}", entities)
        tiles = tiles_of(*item.image.size, self.over)
        pictures = [item.image.crop(tile) for tile in tiles] if len(tiles) > 1 else [item.image]
        layers = list(range(vlm.layers)) if self.layers is None else list(self.layers)
        rows = vlm.attention([item.request([picture], text) for picture in pictures], layers, "text")
        noise, wanted = self._tokens(rows[0])
        parts = [
            # (visual tokens, text tokens), the mean over layers and heads.
            in_image(array(each.weights.mean((0, 1)))[[*noise, *wanted]].T, vlm.token_boxes([picture.size])[0], tile)
            for each, picture, tile in zip(rows, pictures, tiles, strict=True)
        ]
        maps = regular_map(joined(parts), *item.image.size).transpose(2, 0, 1)
        maps = smooth(maps, self.sigma)
        return without_noise(maps[len(noise) :], maps[: len(noise)])

    def _tokens(self, rows: AttentionRows) -> tuple[list[int], list[int]]:
        """Which rows are noise (the words before the entities) and which have a map."""
        before = self.search.index("{entities}")
        own = [(place, span) for place, span in enumerate(rows.spans) if span is not None]
        noise = [place for place, (_, end) in own if end <= before]
        wanted = [place for place, (_, end) in own if end > before]
        last = wanted[-1] if wanted else len(rows.spans) - 1
        return noise, [*wanted, *range(last + 1, min(last + 1 + self.trailing, len(rows.spans)))]
