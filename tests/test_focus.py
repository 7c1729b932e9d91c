"""FOCUS against a naive transcription of the paper: same map, same regions in the same order, same choice."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semclip_eval import cli
from semclip_eval.crops import union_box
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.models.insight import TokenBoxes, Values
from semclip_eval.results.summary import read_rows
from semclip_eval.selectors.focus import Focus, pseudo_attention, target_tokens
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Box, Request
from tests.test_rivals import noise
from tests.test_selectors import an_input

CELLS, HEADS, SIZE, LAYERS = 8, 2, 3, 4
EXISTENCE = "Is there a {target} in it?"


class CacheVLM:
    """Values that mix a cell's mean colour with what a word stands for; surer the redder a picture is."""

    layers = LAYERS

    def __init__(self, bound: int | None = None) -> None:
        self.bound, self.spent, self.asked = bound, 0, list[tuple[int, int]]()

    def forwards_left(self, question_id: str) -> int | None:
        return None if self.bound is None else self.bound - self.spent

    def _spend(self, forwards: int) -> None:
        self.spent += forwards
        assert self.bound is None or self.spent <= self.bound

    def token_boxes(self, sizes: Sequence[tuple[int, int]]) -> list[TokenBoxes]:
        boxes = []
        for width, height in sizes:
            x, y = np.linspace(0, width, CELLS + 1), np.linspace(0, height, CELLS + 1)
            cells = [[x[c], y[r], x[c + 1], y[r + 1]] for r in range(CELLS) for c in range(CELLS)]
            nothing = np.zeros(CELLS * CELLS, bool)
            boxes.append(TokenBoxes(np.array(cells), nothing, nothing))
        return boxes

    def values(self, requests: Sequence[Request], layers: Sequence[int]) -> list[Values]:
        self._spend(len(requests))
        return [self._values(request, layers) for request in requests]

    def _values(self, request: Request, layers: Sequence[int]) -> Values:
        colours = np.asarray(request.images[0].resize((CELLS, CELLS), Image.Resampling.BOX)).reshape(-1, 3) / 255
        words = request.prompt.text.split()
        text = np.stack([np.random.default_rng(len(word) + ord(word[0])).random(3) for word in words])

        def mixed(vectors: np.ndarray) -> torch.Tensor:
            mixes = [np.random.default_rng(layer).normal(0.3, 1, (3, HEADS * SIZE)) for layer in layers]
            return torch.tensor(np.stack([vectors @ mix for mix in mixes]), dtype=torch.float32)

        start = np.array([[0.3, 0.1, 0.9]])
        return Values(mixed(colours), mixed(text), tuple(words), (CELLS * CELLS,), mixed(start), HEADS)

    def confidence(self, requests: Sequence[Request]) -> list[float]:
        self._spend(len(requests))
        self.asked += [request.images[0].size for request in requests]
        return [sureness(request.images[0]) for request in requests]


def sureness(image: Image.Image) -> float:
    return float(np.asarray(image)[..., 0].mean()) / 255


def figure_7(values: Values, target: Sequence[int], normalise: str) -> np.ndarray:
    """The paper's pseudocode, with full matrices: (visual tokens), the product over the target's tokens."""
    whole = torch.cat([values.rest, values.visual, values.text], dim=1).double().numpy()
    layers, tokens, _ = whole.shape
    whole = whole.reshape(layers, tokens, values.heads, -1)
    whole = whole / np.linalg.norm(whole, axis=-1, keepdims=True)
    whole = whole.reshape(layers, tokens, -1)
    first = values.rest.shape[1]
    visual = np.arange(first, first + values.visual.shape[1])
    result = np.ones(len(visual))
    for token in target:
        row = np.zeros(len(visual))
        for layer in whole:
            matrix = (layer @ layer.T + np.eye(tokens)) / 2
            sums = matrix.sum(-1)
            matrix = matrix / (sums[:, None] if normalise == "row" else sums[None])
            row += matrix[visual[-1] + 1 + token, visual]
        result *= row / row.sum()
        result /= result.sum()
    return result


