"""The VLM's own box: answers of every format, frames, what is asked, the choice, refusals, shrunken families."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semclip_eval import cli
from semclip_eval.errors import ConfigError
from semclip_eval.measure.stages import StageClock
from semclip_eval.models.grounding import INTERNVL, QWEN3_VL, QWEN25_VL, THOUSAND
from semclip_eval.selectors.base import SelectionInput
from semclip_eval.selectors.self_box import SelfBox
from semclip_eval.selectors.tools import BudgetExceeded, SelectorVLM, Tools
from semclip_eval.types import Answer, Box, Prompt, Selection, View
from tests.fakes import ComputedVLM

FENCED = '```json\n[\n\t{"bbox_2d": [341, 258, 397, 321], "label": "metal head of the trowel"}\n]\n```'
TWO = '```json\n[\n  {"bbox_2d": [10, 20, 60, 80], "label": "a"},\n  {"bbox_2d": [100, 20, 160, 80]}\n]\n```'


@pytest.mark.parametrize(
    ("answer", "boxes"),
    [
        (FENCED, [(341, 258, 397, 321)]),
        (TWO, [(10, 20, 60, 80), (100, 20, 160, 80)]),
        ('{"bbox_2d": [10, 20, 60, 80], "label": "a [red] cup"}', [(10, 20, 60, 80)]),
        ('[{"bbox_2d":[10,20,60,80],"label":"cut off by the token li', [(10, 20, 60, 80)]),
        ("The cup is at [10.2, 20.0, 60.9, 80.0].", [(10, 20, 61, 80)]),  # floats: rounded outwards
        ("[ 60 ,80,\n10, 20 ]", [(10, 20, 60, 80)]),  # corners the other way round
        ("[60, 20, 10, 80]", [(10, 20, 60, 80)]),
        ("[-15, 20, 60, 476]", [(0, 20, 60, 448)]),  # beyond the image: cut
        ("[600, 20, 700, 80]", []),  # beside it
        ("[10, 20, 10, 80]", []),  # no area
        ('[{"bbox_2d": [600, 20, 700, 80]}, {"bbox_2d": [1, 2, 3, 4]}]', [(1, 2, 3, 4)]),
        ('{"point_2d": [10, 20], "label": "cup"}', []),
        ('{"bbox_3d": [1, 2, 3, 4, 5, 6, 7, 8, 9]}', []),
        ("[10, 20, 60]", []),
        ("[x1, y1, x2, y2]", []),
        ("There is no cup in the image.", []),
        ("10, 20, 60, 80", []),
        ("", []),
    ],
)
def test_absolute_boxes_in_json_are_read(answer: str, boxes: list[tuple[int, ...]]) -> None:
    assert QWEN25_VL.read(answer, (560, 448), 560, 448) == boxes


@pytest.mark.parametrize(
    ("answer", "boxes"),
    [
        ("<ref>cup</ref><box>[[250, 500, 750, 1000]]</box>", [(50, 50, 150, 100)]),
        ("cup[[250, 500, 750, 1000]]", [(50, 50, 150, 100)]),  # decoding leaves special tokens out
        ("cup[[0, 0, 500, 500], [500, 500, 1000, 1000]]", [(0, 0, 100, 50), (100, 50, 200, 100)]),
        ("[[0.25, 0.5, 0.75, 1.0]]", [(50, 50, 150, 100)]),  # fractions, as the family's evaluation reads them
        ("[[750, 1000, 250, 500]]", [(50, 50, 150, 100)]),
        ("[[900, 900, 1100, 1040]]", [(180, 90, 200, 100)]),
        ("[[0, 0, 1, 2]]", [(0, 0, 200, 100)]),
        ("<box></box>", []),
    ],
)
def test_thousandths_in_brackets_are_read(answer: str, boxes: list[tuple[int, ...]]) -> None:
    assert INTERNVL.read(answer, THOUSAND, 200, 100) == boxes


def test_thousandths_in_json_are_read_and_never_as_fractions() -> None:
    assert QWEN3_VL.read(FENCED, THOUSAND, 2000, 1000) == [(682, 258, 794, 321)]
    assert QWEN3_VL.read("[0, 0, 1, 2]", THOUSAND, 2000, 1000) == [(0, 0, 2, 2)]


@given(
    st.tuples(*[st.floats(-300, 1500, allow_nan=False)] * 4), st.integers(1, 3000), st.integers(1, 3000), st.booleans()
)
def test_a_box_lies_in_the_image_and_holds_what_was_written(
    numbers: tuple[float, ...], width: int, height: int, as_json: bool
) -> None:
    written = [round(number, 3) for number in numbers]
    text = json.dumps({"bbox_2d": written}) if as_json else f"<box>[{written}]</box>"
    boxes = QWEN3_VL.read(text, THOUSAND, width, height)
    left, right = sorted((written[0], written[2]))
    top, bottom = sorted((written[1], written[3]))
    part = min(min(right, 1000) - max(left, 0), min(bottom, 1000) - max(top, 0))
    assert len(boxes) == 1 or part < 1e-6
    assert not boxes or part > -1e-6
    for box in boxes:
        assert 0 <= box.left < box.right <= width
        assert 0 <= box.top < box.bottom <= height
        assert box.left <= max(0, left / 1000 * width) + 1e-6
        assert box.right >= min(width, right / 1000 * width) - 1e-6


def test_prompts_are_those_of_the_families() -> None:
    assert QWEN25_VL.prompt("red cup", 99).text == "Locate the red cup, output its bbox coordinates using JSON format."
    asked = INTERNVL.prompt("red <ref>cup", 99)
    assert asked == Prompt(
        "Please provide the bounding box coordinate of the region this sentence describes: <ref>red cup</ref>",
        max_new_tokens=99, specials=("<ref>", "</ref>"),
    )  # fmt: skip


# --- the choice -------------------------------------------------------------------------------------------------------


class PointingVLM(ComputedVLM):
    """Answers by the target in the prompt; boxes are in pixels of an input of twice the image's size."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"boxes"})
    grounding = QWEN25_VL

    def __init__(self, **answers: str) -> None:
        super().__init__()
        self.answers, self.asked = answers, list[str]()

    def box_frame(self, width: int, height: int) -> tuple[float, float]:
        return 2 * width, 2 * height

    def answer(self, batch: Sequence[Any]) -> list[Answer]:
        texts = [prepared.prompt.text for prepared in batch]
        self.asked += texts
        return [
            Answer(text=next((said for word, said in self.answers.items() if word in text), "?"), new_tokens=7)
            for text in texts
        ]


