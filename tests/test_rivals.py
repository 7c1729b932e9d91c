"""Rivals against naive transcriptions of their published search: same patches visited, same canvas, same pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semclip_eval import cli
from semclip_eval.crops import union_box
from semclip_eval.errors import ConfigError
from semclip_eval.relevance.base import Relevance, RelevanceRequest
from semclip_eval.results.summary import read_rows
from semclip_eval.selectors.patches import side_by_side, widened
from semclip_eval.selectors.rap import Rap
from semclip_eval.selectors.tools import Tools
from semclip_eval.selectors.zoom import Zoom, split
from semclip_eval.types import Box, Request
from tests.test_selectors import an_input


class RedVLM:
    """Says yes with a probability that grows with the mean of the red channel; counts and bounds like the facade."""

    def __init__(self, bound: int | None = None) -> None:
        self.bound, self.spent, self.asked = bound, 0, list[tuple[str, tuple[int, int]]]()

    def forwards_left(self, question_id: str) -> int | None:
        return None if self.bound is None else self.bound - self.spent

    def confidence(self, requests: Sequence[Request]) -> list[float]:
        self.spent += len(requests)
        assert self.bound is None or self.spent <= self.bound
        self.asked += [(request.prompt.text, request.images[-1].size) for request in requests]
        return [redness(request.images[-1], request.prompt.text) for request in requests]


class GreenRelevance(Relevance):
    """ψ is the mean of the green channel."""

    name, model, revision, text = "green", "green", "1", "question"

    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        return [
            tuple(float(np.asarray(request.image.crop(box))[..., 1].mean()) / 255 for box in request.boxes)
            for request in requests
        ]


def redness(image: Image.Image, text: str) -> float:
    value = float(np.asarray(image)[..., 0].mean()) / 255
    return value if "answer" in text else 0.5 + (value - 0.5) * 0.8


def noise(width: int, height: int, seed: int) -> Image.Image:
    """Smooth noise: patches differ, and parts of a patch differ from it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def naive_zoom(
    image: Image.Image, side: int, base: float, top: float, least: float, both: bool
) -> tuple[Any, list[Any]]:
    """ZoomEye's search for one target, written down from its description: (box, boxes looked at)."""
    tree: dict[tuple[int, ...], list[tuple[int, ...]]] = {}

    def grow(box: tuple[int, ...], depth: int) -> int:
        x0, y0, x1, y1 = box
        w, h = x1 - x0, y1 - y0
        tree[box] = []
        if max(w, h) < side or depth == 5:
            return depth
        nx, ny = (1, 4) if h / w >= 2 else (4, 1) if h / w <= 0.5 else (2, 2)
        xs = [x0 + i * (w // nx) for i in range(nx)] + [x1]
        ys = [y0 + i * (h // ny) for i in range(ny)] + [y1]
        tree[box] = [(xs[i], ys[j], xs[i + 1], ys[j + 1]) for j in range(ny) for i in range(nx)]
        return max(grow(child, depth + 1) for child in tree[box])

    def ask(box: tuple[int, ...], text: str) -> float:
        shown = box if box == (0, 0, *image.size) else widened(Box(*box), side, image.size)
        return 2 * (redness(image.crop(shown), text) - 0.5)

    root = (0, 0, *image.size)
    deepest = grow(root, 0)
    waiting, looked, theta, limit = {root: 0.0}, [], top, 3 * deepest
    depth = {root: 0}
    falls = [0.1, 0.1] + [0.2] * 99
    while waiting:
        box = max(waiting, key=lambda each: waiting[each])
        del waiting[box]
        looked.append((box, ask(box, "answer?")))
        if looked[-1][1] >= theta:
            return box, looked
        if limit > 0 and len(looked) >= limit:
            theta -= falls.pop(0)
            limit += 2
            if theta < least:
                break
            best = max(looked, key=lambda pair: pair[1])
            if best[1] >= theta:
                return best[0], looked
        for child in tree[box]:
            depth[child] = depth[box] + 1
            weight = base + (1 - base) * (depth[child] / deepest) ** 2 if both else 1.0
            waiting[child] = weight * ask(child, "exists?") + (1 - weight) * (ask(child, "found?") if both else 0)
    return max(looked, key=lambda pair: pair[1])[0], looked


@settings(max_examples=60)
@given(
    st.integers(30, 220), st.integers(30, 220), st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.6]),
    st.sampled_from([-0.4, 0.1, 0.5, 0.95]), st.booleans(),
)  # fmt: skip
def test_zoom_visits_the_patches_of_the_published_search(
    width: int, height: int, seed: int, base: float, top: float, both: bool
) -> None:
    image = noise(width, height, seed)
    selector = Zoom(
        side=40, far=100, base_weight=base, threshold=top, least=-0.2, existence="exists?",
        latent="found?" if both else "", answering="answer?",
    )  # fmt: skip
    item = replace(an_input(candidates=[]), image=image, text="the of")  # no noun phrase: one target, the text itself
    (selection,) = selector.select([item], Tools(vlm=RedVLM()))  # type: ignore[arg-type]
    box, looked = naive_zoom(image, 40, base, top, -0.2, both)
    assert [(tuple(step.box), pytest.approx(step.score)) for step in selection.trace] == looked
    shown = widened(Box(*box), 40, image.size)
    assert selection.views[-1].box == shown
    assert len(selection.views) == 1


@given(st.integers(0, 10**6), st.integers(0, 30))
def test_zoom_stays_within_its_budget(seed: int, bound: int) -> None:
    selector = Zoom(side=30, threshold=2.0, least=-9, existence="exists?", answering="answer?")
    item = replace(an_input(candidates=[]), image=noise(200, 160, seed), text="What is the color of the red ball?")
    vlm = RedVLM(bound)
    (selection,) = selector.select([item], Tools(vlm=vlm))  # type: ignore[arg-type]
    assert vlm.spent <= bound
    if bound == 0:
        assert [view.kind for view in selection.views] == ["overview"]
    else:
        assert selection.trace


def test_zoom_finds_the_red_patch_and_shows_far_targets_side_by_side() -> None:
    pixels = np.zeros((160, 160, 3), np.uint8)
    pixels[130:150, 5:25, 0] = 255
    item = replace(an_input(candidates=[]), image=Image.fromarray(pixels), text="the of")
    found = Zoom(side=30, threshold=0.0, least=-2, existence="exists?", answering="answer?")
    (selection,) = found.select([item], Tools(vlm=RedVLM()))  # type: ignore[arg-type]
    (view,) = selection.views
    assert view.box.left <= 5 < 25 <= view.box.right + 5
    assert view.box.top <= 130 < 150 <= view.box.bottom + 5
    boxes = [Box(0, 0, 20, 20), Box(100, 50, 120, 80), Box(110, 60, 130, 90)]
    parts = side_by_side(boxes)
    assert [tuple(part.place) for part in parts] == [(0, 0, 20, 20), (20, 50, 50, 90)]
    assert union_box(boxes) == (0, 0, 130, 90)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 60))