def smoothed(cells: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian cut at four sigmas, the border repeated."""
    if sigma == 0:
        return cells
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(cells, [(reach, reach) if each == axis else (0, 0) for each in (0, 1)], mode="edge")
        cells = np.apply_along_axis(lambda line: np.convolve(line, kernel, "valid"), axis, padded)
    return cells


def first_best(scores: Sequence[float]) -> int:
    return next(place for place, score in enumerate(scores) if score >= max(scores) - 1e-5)


def naive_regions(cells: np.ndarray, set_to: Focus, size: tuple[int, int]) -> list[Box]:
    """Anchors, growth and suppression as section 3.3 tells them; boxes in pixels, best anchor first."""
    count = set_to.anchors or (15 if set_to.steps < 4 else 30)
    left = {(r, c): cells[r, c] for r, c in np.ndindex(cells.shape)}
    top = []
    while left and len(top) < count:
        top.append(list(left)[first_best(list(left.values()))])
        del left[top[-1]]
    anchors: list[tuple[int, int]] = []
    for anchor in top:
        if not any(math.dist(anchor, other) < set_to.distance for other in anchors):
            anchors.append(anchor)
    rows, columns = cells.shape

    def square(anchor: tuple[int, int], side: int) -> tuple[int, int, int, int]:
        high, wide = min(side, rows), min(side, columns)
        y = min(max(anchor[0] - high // 2, 0), rows - high)
        x = min(max(anchor[1] - wide // 2, 0), columns - wide)
        return x, y, x + wide, y + high

    kept: list[tuple[int, int, int, int]] = []
    for anchor in anchors:
        side = set_to.least_cells
        while side + 2 <= set_to.most_cells:
            x0, y0, x1, y1 = square(anchor, side + 2)
            if cells[y0:y1, x0:x1].mean() < set_to.growth:
                break
            side += 2
        region = square(anchor, side)
        mine = {(x, y) for x in range(region[0], region[2]) for y in range(region[1], region[3])}
        theirs = [{(x, y) for x in range(o[0], o[2]) for y in range(o[1], o[3])} for o in kept]
        if all(len(mine & other) / len(mine | other) <= set_to.max_overlap for other in theirs):
            kept.append(region)
    width, height = size
    return [
        Box(
            math.floor(x0 * width / columns),
            math.floor(y0 * height / rows),
            math.ceil(x1 * width / columns),
            math.ceil(y1 * height / rows),
        )
        for x0, y0, x1, y1 in kept
    ]


def naive_focus(image: Image.Image, target: str, place: int, set_to: Focus) -> tuple[Box, list[tuple[Box, float]], int]:
    """The box taken for one target, the boxes asked with their confidence, and how many there were to ask."""
    text = set_to.existence.replace("{target}", target)
    layers = range(LAYERS)[set_to.first_layer : set_to.last_layer % LAYERS + 1]
    values = CacheVLM()._values(an_input().request([image], text), layers)
    words = [place + number for number in range(len(target.split()))]
    cells = smoothed(figure_7(values, words, set_to.normalise).reshape(CELLS, CELLS), set_to.sigma)
    side = CELLS // set_to.downsample
    cells = cells.reshape(side, set_to.downsample, side, set_to.downsample).mean((1, 3))
    cells = (cells - cells.min()) / (cells.max() - cells.min())
    boxes = naive_regions(cells, set_to, image.size)
    if set_to.steps == 1 and not set_to.overrun:
        return boxes[0], [], len(boxes)
    asked: list[tuple[Box, float]] = []
    for box in boxes:
        enough = len(asked) >= set_to.steps
        if enough and not (set_to.overrun and max(sure for _, sure in asked) <= 0.5):
            break
        asked.append((box, sureness(image.crop(box))))
    return asked[first_best([sure for _, sure in asked])][0], asked, len(boxes)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(9, 200), st.integers(9, 200), st.integers(0, 10**6), st.sampled_from(["row", "column"]),
    st.fixed_dictionaries({
        "steps": st.integers(1, 5), "overrun": st.booleans(), "first_layer": st.integers(0, 3),
        "sigma": st.sampled_from([0, 0.7, 1.0]), "downsample": st.sampled_from([1, 2]),
        "anchors": st.sampled_from([None, 6, 20]), "distance": st.sampled_from([0, 1.5, 2, 3]),
        "least_cells": st.integers(1, 3), "most_cells": st.integers(3, 7), "growth": st.sampled_from([0.3, 0.5, 0.8]),
        "max_overlap": st.sampled_from([0, 0.3, 0.6, 1]),
    }),
)  # fmt: skip
def test_focus_takes_the_region_of_the_published_search(
    width: int, height: int, seed: int, normalise: str, keys: dict[str, Any]
) -> None:
    image = noise(width, height, seed)
    set_to = Focus(**{**keys, "normalise": normalise, "existence": EXISTENCE})
    item = replace(an_input(candidates=[]), image=image, text="What is the color of the small ball?")
    vlm = CacheVLM()
    (selection,) = set_to.select([item], Tools(vlm=vlm))  # type: ignore[arg-type]
    box, asked, _ = naive_focus(image, "small ball", 3, set_to)
    steps = [(step.box, step.score) for step in selection.trace if step.kind == "existence"]
    assert [step[0] for step in steps] == [step[0] for step in asked]
    assert [step[1] for step in steps] == pytest.approx([step[1] for step in asked])
    (view,) = selection.views
    assert view.box == box
    assert view.kind == ("overview" if box == (0, 0, width, height) else "crop")
    assert vlm.spent == 1 + len(asked)


def test_the_pseudo_attention_is_figure_7_for_every_token_of_a_target() -> None:
    image = noise(64, 64, 3)
    values = CacheVLM()._values(an_input().request([image], "a red ball lies here"), [1, 3])
    for normalise in ("row", "column"):
        rows = pseudo_attention(values, [1, 2], normalise)
        assert rows.shape == (2, CELLS * CELLS)
        for row, token in zip(rows, (1, 2), strict=True):
            np.testing.assert_allclose(row / row.sum(), figure_7(values, [token], normalise), rtol=1e-3, atol=1e-6)


def test_two_targets_are_shown_together_apart_or_beside_the_overview() -> None:
    image = noise(400, 80, 5)
    item = replace(an_input(candidates=[]), image=image, text="Is the red ball left of the cube?")
    near = Focus(existence=EXISTENCE, first_layer=0, far=10**6)
    boxes = [naive_focus(image, target, 3, near)[0] for target in ("red ball", "cube")]
    chosen = {
        name: selector.select([item], Tools(vlm=CacheVLM()))[0].views  # type: ignore[arg-type]
        for name, selector in {
            "together": near, "apart": replace(near, far=0), "beside": replace(near, show="overview_and_crops"),
        }.items()
    }  # fmt: skip
    assert boxes[0] != boxes[1]
    assert [view.box for view in chosen["together"]] == [union_box(boxes)]
    (collage,) = chosen["apart"]
    assert (collage.kind, collage.box) == ("collage", union_box(boxes))
    assert {part.source for part in collage.parts} == set(boxes)
    assert [view.box for view in chosen["beside"]] == [(0, 0, 400, 80), *boxes]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.5, 0.6]), st.integers(2, 6), st.booleans())
def test_a_question_about_all_of_a_kind_takes_every_region_that_is_sure(
    seed: int, threshold: float, steps: int, overrun: bool
) -> None:
    """Type 2: all regions that were asked and are above the threshold, the surest where none is."""
    image = noise(160, 160, seed)
    set_to = Focus(existence=EXISTENCE, first_layer=0, steps=steps, overrun=overrun, show="overview_and_crops",
                   all_threshold=threshold)  # fmt: skip
    item = replace(an_input(candidates=[]), image=image, text="How many small balls are there?")
    (selection,) = set_to.select([item], Tools(vlm=CacheVLM()))  # type: ignore[arg-type]
    box, asked, _ = naive_focus(image, "small ball", 3, set_to)
    sure = [region for region, confidence in asked if confidence > threshold]
    whole, *crops = selection.views
    assert [view.box for view in crops] == (sure or [box])
    assert [mark.box for mark in whole.marks] == [view.box for view in crops]
    (surest,) = replace(set_to, all_threshold=None).select([item], Tools(vlm=CacheVLM()))  # type: ignore[arg-type]
    assert [view.box for view in surest.views[1:]] == [box]
    together = replace(set_to, show="crop", far=10**6)
    (selection,) = together.select([item], Tools(vlm=CacheVLM()))  # type: ignore[arg-type]
    assert [view.box for view in selection.views] == [union_box(sure or [box])]


def test_marks_are_drawn_into_the_overview_alone() -> None:
    image = noise(240, 120, 5)
    item = replace(an_input(candidates=[]), image=image, text="Where is the ball?")
    selector = Focus(existence=EXISTENCE, first_layer=0, show="overview_and_crops")
    vlm = CacheVLM()
    (selection,) = selector.select([item], Tools(vlm=vlm))  # type: ignore[arg-type]
    whole, crop = selection.views
    (left, top, right, bottom), before = crop.box, np.asarray(image)
    # 240 / 120 = 2 pixels of red around the box, cut to the image, where the line then lies inside.
    x0, y0, x1, y1 = max(0, left - 2), max(0, top - 2), min(240, right + 2), min(120, bottom + 2)
    expected = before.copy()
    expected[y0:y1, x0:x1] = (255, 0, 0)
    expected[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = before[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
    np.testing.assert_array_equal(np.asarray(whole.pixels(image)), expected)
    np.testing.assert_array_equal(np.asarray(crop.pixels(image)), before[top:bottom, left:right])
    (plain,) = replace(selector, marks=False).select([item], Tools(vlm=CacheVLM()))  # type: ignore[arg-type]
    assert plain.views[0].pixels(image) is image


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30), st.sampled_from([0, 60]), st.booleans())
def test_focus_stays_within_its_budget(seed: int, bound: int, over: int, overrun: bool) -> None:
    selector = Focus(existence=EXISTENCE, first_layer=0, over=over, overrun=overrun, steps=6)
    text = "Is the red ball left of the small cube?"
    item = replace(an_input(candidates=[]), image=noise(120, 120, seed), text=text)
    vlm = CacheVLM(bound)
    (selection,) = selector.select([item], Tools(vlm=vlm))  # type: ignore[arg-type]
    assert vlm.spent <= bound
    tiles = 1 if over == 0 else 4
    maps = sum(step.kind == "map" for step in selection.trace)
    assert maps == min(2, bound // tiles) * (64 if over == 0 else 256)
    if bound < tiles:
        assert [view.kind for view in selection.views] == ["overview"]


def test_tiles_are_asked_one_by_one_and_lie_side_by_side() -> None:
    image = noise(160, 80, 9)
    selector = Focus(existence=EXISTENCE, first_layer=2, over=80, steps=1, overrun=False, sigma=0)
    item = replace(an_input(candidates=[]), image=image, text="Where is the ball?")
    vlm = CacheVLM()
    (selection,) = selector.select([item], Tools(vlm=vlm))  # type: ignore[arg-type]
    assert (vlm.spent, vlm.asked) == (2, [])
    halves = [image.crop(box) for box in ((0, 0, 80, 80), (80, 0, 160, 80))]
    values = [
        CacheVLM()._values(item.request([half], EXISTENCE.replace("{target}", "ball")), [2, 3]) for half in halves
    ]
    rows = np.concatenate([pseudo_attention(each, [3], "row")[0].reshape(CELLS, CELLS) for each in values], axis=1)
    cells = rows / rows.sum()
    cells = (cells - cells.min()) / (cells.max() - cells.min())
    assert selection.views[0].box == naive_regions(cells, selector, image.size)[0]


@pytest.mark.parametrize(
    ("pieces", "template", "target", "places"),
    [
        (("\n", "Is", "there", "a", "red", "star", "in", "it", "?"), EXISTENCE, "red star", [4, 5]),
        (("Is there", " a", " st", "ar in", " it?", " ASSISTANT", ":"), EXISTENCE, "star", [2, 3]),
        (("Is", " there", " a", " Tür", " in", " it", "?"), EXISTENCE, "Tür", [3]),
        (("Is", " there", " a", "\ufffd", "\ufffd", " in", " it", "?"), EXISTENCE, "犬", [3, 4]),
        (("a", "star", "is", "here", "a", "star"), "{target} is here", "a star", [0, 1]),
        (("Is", "there", "a", "in", "in", "it?"), EXISTENCE, "in", [3]),
    ],
)
def test_the_targets_tokens_are_found(pieces: tuple[str, ...], template: str, target: str, places: list[int]) -> None:
    assert target_tokens(pieces, template, target) == places


def test_a_target_that_is_not_in_the_prompt_is_that_questions_error() -> None:
    with pytest.raises(QuestionError, match="'star'"):
        target_tokens(("something", "else"), EXISTENCE, "star")


@pytest.mark.parametrize(
    "keys",
    [
        {"steps": 0}, {"steps": 1.5}, {"overrun": "yes"}, {"normalise": "both"}, {"sigma": -1}, {"downsample": 0},
        {"anchors": 0}, {"distance": -1}, {"least_cells": 0}, {"most_cells": 2}, {"growth": 1.5}, {"max_overlap": -0.1},
        {"over": -1}, {"existence": "Is it there?"}, {"words": ("yes",)}, {"far": -1}, {"show": "both"},
        {"max_forwards": -1}, {"first_layer": 0.5}, {"marks": "red"}, {"all_threshold": 1.5},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(keys: dict[str, Any]) -> None:
    ((key, _),) = keys.items()
    with pytest.raises(ConfigError, match=rf"selector\.{key}"):
        Focus(**keys)


def test_layers_that_the_model_has_not_are_refused() -> None:
    for keys in ({"first_layer": 4}, {"first_layer": 2, "last_layer": 1}, {"first_layer": -5}):
        with pytest.raises(ConfigError, match=r"it has 4"):
            Focus(existence=EXISTENCE, **keys).select([an_input()], Tools(vlm=CacheVLM()))  # type: ignore[arg-type]


def test_needs_are_those_of_the_settings() -> None:
    assert Focus().needs == {"values", "confidence"}
    assert Focus(steps=1, overrun=False).needs == {"values"}


def test_in_the_program_it_keeps_its_budget_whatever_the_batch(tmp_path: Path) -> None:
    written = []
    for batch in (1, 4):
        output = tmp_path / str(batch)
        run = ["profile=mini", "selector=focus", "selector.max_forwards=11", "run.limit=6"]
        assert cli.main([*run, f"run.batch_size={batch}", f"run.output_dir={output}"]) == 0
        (samples,) = output.glob("mini/vstar/*/focus/*/samples.jsonl")
        records = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        assert all(0 < record["cost"]["forwards"] <= 11 for record in records)
        written.append([(record["question_id"], record["views"]) for record in records])
        (row,) = read_rows(output / "runs.csv")
        assert (row["n_error"], row["uses_truth"]) == ("0", "false")
    assert written[0] == written[1]


def test_a_model_without_values_is_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = ["model=openai", "model.base_url=http://127.0.0.1:9/v1", "model.model=x"]
    for model in (served, ["model=smolvlm_256m"]):
        assert cli.main(["profile=mini", *model, "selector=focus", f"run.output_dir={tmp_path}"]) == 2
        message = capsys.readouterr().err
        assert "selector=focus" in message
        assert "values" in message