def chosen(
    selector: SelfBox, vlm: ComputedVLM, text: str = "Is the cup on the left side of the mug?", size: int = 200
) -> tuple[Selection, Any]:
    item = SelectionInput("q", "i", Image.new("RGB", (size, 100)), text, (), None, 0)
    facade = SelectorVLM(vlm, selector.needs, selector.max_forwards, StageClock("cpu", on=False))
    (selection,) = selector.select([item], Tools(vlm=facade))
    return selection, facade.cost("q")


CUP, MUG = '{"bbox_2d": [20, 40, 100, 120]}', '[{"bbox_2d": [300, 0, 400, 99]}, {"bbox_2d": [0, 0, 9, 9]}]'


def test_each_target_is_asked_for_and_its_first_box_is_shown() -> None:
    vlm = PointingVLM(cup=CUP, mug=MUG)
    selection, cost = chosen(SelfBox(), vlm)
    assert vlm.asked == [QWEN25_VL.prompt(name, 9).text for name in ("cup", "mug")]
    assert selection.views == (
        View("overview", Box(0, 0, 200, 100)), View("crop", Box(10, 20, 50, 60)), View("crop", Box(150, 0, 200, 50)),
    )  # fmt: skip
    assert [step.box for step in selection.trace] == [(10, 20, 50, 60), (150, 0, 200, 50)]
    assert selection.measures == {"unread": 0}
    assert (cost.forwards, cost.new_tokens) == (2, 14)


