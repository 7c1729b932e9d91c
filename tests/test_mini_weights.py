"""The shipped weights load through both libraries, answer the harness's prompt, and stay small."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semclip_eval.mini import weights_folder
from semclip_eval.mini.questions import LETTER, SHORT, make_question, short_text
from semclip_eval.mini.signs import DIGITS
from semclip_eval.mini.world import COLORS, SCENE_SIZE, SHAPES, make_scene, render

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
BYTE_LIMIT = 12 * 1024 * 1024


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(weights_folder("vlm"))


def test_unknown_weights_are_named() -> None:
    with pytest.raises(ValueError, match="llm"):
        weights_folder("llm")  # type: ignore[arg-type]


def test_weights_are_small_and_readable() -> None:
    files = [path for kind in ("vlm", "clip") for path in weights_folder(kind).rglob("*") if path.is_file()]  # type: ignore[arg-type]
    assert sum(path.stat().st_size for path in files) <= BYTE_LIMIT
    assert all(os.stat(path).st_mode & 0o444 == 0o444 for path in files)
    for path in files:
        if path.suffix == ".json":
            assert str(Path.home()) + "/" not in json.dumps(json.loads(path.read_text()))


def test_fixed_prompt_parts_and_world_words_are_single_tokens(processor: Any) -> None:
    tokenizer = processor.tokenizer
    for part in (SYSTEM, " USER:", " ASSISTANT:", SHORT, LETTER, "<image>", "</s>"):
        assert len(tokenizer(part, add_special_tokens=False).input_ids) == 1, part
    for word in (
        *COLORS,
        *SHAPES,
        "left",
        "right",
        "above",
        "below",
        "yes",
        "no",
        "A",
        "B",
        "C",
        "D",
        *DIGITS,
        "sign",
        "number",
    ):
        assert len(tokenizer(" " + word, add_special_tokens=False).input_ids) == 1, word


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_survives_the_tokenizer(processor: Any, text: str) -> None:
    tokenizer = processor.tokenizer
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@settings(max_examples=100, deadline=None)
@given(question=st.text(max_size=40), answer=st.text(max_size=30))
def test_prompt_is_a_prefix_of_prompt_and_answer(processor: Any, question: str, answer: str) -> None:
    tokenizer = processor.tokenizer
    prompt = f"{SYSTEM} USER: <image>\n<image>\n{question} ASSISTANT:"
    start = tokenizer(prompt).input_ids
    whole = tokenizer(f"{prompt} {answer}</s>").input_ids
    assert whole[: len(start)] == start
    assert start[0] == tokenizer.bos_token_id
    assert start.count(tokenizer.bos_token_id) == 1 + question.count("<s>")
    assert whole[-1] == tokenizer.eos_token_id


def test_clip_tokenizer_ends_with_its_highest_id() -> None:
    import open_clip

    tokenizer = open_clip.get_tokenizer(f"local-dir:{weights_folder('clip')}")
    ids = tokenizer(["What is the color of the star?", "größe 漢字", "red " * 100])
    highest = len(tokenizer.tokenizer) - 1
    # open_clip reads a text's feature where the id is highest: the end token, kept by truncation.
    assert tokenizer.tokenizer.eos_token_id == highest
    assert (ids == highest).sum(1).tolist() == [1, 1, 1]


class Together:
    """The shipped models, used plainly: CLIP picks a cell of a 4 x 4 grid, the VLM looks at the scene and at it."""

    def __init__(self, processor: Any) -> None:
        import open_clip
        import torch
        from transformers import LlavaForConditionalGeneration

        name = f"local-dir:{weights_folder('clip')}"
        self.vlm = LlavaForConditionalGeneration.from_pretrained(weights_folder("vlm"), dtype=torch.float32).eval()
        self.clip, _, self.preprocess = open_clip.create_model_and_transforms(name)
        self.clip.eval()
        self.tokenizer, self.processor, self.torch = open_clip.get_tokenizer(name), processor, torch

    def best_cell(self, image: Any, text: str) -> Any:
        side = SCENE_SIZE // 4
        cells = [image.crop((side * x, side * y, side * x + side, side * y + side)) for y in range(4) for x in range(4)]
        with self.torch.no_grad():
            views = self.clip.encode_image(self.torch.stack([self.preprocess(cell) for cell in cells]), normalize=True)
            return cells[int((views @ self.clip.encode_text(self.tokenizer([text]), normalize=True)[0]).argmax())]

    def answer(self, images: list[Any], text: str) -> str:
        prompt = f"{SYSTEM} USER: " + "<image>\n" * len(images) + f"{text} ASSISTANT:"
        inputs = self.processor(text=[prompt], images=images, return_tensors="pt")
        assert int((inputs.input_ids == self.vlm.config.image_token_id).sum()) == len(images) * 49
        made = self.vlm.generate(**inputs, max_new_tokens=12, do_sample=False)
        return self.processor.tokenizer.decode(made[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def together(processor: Any) -> Together:
    return Together(processor)


def test_vlm_and_clip_answer_together(together: Together) -> None:
    """Over a few unseen scenes: CLIP picks a cell, the VLM names the colour of small things in a sentence."""
    right = {1: 0, 2: 0}
    asked = 0
    for index in range(12):
        scene = make_scene("test", 900_000 + index)
        image = render(scene)
        for thing in scene.small_things:
            cell = together.best_cell(image, thing.shape)
            for images in ([image], [image, cell]):
                answer = together.answer(images, f"What is the color of the {thing.shape}?")
                right[len(images)] += answer == f" The color of the {thing.shape} is {thing.color}."
            asked += 1
    assert asked >= 36
    assert right[2] / asked >= 0.65
    assert right[1] / asked <= 0.35


def test_vlm_and_clip_read_a_sign_together(together: Together) -> None:
    """Over unseen scenes: CLIP picks a cell, the VLM says the digit in one word; without the cell it cannot."""
    right = {1: 0, 2: 0}
    for index in range(24):
        scene = make_scene("test", 900_000 + index, sign=True)
        question = make_question("number", scene)
        assert question is not None
        image = render(scene)
        for images in ([image], [image, together.best_cell(image, question.text)]):
            right[len(images)] += together.answer(images, short_text(question.text)) == f" {question.answer}"
    assert right[2] >= 18
    assert right[1] <= 6
