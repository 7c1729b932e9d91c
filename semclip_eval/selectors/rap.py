"""RAP: the tiles that ψ retrieves, on a canvas that keeps their layout (Wang et al., ICML 2025, arXiv 2503.01222)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from semclip_eval.checks import require_member, whole_number
from semclip_eval.crops import union_box
from semclip_eval.errors import ConfigError
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.relevance.phrases import noun_phrases
from semclip_eval.selectors.base import SelectionInput, Selector, overview
from semclip_eval.selectors.semclip import best_first
from semclip_eval.selectors.tools import SelectorVLM, Tools
from semclip_eval.types import Box, Part, Selection, TraceStep, View

KEPT_SHARES = (0.25, 0.5, 0.75)
LARGE, TILE, TILE_OF_LARGE = 5096, 224, 336
THRESHOLD = 1.3
# By how much the threshold falls at each of its steps; the last one again and again.
FALLS = (0.1, 0.1, 0.2)
STEP = 5
SCALES = ("double", "centred")


@dataclass(frozen=True)
class Canvas:
    """Tiles where they lie relative to each other. cells: rows of tile numbers, None for black."""

    cells: tuple[tuple[int | None, ...], ...]
    depth: int

    @property
    def tiles(self) -> list[int]:
        """The tiles, row by row."""
        return [tile for row in self.cells for tile in row if tile is not None]


@dataclass(frozen=True)
class Rap(Selector):
    """A canvas of the tiles that matter, in the place of the image or beside it.

    The image is cut into disjoint tiles of `tile` pixels (null: 224, or 336 where a side is above 5096 px); ψ scores
    each, s = 1 + cosine. With `search` the share of tiles is found by the VLM: the root holds all tiles; a canvas is
    expanded into three, its best 25, 50 and 75 % of tiles, with empty rows and columns taken out and holes left black.
    Each is asked for the answering confidence (`answering`: {instruction} is the prompt's whole text, {question} what ψ
    reads, {target} its noun phrases; probability of `words[0]` against `words[1]`), scaled by
    `answer_scale` (`double`: 2p, as published for LLaVA-1.5; `centred`: 2p - 1, other families). The canvas with the
    highest f = (1 - w) r + w a is expanded next, where a is that confidence, r the mean score of all cells (black: 0)
    and w = 0.2 + 0.8 (1 - 1 / d^2) for a parent of depth d (the root's is 1). The search ends after `max_step` looks,
    or when a single tile has been looked at and the confidence exceeds a threshold that begins at 1.3 and falls. The
    canvas with the highest confidence is shown, the earliest of equals.

    search: false shows the best `tiles` tiles without asking. keep_overview: the overview goes before the canvas, which
    the published method does not do. max_forwards: the search ends with the best canvas so far before it would spend
    more.

    Source: DreamMr/RAP, `rap/vlm/base.py` (`rag`). There the retriever is VisRAG-Ret with the whole prompt as its
    query; here it is ψ with what `psi.text` lets it read.
    """

    name: str = "rap"
    tile: int | None = None
    search: bool = True
    tiles: int = 4
    max_step: int = 80
    answering: str = (
        "Question: {instruction}\nCould you answer the question based on the available visual information? "
        "Answer Yes or No."
    )
    words: tuple[str, ...] = ("Yes", "No")
    answer_scale: str = "double"
    keep_overview: bool = False
    max_forwards: int | None = None

    def __post_init__(self) -> None:
        whole_number("selector.tile", self.tile, 1, or_null="by the image's size")
        whole_number("selector.tiles", self.tiles, 1)
        whole_number("selector.max_step", self.max_step, 1)
        whole_number("selector.max_forwards", self.max_forwards, 1, or_null="no bound")
        require_member("selector.answer_scale", self.answer_scale, SCALES)
        for key in ("search", "keep_overview"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"selector.{key}={getattr(self, key)}: must be true or false.")
        object.__setattr__(self, "words", tuple(self.words))
        if len(self.words) != 2:
            raise ConfigError(f"selector.words={list(self.words)}: must be two words, the first one for yes.")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """ψ, and the VLM's confidence where it searches."""
        return frozenset({"psi", "confidence"} if self.search else {"psi"})

    def most_views(self, candidates: int) -> int:
        return 2 if self.keep_overview else 1

    def psi_work(self, item: SelectionInput, selection: Selection) -> tuple[int, int] | None:
        """Every tile, against the text."""
        return sum(len(row) for row in self.grid(*item.image.size)), 1

    def select(self, inputs: Sequence[SelectionInput], tools: Tools) -> list[Selection]:
        grids = [self.grid(*item.image.size) for item in inputs]
        requests = [
            RelevanceRequest(item.image, item.image_id, tuple(box for row in grid for box in row), item.text)
            for item, grid in zip(inputs, grids, strict=True)
        ]
        scores = tools.require_psi(self.name).score(requests)
        return [
            self._selection(item, grid, [1 + score for score in row], tools)
            for item, grid, row in zip(inputs, grids, scores, strict=True)
        ]

    def grid(self, width: int, height: int) -> list[list[Box]]:
        """Tiles row by row; the last ones of a row or column are cut to the image."""
        tile = self._tile(width, height)
        return [
            [Box(x, y, min(x + tile, width), min(y + tile, height)) for x in range(0, width, tile)]
            for y in range(0, height, tile)
        ]

    def _tile(self, width: int, height: int) -> int:
        if self.tile is not None:
            return self.tile
        return TILE_OF_LARGE if max(width, height) > LARGE else TILE

    def _selection(
        self, item: SelectionInput, grid: list[list[Box]], scores: Sequence[float], tools: Tools
    ) -> Selection:
        columns = len(grid[0])
        root = Canvas(tuple(tuple(range(row * columns, (row + 1) * columns)) for row in range(len(grid))), 1)
        boxes = [box for row in grid for box in row]
        trace: list[TraceStep] = []
        if self.search:
            canvas = self._searched(item, root, boxes, scores, tools.require_vlm(self.name), trace)
        else:
            canvas = kept(root, best_first([scores[tile] for tile in root.tiles], min(self.tiles, len(boxes))))
        trace += [TraceStep("tile", box, score - 1) for box, score in zip(boxes, scores, strict=True)]
        shown = overview(item.image) if canvas is root else view_of(canvas, boxes, self._tile(*item.image.size))
        whole = [overview(item.image)] if self.keep_overview and canvas is not root else []
        return Selection((*whole, shown), trace=tuple(trace))

    def _searched(
        self, item: SelectionInput, root: Canvas, boxes: Sequence[Box], scores: Sequence[float], vlm: SelectorVLM,
        trace: list[TraceStep],
    ) -> Canvas:  # fmt: skip
        tile = self._tile(*item.image.size)

        def asked(canvases: Sequence[Canvas]) -> list[float]:
            text = self._text(item)
            views = [overview(item.image) if canvas is root else view_of(canvas, boxes, tile) for canvas in canvases]
            requests = [item.request([view.pixels(item.image)], text, words=self.words) for view in views]
            values = [2 * value - (self.answer_scale == "centred") for value in vlm.confidence(requests)]
            trace.extend(TraceStep("canvas", view.box, value) for view, value in zip(views, values, strict=True))
            return values

        answering = {0: asked([root])[0]}
        canvases = [root]
        queue = {0: answering[0]}  # f of the canvases that wait
        threshold, falls = THRESHOLD, list(FALLS)
        patience = math.floor(STEP * math.log(max(1, item.image.width * item.image.height // tile**2), 4))
        single_seen = False
        for step in range(1, self.max_step + 1):
            if not queue:
                break
            number = max(queue, key=lambda place: queue[place])  # the first of equals
            del queue[number]
            canvas = canvases[number]
            if single_seen and answering[number] > threshold:
                break
            if step >= patience:
                threshold -= falls[0]
                falls, patience = falls[1:] or falls, patience + STEP
            if len(canvas.tiles) == 1:
                single_seen = True
                continue
            children = [self._child(canvas, share, scores) for share in KEPT_SHARES]
            left = vlm.forwards_left(item.question_id)
            if left is not None and left < len(children):
                break
            weight = 0.2 + 0.8 * (1 - 1 / canvas.depth**2)
            for child, value in zip(children, asked(children), strict=True):
                cells = [0.0 if cell is None else scores[cell] for row in child.cells for cell in row]
                answering[len(canvases)] = value
                queue[len(canvases)] = (1 - weight) * (sum(cells) / len(cells)) + weight * value
                canvases.append(child)
        return canvases[max(answering, key=lambda place: answering[place])]

    def _child(self, canvas: Canvas, share: float, scores: Sequence[float]) -> Canvas:
        count = max(1, math.floor(share * len(canvas.tiles)))
        tiles = canvas.tiles
        return kept(canvas, [tiles[place] for place in best_first([scores[tile] for tile in tiles], count)])

    def _text(self, item: SelectionInput) -> str:
        target = " and ".join(noun_phrases(item.text)) or item.text
        text = self.answering.replace("{target}", target).replace("{question}", item.text)
        return text.replace("{instruction}", item.instruction or item.text)


def kept(canvas: Canvas, tiles: Sequence[int]) -> Canvas:
    """The canvas with these tiles only, without the rows and columns that are empty then."""
    rows = [[cell if cell in tiles else None for cell in row] for row in canvas.cells]
    rows = [row for row in rows if any(cell is not None for cell in row)]
    columns = [place for place in range(len(rows[0])) if any(row[place] is not None for row in rows)]
    return Canvas(tuple(tuple(row[place] for place in columns) for row in rows), canvas.depth + 1)


def view_of(canvas: Canvas, boxes: Sequence[Box], tile: int) -> View:
    """The canvas as a view of the image that `boxes` (the tiles) lie in; cells of `tile` pixels."""
    parts = []
    for row, cells in enumerate(canvas.cells):
        for column, number in enumerate(cells):
            if number is not None:
                box = boxes[number]
                left, top = column * tile, row * tile
                parts.append(Part(box, Box(left, top, left + box.width, top + box.height)))
    around = union_box([part.source for part in parts])
    return View("collage", around, parts=tuple(parts))
