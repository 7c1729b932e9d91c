"""Pruning selectors: each score against a naive transcription, budgets and scopes, known regions, the program."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semclip_eval import cli
from semclip_eval.errors import ConfigError
from semclip_eval.models.insight import TokenBoxes, ViewTokens
from semclip_eval.relevance.base import PatchMap
from semclip_eval.results.summary import read_rows
from semclip_eval.selectors import token_scores
from semclip_eval.selectors.base import PruneInput, SelectionInput
from semclip_eval.selectors.no_crop import NoCrop
from semclip_eval.selectors.sparse import SCORES, Sparse
from semclip_eval.selectors.tools import Tools
from semclip_eval.types import Box, Selection, View

seeds = st.integers(0, 10_000)


def features(seed: int, tokens: int, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(tokens, width))


def divprune(vectors: np.ndarray, count: int) -> list[int]:
    """The published loop: distances 1 - cosine; the first by its second smallest distance in the whole matrix."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = 1 - units @ units.T
    chosen: list[int] = []
    for step in range(count):
        if step == 0:
            scores = np.sort(distance, axis=0)[1]
        else:
            scores = distance[chosen].min(axis=0)
        chosen.append(int(scores.argmax()))
    return sorted(chosen)


@given(seed=seeds, tokens=st.integers(2, 30), data=st.data())
def test_max_min_is_divprunes_loop(seed: int, tokens: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, tokens))
    vectors = features(seed, tokens)
    assert token_scores.max_min(vectors, count) == divprune(vectors, count)


def best_determinant(kernel: np.ndarray, chosen: list[int]) -> int:
    """The item that makes the largest determinant with those chosen, by computing each."""
    others = [item for item in range(len(kernel)) if item not in chosen]
    determinants = [np.linalg.det(kernel[np.ix_([*chosen, item], [*chosen, item])]) for item in others]
    return others[int(np.argmax(determinants))]


@given(seed=seeds, tokens=st.integers(2, 12), theta=st.sampled_from([None, 0.3, 0.8]))
def test_conditional_dpp_is_greedy_in_the_determinant(seed: int, tokens: int, theta: float | None) -> None:
    vectors, relevance = features(seed, tokens, 16), np.random.default_rng(seed + 1).normal(size=tokens)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    r = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    if theta is not None:
        r = np.exp(theta / (2 * (1 - theta)) * r)
    kernel = np.outer(r, r) * (units @ units.T)
    count = min(tokens - 1, 6)  # the last token has r = 1e-6: its determinant is below what det can tell
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(best_determinant(kernel, chosen))
    assert token_scores.conditional_dpp(vectors, relevance, count, theta) == sorted(chosen)


@given(scores=st.lists(st.floats(-1, 1), min_size=1, max_size=40), data=st.data())
def test_best_takes_the_highest_and_the_earlier_of_equals(scores: list[float], data: st.DataObject) -> None:
    rounded = [round(score, 3) for score in scores]
    count = data.draw(st.integers(1, len(rounded)))
    expected = sorted(sorted(range(len(rounded)), key=lambda index: (-rounded[index], index))[:count])
    assert token_scores.best(np.array(rounded), count) == expected
    noisy = np.array(rounded) + np.random.default_rng(0).uniform(-1e-7, 1e-7, len(rounded))
    assert token_scores.best(noisy, count) == expected


def test_best_takes_what_has_no_score_last() -> None:
    assert token_scores.best(np.array([np.nan, -5.0, np.nan, 1.0]), 3) == [0, 1, 3]


@given(tokens=st.integers(1, 100), data=st.data())
def test_evenly_spaced_tokens_are_distinct_and_even(tokens: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, tokens))
    chosen = token_scores.evenly_spaced(tokens, count)
    assert len(set(chosen)) == count
    assert chosen == sorted(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < tokens
    steps = np.diff(chosen)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


@given(tokens=st.lists(st.integers(1, 60), min_size=1, max_size=6), data=st.data())
def test_a_shared_budget_is_spent_in_proportion(tokens: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, sum(tokens)))
    parts = token_scores.shared_out(count, tokens)
    assert sum(parts) == count
    assert all(0 <= part <= number for part, number in zip(parts, tokens, strict=True))
    assert all(abs(part - count * number / sum(tokens)) < 1 for part, number in zip(parts, tokens, strict=True))


# --- the selector -----------------------------------------------------------------------------------------------------


