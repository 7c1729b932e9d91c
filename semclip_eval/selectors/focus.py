"""FOCUS: regions proposed by the value cache's similarity to the target, reranked by what the VLM says of each.

Zhong et al., NeurIPS 2025, arXiv 2506.21710 (section 3, appendices A.3 and A.5, figure 7); its code is not public.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from semclip_eval.checks import require_member, whole_number
from semclip_eval.crops import box_centre, union_box
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.lazy import library
from semclip_eval.models.insight import Values
from semclip_eval.relevance.base import PatchMap
from semclip_eval.relevance.phrases import Target, targets
from semclip_eval.selectors.base import SelectionInput, Selector, overview
from semclip_eval.selectors.maps import cell_boxes, coarse, in_image, resampled, tiles_of, with_place
from semclip_eval.selectors.patches import marks_around, side_by_side
from semclip_eval.selectors.regions import Region, anchors, grown, suppressed
from semclip_eval.selectors.semclip import best_first
from semclip_eval.selectors.tools import SelectorVLM, Tools
from semclip_eval.selectors.windows import regular_map
from semclip_eval.types import Box, Selection, TraceStep, View

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

SHOWN = ("crop", "overview_and_crops")
NORMALISATIONS = ("row", "column")
# Anchors where `anchors` is null: the first number with fewer than so many steps (table 7, LLaVA-1.5).
FEW_STEPS, FEW_ANCHORS, MANY_ANCHORS = 4, 15, 30
TARGET = "{target}"


class Proposal(NamedTuple):
    """A region of one target's map, in pixels of the image."""

    box: Box
    relevance: float


