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
from semclip_eval.selectors.patches import joined, side_by_side, widened
from semclip_eval.selectors.rap import Rap
from semclip_eval.selectors.tools import Tools
from semclip_eval.selectors.zoom import Zoom, split
from semclip_eval.types import BLUE, RED, Box, Mark, Request
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
    image: Image.Image, side: int, base: float, theta: float, least: float, falls: list[float], both: bool, alone: bool
) -> tuple[Any, list[Any]]:
    """`zoom_eye_search_type1` for LLaVA-1.5 with the whole tree in memory: (box or None, boxes that were answered)."""
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

    def priority(box: tuple[int, ...]) -> float:
        weight = base + (1 - base) * (depth[box] / deepest) ** 2 if both else 1.0
        return weight * ask(box, "exists?") + (1 - weight) * (ask(box, "found?") if both else 0)

    root = (0, 0, *image.size)
    deepest = grow(root, 0)
    depth, queue, trace, candidates = {root: 0}, [root], [], list[tuple[int, ...]]()
    answered: dict[tuple[int, ...], float] = {}
    limit, bottom, falls = 3 * deepest, False, list(falls)
    while queue:
        box = queue.pop(0)
        trace.append(box)
        if box != root or alone:
            answered[box] = ask(box, "answer?")
        if answered.get(box, -1) >= theta and box in answered:
            candidates.append(box)
            if alone or bottom:
                break
        elif len(trace) >= limit:
            theta -= falls[0]
            if len(falls) > 1:
                falls.pop(0)
            limit += 2
            candidates += [each for each in answered if answered[each] >= theta and each not in candidates]
            if len(candidates) > 1:
                candidates = sorted(candidates, key=lambda each: answered[each], reverse=True)[:1]
            if candidates or theta < least:
                break
        if not tree[box]:
            bottom = True
            if candidates and not alone:
                break
        for child in tree[box]:
            depth[child] = depth[box] + 1
            queue.append(child)
        queue.sort(key=priority, reverse=True)
    candidates.sort(key=lambda each: depth[each], reverse=True)
    return candidates[0] if candidates else None, list(answered.items())


