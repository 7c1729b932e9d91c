"""Attention guidance: the window against ViCrop's procedure written out, maps by hand, known regions, the program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semclip_eval import cli
from semclip_eval.crops import Grid, coverage
from semclip_eval.errors import ConfigError
from semclip_eval.measure.stages import StageClock
from semclip_eval.models.insight import AttentionRows, Gradients, TokenBoxes
from semclip_eval.relevance.base import PatchMap
from semclip_eval.results.summary import read_rows
from semclip_eval.selectors.attention import MAPS, Attention
from semclip_eval.selectors.base import SelectionInput
from semclip_eval.selectors.tools import BudgetExceeded, SelectorVLM, Tools
from semclip_eval.selectors.windows import RATIOS, adaptive_window, best_candidate, regular_map
from semclip_eval.types import Box, Request
from tests.fakes import ComputedVLM


def vicrops_box(att: np.ndarray, size: tuple[int, int], side: float) -> tuple[int, int, int, int]:
    """The published procedure, window by window."""
    found = []
    block = size[0] / att.shape[1], size[1] / att.shape[0]
    for ratio in RATIOS:
        number = min(int(side * ratio / block[0]), att.shape[1]), min(int(side * ratio / block[1]), att.shape[0])
        if att.shape[1] - number[0] < 1 and att.shape[0] - number[1] < 1:
            if ratio == 1:
                return 0, 0, size[0], size[1]
            continue
        sliding = np.zeros((att.shape[0] - number[1] + 1, att.shape[1] - number[0] + 1))
        most, place = -np.inf, (0, 0)
        for x in range(sliding.shape[1]):
            for y in range(sliding.shape[0]):
                sliding[y, x] = att[y : y + number[1], x : x + number[0]].sum()
                if sliding[y, x] > most:
                    most, place = sliding[y, x], (x, y)
        beside = []
        if place[0] > 0:
            beside.append(sliding[place[1], place[0] - 1])
        if place[0] < sliding.shape[1] - 1:
            beside.append(sliding[place[1], place[0] + 1])
        if place[1] > 0:
            beside.append(sliding[place[1] - 1, place[0]])
        if place[1] < sliding.shape[0] - 1:
            beside.append(sliding[place[1] + 1, place[0]])
        found.append(((most - np.mean(beside)) / (number[0] * number[1]), place, number, side * ratio))
    _, place, number, length = max(found, key=lambda each: each[0])
    x = int(place[0] * block[0] + block[0] * number[0] / 2)
    y = int(place[1] * block[1] + block[1] * number[1] / 2)
    half = length // 2
    x = half if x < half else x
    y = half if y < half else y
    x = size[0] - half if x > size[0] - half else x
    y = size[1] - half if y > size[1] - half else y
    return int(max(0, x - half)), int(max(0, y - half)), int(min(size[0], x + half)), int(min(size[1], y + half))


@settings(max_examples=200)
@given(
    rows=st.integers(3, 24), columns=st.integers(3, 24), seed=st.integers(0, 9999), width=st.integers(340, 2000),
    height=st.integers(340, 2000), share=st.floats(0.12, 0.9),
)  # fmt: skip
def test_the_window_is_vicrops(rows: int, columns: int, seed: int, width: int, height: int, share: float) -> None:
    att = np.random.default_rng(seed).random((rows, columns))
    # A window of at least one cell, and no longer than the image: beyond that the source has no meaning.
    side = max(share * min(width, height) / 2, 1.01 * width / columns, 1.01 * height / rows)
    if 2 * side > min(width, height):
        return
    assert adaptive_window(att, width, height, side) == vicrops_box(att, (width, height), side)


@pytest.mark.parametrize("size", [(500, 2000), (2000, 500), (30, 30), (5000, 40)])
def test_a_window_lies_in_any_image(size: tuple[int, int]) -> None:
    for shape in ((24, 24), (1, 1), (2, 40)):
        box = adaptive_window(np.random.default_rng(0).random(shape), *size, 336)
        assert 0 <= box.left < box.right <= size[0]
        assert 0 <= box.top < box.bottom <= size[1]


def test_a_map_of_tiles_of_tokens_is_its_tokens() -> None:
    boxes = np.array([[x, y, x + 10, y + 10] for y in (0, 10) for x in (0, 10, 20)], float)
    np.testing.assert_allclose(regular_map(PatchMap(boxes, np.arange(6.0)), 30, 20), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    assert best_candidate(PatchMap(boxes, np.arange(6.0)), [Box(0, 0, 10, 20), Box(20, 0, 30, 20)]) == (1, [1.5, 3.5])


# --- a VLM that looks at bright pixels --------------------------------------------------------------------------------

CELLS = 6
FLAT = 0.1


class BrightVLM(ComputedVLM):
    """Two layers of two heads. It attends to bright tokens where it is asked `what`, to all alike otherwise.

    A view is padded to a square as LLaVA-1.5 does, and the padding draws most attention.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"attention", "gradients"})
    layers = 2

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[tuple[int, int]] = []

    def prepare(self, request: Request) -> Any:
        prepared = super().prepare(request)
        prepared.images = request.images
        return prepared

    def token_boxes(self, sizes: Sequence[tuple[int, int]]) -> list[TokenBoxes]:
        found = []
        for width, height in sizes:
            side = max(width, height)
            step, x, y = side / CELLS, (side - width) / 2, (side - height) / 2
            boxes = np.array(
                [
                    [c * step - x, r * step - y, (c + 1) * step - x, (r + 1) * step - y]
                    for r in range(CELLS)
                    for c in range(CELLS)
                ]
            )
            outside = (boxes[:, 2] <= 0) | (boxes[:, 3] <= 0) | (boxes[:, 0] >= width) | (boxes[:, 1] >= height)
            found.append(TokenBoxes(boxes, outside, np.zeros(len(boxes), bool)))
        return found

    def _brightness(self, prepared: Any) -> torch.Tensor:
        (image,) = prepared.images
        self.pictures.append(image.size)
        side = max(image.size)
        square = Image.new("L", (side, side), 20)
        square.paste(image.convert("L"), ((side - image.width) // 2, (side - image.height) // 2))
        pixels = np.array(square.resize((CELLS, CELLS), Image.Resampling.BOX), float).reshape(-1) / 255
        pixels[self.token_boxes([image.size])[0].padding] = 1.0
        return torch.from_numpy(pixels).float()

    def attention_rows(self, batch: Sequence[Any], layers: Sequence[int], query: Any) -> list[AttentionRows]:
        rows = []
        for prepared in batch:
            bright = self._brightness(prepared)
            flat = torch.full_like(bright, FLAT)
            asked = bright if "what" in prepared.prompt.text else flat
            weights = torch.stack([torch.stack([flat, flat]), torch.stack([asked, flat])])[list(layers)]
            rows.append(AttentionRows(weights[:, :, None], (0,), (CELLS**2,)))
        return rows

    def gradients(
        self, batch: Sequence[Any], target: Any, layers: Sequence[int] = (), features: bool = False
    ) -> list[Gradients]:
        found = []
        for prepared in batch:
            bright = self._brightness(prepared)
            heads = torch.stack([bright, -bright])[None]  # the second head speaks against: its part is cut off
            weights = torch.full_like(heads, 0.25)
            found.append(Gradients(0.0, heads, weights, bright[:, None] * torch.ones(4) if features else None))
        return found


def spot(size: tuple[int, int], x: int, y: int, side: int = 20) -> tuple[Image.Image, Box]:
    image = Image.new("RGB", size, (20, 20, 20))
    box = Box(x, y, x + side, y + side)
    image.paste((250, 250, 250), box)
    return image, box


def chosen(selector: Attention, image: Image.Image, text: str = "what is it?", crops: Grid | None = None) -> Any:
    candidates = (crops or Grid("grid3x3", 3, 3)).candidates(*image.size)
    item = SelectionInput("q", "i", image, text, candidates, None, 0)
    facade = SelectorVLM(BrightVLM(), selector.needs, selector.max_forwards, StageClock("cpu", on=False))
    (selection,) = selector.select([item], Tools(vlm=facade))
    return selection, facade.cost("q")


COSTS = {"raw": (1, 0), "ratio": (2, 0), "difference": (2, 0), "laser": (2, 0)} | {
    "gradient": (1, 1),
    "entropy_gradient": (1, 1),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("size", [(240, 240), (300, 180), (120, 300)])
@settings(max_examples=10)
@given(x=st.floats(0, 1), y=st.floats(0, 1))
def test_the_crop_holds_what_the_vlm_looks_at(name: str, size: tuple[int, int], x: float, y: float) -> None:
    image, target = spot(size, int(x * (size[0] - 20)), int(y * (size[1] - 20)))
    selection, cost = chosen(Attention(map=name, layer=1, side=90), image)
    assert coverage(target, [selection.views[1].box]) > 0.5
    assert (cost.forwards, cost.backwards) == COSTS[name]
    if size[0] == size[1]:  # else a token may be as wide as a cell and lie half in each of two
        selection, _ = chosen(Attention(map=name, layer=1, box="candidate"), image)
        grid = Grid("grid3x3", 3, 3).candidates(*size)
        assert coverage(target, [selection.views[1].box]) >= max(coverage(target, [box]) for box in grid) / 2


def test_the_values_are_their_formulas() -> None:
    image, _ = spot((120, 120), 80, 40)
    bright = BrightVLM()._brightness(type("P", (), {"images": (image,)})).double().numpy()
    expected = {
        "raw": (bright + FLAT) / 2,
        "ratio": (bright + FLAT) / 2 / FLAT,
        "difference": np.maximum(0, (bright + FLAT) / 2 - FLAT),
        "laser": np.maximum(0, bright - FLAT) / 2,
        "gradient": bright * 0.25 / 2,
        "entropy_gradient": bright * 2,
    }
    for name, values in expected.items():
        selector = Attention(map=name, layer=1)
        facade = SelectorVLM(BrightVLM(), selector.needs, None, StageClock("cpu", on=False))
        item = SelectionInput("q", "i", image, "what?", (), None, 0)
        (found,) = selector._values(item, [image], facade)
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("size", [(500, 2000), (2000, 500), (900, 900)])
def test_tiles_are_looked_at_alone_and_put_side_by_side(size: tuple[int, int]) -> None:
    image, target = spot(size, size[0] - 130, size[1] - 130, 60)
    selector = Attention(map="raw", layer=1, over=450, side=200)
    selection, cost = chosen(selector, image)
    rows = -(-size[1] // 450)
    assert cost.forwards == rows * max(1, rows * size[0] // size[1])
    assert coverage(target, [selection.views[1].box]) == 1
    assert sum(step.kind == "map" for step in selection.trace) <= 256


def test_a_budget_is_kept_and_wrong_values_are_named() -> None:
    image, _ = spot((900, 900), 10, 10)
    with pytest.raises(BudgetExceeded):
        chosen(Attention(map="ratio", layer=1, over=300, max_forwards=17), image)
    chosen(Attention(map="ratio", layer=1, over=300, max_forwards=18), image)
    with pytest.raises(ConfigError, match=r"selector\.layer=2"):
        chosen(Attention(map="raw", layer=2), image)
    for key, value in {"map": "sum", "box": "round", "query": "first", "over": -1, "side": 0, "layer": 1.5}.items():
        with pytest.raises(ConfigError, match=rf"selector\.{key}={value}"):
            Attention(**{key: value})


def test_needs_are_those_of_the_settings() -> None:
    assert Attention(map="raw").needs == {"attention"}
    assert Attention(map="gradient", box="candidate").needs == {"gradients", "candidates"}


@pytest.mark.parametrize("name", MAPS)
def test_in_the_program_choices_do_not_depend_on_the_batch(name: str, tmp_path: Path, capsys: Any) -> None:
    boxes = []
    for batch in (1, 4):
        arguments = ["profile=mini", "selector=attention", f"selector.map={name}", "run.limit=4"]
        folder = tmp_path / str(batch)
        assert cli.main([*arguments, f"run.batch_size={batch}", f"run.output_dir={folder}"]) == 0
        (samples,) = folder.glob("mini/vstar/mini_llava/attention/*/samples.jsonl")
        records = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        assert [record["status"] for record in records] == ["ok"] * 4
        boxes.append([record["views"][1]["box"] for record in records])
    assert boxes[0] == boxes[1]
    (row,) = read_rows(tmp_path / "1" / "runs.csv")
    assert float(row["forwards_mean"]) >= 1


def test_a_model_without_attention_is_refused_before_the_run(capsys: Any) -> None:
    model = ["model=openai", "model.base_url=http://127.0.0.1:9/v1", "model.model=x"]
    assert cli.main(["profile=mini", *model, "selector=attention"]) == 2
    assert "selector=attention" in capsys.readouterr().err