def test_what_cannot_be_read_gives_no_crop_and_is_counted() -> None:
    one, _ = chosen(SelfBox(), PointingVLM(cup="I see no cup.", mug=MUG))
    assert [view.box for view in one.views[1:]] == [(150, 0, 200, 50)]
    assert one.measures == {"unread": 0.5}
    none, _ = chosen(SelfBox(), PointingVLM(cup="no", mug="[500, 0, 600, 50]"))  # the second beside the image
    assert [view.kind for view in none.views] == ["overview"]
    assert none.measures == {"unread": 1}


def test_the_question_itself_may_be_asked_and_targets_are_bounded() -> None:
    vlm = PointingVLM(cup=CUP)
    selection, cost = chosen(SelfBox(targets="question"), vlm)
    assert "Is the cup on the left side of the mug?" in vlm.asked[0]
    assert (len(selection.views), cost.forwards) == (2, 1)
    vlm = PointingVLM(cup=CUP, mug=MUG)
    assert len(chosen(SelfBox(most_targets=1), vlm)[0].views) == 2
    assert chosen(SelfBox(max_forwards=1), vlm)[1].forwards == 1
    same = PointingVLM(cup=CUP, mug=CUP)
    assert len(chosen(SelfBox(), same)[0].views) == 2  # one box, one crop
    # Without a noun phrase the question takes its place.
    assert chosen(SelfBox(), PointingVLM(which=CUP), "which is it?")[0].measures == {"unread": 0}


def test_margin_and_least_side_stay_in_the_image() -> None:
    wide, _ = chosen(SelfBox(margin=0.1, most_targets=1), PointingVLM(cup=CUP))
    assert wide.views[1].box == (0, 10, 70, 70)
    small, _ = chosen(SelfBox(side=50, most_targets=1), PointingVLM(cup="[396, 196, 400, 200]"))
    assert small.views[1].box == (150, 50, 200, 100)


def test_wrong_settings_are_refused() -> None:
    wrong = {"targets": "all", "most_targets": 0, "margin": 2, "side": 0, "max_new_tokens": 0, "max_forwards": 0}
    for key, value in wrong.items():
        with pytest.raises(ConfigError, match=rf"selector\.{key}={value}"):
            SelfBox(**{key: value})  # type: ignore[arg-type]


def test_a_spent_budget_is_an_error_and_not_a_missing_box() -> None:
    vlm = PointingVLM(cup=CUP)
    item = SelectionInput("q", "i", Image.new("RGB", (9, 9)), "a cup?", (), None, 0)
    facade = SelectorVLM(vlm, {"boxes"}, 1, StageClock("cpu", on=False))
    SelfBox().select([item], Tools(vlm=facade))
    with pytest.raises(BudgetExceeded):
        SelfBox().select([item], Tools(vlm=facade))


@pytest.mark.parametrize(
    "model", [[], ["model=llava15_7b", "model.path=nowhere"], ["model=openai", "model.base_url=http://127.0.0.1:9/v1"]]
)
def test_a_model_that_writes_no_boxes_is_refused_before_the_run(model: list[str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"image": "none.png", "question": "Is it red?", "answer": "yes"}))
    data = ["benchmark=custom", f"benchmark.path={tmp_path}/one.jsonl", f"run.output_dir={tmp_path}"]
    assert cli.main(["profile=mini", *data, *model, "selector=self_box"]) == 2
    assert "selector=self_box needs boxes" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="'boxes'"):
        ComputedVLM().box_prompt("cup", 9)
    with pytest.raises(ConfigError, match="'boxes'"):
        ComputedVLM().read_boxes(FENCED, 9, 9)
