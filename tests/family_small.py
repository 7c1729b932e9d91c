"""Shrunken models of the true architectures in the published layout, and plain transformers to compare them with.

Image sizes, patches, tiles, windows and token layouts are the real ones; layers are few and narrow.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from semclip_eval import cli, session
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.models.transformers.transformers_vlm import TransformersVLM
from semclip_eval.types import Prompt, Request
from tests.llava_small import CORPUS, name_tower_as_published, noise_image

QUESTION = "What is the color of the star?\nA. red\nB. blue"
OPTIONS = ("red", "The color of the star is blue.", "B")
ODD_TEXTS = (
    "", "Is it red?  ", "  Is it red?", "\nIs it\n\nred?\r\n", "tab\there  two  spaces", "ünï 🦊 日本語 e\u0301 … —",
    "x<y>z",
)  # fmt: skip
GOLDEN = Path(__file__).parent / "golden"
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "resample": 3}


def save_qwen_tokenizer(folder: Path, specials: tuple[str, ...], names: dict[str, str] | None = None) -> dict[str, int]:
    """A byte-level Qwen2 tokenizer with the special tokens appended; returns their ids and the vocabulary's size."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    draft.train_from_iterator([CORPUS] * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    learned = json.loads(draft.to_str())["model"]
    tokenizer = Qwen2Tokenizer(vocab=learned["vocab"], merges=[tuple(pair) for pair in learned["merges"]])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *specials]})
    tokenizer.eos_token = "<|im_end|>"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    if names:  # the names under which InternVL's processor finds its tokens
        file = folder / "tokenizer_config.json"
        settings = json.loads(file.read_text()) | {"extra_special_tokens": names}
        settings.pop("additional_special_tokens", None)
        file.write_text(json.dumps(settings))
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", *specials)}
    return {**ids, "size": len(tokenizer)}


def save_checkpoint(folder: Path, model: Any, preprocessor: dict[str, Any], end_id: int) -> Path:
    """Weights, config.json, generation_config.json and preprocessor_config.json as the published checkpoints have."""
    torch.manual_seed(1)
    with torch.no_grad():
        # transformers' small initial weights give nearly equal logits, whatever the input: no test could fail on them.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.2 / parameter[0].numel() ** 0.5)
        for layer in model.model.language_model.layers:
            # Sharp attention that outweighs the token's own embedding: else a few tokens follow each other for ever.
            layer.self_attn.q_proj.weight.mul_(3)
            layer.self_attn.o_proj.weight.mul_(3)
        model.get_input_embeddings().weight.normal_(0, 0.8)
        model.model.language_model.norm.weight.normal_(0, 1.5)
    model.generation_config.eos_token_id = end_id
    model.save_pretrained(folder)
    if model.config.vision_config.model_type in ("clip_vision_model", "siglip_vision_model"):
        name_tower_as_published(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(STEPS | preprocessor))
    return folder


def joined(views: Any) -> torch.Tensor:
    """The features of one question's views in one tensor (tokens, width)."""
    return torch.cat([view.features for view in views])


def three_selections(width: int = 120, height: int = 90) -> dict[str, tuple[Image.Image, ...]]:
    """The views that the main selectors give for one image: the overview, with all of its quadrants, with one."""
    image = noise_image(7, width, height)
    across, down = width // 2, height // 2
    crops = [image.crop((x, y, x + across, y + down)) for y in (0, down) for x in (0, across)]
    return {"no_crop": (image,), "full_crop": (image, *crops), "semclip": (image, crops[2])}


@dataclass
class Reference:
    """Plain transformers: the published chat template and processor, generate() and forward() without a cache."""

    model: Any
    processor: Any
    answer_lead: str
    end: str
    text_of: Callable[[Request], str]

    def inputs(self, asked: Request, answer: str = "") -> Any:
        # A nested list is one question with several images.
        images = [list(asked.images)] if asked.images else None
        return self.processor(text=[self.text_of(asked) + answer], images=images, return_tensors="pt")

    def ids(self, asked: Request) -> list[int]:
        return self.inputs(asked).input_ids[0].tolist()

    @torch.no_grad()
    def greedy(self, asked: Request) -> list[int]:
        inputs = self.inputs(asked)
        made = self.model.generate(**inputs, do_sample=False, max_new_tokens=asked.prompt.max_new_tokens)
        return made[0, inputs.input_ids.shape[1] :].tolist()

    @torch.no_grad()
    def losses(self, asked: Request) -> list[float]:
        start, result = len(self.ids(asked)), []
        for option in asked.prompt.continuations:
            inputs = self.inputs(asked, self.answer_lead + option + self.end)
            log_probabilities = self.model(**inputs, use_cache=False).logits[0].double().log_softmax(-1)
            whole = inputs.input_ids[0].tolist()
            chosen = [float(log_probabilities[place - 1, whole[place]]) for place in range(start, len(whole))]
            result.append(-sum(chosen) / len(chosen))
        return result