class MapOfBrightness:
    """A ψ whose map is the brightness of the picture's pixels, a patch each 4 x 4."""

    def patch_maps(self, pictures):  # type: ignore[no-untyped-def]
        maps = []
        for image, _ in pictures:
            pixels = np.asarray(image.convert("L"), float)
            rows, columns = pixels.shape[0] // 4, pixels.shape[1] // 4
            boxes = [(4 * x, 4 * y, 4 * x + 4, 4 * y + 4) for y in range(rows) for x in range(columns)]
            scores = [pixels[top:bottom, left:right].mean() for left, top, right, bottom in boxes]
            maps.append(PatchMap(np.array(boxes, float), np.array(scores) / 255))
        return maps


def grid_boxes(side: int, cells: int, newline: bool = False, padded_rows: int = 0) -> TokenBoxes:
    """Tokens of a square view row by row; optionally a token without a place after each row, and padding below."""
    boxes, padding = [], []
    edge = side / (cells - padded_rows)
    for row in range(cells):
        for column in range(cells):
            boxes.append([column * side / cells, row * edge, (column + 1) * side / cells, (row + 1) * edge])
            padding.append(row >= cells - padded_rows)
        if newline:
            boxes.append([np.nan] * 4)
            padding.append(False)
    return TokenBoxes(np.array(boxes), np.array(padding), np.zeros(len(boxes), bool))


def pruning(image: Image.Image, boxes: list[TokenBoxes], views: list[View], question_id: str = "q") -> PruneInput:
    generator = torch.Generator().manual_seed(3)
    tokens = [
        ViewTokens(
            torch.randn(len(each.boxes), 5, generator=generator), torch.rand(len(each.boxes), generator=generator)
        )
        for each in boxes
    ]
    item = SelectionInput(question_id, "i", image, "what?", (), None, 0)
    return PruneInput(item, Selection(tuple(views)), tuple(tokens), tuple(boxes))


def bright_spot(x: int, y: int) -> Image.Image:
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (x, y, x + 8, y + 8))
    return image


WHOLE = View("overview", Box(0, 0, 32, 32))
TOOLS = Tools(psi=MapOfBrightness())  # type: ignore[arg-type]


@given(column=st.integers(0, 3), row=st.integers(0, 3))
def test_dense_psi_keeps_the_tokens_where_its_map_is_high(column: int, row: int) -> None:
    given_ = pruning(bright_spot(8 * column, 8 * row), [grid_boxes(32, 4)], [WHOLE])
    (kept,) = Sparse(inner=NoCrop("no_crop"), score="dense_psi", keep_ratio=None, keep_tokens=1).prune([given_], TOOLS)
    assert kept is not None
    assert kept.indices == ((4 * row + column,),)


def test_padding_is_kept_last_and_row_ends_follow_their_rows() -> None:
    boxes = grid_boxes(32, 4, newline=True, padded_rows=1)
    given_ = pruning(bright_spot(8, 0), [boxes], [WHOLE])
    selector = Sparse(inner=NoCrop("no_crop"), score="dense_psi", keep_ratio=None, keep_tokens=12)
    (kept,) = selector.prune([given_], TOOLS)
    assert kept is not None
    # Three rows of four tokens hold the picture, each with its end; the padded row and its end are gone.
    assert kept.indices == (tuple(range(15)),)
    (kept,) = Sparse(inner=NoCrop("no_crop"), score="dense_psi", keep_ratio=None, keep_tokens=1).prune([given_], TOOLS)
    assert kept is not None
    assert kept.indices == ((1, 4),)


@pytest.mark.parametrize("score", SCORES)
@settings(max_examples=25)
@given(ratio=st.floats(0.05, 1), views=st.integers(1, 3), scope=st.sampled_from(["view", "question"]))
def test_budgets_hold_whatever_the_score(score: str, ratio: float, views: int, scope: str) -> None:
    crops = [WHOLE, *(View("crop", Box(4 * n, 0, 4 * n + 16, 16)) for n in range(views - 1))]
    given_ = pruning(bright_spot(8, 8), [grid_boxes(view.box.width, 4) for view in crops], crops)
    selector = Sparse(inner=NoCrop("no_crop"), score=score, keep_ratio=ratio, scope=scope)
    (kept,) = selector.prune([given_], TOOLS)
    if scope == "view":
        expected = [min(16, max(1, int(ratio * 16 + 0.5)))] * views
        assert kept is None or [len(view) for view in kept.indices] == expected
        assert (kept is None) == (expected == [16] * views)
    else:
        total = min(16 * views, max(1, int(ratio * 16 * views + 0.5)))
        assert sum(len(view) for view in kept.indices) == total if kept else total == 16 * views
    for view in kept.indices if kept else ():
        assert list(view) == sorted(set(view))
    assert kept == selector.prune([given_], TOOLS)[0]


