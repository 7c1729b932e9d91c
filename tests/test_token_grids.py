"""`token_grids`: where the tokens of a view lie, as a record and the report have it, against formulas by hand.

The families' layouts are asked without weights: an object that has only what the layout is made from.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semclip_eval.answers.recording import _views
from semclip_eval.models.transformers.internvl import InternVL
from semclip_eval.models.transformers.layout import grid, grids_of, placeless, token_boxes, with_newlines
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.models.transformers.llava_next import LlavaNext
from semclip_eval.models.transformers.llava_onevision import LlavaOnevision
from semclip_eval.models.transformers.qwen3_vl import Qwen3VL
from semclip_eval.models.transformers.qwen25_vl import Qwen25VL
from semclip_eval.report.viewer import _bits, token_grids
from semclip_eval.types import Box, View


def rectangles(grids: list[list[float]]) -> dict[int, tuple[float, ...]]:
    """By token its rectangle, as a reader of the record would work it out."""
    found = {}
    for first, rows, columns, step, left, top, right, bottom in grids:
        wide, high = (right - left) / columns, (bottom - top) / rows
        for row in range(int(rows)):
            for column in range(int(columns)):
                x, y = left + column * wide, top + row * high
                found[int(first + row * step + column)] = (x, y, x + wide, y + high)
    return found


def without_weights(family: type, **attributes: Any) -> Any:
    model = object.__new__(family)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def size(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def qwen(family: type, patch: int) -> Any:
    bounds = {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 10**7}
    return without_weights(family, image_processor=SimpleNamespace(patch_size=patch, merge_size=2), size=bounds)


# A view of 300 x 200 pixels, the box (40, 50, 340, 250) of its image: by family the number of tokens, and of some of
# them the rectangle in pixels of the original image.
FAMILIES = {
    # 4 x 4 over the square of side 300 whose upper edge is 50 above the view; a class token first.
    "llava-1.5": (
        without_weights(Llava15, side=4, tokens_per_view=17), 17,
        {1: (40, 0, 115, 75), 6: (115, 75, 190, 150), 16: (265, 225, 340, 300)},
    ),
    # The view stretched to 2 x 2 tokens. Then on a canvas of 4 x 4 tokens of 10 pixels, scaled by 40 / 300: it fills
    # 26.7 of the 40 pixels. Rows of padding are cut off in pairs: rows 1 and 2 stay, canvas pixels 10 to 30,
    # which are (10 - 6.67) * 7.5 = 25 to 175 of the view. A newline behind each row.
    "llava-next": (
        without_weights(LlavaNext, patches=2, tile=20, whole_tokens=4, canvases=[(40, 40)]), 4 + 2 * 5,
        {0: (40, 50, 190, 150), 3: (190, 150, 340, 250),
         4: (40, 75, 115, 150), 9: (40, 150, 115, 225), 12: (265, 150, 340, 225)},
    ),
    # One tile of the padded square for a view that is not alone, and a newline.
    "llava-onevision": (
        without_weights(LlavaOnevision, patches=3, settings=SimpleNamespace(tiles="single_view")), 10,
        {0: (40, 0, 140, 100), 8: (240, 200, 340, 300)},
    ),
    # Three by two tiles of 2 x 2 tokens, tile by tile, then the whole view as one tile.
    "internvl": (
        without_weights(InternVL, tile_grid=(2, 2), most_patches=6,
                        image_processor=SimpleNamespace(size=size(100), min_patches=6)), 28,
        {0: (40, 50, 90, 100), 1: (90, 50, 140, 100), 4: (140, 50, 190, 100),
         12: (40, 150, 90, 200), 27: (190, 150, 340, 250)},
    ),
    # 300 x 200 becomes 308 x 196: eleven by seven tokens of 28 pixels, stretched back.
    "qwen2.5-vl": (
        qwen(Qwen25VL, 14), 77,
        {0: (40, 50, 40 + 300 / 11, 50 + 200 / 7), 76: (340 - 300 / 11, 250 - 200 / 7, 340, 250)},
    ),
    # 288 x 192: nine by six tokens of 32 pixels.
    "qwen3-vl": (qwen(Qwen3VL, 16), 54, {10: (40 + 300 / 9, 50 + 200 / 6, 40 + 600 / 9, 50 + 400 / 6)}),
}  # fmt: skip


@pytest.fixture
def resizing(monkeypatch) -> None:
    """What transformers says of a view of 300 x 200, without a second's import: three tiles across, two down; sides
    rounded to whole tokens. The families' own tests ask transformers itself.
    """
    tiles = SimpleNamespace(get_optimal_tiled_canvas=lambda size, tile, least, most: (3, 2))
    whole = SimpleNamespace(
        smart_resize=lambda height, width, token, least, most: (
            round(height / token) * token,
            round(width / token) * token,
        )
    )
    for name, module in (("got_ocr2.image_processing_got_ocr2", tiles), ("qwen2_vl.image_processing_qwen2_vl", whole)):
        package, _, _ = name.partition(".")
        monkeypatch.setitem(sys.modules, f"transformers.models.{package}", SimpleNamespace(__path__=[]))
        monkeypatch.setitem(sys.modules, f"transformers.models.{name}", module)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_familys_tokens_lie_where_a_hand_puts_them(name: str, resizing: None) -> None:
    model, count, by_hand = FAMILIES[name]
    boxes = model.token_boxes([(300, 200)] * 2)[0].boxes
    grids = grids_of(boxes)
    assert len(boxes) == count
    # The layout, number by number: what has no place is in no grid.
    found = rectangles(grids)
    assert set(found) == set(np.flatnonzero(~np.isnan(boxes[:, 0])).tolist())
    np.testing.assert_allclose([found[token] for token in sorted(found)], boxes[sorted(found)], atol=0.02)
    for token, rectangle in by_hand.items():
        shifted = np.add(found[token], (40, 50, 40, 50))
        np.testing.assert_allclose(shifted, rectangle, atol=0.02, err_msg=f"token {token}")
    assert len(grids) == {"llava-next": 2, "internvl": 7}.get(name, 1)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 2)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_grids_of_is_the_inverse_of_any_layout(parts: list[tuple[int, int, int, bool, int]]) -> None:
    layout = []
    for number, (before, rows, columns, newlines, shift) in enumerate(parts):
        cells = grid(rows, columns, (shift, 100 * number, shift + 7 * columns, 100 * number + 9 * rows))
        layout += [placeless(before), with_newlines(cells, rows) if newlines else cells]
    boxes = np.concatenate(layout)
    found = rectangles(grids_of(boxes))
    assert set(found) == set(np.flatnonzero(~np.isnan(boxes[:, 0])).tolist())
    for token, rectangle in found.items():
        np.testing.assert_allclose(rectangle, boxes[token], atol=0.02)
    assert grids_of(np.empty((0, 4))) == []


def test_a_record_says_where_the_tokens_lie_where_some_were_dropped_and_else_nothing() -> None:
    views = [View("overview", Box(0, 0, 90, 60)), View("crop", Box(10, 0, 40, 60))]
    sizes = [view.size for view in views]
    layouts = [token_boxes([grid(2, 3, (0, 0, *size))], *size) for size in sizes]
    assert [view.get("token_grids") for view in _views(views, layouts)] == [
        [[0, 2, 3, 3, 0, 0, 90, 60]], [[0, 2, 3, 3, 0, 0, 30, 60]]
    ]  # fmt: skip
    assert all("token_grids" not in view for view in _views(views, ()))


def test_bits_follow_the_grids_and_older_records_of_llava_are_known() -> None:
    grids = [[1, 2, 3, 4, 0, 0, 30, 20]]  # tokens 1 2 3, 5 6 7
    assert _bits({0, 1, 4, 6, 7}, grids) == "8c"  # 100 011, filled up
    view = {"kind": "crop", "box": [10, 10, 40, 30]}
    record = {"kept": [[1]], "encoded_tokens": 5, "views": [view]}
    assert token_grids(record, is_square=True) == [[[1, 2, 2, 2, 0, -5, 30, 25]]]
    assert token_grids(record, is_square=False) == []
    assert token_grids(record | {"views": [view | {"token_grids": grids}]}, is_square=False) == [grids]
    assert token_grids(record | {"kept": None}, is_square=True) == []
