"""The likelihood protocol on the shipped miniature, against a naive loop, and its independence of batch and order.

The naive loop is plain transformers: one option at a time, the whole prompt again each time, no cache, no padding, and
images padded and normalised here.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from semclip_eval import session
from semclip_eval.mini import weights_folder
from semclip_eval.mini.build import build_vstar
from semclip_eval.plan import make_plan
from semclip_eval.run import execute
from tests.test_configs import composed

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)
PER_CATEGORY = 12


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vstar")
    build_vstar(folder, questions_per_category=PER_CATEGORY, split="dev")
    return folder


def run(scenes: Path, output: Path, *overrides: str) -> list[dict]:
    config = composed("profile=mini", f"benchmark.path={scenes}", f"run.output_dir={output}", *overrides)
    folder = execute(config)
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def naive_model():
    folder = weights_folder("vlm")
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def naive_losses(model, tokenizer, image: Image.Image, record: dict) -> list[float]:
    vision = model.config.vision_config
    processor = json.loads((weights_folder("vlm") / "processor_config.json").read_text())["image_processor"]
    mean, std = (np.array(processor[key], np.float32) for key in ("image_mean", "image_std"))
    pixels = []
    for view in record["views"]:
        part = image.crop(view["box"])
        side = max(part.size)
        square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
        square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
        square = square.resize((vision.image_size, vision.image_size), Image.Resampling.BICUBIC)
        pixels.append((np.asarray(square, np.float32) / 255 - mean) / std)
    values = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    tokens_per_view = (vision.image_size // vision.patch_size) ** 2
    prompt = f"{SYSTEM} USER: " + "<image>\n" * len(pixels) + f"{record['question']} ASSISTANT:"
    expanded = prompt.replace("<image>", "<image>" * tokens_per_view)
    losses = []
    for option in record["options"]:
        start = tokenizer(expanded)["input_ids"]
        whole = tokenizer(f"{expanded} {option}{tokenizer.eos_token}")["input_ids"]
        assert whole[: len(start)] == start
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([whole]), pixel_values=values, use_cache=False).logits[0]
        steps = logits[len(start) - 1 : -1].log_softmax(-1)
        picked = steps[torch.arange(len(whole) - len(start)), torch.tensor(whole[len(start) :])]
        losses.append(-picked.mean().item())
    return losses


@pytest.mark.parametrize("selector", ["no_crop", "semclip", "full_crop"])
def test_option_losses_equal_a_naive_loop_without_cache(selector, scenes, tmp_path, naive_model):
    records = run(scenes, tmp_path, f"selector={selector}", "run.batch_size=5")
    for record in records[::3]:
        image = Image.open(scenes / f"{record['image_id']}.jpg")
        losses = naive_losses(*naive_model, image.convert("RGB"), record)
        assert record["option_losses"] == pytest.approx(losses, abs=1e-4)
        assert record["choice"] == int(np.argmin(losses))


def test_the_choice_does_not_depend_on_the_batch(scenes, tmp_path):
    runs = [run(scenes, tmp_path / size, "selector=semclip", f"run.batch_size={size}") for size in ("1", "3", "16")]
    for one, three, sixteen in zip(*runs, strict=True):
        assert one["choice"] == three["choice"] == sixteen["choice"]
        for other in (three, sixteen):
            assert [(view["kind"], view["box"]) for view in one["views"]] == [
                (view["kind"], view["box"]) for view in other["views"]
            ]
            # ψ comes out of another batch shape: equal but for the last bits, which rounding to six digits can show.
            assert one["views"][1]["psi"] == pytest.approx(other["views"][1]["psi"], abs=1e-5)
            assert one["option_losses"] == pytest.approx(other["option_losses"], abs=1e-4)


def test_the_choice_does_not_depend_on_the_order(scenes, tmp_path, monkeypatch):
    from semclip_eval.benchmarks.vstar import VStar

    straight = run(scenes, tmp_path / "straight", "selector=random_crop", "run.batch_size=7")
    original = VStar.questions

    def shuffled(self):
        questions = original(self)
        random.Random(3).shuffle(questions)
        return questions

    monkeypatch.setattr(VStar, "questions", shuffled)
    mixed = run(scenes, tmp_path / "mixed", "selector=random_crop", "run.batch_size=7")
    assert [record["question_id"] for record in mixed] != [record["question_id"] for record in straight]
    by_id = {record["question_id"]: record for record in mixed}
    for record in straight:
        other = by_id[record["question_id"]]
        assert (record["choice"], record["views"]) == (other["choice"], other["views"])
        assert record["option_losses"] == pytest.approx(other["option_losses"], abs=1e-4)


def test_the_same_config_gives_the_same_file_bit_for_bit(scenes, tmp_path):
    files = []
    for name in ("a", "b"):
        session._loaded.clear()
        config = composed("profile=mini", f"benchmark.path={scenes}", f"run.output_dir={tmp_path / name}")
        files.append((execute(config) / "samples.jsonl").read_bytes())
    assert files[0] == files[1]


def test_a_run_that_was_stopped_within_a_batch_ends_with_the_same_file(scenes, tmp_path):
    config = composed(
        "profile=mini", f"benchmark.path={scenes}", "run.batch_size=5", f"run.output_dir={tmp_path / 'a'}"
    )
    whole = (execute(config) / "samples.jsonl").read_bytes()
    config["run"]["output_dir"] = str(tmp_path / "b")
    folder = make_plan(config).folder
    folder.mkdir(parents=True)
    lines = whole.splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:20])
    assert (execute(config) / "samples.jsonl").read_bytes() == whole


def test_the_letter_protocol_asks_and_reads_letters(scenes, tmp_path):
    records = run(scenes, tmp_path, "selector=oracle", "benchmark.protocol=letter")
    assert all(record["option_losses"] is None and record["answer"] is not None for record in records)
    assert {record["truth"] for record in records} > {0}, "the right option must not always be the first"
    assert all(record["new_tokens"] >= 1 for record in records)