def chat_text(processor: Any, asked: Request, system: str = "") -> str:
    """The prompt as the processor's chat template renders one user turn of images, then text."""
    content = [{"type": "image"} for _ in asked.images] + [{"type": "text", "text": asked.prompt.text}]
    turns = [{"role": "user", "content": content}]
    if system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def check_answers(vlm: TransformersVLM, reference: Reference, images: tuple[Image.Image, ...]) -> None:
    """Ids, greedy tokens and option losses of one question equal those of plain transformers."""
    scored = Request(images, Prompt(QUESTION, continuations=OPTIONS))
    prepared = vlm.prepare(scored)
    assert list(prepared.input_ids) == reference.ids(scored)
    assert prepared.visual_tokens == prepared.input_ids.count(vlm.image_id)
    assert prepared.visual_tokens + prepared.text_tokens == len(prepared.input_ids)
    expected = reference.losses(scored)
    assert vlm.answer([prepared])[0].option_losses == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.05  # the options differ: the comparison could fail
    said: set[int] = set()
    for text in (QUESTION, "Is there a ring?", "Which circle is on the left?"):
        generated = Request(images, Prompt(text, max_new_tokens=8))
        made = reference.greedy(generated)
        answer = vlm.answer([vlm.prepare(generated)])[0]
        assert answer.new_tokens == len(made)
        assert answer.text == vlm.tokenizer.decode(made, skip_special_tokens=True).strip()
        said |= set(made)
    assert len(said) > 5  # not the same token again and again, whatever was fed


def check_program(model: str, folder: Path, reference: Reference, output: Path) -> None:
    """The whole program with the three main selectors and both protocols: every record is what transformers answers.

    The views are cut here from the records' boxes; their number and places are checked against the selector.
    """
    sweep = [f"model={model}", f"model.path={folder}", "selector=no_crop,full_crop,semclip", "crops=grid2x2"]
    sweep += ["profile=mini", "benchmark=vstar", "benchmark.protocol=likelihood,letter", "run.limit=2"]
    assert cli.main(["-m", *sweep, f"run.output_dir={output}"]) == 0
    session.forget("model")
    seen = set()
    for file in output.glob("*/*/*/*/*/samples.jsonl"):
        config = yaml.safe_load((file.parent / "config.yaml").read_text())
        protocol, selector = config["benchmark"]["protocol"], config["selector"]["name"]
        benchmark = VStar(path="mini://vstar", protocol=protocol)
        questions = {question.id: question for question in benchmark.questions()}
        for line in file.read_text().splitlines():
            record = json.loads(line)
            boxes = [tuple(view["box"]) for view in record["views"]]
            cells = [(x, y, x + 252, y + 252) for y in (0, 252) for x in (0, 252)]
            assert boxes[0] == (0, 0, 504, 504)
            assert boxes[1:] == {"no_crop": [], "full_crop": cells}.get(selector, [b for b in cells if b in boxes])
            assert len(boxes) == {"no_crop": 1, "full_crop": 5, "semclip": 2}[selector]
            question = questions[record["question_id"]]
            image = question.load_image()
            prompt = benchmark.prompt(question)
            asked = Request(tuple(image.crop(box) for box in boxes), prompt)
            image_id = reference.processor.tokenizer.convert_tokens_to_ids(reference.processor.image_token)
            assert record["visual_tokens"] == reference.ids(asked).count(image_id)
            if protocol == "likelihood":
                assert record["option_losses"] == pytest.approx(reference.losses(asked), abs=1e-4)
            else:
                made = reference.greedy(asked)
                said = reference.processor.tokenizer.decode(made, skip_special_tokens=True).strip()
                assert (record["answer"], record["new_tokens"]) == (said, len(made))
            seen.add((selector, protocol, question.category))
    assert len(seen) == 3 * 2 * 2


def check_odd_texts(vlm: TransformersVLM, reference: Reference) -> None:
    """Spaces at the ends, line breaks, Unicode, no text and no view have the ids of the family's own processor."""
    for text in ODD_TEXTS:
        for views in (0, 1, 2):
            asked = Request(tuple(noise_image(view, 50, 50) for view in range(views)), Prompt(text))
            assert list(vlm.prepare(asked).input_ids) == reference.ids(asked), (text, views)


