"""The product against a naive loop and against pure model time, in ratios: selectors x protocols x image sizes.

    python scripts/bench_throughput.py [--output FOLDER] [--questions N] [--rounds R]

The naive loop is what one writes with transformers and open_clip in an afternoon: a question after the other, its
image opened and scored by ψ, its views through the processor, and the whole prompt again for each option. The product
asks the same questions through its pipeline with the defaults (`run.batch_size=1`) and with `run.batch_size=8`. Pure
model time is the part of the product's own time inside ψ's and the VLM's networks. All are CPU seconds of one thread
of one process, in turn (A B C A B C), medians over the rounds; the first round only warms up. Every cell first checks
that the loop and the product choose the same crops and the same options.

Two image sizes: the miniature's own 504 px and the same scenes enlarged to 2016 px (4 megapixels, V*'s).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from PIL import Image

from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.api import load_crops, load_psi, load_selector, load_vlm
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.config import RunConfig
from semclip_eval.console import notice, out
from semclip_eval.environment import describe
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.models.transformers.views import pad_to_square, padding_colour
from semclip_eval.places import data_folder
from semclip_eval.relevance.base import psi_text
from semclip_eval.types import Question

SELECTORS = ("no_crop", "semclip", "full_crop")
PROTOCOLS = ("likelihood", "letter")
SIZES = {"504 px": 1, "2016 px": 4}
PSI_READS = "noun_phrases"


def main() -> int:
    """Measure every cell, print the table, write `throughput.csv` and `environment.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="where table and images go")
    parser.add_argument("--questions", type=int, default=24, help="questions of a cell")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES), help="image sizes")
    parser.add_argument("--selectors", nargs="+", choices=SELECTORS, default=SELECTORS, help="selectors")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.output.mkdir(parents=True, exist_ok=True)
    parts = Parts()
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
    with (chosen.output / "throughput.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    environment = {**describe("cpu"), "questions": chosen.questions, "rounds": chosen.rounds, "threads": 1}
    (chosen.output / "environment.json").write_text(json.dumps(environment, indent=2), encoding="utf-8")
    text = markdown(rows)
    (chosen.output / "throughput.md").write_text(text, encoding="utf-8")
    out.print(text, highlight=False)
    return 0


def _psi() -> Any:
    # Nothing may be known of a crop from an earlier round.
    return load_psi("mini_clip", profile="mini", device="cpu", cache_images=0, store_mib=0)


@dataclass
class Parts:
    """The models, loaded once for both sides, and the time spent inside them."""

    vlm: Any = field(default_factory=lambda: load_vlm("mini_llava", profile="mini", device="cpu"))
    psi: Any = field(
        default_factory=lambda: load_psi("mini_clip", profile="mini", device="cpu", cache_images=0, store_mib=0)
    )
    scheme: Any = field(default_factory=lambda: load_crops("grid4x4", profile="mini"))
    inside: float = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it, CPU seconds inside the networks add up in `inside`."""
        networks = (self.vlm.model.model.vision_tower, self.vlm.model.model.multi_modal_projector,
                    self.vlm.model.model.language_model, self.vlm.model.lm_head)  # fmt: skip
        clip = self.psi.loaded_model
        calls = [(network, "forward") for network in networks]
        calls += [(clip, "encode_image"), (clip, "encode_text")]
        originals = [(owner, name, getattr(owner, name)) for owner, name in calls]
        for owner, name, original in originals:
            setattr(owner, name, self._timed(original))
        try:
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = time.process_time()
            try:
                return call(*arguments, **keywords)
            finally:
                self.inside += time.process_time() - start

        return timed


def cell(parts: Parts, benchmark: VStar, selector: str, rounds: int) -> dict[str, Any]:
    """CPU seconds a question of each side and the ratios between them."""
    questions = benchmark.questions()

    # Built once, as a run builds them: composing a configuration is no part of asking.
    chooser = load_selector(selector)
    scheme = parts.scheme if "candidates" in chooser.needs else None
    psi = parts.psi if "psi" in chooser.needs else None

    def product(batch_size: int) -> list[int | None]:
        run = RunConfig(device="cpu", dtype="float32", batch_size=batch_size, num_workers=0)
        if psi is not None:
            psi.reset()
        pipeline = Pipeline(benchmark, chooser, scheme, psi, parts.vlm, run, PSI_READS)
        parts.vlm.reset()
        blocks = [questions[start : start + batch_size] for start in range(0, len(questions), batch_size)]
        return [record.choice for block in blocks for record in pipeline.ask(block)]

    sides: dict[str, Callable[[], list[int | None]]] = {
        "naive": lambda: naive(parts, benchmark, questions, selector),
        "product": lambda: product(1),
        "product, batch 8": lambda: product(8),
    }
    answers = {name: side() for name, side in sides.items()}  # the round that warms up
    if len({tuple(choices) for choices in answers.values()}) > 1:
        raise SystemExit(f"{selector}: the sides do not choose the same options: {answers}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    shares: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            parts.inside = 0.0
            start = time.process_time()
            with parts.watched():
                side()
            spent = time.process_time() - start
            seconds[name].append(spent / len(questions))
            shares[name].append(parts.inside / spent)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "naive_ms": round(1000 * median["naive"], 2),
        "product_ms": round(1000 * median["product"], 2),
        "batch8_ms": round(1000 * median["product, batch 8"], 2),
        "product_over_naive": round(median["naive"] / median["product"], 2),
        "batch8_over_naive": round(median["naive"] / median["product, batch 8"], 2),
        "model_share_naive": round(statistics.median(shares["naive"]), 2),
        "model_share_product": round(statistics.median(shares["product"]), 2),
        "model_share_batch8": round(statistics.median(shares["product, batch 8"]), 2),
    }


@torch.inference_mode()
def naive(parts: Parts, benchmark: VStar, questions: Sequence[Question], selector: str) -> list[int | None]:
    """One question after the other, every option a whole prompt, nothing kept."""
    return [_naive_answer(parts, benchmark, question, selector) for question in questions]


def _naive_answer(parts: Parts, benchmark: VStar, question: Question, selector: str) -> int | None:
    image = question.load_image()
    views = [image]
    boxes = parts.scheme.candidates(image.width, image.height)
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
        return benchmark.score(question, replace_text(answer)).choice
    losses = []
    for option in prompt.continuations:
        ids = tokenizer(f"{text} {option}{tokenizer.eos_token}")["input_ids"]
        logits = model(input_ids=torch.tensor([ids]), pixel_values=pixel_values, use_cache=False).logits[0]
        target = torch.tensor(ids[len(start) :])
        losses.append(float(torch.nn.functional.cross_entropy(logits[len(start) - 1 : -1], target)))
    return min(range(len(losses)), key=losses.__getitem__)


def replace_text(text: str) -> Any:
    """An answer of that text."""
    from semclip_eval.types import Answer

    return Answer(text=text)


def _open_clip_pixels(parts: Parts, crop: Image.Image) -> torch.Tensor:
    """open_clip's own preprocessing, not the product's table."""
    if not hasattr(parts, "plain"):
        from open_clip.transform import PreprocessCfg, image_transform_v2

        model = parts.psi.loaded_model
        settings = {**model.visual.preprocess_cfg, "resize_mode": "squash"}
        parts.plain = image_transform_v2(PreprocessCfg(**settings), is_train=False)  # type: ignore[attr-defined]
    return parts.plain(crop)  # type: ignore[attr-defined, no-any-return]


def enlarged(folder: Path, factor: int, count: int) -> Path:
    """The first questions of the miniature's V*, half of each category, with images `factor` times as large."""
    source, target = data_folder("mini://vstar"), folder / f"x{factor}"
    if (target / "test_questions.jsonl").exists():
        return target
    rows = [json.loads(line) for line in (source / "test_questions.jsonl").read_text().splitlines()]
    kept = [row for category in ("direct_attributes", "relative_position")
            for row in [row for row in rows if row["category"] == category][: count // 2]]  # fmt: skip
    for row in kept:
        place = target / row["image"]
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source / row["image"]) as image:
            size = (image.width * factor, image.height * factor)
            image.resize(size, Image.Resampling.BICUBIC).save(place, quality=95, subsampling=0)
        annotation = json.loads((source / row["image"]).with_suffix(".json").read_text())
        annotation["bbox"] = [[value * factor for value in box] for box in annotation["bbox"]]
        place.with_suffix(".json").write_text(json.dumps(annotation))
    (target / "test_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return target


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    headings = ("images", "protocol", "selector", "naive ms", "product ms", "over naive", "batch 8 over naive",
                "in the models: naive", "product", "batch 8")  # fmt: skip
    keys = ("size", "protocol", "selector", "naive_ms", "product_ms", "product_over_naive", "batch8_over_naive",
            "model_share_naive", "model_share_product", "model_share_batch8")  # fmt: skip
    lines = ["| " + " | ".join(headings) + " |", "| " + " | ".join("---" for _ in headings) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
