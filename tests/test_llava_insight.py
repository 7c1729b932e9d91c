"""LLaVA-1.5 and the miniature: what they tell a selector, against plain eager transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature, LlavaForConditionalGeneration

from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.config import RunConfig
from semclip_eval.crops import Grid
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.mini import weights_folder
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.selectors.base import Selector, overview
from semclip_eval.types import Kept, Prompt, Request, Selection
from tests.fakes import DrawnBenchmark
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
    questions = [
        q
        for q in VStar(path="mini://vstar").questions()
        if len(q.target_boxes) == 1 and q.text.startswith("What is the color of the ")
    ][:30]
    right = 0
    for question in questions:
        shape = question.text.removeprefix("What is the color of the ").removesuffix("?")
        text = f"Is there a {shape} in the image?\nAnswer the question using a single word or phrase."
        image, (box,) = question.load_image(), question.target_boxes
        last = image.width - 126
        left, top = min(max(0, box.left - 40), last), min(max(0, box.top - 40), last)
        far = (left + last * 3 // 4) % last, (top + last * 3 // 4) % last
        crops = [image.crop((x, y, x + 126, y + 126)) for x, y in ((left, top), far)]
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


def test_what_cannot_be_looked_at_is_said() -> None:
    vlm = Llava15(name="mini", hub_id=None, path="mini://vlm")
    seen = vlm.prepare(Request((Image.new("RGB", (60, 60)),), Prompt("Is it?", ("yes", "no"))))
    blind = vlm.prepare(Request((), Prompt("Is it?", ("yes", "no"))))
    for call in (lambda: vlm.attention_rows([seen], [], "last"), lambda: vlm.value_vectors([seen], [])):
        with pytest.raises(ConfigError, match="no layer"):
            call()
    with pytest.raises(ConfigError, match="query=first"):
        vlm.attention_rows([seen], [0], "first")
    with pytest.raises(QuestionError, match="views"):
        vlm.gradients([blind], "entropy", [0], features=True)
    assert vlm.attention_rows([], [0], "last") == vlm.value_vectors([], [0]) == vlm.gradients([], "entropy") == []


def test_probing_many_crops_does_not_fill_the_memory_within_a_block() -> None:
    vlm = Llava15(name="mini", hub_id=None, path="mini://vlm", feature_cache_mib=1)
    vlm.begin_block(keep=True)
    rng = np.random.default_rng(1)
    for _ in range(40):
        crop = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
        vlm.confidence([vlm.prepare(Request((crop,), Prompt("Is it?", ("yes", "no"))))])
        assert vlm.features._size <= vlm.features.limit
    assert 0 < len(vlm.features) < 40


class EverySecondToken(Selector):
    """The overview, and of its tokens every second one."""

    name = "every_second"
    needs = frozenset({"prune"})

    def select(self, inputs: Any, tools: Any) -> list[Selection]:
        return [Selection((overview(item.image),)) for item in inputs]

    def prune(self, inputs: Any, tools: Any) -> list[Kept | None]:
        return [Kept((tuple(range(0, len(pruning.boxes[0].boxes), 2)),)) for pruning in inputs]


class TightLlava(Llava15):
    """Has no memory for two prompts at once."""

    def prefill(self, batch: Any, features: Any) -> Any:
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().prefill(batch, features)


def test_a_batch_that_fails_after_pruning_is_asked_again_from_the_whole_prompts() -> None:
    benchmark = DrawnBenchmark(count=4, protocol="likelihood")
    records = {}
    for kind in (TightLlava, Llava15):
        vlm = kind(name="mini", hub_id=None, path="mini://vlm")
        run = RunConfig(device="cpu", dtype="float32", batch_size=4)
        pipeline = Pipeline(benchmark, EverySecondToken(), Grid("grid", 2, 2), None, vlm, run)
        records[kind] = pipeline.ask(benchmark.questions())
    for tight, roomy in zip(records[TightLlava], records[Llava15], strict=True):
        assert tight.error is None
        assert (tight.visual_tokens, tight.encoded_tokens) == (roomy.visual_tokens, roomy.encoded_tokens) == (25, 49)
        assert tight.kept == roomy.kept == [list(range(0, 49, 2))]
        assert tight.option_losses == pytest.approx(roomy.option_losses, abs=1e-4)


@pytest.mark.parametrize("style", ["mini", "llama", "qwen"])
def test_the_class_tokens_attention_is_that_of_eager_attention(style: str, tmp_path: Path) -> None:
    folder = {"mini": lambda: Path(weights_folder("vlm")), "llama": lambda: save_llama_style(tmp_path),
              "qwen": lambda: save_qwen_style(tmp_path)}[style]()  # fmt: skip
    vlm = Llava15(name="small", hub_id=None, path=str(folder))
    plain = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    rng = np.random.default_rng(2)
    images = tuple(Image.fromarray(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)) for _ in range(3))
    prompt = Prompt("Is it?", max_new_tokens=1)
    silent, asked = (vlm.prepare(Request(images, prompt, class_attention=flag)) for flag in (False, True))
    vlm.begin_block(keep=True)
    assert all(view.class_attention is None for view in vlm.encode([silent])[0])
    tower = plain.eval().model.vision_tower
    with torch.no_grad():
        maps = tower(asked.pixel_values, output_attentions=True).attentions[-2]
    for _ in range(2):  # the second time the overview comes from the store
        tokens = vlm.encode([asked, asked])[1]
        for view, expected in zip(tokens, maps, strict=True):
            expected = expected[:, 0].mean(0)
            expected = expected[1:] if vlm.drops_first else expected
            assert len(view.class_attention) == len(view.features)
            torch.testing.assert_close(view.class_attention, expected, atol=1e-5, rtol=0)
            assert float(expected.std()) > 1e-5