def test_children_tile_their_patch(width: int, height: int, side: int) -> None:
    children = split(Box(3, 5, 3 + width, 5 + height), side, 0)
    if children:
        assert sum(child.area for child in children) == width * height
        assert union_box(children) == (3, 5, 3 + width, 5 + height)


def naive_rap(image: Image.Image, tile: int, max_step: int) -> tuple[np.ndarray, int]:
    """RAP's search with pixel arrays for canvases: (pixels of the canvas shown, prompts asked)."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    rows, columns = math.ceil(height / tile), math.ceil(width / tile)
    tiles = {}
    for r, c in np.ndindex(rows, columns):
        tiles[1 + r * columns + c] = pixels[r * tile : (r + 1) * tile, c * tile : (c + 1) * tile]
    score = {number: 1 + part[..., 1].mean() / 255 for number, part in tiles.items()} | {0: 0.0}

    def paint(matrix: np.ndarray) -> np.ndarray:
        canvas = np.zeros((matrix.shape[0] * tile, matrix.shape[1] * tile, 3), np.uint8)
        bottom = right = 0
        for (r, c), number in np.ndenumerate(matrix):
            if number:
                part = tiles[int(number)]
                canvas[r * tile : r * tile + part.shape[0], c * tile : c * tile + part.shape[1]] = part
                bottom, right = max(bottom, r * tile + part.shape[0]), max(right, c * tile + part.shape[1])
        return canvas[:bottom, :right]

    def answer(matrix: np.ndarray) -> float:
        return 2 * redness(Image.fromarray(paint(matrix)), "answer")

    def erode(matrix: np.ndarray, share: float) -> np.ndarray:
        numbers = [int(n) for n in matrix.ravel() if n]
        best = sorted(numbers, key=lambda n: -round(score[n], 5))[: max(1, int(share * len(numbers)))]
        matrix = np.where(np.isin(matrix, best), matrix, 0)
        matrix = matrix[matrix.any(1)]
        return matrix[:, matrix.any(0)]

    root = np.arange(1, rows * columns + 1).reshape(rows, columns)
    seen = [(root, answer(root))]
    waiting = [(seen[0][1], 0, 1)]  # f, place in seen, depth
    theta, start = 1.3, max(1, math.floor(5 * math.log(max(1, width * height // tile**2), 4)))
    moments = {start: 0.1, start + 5: 0.1} | {start + 5 * n: 0.2 for n in range(2, 99)}
    one = False
    for step in range(1, max_step + 1):
        if not waiting:
            break
        best = max(waiting, key=lambda each: each[0])
        waiting.remove(best)
        matrix, value = seen[best[1]]
        if one and value > theta:
            break
        theta -= moments.get(step, 0)
        if np.count_nonzero(matrix) == 1:
            one = True
            continue
        w = 0.2 + 0.8 * (1 - 1 / best[2] ** 2)
        for share in (0.25, 0.5, 0.75):
            child = erode(matrix, share)
            seen.append((child, answer(child)))
            mean = np.mean([score[int(n)] for n in child.ravel()])
            waiting.append(((1 - w) * mean + w * seen[-1][1], len(seen) - 1, best[2] + 1))
    return paint(max(seen, key=lambda pair: pair[1])[0]), len(seen)


@settings(max_examples=40)
@given(st.integers(30, 200), st.integers(30, 200), st.integers(0, 10**6), st.integers(1, 25))
def test_rap_shows_the_canvas_of_the_published_search(width: int, height: int, seed: int, max_step: int) -> None:
    image = noise(width, height, seed)
    item = replace(an_input(candidates=[]), image=image)
    selector = Rap(tile=25, max_step=max_step, answering="answer")
    vlm = RedVLM()
    (selection,) = selector.select([item], Tools(GreenRelevance(), vlm))  # type: ignore[arg-type]
    canvas, prompts = naive_rap(image, 25, max_step)
    (view,) = selection.views
    np.testing.assert_array_equal(np.asarray(view.pixels(image)), canvas)
    assert vlm.spent == prompts
    bounded = RedVLM(max(1, prompts - 1))
    replace(selector, max_forwards=bounded.bound).select([item], Tools(GreenRelevance(), bounded))  # type: ignore[arg-type]
    assert bounded.spent <= max(1, prompts - 1)


def test_rap_without_search_keeps_the_layout_of_the_best_tiles() -> None:
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[0:20, 60:80, 1] = 250  # row 0, column 3
    pixels[40:60, 0:20, 1] = 200  # row 2, column 0
    pixels[40:60, 80:100, 1] = 100  # row 2, column 4
    item = replace(an_input(candidates=[]), image=Image.fromarray(pixels))
    selector = Rap(tile=20, search=False, tiles=3, keep_overview=True)
    (selection,) = selector.select([item], Tools(GreenRelevance()))
    whole, canvas = selection.views
    assert (whole.kind, canvas.kind) == ("overview", "collage")
    assert [(tuple(part.source), tuple(part.place)) for part in canvas.parts] == [
        ((60, 0, 80, 20), (20, 0, 40, 20)),
        ((0, 40, 20, 60), (0, 20, 20, 40)),
        ((80, 40, 100, 60), (40, 20, 60, 40)),
    ]
    assert "confidence" not in selector.needs


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Zoom(answering="a", side=0), r"selector\.side=0"),
        (lambda: Zoom(answering="a", base_weight=2), r"selector\.base_weight=2"),
        (lambda: Zoom(answering="a", show="both"), r"selector\.show=both"),
        (lambda: Zoom(answering="a", existence=""), "existence"),
        (lambda: Zoom(), "answering"),
        (lambda: Zoom(answering="a", words=("yes",)), r"selector\.words"),
        (lambda: Rap(tile=0), r"selector\.tile=0"),
        (lambda: Rap(tiles=0), r"selector\.tiles=0"),
        (lambda: Rap(answer_scale="log"), r"selector\.answer_scale=log"),
        (lambda: Rap(search="maybe"), r"selector\.search=maybe"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("selector", ["zoom", "rap"])
def test_rivals_run_within_their_budget_whatever_the_batch(selector: str, tmp_path: Path) -> None:
    run = ["profile=mini", f"selector={selector}", "selector.max_forwards=13", "run.limit=6"]
    written = []
    for batch in (1, 4):
        output = tmp_path / str(batch)
        assert cli.main([*run, f"run.batch_size={batch}", f"run.output_dir={output}"]) == 0
        (samples,) = output.glob(f"mini/vstar/*/{selector}/*/samples.jsonl")
        records = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        assert all(0 < record["cost"]["forwards"] <= 13 for record in records)
        written.append([(record["question_id"], record["views"]) for record in records])
        (row,) = read_rows(output / "runs.csv")
        assert (row["n_error"], row["uses_truth"]) == ("0", "false")
    assert written[0] == written[1]