def check_batch(vlm: TransformersVLM, selections: dict[str, tuple[Image.Image, ...]]) -> None:
    """Mixed numbers of views, scored and generated answers and a text-only question share a batch unchanged."""
    asked = [Request(images, Prompt(QUESTION, continuations=OPTIONS)) for images in selections.values()]
    asked += [Request(images, Prompt("Is there a ring?", max_new_tokens=5)) for images in selections.values()]
    asked.append(Request((), Prompt("Is there a ring?", continuations=OPTIONS[:2])))
    alone = [vlm.answer([vlm.prepare(question)])[0] for question in asked]
    together = vlm.answer([vlm.prepare(question) for question in asked])
    for one, other in zip(alone, together, strict=True):
        assert (one.text, one.new_tokens) == (other.text, other.new_tokens)
        if one.option_losses is not None:
            assert other.option_losses == pytest.approx(one.option_losses, abs=1e-4)
    assert alone[0].option_losses != pytest.approx(alone[1].option_losses, abs=1e-3)  # views matter


def check_overview_is_shared(
    vlm: TransformersVLM, selections: dict[str, tuple[Image.Image, ...]], overviews: int = 1
) -> None:
    """The overview passes the tower once for all questions and selectors, apart from the crops, and answers stay.

    `overviews`: in how many ways the family shows the overview, by the number of views beside it.
    """
    tower, calls = vlm.model.model.get_image_features, []

    def counted(*inputs: Any, **named: Any) -> Any:
        calls.append(len(inputs[0]))
        return tower(*inputs, **named)

    asked = [Request(images, Prompt(text, OPTIONS)) for images in selections.values() for text in (QUESTION, "Red?")]
    batch = [vlm.prepare(question) for question in asked]
    vlm.begin_block(keep=False)
    vlm.features.passes = vlm.features.reused = 0
    apart, features_apart = vlm.answer(batch), [joined(views) for views in vlm.encode(batch)]
    assert vlm.features.reused == 0
    vlm.features.passes = 0
    vlm.model.model.get_image_features = counted
    try:
        vlm.begin_block(keep=True)
        shared = [joined(vlm.encode([prepared])[0]) for prepared in batch]
        crops = [len(question.images) - 1 for question in asked]
        assert len(calls) == overviews + sum(count > 0 for count in crops)
        assert vlm.features.passes == overviews + sum(crops)
        assert vlm.features.reused == len(asked) - overviews
        vlm.begin_block(keep=True)
        assert all(map(torch.equal, shared, map(joined, vlm.encode(batch))))  # all overviews were kept
        assert vlm.features.reused == 2 * len(asked) - overviews
        vlm.release_memory()
        vlm.begin_block(keep=True)
        assert all(map(torch.equal, shared, map(joined, vlm.encode(batch))))  # all were made again, one of each
        assert vlm.features.passes == 2 * overviews + 3 * sum(crops)
        answers = vlm.answer(batch)
    finally:
        del vlm.model.model.get_image_features
        vlm.begin_block(keep=False)
    for one, other in zip(features_apart, shared, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    for one, other in zip(apart, answers, strict=True):
        assert other.option_losses == pytest.approx(one.option_losses, abs=1e-4)


def check_dummy(built: Callable[..., TransformersVLM], folder: Path) -> None:
    """Random weights in the shape of a folder's config.json: same twice, in the dtype asked for, as many tokens."""
    first, second = (built(path=str(folder), load_format="dummy", dtype="bfloat16") for _ in range(2))
    assert first.model.dtype == torch.bfloat16
    assert first.revision == "dummy:seed0"
    image = noise_image(3, 100, 60)
    generated = Request((image, image), Prompt(QUESTION, max_new_tokens=3))
    scored = Request((image,), Prompt(QUESTION, continuations=("A", "B")))
    real = built(path=str(folder))
    for asked in (generated, scored):
        assert first.prepare(asked).visual_tokens == real.prepare(asked).visual_tokens
    states = [vlm.prefill([vlm.prepare(generated)], vlm.encode([vlm.prepare(generated)])) for vlm in (first, second)]
    answers = [
        vlm.decode([vlm.prepare(generated)], state, ignore_end_token=True)
        for vlm, state in zip((first, second), states, strict=True)
    ]
    assert answers[0] == answers[1]
    assert answers[0][0].new_tokens == 3
    losses = first.answer([first.prepare(scored)])[0].option_losses
    assert losses is not None
    assert len(losses) == 2
    assert len(first.tokenizer) >= first.model.config.text_config.vocab_size


def check_weight_names(folder: Path, *names: str) -> None:
    """The small checkpoint names its tensors as the published one does: that layout is what was loaded."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        assert set(names) <= set(tensors.keys())


def golden(name: str) -> str:
    """A complete prompt, to the byte."""
    return (GOLDEN / f"models_{name}.txt").read_bytes().decode("utf-8")
