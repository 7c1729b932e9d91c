"""HiDe against a transcription of its published code: same boxes, same canvas; known regions, families, the program."""

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
from semclip_eval.crops import coverage
from semclip_eval.errors import ConfigError
from semclip_eval.measure.stages import StageClock
from semclip_eval.models.insight import AttentionRows, TokenBoxes
from semclip_eval.models.transformers.layout import grid
from semclip_eval.results.summary import read_rows
from semclip_eval.selectors.base import SelectionInput
from semclip_eval.selectors.components import compact, merged
from semclip_eval.selectors.hide import BACKGROUNDS, EXTRACTION, Hide
from semclip_eval.selectors.tools import BudgetExceeded, SelectorVLM, Tools
from semclip_eval.types import Answer, Box, Request, Selection, View
from tests.fakes import ComputedVLM
from tests.published_hide import joined, naive_hide

SEARCH = "find these: {entities}"


class WordVLM(ComputedVLM):
    """Two layers of three heads; a token a word. The map of a word comes from `look(word, image)`, (rows, columns).

    Before the words stands one token of the template, behind them three. `extracted` is what it writes.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"attention"})
    layers = 2

    def __init__(self, look: Any, extracted: str = "") -> None:
        super().__init__()
        self.look, self.extracted = look, extracted
        self.texts: list[str] = []

    def prepare(self, request: Request) -> Any:
        prepared = super().prepare(request)
        prepared.images = request.images
        return prepared

    def token_boxes(self, sizes: Sequence[tuple[int, int]]) -> list[TokenBoxes]:
        found = []
        for width, height in sizes:
            rows, columns = self.look("", Image.new("RGB", (width, height))).shape
            boxes = grid(rows, columns, (0, 0, width, height))
            found.append(TokenBoxes(boxes, np.zeros(len(boxes), bool), np.zeros(len(boxes), bool)))
        return found

    def answer(self, batch: Sequence[Any]) -> list[Answer]:
        self.texts += [prepared.prompt.text for prepared in batch]
        assert all(not prepared.images for prepared in batch)
        return [Answer(text=self.extracted, new_tokens=3) for _ in batch]

    def attention_rows(self, batch: Sequence[Any], layers: Sequence[int], query: Any) -> list[AttentionRows]:
        assert query == "text"
        rows = []
        for prepared in batch:
            text = prepared.prompt.text
            self.texts.append(text)
            words, spans, place = ["<image ends>"], [None], 0
            for word in text.split(" "):
                words.append(word)
                spans.append((max(0, place - 1), place + len(word)))  # as byte-level tokens: with the space before
                place += len(word) + 1
            words += ["<turn ends>", "<model>", "<begins>"]
            maps = np.stack([self.look(word, prepared.images[0]).reshape(-1) for word in words])
            # Layers and heads differ; their mean is the map.
            shares = torch.tensor([[0.5, 1.0, 1.5], [0.2, 1.8, 1.0]])[list(layers)]
            weights = shares[:, :, None, None] * torch.from_numpy(maps)
            rows.append(AttentionRows(weights, tuple(range(len(words))), (maps.shape[1],), (*spans, None, None, None)))
        return rows


def chosen(selector: Hide, vlm: WordVLM, image: Image.Image, text: str = "Is it the cup?") -> tuple[Selection, Any]:
    item = SelectionInput("q", "i", image, text, (), None, 0)
    facade = SelectorVLM(vlm, selector.needs, selector.max_forwards, StageClock("cpu", on=False))
    (selection,) = selector.select([item], Tools(vlm=facade))
    return selection, facade.cost("q")


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8))


class Random:
    """A map for each word, smooth enough to have islands."""

    def __init__(self, rows: int, columns: int, seed: int) -> None:
        self.shape, self.seed = (rows, columns), seed

    def __call__(self, word: str, image: Image.Image) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *word.encode()])
        return rng.random(self.shape) ** 4


@settings(max_examples=30)
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 9), width=st.integers(9, 130), height=st.integers(9, 130),
    seed=st.integers(0, 10**6), sigma=st.sampled_from([0.0, 0.7, 1.0, 3.0]), threshold=st.floats(0.3, 1.0),
    trailing=st.integers(0, 2), background=st.sampled_from(list(BACKGROUNDS)),
)  # fmt: skip
def test_the_canvas_is_that_of_the_published_code(
    rows: int, columns: int, width: int, height: int, seed: int, sigma: float, threshold: float, trailing: int,
    background: str,
) -> None:  # fmt: skip
    image, look = noise(width, height, seed), Random(rows, columns, seed)
    selector = Hide(search=SEARCH, sigma=sigma, threshold=threshold, trailing=trailing, background=background)
    selection, cost = chosen(selector, WordVLM(look, "<FINAL_OUTPUT>cup, red mug</FINAL_OUTPUT>"), image)
    words = ["find", "these:", "cup,", "red", "mug", "<turn ends>", "<model>"][: 5 + trailing]
    maps = np.stack([look(word, image) for word in words])
    pixels, boxes = naive_hide(maps, 2, image, sigma, threshold, BACKGROUNDS[background])
    whole, *rest = selection.views
    assert whole == View("overview", Box(0, 0, width, height))
    if pixels is None:
        assert not rest
    else:
        np.testing.assert_array_equal(np.asarray(rest[0].pixels(image)), pixels)
        assert sorted(map(tuple, rest[0].sources)) == sorted(map(tuple, boxes))
    assert selection.measures["regions"] == len(boxes)
    covered = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
    assert selection.measures["shown"] == pytest.approx(covered / (width * height))
    assert (cost.forwards, cost.new_tokens) == (2, 3)


BOXES = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h),
    st.integers(0, 60), st.integers(0, 60), st.integers(1, 20), st.integers(1, 20),
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(BOXES, min_size=1, max_size=8))
def test_merged_boxes_are_those_of_the_published_loop_and_keep_their_order_on_the_canvas(boxes: list[Box]) -> None:
    apart = merged(boxes)
    assert sorted(map(tuple, apart)) == sorted(map(tuple, joined([list(box) for box in boxes])))
    view = compact(apart)
    places = [(part.source, part.place) for part in view.parts] or [(apart[0], Box(0, 0, *view.size))]
    for source, place in places:
        assert (source.width, source.height) == (place.width, place.height)
        for other, there in places:
            for low, high in ((0, 2), (1, 3)):
                if source[high] <= other[low]:  # left of stays left of, above stays above
                    assert place[high] <= there[low]


class Spots:
    """Six by six cells; the words of `seen` look at bright patches of their colour, all others at the corner."""

    def __init__(self, **seen: int) -> None:
        self.seen = seen

    def __call__(self, word: str, image: Image.Image) -> np.ndarray:
        cells = np.asarray(image.resize((6, 6), Image.Resampling.BOX), float) / 255
        map_ = np.full((6, 6), 0.1)
        map_[0, 0] = 3.1
        if word.strip(",") in self.seen:
            map_ = map_ + 3 * cells[..., self.seen[word.strip(",")]]
        return map_


def test_two_targets_are_shown_in_their_layout_and_what_every_word_looks_at_is_not() -> None:
    image = Image.new("RGB", (600, 300))
    cup, mug = Box(500, 50, 600, 100), Box(200, 250, 300, 300)
    image.paste((250, 0, 0), cup)
    image.paste((0, 250, 0), mug)
    selector = Hide(entities="noun_phrases", search=SEARCH, sigma=0, trailing=0)
    vlm = WordVLM(Spots(cup=0, mug=1))
    selection, cost = chosen(selector, vlm, image, "Is the cup on the left side of the mug?")
    _, collage = selection.views
    assert vlm.texts == ["find these: cup, mug"]
    assert [tuple(part.source) for part in collage.parts] == [tuple(cup), tuple(mug)]
    assert [tuple(part.place) for part in collage.parts] == [(100, 0, 200, 50), (0, 50, 100, 100)]
    assert collage.pixels(image).getpixel((0, 0)) == (255, 255, 255)
    assert (cost.forwards, cost.new_tokens) == (1, 0)
    assert "vlm" not in selector.needs
    # Without noise words the corner is shown as well.
    bare, _ = chosen(Hide(entities="noun_phrases", search="{entities}", sigma=0, trailing=0), vlm, image, "a cup?")
    assert coverage(Box(0, 0, 100, 50), bare.views[1].sources) == 1


def test_a_single_region_is_a_crop_and_a_margin_widens_it() -> None:
    image = Image.new("RGB", (600, 300))
    image.paste((250, 0, 0), (500, 50, 600, 100))
    selector = Hide(entities="noun_phrases", search=SEARCH, sigma=0, trailing=0, margin=30)
    selection, _ = chosen(selector, WordVLM(Spots(cup=0)), image)
    assert selection.views[1] == View("crop", Box(470, 20, 600, 130))


def test_tiles_are_read_alone_and_their_maps_put_side_by_side() -> None:
    image, spot = Image.new("RGB", (720, 360)), Box(620, 80, 660, 100)
    image.paste((250, 0, 0), spot)
    # 3 x 6 tiles of 120 pixels, cells of 20; each tile has a bright corner of its own, which the noise words share.
    selector = Hide(entities="noun_phrases", search=SEARCH, sigma=0, trailing=0, over=120)
    selection, cost = chosen(selector, WordVLM(Spots(cup=0)), image)
    assert cost.forwards == 18
    assert selection.views[1].sources == (spot,)


@pytest.mark.parametrize(
    ("written", "searched"),
    [
        ("<FINAL_OUTPUT>glove</FINAL_OUTPUT>", "glove"),
        ("I think: <FINAL_OUTPUT>\ncup with red color, dog\n</FINAL_OUTPUT> done", "cup with red color, dog"),
        ("glove", "glove"),  # without marks all of it
        ("<FINAL_OUTPUT>glove", "glove"),
        ("<FINAL_OUTPUT></FINAL_OUTPUT>", "Is it the cup?"),  # nothing named: the question itself
        ("", "Is it the cup?"),
    ],
)
def test_entities_are_read_as_published(written: str, searched: str) -> None:
    vlm = WordVLM(Random(3, 3, 0), written)
    chosen(Hide(search=SEARCH), vlm, noise(30, 30, 0))
    assert vlm.texts == [EXTRACTION.replace("{question}", "Is it the cup?"), f"find these: {searched}"]


def test_no_word_that_rises_above_the_noise_leaves_the_overview_alone() -> None:
    selection, _ = chosen(Hide(entities="noun_phrases", search=SEARCH), WordVLM(Spots()), noise(30, 30, 0))
    assert [view.kind for view in selection.views] == ["overview"]
    assert selection.measures == {"regions": 0, "shown": 0}


def test_wrong_settings_are_refused_and_a_budget_is_kept() -> None:
    wrong = {
        "entities": "parsed", "background": "grey", "search": "look", "extraction": "list", "sigma": -1,
        "threshold": 0, "trailing": -1, "over": -5, "margin": 1.5, "extraction_tokens": 0, "layers": [],
        "max_forwards": 0,
    }  # fmt: skip
    for key, value in wrong.items():
        with pytest.raises(ConfigError, match=rf"selector\.{key}="):
            Hide(**{key: value})
    vlm, image = WordVLM(Random(3, 3, 0), "cup"), noise(30, 30, 0)
    with pytest.raises(ConfigError, match=r"selector\.layers=\[2\]"):
        chosen(Hide(layers=(2,)), vlm, image)
    chosen(Hide(layers=(-1, 0), max_forwards=2), vlm, image)
    with pytest.raises(BudgetExceeded, match=r"selector\.max_forwards=1"):
        chosen(Hide(max_forwards=1), vlm, image)


def test_in_the_program_choices_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    lines = []
    for number in range(4):
        noise(504, 504, number).save(tmp_path / f"{number}.png")
        lines.append(
            json.dumps({"image": f"{number}.png", "question": "What is the color of the star?", "answer": "red"})
        )
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    data = ["profile=mini", "benchmark=custom", f"benchmark.path={tmp_path}/questions.jsonl", "selector=hide"]
    views = []
    for batch in (1, 4):
        folder = tmp_path / str(batch)
        assert cli.main([*data, f"run.batch_size={batch}", f"run.output_dir={folder}"]) == 0
        (samples,) = folder.glob("mini/*/mini_llava/hide/*/samples.jsonl")
        records = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        assert {record["status"] for record in records} <= {"ok", "unparsed"}
        assert any(view["kind"] != "overview" for record in records for view in record["views"])
        views.append([record["views"] for record in records])
    assert views[0] == views[1]
    (row,) = read_rows(tmp_path / "1" / "runs.csv")
    assert (row["uses_truth"], row["n_error"], float(row["forwards_mean"])) == ("false", "0", 9)


def test_a_model_without_attention_is_refused_before_the_run(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"image": "none.png", "question": "Is it red?", "answer": "yes"}))
    data = ["benchmark=custom", f"benchmark.path={tmp_path}/one.jsonl", f"run.output_dir={tmp_path}"]
    model = ["model=openai", "model.base_url=http://127.0.0.1:9/v1", "model.model=x"]
    assert cli.main(["profile=mini", *data, *model, "selector=hide"]) == 2
    assert "selector=hide" in capsys.readouterr().err