@dataclass(frozen=True)
class Focus(Selector):
    """The region that, of those which the value cache proposes, the VLM is surest to see the target in.

    For each target (a noun phrase of the question) `existence` is put to the VLM once with the whole image. In every
    layer from `first_layer` to `last_layer` (0-based, negative from the end) each head's value vectors of all tokens
    are brought to length 1 and joined; C = their products. With the residual added, (C + I) / 2, and divided by its
    sums (`normalise`: `row`, those of the target's token; `column`, those of the visual token), the rows of a token of
    the target are added up over the layers and divided by their sum; the product over the target's tokens is the map.
    A Gaussian of `sigma` cells smooths it, cells are joined `downsample` by `downsample`, and it is brought to 0 .. 1.

    The `anchors` highest cells (null: 15 with fewer than 4 steps, else 30) without those nearer than `distance` cells
    to a better one become squares of `least_cells`, which grow by a cell on each side up to `most_cells` while their
    mean stays at `growth`. Non-maximum suppression passes over a square that shares more than `max_overlap`
    (intersection over union) with a better one. The best `steps` of what is left are asked for `existence` (probability
    of `words[0]` against `words[1]`), and the surest is taken; with `overrun`, where none of them is above a half, the
    next ones are asked one by one until one is. steps=1 without overrun takes the best region unasked.

    A question about all things of a kind (`phrases.targets`; FOCUS's type 2) takes every region that was asked and is
    above `all_threshold`, a probability, and the surest where none is; null takes the surest of these too.

    over: 0 reads the whole image; else tiles of about so many pixels, each alone, maps side by side (ours). show:
    `crop`, one around the regions of all targets, or, where two middles are farther than `far` pixels apart, the
    regions side by side (published for LLaVA-1.5); `overview_and_crops`, the overview and a crop a region. marks: with
    rectangles around the regions in that overview (`Mark`).
    max_forwards: a target whose map cannot be afforded is left out, and what remains is shared out among the targets.
    """

    name: str = "focus"
    steps: int = 8
    overrun: bool = True
    first_layer: int = 14
    last_layer: int = -1
    normalise: str = "row"
    sigma: float = 1.0
    downsample: int = 1
    anchors: int | None = None
    distance: float = 2.0
    least_cells: int = 3
    most_cells: int = 5
    growth: float = 0.5
    max_overlap: float = 0.3
    over: int = 0
    existence: str = "Is there a {target} in the image?"
    words: tuple[str, ...] = ("Yes", "No")
    far: int = 1200
    show: str = "crop"
    marks: bool = True
    all_threshold: float | None = 0.6
    max_forwards: int | None = None

    def __post_init__(self) -> None:
        for key in ("steps", "downsample", "least_cells"):
            whole_number(f"selector.{key}", getattr(self, key), 1)
        whole_number("selector.anchors", self.anchors, 1, or_null="by the number of steps")
        whole_number("selector.most_cells", self.most_cells, self.least_cells)
        whole_number("selector.over", self.over, 0)
        whole_number("selector.far", self.far, 0)
        whole_number("selector.max_forwards", self.max_forwards, 0, or_null="no bound")
        require_member("selector.show", self.show, SHOWN)
        require_member("selector.normalise", self.normalise, NORMALISATIONS)
        for key in ("overrun", "marks"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"selector.{key}={getattr(self, key)}: must be true or false.")
        for key in ("first_layer", "last_layer"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"selector.{key}={value}: must be a whole number, 0 for the first layer.")
        bounds = {"sigma": math.inf, "distance": math.inf, "growth": 1, "max_overlap": 1, "all_threshold": 1}
        for key, most in bounds.items():
            value = getattr(self, key)
            if key == "all_threshold" and value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= most or math.isinf(value):
                limits = "of at least 0" if most == math.inf else "in 0 .. 1"
                raise ConfigError(f"selector.{key}={value}: must be a number {limits}.")
        if not isinstance(self.existence, str) or TARGET not in self.existence:
            raise ConfigError(f"selector.existence={self.existence!r}: must hold {TARGET}, where the target stands.")
        object.__setattr__(self, "words", tuple(self.words))
        if len(self.words) != 2:
            raise ConfigError(f"selector.words={list(self.words)}: must be two words, the first one for yes.")

    @property
    def asks(self) -> bool:
        """Whether regions are reranked by what the VLM says of them."""
        return self.steps > 1 or self.overrun

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The value cache, and the VLM's confidence where regions are reranked."""
        return frozenset({"values", "confidence"} if self.asks else {"values"})

    def most_views(self, candidates: int) -> int:
        return 1 if self.show == "crop" else 2

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        vlm = tools.require_vlm(self.name)
        layers = self._layers(vlm.layers)
        return [self._selection(item, vlm, layers) for item in inputs]

    def _layers(self, count: int) -> list[int]:
        first, last = (layer + count if layer < 0 else layer for layer in (self.first_layer, self.last_layer))
        if not 0 <= first <= last < count:
            raise ConfigError(
                f"selector.first_layer={self.first_layer}, selector.last_layer={self.last_layer}: must name layers of "
                f"the language model in order; it has {count}, from 0 on."
            )
        return list(range(first, last + 1))

    def _selection(self, item: SelectionInput, vlm: SelectorVLM, layers: list[int]) -> Selection:
        wanted = targets(item.text) or [Target(item.text, every=False)]
        tiles = tiles_of(*item.image.size, self.over)
        trace: list[TraceStep] = []
        proposals: list[tuple[Target, list[Proposal]]] = []
        for target in wanted:
            left = vlm.forwards_left(item.question_id)
            if left is not None and left < len(tiles):
                break
            cells = self._map(item, vlm, target.name, tiles, layers)
            trace += [TraceStep("map", box, value) for box, value in coarse(cells, *item.image.size)]
            proposals.append((target, self.proposals(cells, *item.image.size)))
        regions: list[Box] = []
        for number, (target, proposed) in enumerate(proposals):
            left = vlm.forwards_left(item.question_id)
            share = None if left is None else left // (len(proposals) - number)
            regions += self._chosen(item, vlm, target, proposed, share, trace)
        return Selection(self._views(item, list(dict.fromkeys(regions))), trace=tuple(trace))

    def _map(
        self, item: SelectionInput, vlm: SelectorVLM, target: str, tiles: Sequence[Box], layers: list[int]
    ) -> np.ndarray:
        """The target's map over the image: float64 (rows, columns) of equal cells, in 0 .. 1."""
        pictures = [item.image.crop(tile) for tile in tiles] if len(tiles) > 1 else [item.image]
        text = self.existence.replace(TARGET, target)
        parts, places = [], []
        values = vlm.values([item.request([picture], text) for picture in pictures], layers)
        for of_picture, picture, tile in zip(values, pictures, tiles, strict=True):
            tokens = vlm.token_boxes([picture.size])[0]
            of_target = target_tokens(of_picture.text_pieces, self.existence, target)
            rows = pseudo_attention(of_picture, of_target, self.normalise)
            parts.append(rows[:, with_place(tokens)])
            places.append(in_image(np.zeros(rows.shape[1]), tokens, tile).boxes)
        relevance = PatchMap(np.concatenate(places), product(np.concatenate(parts, axis=1)))
        return self._cleaned(regular_map(relevance, *item.image.size))

    def _cleaned(self, cells: np.ndarray) -> np.ndarray:
        from scipy.ndimage import gaussian_filter

        if self.sigma:
            cells = gaussian_filter(cells, self.sigma, mode="nearest")
        if self.downsample > 1:
            height, width = cells.shape
            rows, columns = (max(1, round(side / self.downsample)) for side in cells.shape)
            cells = resampled(cells, width, height, cell_boxes(rows, columns, width, height)).reshape(rows, columns)
        lowest, highest = cells.min(), cells.max()
        flat = highest - lowest <= 0
        return np.ones_like(cells) if flat else (cells - lowest) / (highest - lowest)

    def proposals(self, cells: np.ndarray, width: int, height: int) -> list[Proposal]:
        """The regions of a map, most relevant anchor first."""
        count = self.anchors or (FEW_ANCHORS if self.steps < FEW_STEPS else MANY_ANCHORS)
        squares = [
            grown(cells, anchor, self.least_cells, self.most_cells, self.growth)
            for anchor in anchors(cells, count, self.distance)
        ]
        return [_proposal(region, cells, width, height) for region in suppressed(squares, self.max_overlap)]

    def _chosen(
        self, item: SelectionInput, vlm: SelectorVLM, target: Target, proposed: Sequence[Proposal], share: int | None,
        trace: list[TraceStep],
    ) -> list[Box]:  # fmt: skip
        """The proposal with the highest existence, the first of equals; where all are asked for, those above the
        threshold. At most `share` are asked.
        """
        text = self.existence.replace(TARGET, target.name)
        most = min(len(proposed), len(proposed) if share is None else share)
        if not self.asks or most == 0:
            return [proposed[0].box]

        def asked(some: Sequence[Proposal]) -> list[float]:
            requests = [item.request([item.image.crop(each.box)], text, words=self.words) for each in some]
            values = vlm.confidence(requests)
            trace.extend(TraceStep("existence", each.box, value) for each, value in zip(some, values, strict=True))
            return values

        confidences = asked(proposed[: min(self.steps, most)])
        while self.overrun and max(confidences) <= 0.5 and len(confidences) < most:
            confidences += asked(proposed[len(confidences) : len(confidences) + 1])
        above: list[Box] = []
        if target.every and self.all_threshold is not None:
            pairs = zip(proposed, confidences, strict=False)
            above = [each.box for each, confidence in pairs if confidence > self.all_threshold]
        return above or [proposed[best_first(confidences, 1)[0]].box]

    def _views(self, item: SelectionInput, regions: Sequence[Box]) -> tuple[View, ...]:
        whole = overview(item.image)
        if not regions:
            return (whole,)
        if self.show == "overview_and_crops":
            marks = marks_around(regions, item.text) if self.marks else ()
            return (replace(whole, marks=marks), *(View("crop", box) for box in regions))
        around = union_box(regions)
        pairs = itertools.combinations([box_centre(box) for box in regions], 2)
        if any(math.dist(*pair) > self.far for pair in pairs):
            return (View("collage", around, parts=side_by_side(regions)),)
        return (whole,) if around == whole.box else (View("crop", around),)


