"""What the benchmarks of speed share: the miniature with clocks around its networks, its data, tables and fits.

CPU seconds of one thread, not wall time: what else runs on the machine counts little then.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

from semclip_eval.answers.batching import questions_at_once
from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.api import load_crops, load_psi, load_selector, load_vlm
from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.config import RunConfig
from semclip_eval.environment import describe
from semclip_eval.places import data_folder
from semclip_eval.results.records import Record

PSI_READS = "noun_phrases"
torch.set_num_threads(1)


def load_mini_psi(**keys: Any) -> Any:
    """The miniature's ψ; by default nothing may be known of a crop from an earlier round."""
    return load_psi("mini_clip", profile="mini", device="cpu", **{"cache_images": 0, "store_mib": 0, **keys})


def load_mini_vlm(**keys: Any) -> Any:
    """The miniature's VLM."""
    return load_vlm("mini_llava", profile="mini", device="cpu", **keys)


@dataclass
class Parts:
    """The models, loaded once for all sides, and the CPU seconds spent inside them."""

    vlm: Any = field(default_factory=lambda: load_mini_vlm())
    psi: Any = field(default_factory=load_mini_psi)
    inside: float = 0.0
    scoring: float = 0.0
    # Made once, as a run makes them: composing a configuration is no part of asking.
    made: dict[str, Any] = field(default_factory=dict)

    def scheme(self, **crops: int) -> Any:
        """A grid of crops, of 4 x 4 by default."""
        return self._once(f"crops {crops}", lambda: load_crops("grid4x4", profile="mini", **crops))

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it, CPU seconds inside the networks add up in `inside`, those of ψ with its pixels in `scoring`."""
        networks = (self.vlm.model.model.vision_tower, self.vlm.model.model.multi_modal_projector,
                    self.vlm.model.model.language_model, self.vlm.model.lm_head)  # fmt: skip
        clip = self.psi.loaded_model
        calls = [(network, "forward", "inside") for network in networks]
        calls += [(clip, "encode_image", "inside"), (clip, "encode_text", "inside"), (self.psi, "score", "scoring")]
        originals = [(owner, name, getattr(owner, name)) for owner, name, _ in calls]
        for (owner, name, original), (_, _, total) in zip(originals, calls, strict=True):
            setattr(owner, name, self._timed(original, total))
        try:
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def _timed(self, call: Callable[..., Any], total: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = time.process_time()
            try:
                return call(*arguments, **keywords)
            finally:
                setattr(self, total, getattr(self, total) + time.process_time() - start)

        return timed

    def ask(
        self, benchmark: Benchmark, selector: str, batch_size: int | None = None, forget: bool = True, **crops: int
    ) -> list[Record]:
        """The records of all questions of a benchmark, through the product's pipeline without threads.

        batch_size: None for what `run.batch_size=auto` settles on. crops: keys of the crop scheme, a grid of 4 x 4 by
        default. forget: what the models kept of earlier questions.
        """
        run = RunConfig(device="cpu", dtype="float32", batch_size=batch_size or "auto", num_workers=0)
        chooser = self._once(f"selector {selector}", lambda: load_selector(selector))
        scheme = self.scheme(**crops) if "candidates" in chooser.needs else None
        psi = self.psi if "psi" in chooser.needs else None
        if forget:
            self.vlm.reset()
            if psi is not None:
                psi.reset()
        pipeline = Pipeline(benchmark, chooser, scheme, psi, self.vlm, run, PSI_READS)
        questions = benchmark.questions()
        size = batch_size or questions_at_once(pipeline, questions)
        blocks = [questions[start : start + size] for start in range(0, len(questions), size)]
        return [record for block in blocks for record in pipeline.ask(block)]


def enlarged(folder: Path, factor: int, count: int) -> Path:
    """The first questions of the miniature's V*, half of each category, with images `factor` times as large."""
    source, target = data_folder("mini://vstar"), folder / f"x{factor}n{count}"
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


@dataclass(frozen=True)
class Fit:
    """Of y over x: y ~ x ** exponent, and y ~ intercept + slope x. NaN where there are fewer than two points."""

    exponent: float
    slope: float
    intercept: float


def fitted(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Least squares, on the logarithms for the exponent."""
    if len(x) < 2:
        return Fit(float("nan"), float("nan"), float("nan"))
    slope, intercept = np.polyfit(x, y, 1)
    return Fit(float(np.polyfit(np.log(x), np.log(y), 1)[0]), float(slope), float(intercept))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file with the first row's keys; what a row lacks stays empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_environment(path: Path, **settings: Any) -> None:
    """Versions and machine, with the settings of the benchmark."""
    path.write_text(json.dumps({**describe("cpu"), **settings, "threads": 1}, indent=2), encoding="utf-8")


def markdown(rows: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> str:
    """The rows as a Markdown table; headings: what stands above each key's column."""
    lines = ["| " + " | ".join(headings.values()) + " |", "| " + " | ".join("---" for _ in headings) + " |"]
    cells = (["-" if row.get(key) in (None, "") else str(row[key]) for key in headings] for row in rows)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)]) + "\n"