@pytest.mark.parametrize("score", SCORES)
def test_a_question_is_pruned_alike_alone_and_among_others(score: str) -> None:
    questions = [pruning(bright_spot(4 * n, 8), [grid_boxes(32, 4)], [WHOLE], f"q{n}") for n in range(4)]
    selector = Sparse(inner=NoCrop("no_crop"), score=score, keep_ratio=0.4)
    together = selector.prune(questions[::-1], TOOLS)[::-1]
    assert together == [selector.prune([question], TOOLS)[0] for question in questions]


def test_random_tokens_depend_on_seed_and_question_alone() -> None:
    assert token_scores.drawn(40, 10, 0, "a", 0) == token_scores.drawn(40, 10, 0, "a", 0)
    assert token_scores.drawn(40, 10, 0, "a", 0) != token_scores.drawn(40, 10, 1, "a", 0)
    counts = np.zeros(20)
    for question in range(2000):
        counts[token_scores.drawn(20, 5, 0, question, 0)] += 1
    assert abs(counts / 2000 - 0.25).max() < 0.05  # five standard errors


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"score": "best"}, r"selector\.score=best"),
        ({"keep_ratio": 0}, r"selector\.keep_ratio=0"),
        ({"keep_ratio": 1.5}, r"selector\.keep_ratio=1\.5"),
        ({"keep_tokens": 4}, r"selector\.keep_tokens=4"),
        ({"keep_ratio": None}, r"selector\.keep_ratio=None"),
        ({"keep_ratio": None, "keep_tokens": 0}, r"selector\.keep_tokens=0"),
        ({"scope": "image"}, r"selector\.scope=image"),
        ({"positions": "new"}, r"selector\.positions=new"),
        ({"theta": 1}, r"selector\.theta=1"),
        ({"inner": Sparse(inner=NoCrop("no_crop"))}, r"selector\.inner=sparse"),
    ],
)
def test_wrong_values_are_named(keys: dict, place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        Sparse(**{"inner": NoCrop("no_crop"), **keys})


def records(folder: Path) -> list[dict]:
    (samples,) = folder.glob("mini/vstar/mini_llava/sparse/*/samples.jsonl")
    return [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("score", SCORES)
def test_the_program_prunes_the_same_whatever_the_batch(score: str, tmp_path: Path, capsys) -> None:
    for batch in (1, 4):
        arguments = ["profile=mini", "selector=sparse", f"selector.score={score}", "selector.keep_ratio=0.3"]
        limits = ["run.limit=8", f"run.batch_size={batch}", f"run.output_dir={tmp_path / str(batch)}"]
        assert cli.main([*arguments, *limits]) == 0
    alone, together = records(tmp_path / "1"), records(tmp_path / "4")
    (row,) = read_rows(tmp_path / "1" / "runs.csv")
    assert (float(row["encoded_tokens_mean"]), float(row["visual_tokens_mean"])) == (98, 30)
    for one, other in zip(alone, together, strict=True):
        assert (one["kept"], one["choice"]) == (other["kept"], other["choice"])
        assert [len(view) for view in one["kept"]] == [15, 15]
        sides = [[view["box"][2] - view["box"][0], view["box"][3] - view["box"][1]] for view in one["views"]]
        assert [view["token_grids"] for view in one["views"]] == [[[0, 7, 7, 7, 0, 0, *side]] for side in sides]


def test_a_model_that_cannot_prune_is_refused_before_the_run(tmp_path: Path, capsys) -> None:
    code = cli.main(
        ["profile=mini", "model=openai", "model.base_url=http://127.0.0.1:9/v1", "model.model=x", "selector=sparse"]
    )
    assert code == 2
    assert "selector=sparse" in capsys.readouterr().err


def test_inner_keys_are_those_of_its_own_config(tmp_path: Path, capsys) -> None:
    arguments = ["profile=mini", "selector=sparse", "selector.inner=semclip", "selector.inner.top_k=2", "run.limit=2"]
    assert cli.main([*arguments, f"run.output_dir={tmp_path}"]) == 0
    assert all(len(record["views"]) == 3 for record in records(tmp_path))
    assert cli.main(["profile=mini", "selector=sparse", "selector.inner=nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
    assert cli.main(["profile=mini", "selector=semclip", "selector.inner=no_crop"]) == 2
    assert "selector.inner" in capsys.readouterr().err
