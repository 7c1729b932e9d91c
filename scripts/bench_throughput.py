"""The product against a naive loop and against pure model time, in ratios: selectors x protocols x image sizes.

    python scripts/bench_throughput.py [--output FOLDER] [--questions N] [--rounds R]

The naive loop is what one writes with transformers and open_clip in an afternoon: a question after the other, its image
opened and scored by ψ, its views through the processor, and the whole prompt again for each option. The product asks
the same questions through its pipeline with the defaults (`run.batch_size=auto`), with `run.batch_size=1`, and with the
defaults and `resize_with=torch`. Pure model time is the part of each side's own time inside ψ's and the VLM's networks.
All are CPU seconds of one thread of one process, in turn (A B C D A B C D), medians over the rounds; the first round
only warms up. Every cell first checks that loop and product choose the same options.

Two image sizes: the miniature's own 504 px and the same scenes enlarged to 2016 px (4 megapixels, V*'s).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_common import (
    PSI_READS,
    Parts,
    enlarged,
    load_mini_psi,
    load_mini_vlm,
    markdown,
    write_environment,
    write_rows,
)
from PIL import Image

from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.console import notice, out
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.models.transformers.views import pad_to_square, padding_colour
from semclip_eval.relevance.base import psi_text
from semclip_eval.types import Answer, Question

SELECTORS = ("no_crop", "semclip", "full_crop")
PROTOCOLS = ("likelihood", "letter")
SIZES = {"504 px": 1, "2016 px": 4}
# Columns for a side of each cell: its short name and what the table calls it.
SIDES = {"naive": "naive loop", "product": "defaults", "batch1": "batch 1", "torch": "torch's resize"}
HEADINGS = {
    "size": "images", "protocol": "protocol", "selector": "selector", "naive_ms": "naive ms",
    **{f"{side}_ms": f"{name} ms" for side, name in SIDES.items() if side != "naive"},
    **{f"{side}_over_naive": f"{name} over naive" for side, name in SIDES.items() if side != "naive"},
    **{f"{side}_model_share": f"in the models: {name}" for side, name in SIDES.items()},
}  # fmt: skip


def main() -> int:
    """Measure every cell, print the table, write `throughput.csv` and `environment.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="where table and images go")
    parser.add_argument("--questions", type=int, default=24, help="questions of a cell")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES), help="image sizes")
    parser.add_argument("--selectors", nargs="+", choices=SELECTORS, default=SELECTORS, help="selectors")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    parts = {way: Parts(load_mini_vlm(resize_with=way), load_mini_psi(resize_with=way)) for way in ("pillow", "torch")}
    rows = []
    for size in chosen.sizes:
        factor = SIZES[size]
        folder = enlarged(chosen.output / "images", factor, chosen.questions)
        for protocol in PROTOCOLS:
            benchmark = VStar(path=str(folder), protocol=protocol)
            for selector in chosen.selectors:
                notice(f"{size}, {protocol}, {selector}")
                rows.append({"size": size, "protocol": protocol, "selector": selector}
                            | cell(parts, benchmark, selector, chosen.rounds))  # fmt: skip
    write_rows(chosen.output / "throughput.csv", rows)
    write_environment(chosen.output / "environment.json", questions=chosen.questions, rounds=chosen.rounds)
    text = markdown(rows, HEADINGS)
    (chosen.output / "throughput.md").write_text(text, encoding="utf-8")
    out.print(text, highlight=False)
    return 0


def cell(parts: dict[str, Parts], benchmark: VStar, selector: str, rounds: int) -> dict[str, Any]:
    """CPU seconds a question of each side and the ratios between them."""
    questions = benchmark.questions()
    usual = parts["pillow"]

    def product(batch_size: int | None, way: str = "pillow") -> list[int | None]:
        return [record.choice for record in parts[way].ask(benchmark, selector, batch_size)]

    sides: dict[str, Callable[[], list[int | None]]] = {
        "naive": lambda: naive(usual, benchmark, questions, selector),
        "product": lambda: product(None),
        "batch1": lambda: product(1),
        "torch": lambda: product(None, "torch"),
    }
    answers = {name: side() for name, side in sides.items()}  # the round that warms up
    by_torch = answers.pop("torch")
    if len({tuple(choices) for choices in answers.values()}) > 1:
        raise SystemExit(f"{selector}: the sides do not choose the same options: {answers}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    shares: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            watched = parts["torch" if name == "torch" else "pillow"]
            watched.inside = 0.0
            start = time.process_time()
            with watched.watched():
                side()
            spent = time.process_time() - start
            seconds[name].append(spent / len(questions))
            shares[name].append(watched.inside / spent)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        **{f"{name}_ms": round(1000 * value, 2) for name, value in median.items()},
        **{f"{name}_over_naive": round(median["naive"] / median[name], 2) for name in sides if name != "naive"},
        **{f"{name}_model_share": round(statistics.median(shares[name]), 2) for name in sides},
        "torch_same_choices": sum(ours == one for ours, one in zip(by_torch, answers["naive"], strict=True)),
    }


@torch.inference_mode()
def naive(parts: Parts, benchmark: VStar, questions: Sequence[Question], selector: str) -> list[int | None]:
    """One question after the other, every option a whole prompt, nothing kept."""
    return [_naive_answer(parts, benchmark, question, selector) for question in questions]


def _naive_answer(parts: Parts, benchmark: VStar, question: Question, selector: str) -> int | None:
    image = question.load_image()
    views = [image]
    boxes = parts.scheme().candidates(image.width, image.height)
    if selector == "full_crop":
        views += [image.crop(box) for box in boxes]
    elif selector == "semclip":
        clip = parts.psi._loaded()
        tokens = clip.tokenizer([psi_text(question, PSI_READS)])
        text = torch.nn.functional.normalize(clip.model.encode_text(tokens), dim=-1)
        pixels = torch.stack([_open_clip_pixels(parts, image.crop(box)) for box in boxes])
        scores = torch.nn.functional.normalize(clip.model.encode_image(pixels), dim=-1) @ text[0]
        views.append(image.crop(boxes[int(scores.argmax())]))
    processor, model = parts.vlm.image_processor, parts.vlm.model
    colour = padding_colour(processor.image_mean)
    squares = [pad_to_square(view, colour) for view in views]
    pixel_values = processor(images=squares, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    prompt = benchmark.prompt(question)
    text = CONVERSATIONS["vicuna_v1"].prompt(prompt.text, len(views))
    text = text.replace("<image>", "<image>" * parts.vlm.tokens_per_view)
    tokenizer = parts.vlm.tokenizer
    start = tokenizer(text)["input_ids"]
    if not prompt.continuations:
        ids = torch.tensor([start])
        generated = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixel_values, do_sample=False,
            max_new_tokens=prompt.max_new_tokens,
        )  # fmt: skip
        answer = tokenizer.decode(generated[0, len(start) :], skip_special_tokens=True).strip()
        return benchmark.score(question, Answer(text=answer)).choice
    losses = []
    for option in prompt.continuations:
        ids = tokenizer(f"{text} {option}{tokenizer.eos_token}")["input_ids"]
        logits = model(input_ids=torch.tensor([ids]), pixel_values=pixel_values, use_cache=False).logits[0]
        target = torch.tensor(ids[len(start) :])
        losses.append(float(torch.nn.functional.cross_entropy(logits[len(start) - 1 : -1], target)))
    return min(range(len(losses)), key=losses.__getitem__)


def _open_clip_pixels(parts: Parts, crop: Image.Image) -> torch.Tensor:
    """open_clip's own preprocessing, not the product's table."""
    if not hasattr(parts, "plain"):
        from open_clip.transform import PreprocessCfg, image_transform_v2

        model = parts.psi.loaded_model
        settings = {**model.visual.preprocess_cfg, "resize_mode": "squash"}
        parts.plain = image_transform_v2(PreprocessCfg(**settings), is_train=False)  # type: ignore[attr-defined]
    return parts.plain(crop)  # type: ignore[attr-defined, no-any-return]


if __name__ == "__main__":
    sys.exit(main())