@settings(max_examples=60)
@given(
    st.integers(30, 220), st.integers(30, 220), st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.6]),
    st.sampled_from([-0.4, 0.1, 0.5, 0.95]), st.sampled_from([-0.2, 0.1, 0.4]),
    st.sampled_from([[0.1, 0.1, 0.2], [0.05, 0.1, 0.2]]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_zoom_visits_the_patches_of_the_published_search(
    width: int, height: int, seed: int, base: float, top: float, least: float, falls: list[float], both: bool,
    alone: bool,
) -> None:  # fmt: skip
    image = noise(width, height, seed)
    selector = Zoom(
        side=40, far=100, base_weight=base, threshold=top, least=least, falls=tuple(falls), existence="exists?",
        latent="found?" if both else "", answering="answer?", near=0,
    )  # fmt: skip
    # No noun phrase: one target, the text itself. Of two targets this VLM says the same, so that both have one result.
    text = "the of" if alone else "Is the ball left of the cube?"
    item = replace(an_input(candidates=[]), image=image, text=text)
    (selection,) = selector.select([item], Tools(vlm=RedVLM()))  # type: ignore[arg-type]
    box, looked = naive_zoom(image, 40, base, top, least, falls, both, alone)
    visited = [(tuple(step.box), pytest.approx(step.score)) for step in selection.trace]
    assert visited == looked * (1 if alone else 2)
    whole = Box(0, 0, width, height)
    assert selection.views[-1].box == (whole if box is None else widened(Box(*box), 40, image.size))
    assert len(selection.views) == 1


def naive_all(image: Image.Image, side: int, threshold: float) -> list[tuple[int, ...]]:
    """`post_order_search` to depth 2, as the source has it."""
    found: list[tuple[int, ...]] = []

    def search(box: tuple[int, ...], depth: int) -> float:
        highest = -1.0
        if depth < 2:
            for child in split(Box(*box), side, depth):
                highest = max(highest, search(child, depth + 1))
        shown = Box(*box) if depth == 0 else widened(Box(*box), side, image.size)
        existence = 2 * (redness(image.crop(shown), "exists?") - 0.5)
        if existence >= max(highest, threshold):
            found.append(box)
        return max(highest, existence)

    search((0, 0, *image.size), 0)
    return found


@settings(max_examples=40)
@given(st.integers(30, 220), st.integers(30, 220), st.integers(0, 10**6), st.sampled_from([-0.3, 0.2, 0.6]))
def test_zoom_shows_all_patches_of_a_question_about_all(width: int, height: int, seed: int, threshold: float) -> None:
    image, vlm = noise(width, height, seed), RedVLM()
    selector = Zoom(side=40, far=10**6, all_threshold=threshold, existence="exists?", answering="answer?", near=0)
    item = replace(an_input(candidates=[]), image=image, text="How many balls are there?")
    (selection,) = selector.select([item], Tools(vlm=vlm))  # type: ignore[arg-type]
    boxes = [widened(Box(*box), 40, image.size) for box in naive_all(image, 40, threshold)]
    assert [view.box for view in selection.views] == [union_box(boxes) if boxes else (0, 0, width, height)]
    assert {text for text, _ in vlm.asked} == {"exists?"}
    bounded = RedVLM(3)
    selector.select([item], Tools(vlm=bounded))  # type: ignore[arg-type]
    assert bounded.spent <= 3
    alike = replace(selector, all_threshold=None)
    (as_others,) = alike.select([item], Tools(vlm=RedVLM()))  # type: ignore[arg-type]
    assert as_others.trace[0].kind == "zoom"


class SeenVLM(RedVLM):
    """Keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[tuple[str, tuple[Image.Image, ...]]]()

    def confidence(self, requests: Sequence[Request]) -> list[float]:
        self.seen += [(request.prompt.text, request.images) for request in requests]
        return super().confidence(requests)


def test_zoom_beside_the_overview_marks_patches_and_enlarges_them() -> None:
    """The procedure of the families with an overview: rectangles, larger patches, the whole image may be enough."""
    pixels = np.zeros((240, 480, 3), np.uint8)
    pixels[150:240, 330:480, :2] = 255
    image = Image.fromarray(pixels)
    selector = Zoom(side=70, threshold=0.9, existence="{target} exists?", answering="{question} answer?", scale=1.2,
                    show="overview_and_crop")  # fmt: skip
    item = replace(an_input(candidates=[]), image=image, text="the of")
    vlm = SeenVLM()
    (selection,) = selector.select([item], Tools(vlm=vlm))  # type: ignore[arg-type]
    whole, patch = selection.views
    # 480 x 240 is cut into 4 x 1, the last of them into 1 x 4, each 120 x 60: widened to 120 x 70, both sides 1.2 times
    # as long, moved inside.
    assert patch.box == (480 - 144, 240 - 84, 480, 240)
    assert whole.marks == (Mark(patch.box, RED),)
    # 480 // 120 = 4 pixels thick, outside of the box and cut to the image.
    expected = pixels.copy()
    expected[152:240, 332:336] = expected[152:156, 332:480] = (255, 0, 0)
    expected[236:240, 332:480] = expected[152:240, 476:480] = (255, 0, 0)
    np.testing.assert_array_equal(np.asarray(whole.pixels(image)), expected)
    pairs = [images for _, images in vlm.seen if len(images) == 2 and images[1].size == (144, 84)]
    assert any(np.array_equal(np.asarray(overview), expected) for overview, _ in pairs)
    (plain,) = replace(selector, marks=False).select([item], Tools(vlm=SeenVLM()))  # type: ignore[arg-type]
    assert plain.views[0].marks == ()
    text = "Is the ball left of the red rectangle?"
    (blue,) = selector.select([replace(item, text=text)], Tools(vlm=SeenVLM()))  # type: ignore[arg-type]
    assert {mark.color for mark in blue.views[0].marks} == {BLUE}


def test_zoom_beside_the_overview_does_not_search_what_the_whole_image_answers() -> None:
    """`filter_visual_cues`: with several targets one that is answerable on the whole image ends it all."""
    image = Image.new("RGB", (300, 200), (250, 0, 0))
    item = replace(an_input(candidates=[]), image=image, text="Is the ball left of the cube?")
    selector = Zoom(
        side=70, existence="exists?", answering="{question} answer?", target_question="Where is the {target}?"
    )
    beside, vlm = replace(selector, show="overview_and_crop"), RedVLM()
    (selection,) = beside.select([item], Tools(vlm=vlm))  # type: ignore[arg-type]
    assert [view.kind for view in selection.views] == ["overview"]
    assert [text for text, _ in vlm.asked] == ["Where is the ball? answer?", "Where is the cube? answer?"]
    crop, vlm = replace(selector, show="crop"), RedVLM()
    crop.select([item], Tools(vlm=vlm))  # type: ignore[arg-type]
    assert (300, 200) not in {size for text, size in vlm.asked if "answer" in text}


def test_boxes_that_are_near_are_joined_and_only_two_stand_side_by_side() -> None:
    boxes = [Box(0, 0, 20, 20), Box(100, 0, 120, 20), Box(300, 40, 320, 60)]
    # 80 pixels lie between the first two: both reach 40 farther and meet only if they overlap.
    assert joined(boxes, 40) == boxes
    assert joined(boxes, 41) == [Box(0, 0, 120, 20), Box(300, 40, 320, 60)]
    assert joined([Box(0, 0, 10, 10), Box(30, 0, 40, 10), Box(8, 0, 32, 10)]) == [Box(0, 0, 40, 10)]
    item = replace(an_input(candidates=[]), image=Image.new("RGB", (400, 100)))
    selector = Zoom(side=20, far=100, near=10, existence="exists?", answering="answer?")
    assert [view.kind for view in selector._views(item, boxes)] == ["crop"]
    (view,) = replace(selector, near=41)._views(item, boxes)
    assert [tuple(part.place) for part in view.parts] == [(0, 0, 120, 20), (120, 40, 140, 60)]


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
    theta, limit, falls = 1.3, math.floor(5 * math.log(max(1, width * height // tile**2), 4)), [0.1, 0.1, 0.2]
    one = False
    for step in range(1, max_step + 1):
        if not waiting:
            break
        best = max(waiting, key=lambda each: each[0])
        waiting.remove(best)
        matrix, value = seen[best[1]]
        if one and value > theta:
            break
        if step >= limit:
            theta -= falls[0]
            falls, limit = falls[1:] or falls, limit + 5
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


def test_rap_asks_with_the_whole_prompt_or_what_psi_reads() -> None:
    item = replace(an_input(candidates=[]), image=noise(60, 60, 1), text="red ball", instruction="Red?\nA. yes\nB. no")
    for template, text in (
        (Rap().answering, "Question: Red?\nA. yes\nB. no\nCould you answer the question based on the available visual "
                          "information? Answer Yes or No."),
        ("{question} {target} answer?", "red ball red ball answer?"),
    ):  # fmt: skip
        vlm = RedVLM()
        Rap(tile=30, max_step=1, answering=template).select([item], Tools(GreenRelevance(), vlm))  # type: ignore[arg-type]
        assert {asked for asked, _ in vlm.asked} == {text}


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
        (lambda: Zoom(answering="a", falls=()), r"selector\.falls"),
        (lambda: Zoom(answering="a", falls=(0.1, 0)), r"selector\.falls"),
        (lambda: Zoom(answering="a", scale=0.5), r"selector\.scale=0\.5"),
        (lambda: Zoom(answering="a", near=-1), r"selector\.near=-1"),
        (lambda: Zoom(answering="a", all_threshold="high"), r"selector\.all_threshold"),  # type: ignore[arg-type]
        (lambda: Zoom(answering="a", marks="red"), r"selector\.marks"),  # type: ignore[arg-type]
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