def _proposal(region: Region, cells: np.ndarray, width: int, height: int) -> Proposal:
    return Proposal(region.box(cells.shape, width, height), region.score)


def target_tokens(pieces: Sequence[str], template: str, target: str) -> list[int]:
    """Which of a prompt's tokens hold the target, given the prompt's template with `{target}` in it.

    Spaces are not compared: tokenizers join them to words in different ways. A target that the pieces do not spell
    (bytes of a letter in several tokens) is what stands between the template's text before it and after it. Raises
    QuestionError where neither is found.
    """
    before, after = (_compact(text) for text in template.split(TARGET, 1))
    after = after.replace(TARGET, _compact(target))
    ends = list(itertools.accumulate(len(_compact(piece)) for piece in pieces))
    joined = "".join(map(_compact, pieces))
    start = joined.find(before)
    begin = start + len(before)
    end = begin + len(_compact(target)) if joined.startswith(_compact(target), begin) else joined.find(after, begin)
    places = [
        place
        for place, (first, last) in enumerate(zip([0, *ends], ends, strict=False))
        if first < end and last > begin and first < last
    ]
    if start < 0 or not places:
        raise QuestionError(f"the target {target!r} is not among the prompt's tokens, {''.join(pieces)!r}")
    return places


def _compact(text: str) -> str:
    return "".join(text.split())


def pseudo_attention(values: Values, target: Sequence[int], normalise: str) -> np.ndarray:
    """Similarity of a target's tokens to the visual ones, summed over layers: float64 (target tokens, visual tokens).

    FOCUS, figure 7. Each head's vector has length 1, so that a row of C is a sum of cosines over the heads, and C holds
    all tokens of the prompt. The halves of (C + I) / 2 cancel; the identity stays in the sums alone, since the tokens
    compared are different ones. The pseudocode divides by the row sums in a way that torch reads as dividing each
    column: `normalise` takes its comment (`row`) or its code (`column`).
    """
    visual, text, rest = (_unit(each, values.heads) for each in (values.visual, values.text, values.rest))
    everything = visual.sum(1) + text.sum(1) + rest.sum(1)
    chosen = text[:, list(target)]
    similarity = chosen @ visual.transpose(1, 2)
    divided = chosen if normalise == "row" else visual
    sums = (divided @ everything[:, :, None])[:, :, 0] + 1
    rows = similarity / (sums[:, :, None] if normalise == "row" else sums[:, None])
    array: np.ndarray = rows.sum(0).double().cpu().numpy()
    return array


def _unit(vectors: torch.Tensor, heads: int) -> torch.Tensor:
    """(layers, tokens, heads x size) with each head's part of length 1."""
    return torch.nn.functional.normalize(vectors.unflatten(-1, (heads, -1)), dim=-1).flatten(-2)


def product(rows: np.ndarray) -> np.ndarray:
    """The rows, each divided by its sum, multiplied into one that sums to 1.

    As in the pseudocode: a similarity may be negative, and a negative sum turns the order round.
    """
    result = np.ones(rows.shape[1])
    for row in rows:
        result = _divided_by_sum(result * _divided_by_sum(row))
    return result


def _divided_by_sum(row: np.ndarray) -> np.ndarray:
    total = row.sum()
    return row if total == 0 else row / total
