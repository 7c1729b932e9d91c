"""LLaVA-1.5 and the miniature: what they tell a selector, against plain eager transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature, LlavaForConditionalGeneration

from semclip_eval.mini import weights_folder
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.types import Prompt, Request
from tests.family_insight import check_insight, check_token_boxes
from tests.llava_small import save_llama_style, save_qwen_style


class PlainLlava:
    """A second instance of the model in plain transformers, fed the ids and pixels that tests/test_llava.py proves."""

    answer_lead = " "

    def __init__(self, folder: Path, vlm: Llava15) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.vlm = vlm
        self.processor = self
        self.tokenizer = self
        self.image_token = "<image>"

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.vlm.image_id

    def inputs(self, asked: Request, answer: str = "") -> Any:
        words = (answer.removeprefix(" "),) if answer else ()
        prepared = self.vlm.prepare(Request(asked.images, Prompt(asked.prompt.text, words)))
        ids = list(prepared.input_ids) + list(prepared.continuation_ids[0][:-1] if words else ())
        return BatchFeature(
            {
                "input_ids": torch.tensor([ids]),
                "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
                "pixel_values": prepared.pixel_values,
            }
        )

    def ids(self, asked: Request) -> list[int]:
        return self.inputs(asked).input_ids[0].tolist()


@pytest.mark.parametrize("style", ["mini", "llama", "qwen"])
def test_what_it_tells_a_selector_equals_plain_transformers(style: str, tmp_path: Path) -> None:
    folder = {"mini": lambda: Path(weights_folder("vlm")), "llama": lambda: save_llama_style(tmp_path),
              "qwen": lambda: save_qwen_style(tmp_path)}[style]()  # fmt: skip
    vlm = Llava15(name="small", hub_id=None, path=str(folder))
    check_insight(vlm, PlainLlava(folder, vlm))  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ["mini", "llama", "qwen"])
def test_its_tokens_have_places(style: str, tmp_path: Path) -> None:
    folder = {"mini": lambda: Path(weights_folder("vlm")), "llama": lambda: save_llama_style(tmp_path),
              "qwen": lambda: save_qwen_style(tmp_path)}[style]()  # fmt: skip
    vlm = Llava15(name="small", hub_id=None, path=str(folder))
    check_token_boxes(vlm, [(400, 300), (90, 340), (64, 64), (333, 777)])


def test_the_padding_of_the_square_is_flagged() -> None:
    vlm = Llava15(name="small", hub_id=None, path="mini://vlm")
    (tokens,) = vlm.token_boxes([(140, 70)])
    # 7 x 7 tokens over a square of 140: 20 pixels each, the image on rows 35 to 105.
    assert tokens.boxes[0].tolist() == [0, -35, 20, -15]
    assert tokens.boxes[-1].tolist() == [120, 85, 140, 105]
    assert tokens.padding.reshape(7, 7)[:, 0].tolist() == [True, False, False, False, False, False, True]
    assert not tokens.thumbnail.any()


def test_the_miniature_sees_a_target_where_it_is() -> None:
    """Confidence by the family's own words: the target's crop has the shape, another crop has not."""
    from semclip_eval.benchmarks.vstar import VStar

    vlm = Llava15(name="mini", hub_id=None, path="mini://vlm")
    questions = [q for q in VStar(path="mini://vstar").questions() if q.category == "direct_attributes"][:30]
    right = 0
    for question in questions:
        shape = question.text.removeprefix("What is the color of the ").removesuffix("?")
        text = f"Is there a {shape} in the image?\nAnswer the question using a single word or phrase."
        image, (box,) = question.load_image(), question.target_boxes
        left, top = min(max(0, box.left - 40), 224), min(max(0, box.top - 40), 224)
        far = (left + 168) % 224, (top + 168) % 224
        crops = [image.crop((x, y, x + 112, y + 112)) for x, y in ((left, top), far)]
        batch = [vlm.prepare(Request((crop,), Prompt(text, ("yes", "no")))) for crop in crops]
        there, elsewhere = vlm.confidence(batch)
        right += there > elsewhere
    assert right >= 25


def test_an_answer_does_not_depend_on_who_else_is_asked() -> None:
    vlm = Llava15(name="mini", hub_id=None, path="mini://vlm")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)) for _ in range(4)]
    batch = [
        vlm.prepare(Request(tuple(images[: number + 1]), Prompt("Is it? " * (number + 1), ("yes", "no"))))
        for number in range(4)
    ]
    together = vlm.attention_rows(batch, [1], "text")
    for prepared, rows, value in zip(batch, together, vlm.confidence(batch), strict=True):
        (alone,) = vlm.attention_rows([prepared], [1], "text")
        torch.testing.assert_close(rows.weights, alone.weights, atol=1e-5, rtol=0)
        assert vlm.confidence([prepared])[0] == pytest.approx(value, abs=1e-5)
