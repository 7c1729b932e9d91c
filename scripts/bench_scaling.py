"""How time and memory grow: with questions, candidate crops, megapixels, and questions about one image.

    python scripts/bench_scaling.py [--output FOLDER] [--axes NAME ...] [--most N]

questions: runs as the command makes them (`run.execute`), to 10,000 questions, each in a process of its own, with a
model that computes nothing (`dummy`: what is left is the harness, the JPEG included) and with the miniature. CPU time
is the whole run's after the models are loaded; memory is the process's own (RssAnon, ten times a second: pages of
files, which the kernel keeps as it likes, do not count), at its highest and by how much that is above the start.
candidates, megapixels: CPU time a question. questions per image: what ψ costs with 1, 2, 6 and 18 questions about an
image, in POPE's order (three passes over the images, six questions each), nothing kept on disk, with an empty cache
and, as a second selector finds it, with a full one. All are CPU seconds of one process and thread.

Writes `scaling.csv` (a row a measurement; series that are not measured now stay), `scaling_fits.csv` (exponent, slope,
intercept) and their environment.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import Parts, enlarged, fitted, load_mini_psi, markdown, write_environment, write_rows

from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.components import build
from semclip_eval.compose import compose
from semclip_eval.console import notice, out
from semclip_eval.models.base import VLM, ModelInputs
from semclip_eval.places import data_folder
from semclip_eval.run import execute
from semclip_eval.types import Answer, Request

COUNTS = (100, 300, 1000, 3000, 10_000)
# Overrides of the runs.
MODELS = {
    "dummy": ("selector=no_crop",),
    "mini_llava": ("selector=semclip", "crops=grid2x2", "psi.store_mib=0"),
}
GRIDS = (2, 3, 4, 6, 8)
FACTORS = (1, 2, 3, 4, 6)
PER_IMAGE = (1, 2, 6, 18)
PASS = 6  # POPE asks six questions about a photograph in each of its three categories
COLORS = ("red", "green", "blue", "yellow", "black", "white")
SHAPES = ("star", "circle", "square")
HEADINGS = {"axis": "over", "model": "model", "selector": "selector", "quantity": "what", "exponent": "exponent",
            "slope": "slope", "intercept": "intercept", "lowest": "at least", "highest": "at most"}  # fmt: skip


class DummyVLM(VLM):
    """Answers at once: what a run costs beside its model."""

    def __init__(self, name: str, device: str = "cpu", dtype: str = "float32") -> None:
        self.name, self.revision, self.device, self.dtype = name, "1", device, dtype
        self.attention, self.context_length = "", 4096

    def prepare(self, request: Request) -> ModelInputs:
        """No pixels; a number of tokens."""
        prompt = request.prompt
        options = tuple(() for _ in prompt.continuations)
        return ModelInputs(np.zeros(0), (), options, prompt.max_new_tokens, 49 * len(request.images), 20)

    def encode(self, batch: Sequence[Any]) -> Any:
        """Nothing."""
        return [None for _ in batch]

    def prefill(self, batch: Sequence[Any], features: Any) -> Any:
        """Nothing."""

    def decode(self, batch: Sequence[Any], state: Any, ignore_end_token: bool = False) -> list[Answer]:
        """The first option."""
        return [Answer(option_losses=tuple(map(float, range(len(each.continuation_ids))))) for each in batch]


def main() -> int:
    """Measure, print the fits, write the files."""
    axes = {"questions": questions_axis, "candidates": candidates_axis, "megapixels": megapixels_axis,
            "questions per image": per_image_axis}  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="where the tables go")
    parser.add_argument("--axes", nargs="+", choices=list(axes), default=list(axes))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="of the axis questions")
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="questions of the largest run")
    parser.add_argument("--questions", type=int, default=36, help="questions of a cell of the other axes")
    parser.add_argument("--run", metavar="JSON", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        print(json.dumps(one_run(**json.loads(chosen.run))))
        return 0
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for axis in chosen.axes:
            for row in axes[axis](Path(folder), chosen):
                row.pop("choices", None)
                rows.append({"axis": axis} | row)
                notice(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    rows = [*others(chosen.output / "scaling.csv", rows), *rows]
    columns = dict.fromkeys(key for row in rows for key in row)
    write_rows(chosen.output / "scaling.csv", [{key: row.get(key) for key in columns} for row in rows])
    fits = list(fits_of(rows))
    write_rows(chosen.output / "scaling_fits.csv", fits)
    write_environment(chosen.output / "scaling_environment.json", questions=chosen.questions, most=chosen.most)
    out.print(markdown(fits, HEADINGS), highlight=False)
    return 0


def others(file: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of an earlier call for series that are not among `rows`."""
    if not file.exists():
        return []
    measured = {_series(row) for row in rows}
    with file.open(newline="", encoding="utf-8") as stream:
        earlier = list(csv.DictReader(stream))
    texts = ("axis", "model", "selector")
    return [
        {key: value if key in texts else float(value) for key, value in row.items() if value != ""}
        for row in earlier
        if _series(row) not in measured
    ]


def _series(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["axis"], row["model"], row["selector"]


def questions_axis(folder: Path, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A run in a new process for each count and model."""
    counts = [count for count in COUNTS if count <= chosen.most]
    tables = {count: many_questions(folder / f"many{count}", count) for count in counts}
    for model in chosen.models:
        overrides = MODELS[model]
        for count, table in tables.items():
            given = {
                "table": str(table),
                "count": count,
                "model": model,
                "overrides": overrides,
                "output": str(folder / "runs"),
            }
            done = subprocess.run([sys.executable, __file__, "--run", json.dumps(given)],
                                  stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
            yield {"model": model, "selector": overrides[0].partition("=")[2], "value": count,
                   **json.loads(done.stdout.splitlines()[-1])}  # fmt: skip


def many_questions(folder: Path, count: int) -> Path:
    """A table of so many questions about V*'s miniature, each with an image file of its own (links to a thousand)."""
    source = data_folder("mini://vstar")
    rows = [json.loads(line) for line in (source / "test_questions.jsonl").read_text().splitlines()]
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        row = rows[number % len(rows)]
        annotation = json.loads((source / row["image"]).with_suffix(".json").read_text())
        os.symlink(source / row["image"], folder / f"{number}.jpg")
        lines.append({"id": str(number), "image": f"{number}.jpg", "question": annotation["question"],
                      "options": annotation["options"], "answer": annotation["options"][0],
                      "category": row["category"], "boxes": annotation["bbox"]})  # fmt: skip
    table = folder / "questions.jsonl"
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return table


def one_run(table: str, count: int, model: str, overrides: Sequence[str], output: str) -> dict[str, Any]:
    """CPU seconds and memory of a run of `count` questions, after a short one that loads the models."""
    words = ["benchmark=custom", f"benchmark.path={table}", "benchmark.protocol=likelihood",
             "benchmark.follow_links=true", "run.batch_size=8", *overrides]  # fmt: skip
    for limit in (8, count):
        config = compose([*words, f"run.limit={limit}", f"run.output_dir={output}/{limit}"], profile="mini")
        if model == "dummy":
            config["model"] = {"_target_": "bench_scaling.DummyVLM", "name": model}
        memory, start = HighestMemory(), time.process_time()
        with memory, contextlib.redirect_stdout(sys.stderr):  # the run prints its table
            run_folder = execute(config)
        seconds = time.process_time() - start
    start = time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        execute(config)
    return {
        "questions": count,
        "cpu_s": round(seconds, 3),
        "ms_a_question": round(1000 * seconds / count, 3),
        "found_again_s": round(time.process_time() - start, 3),
        "highest_mib": round(memory.highest, 1),
        "grew_mib": round(memory.highest - memory.before, 1),
        "samples_mib": round((run_folder / "samples.jsonl").stat().st_size / 2**20, 2),
    }


class HighestMemory:
    """Within it, the highest of this process's anonymous memory in MiB; `before` is what it was at the start."""

    def __enter__(self) -> HighestMemory:
        gc.collect()
        self.before = self.highest = own_memory_mib()
        self._over, self._watcher = threading.Event(), threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.highest = max(self.highest, own_memory_mib())


def own_memory_mib() -> float:
    """Anonymous resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def candidates_axis(folder: Path, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """SemClip over finer and finer grids."""
    parts, benchmark = Parts(), VStar(path=str(enlarged(folder, 1, chosen.questions)))
    for side in GRIDS:
        row = _asked(parts, benchmark, "semclip", rows=side, columns=side)
        yield {"model": "mini_llava", "selector": "semclip", "value": side * side, **row}


def megapixels_axis(folder: Path, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The same scenes, enlarged."""
    parts = Parts()
    for selector in ("no_crop", "semclip"):
        for factor in FACTORS:
            benchmark = VStar(path=str(enlarged(folder, factor, max(2, chosen.questions // 3))))
            row = _asked(parts, benchmark, selector)
            size = benchmark.questions()[0].load_image().size
            yield {"model": "mini_llava", "selector": selector, "value": round(size[0] * size[1] / 1e6, 3), **row}


def per_image_axis(folder: Path, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """ψ without a cache on disk, with an empty and with a full one."""
    parts = Parts()
    for per_image in PER_IMAGE:
        table = pope_like(folder / f"per{per_image}", per_image, max(1, chosen.questions // 18) * 18)
        words = ["benchmark=custom", f"benchmark.path={table}", "benchmark.follow_links=true"]
        section = compose(words, profile="mini")["benchmark"]
        benchmark = build("benchmark", section)
        answers = None
        # As many images in memory as six questions in a row need: POPE's 500 are far more than `cache_images` too.
        for case, keys in (("memory", {}), ("empty cache", {"store_mib": 64}), ("full cache", {"store_mib": 64})):
            parts.psi = load_mini_psi(cache_images=1, cache=str(folder / f"cache{per_image}"), **keys)
            parts.inside = parts.inside or 1.0  # nothing may be cached by warming up
            row = _asked(parts, benchmark, "semclip", batch_size=1)
            answers = answers or row["choices"]
            if row["choices"] != answers:
                raise SystemExit(f"{per_image} questions an image, {case}: the answers are others")
            yield {"model": "mini_llava", "selector": f"semclip, {case}", "value": per_image, **row}


def pope_like(folder: Path, per_image: int, count: int) -> Path:
    """A table of `count` questions, so many about each image, in passes of six at most."""
    source = data_folder("mini://vstar")
    images = sorted(source.glob("*/*.jpg"))[: count // per_image]
    texts = [f"Is there a {color} {shape} in the image?" for shape in SHAPES for color in COLORS]
    rows = [
        {"image": str(image), "image_id": image.stem, "question": text, "answer": "yes"}
        for start in range(0, per_image, PASS)
        for image in images
        for text in texts[start : min(start + PASS, per_image)]
    ]
    folder.mkdir(parents=True)
    lines = [json.dumps({"id": str(number), **row}) + "\n" for number, row in enumerate(rows)]
    table = folder / "questions.jsonl"
    for number, image in enumerate(images):
        os.symlink(image, folder / f"{number}.jpg")
        lines = [line.replace(json.dumps(str(image)), json.dumps(f"{number}.jpg")) for line in lines]
    table.write_text("".join(lines))
    return table


def _asked(parts: Parts, benchmark: Any, selector: str, batch_size: int = 8, **crops: int) -> dict[str, Any]:
    """One cell: CPU time of all questions, of ψ and of the networks; `choices` are the answers."""
    if not parts.inside:
        parts.ask(benchmark, selector, batch_size, **crops)  # warms up
    parts.inside = parts.scoring = 0.0
    start = time.process_time()
    with parts.watched():
        records = parts.ask(benchmark, selector, batch_size, **crops)
    seconds, count = time.process_time() - start, len(records)
    if failed := next((record for record in records if record.status == "error"), None):
        raise SystemExit(f"question {failed.question_id}: {failed.error}")
    return {
        "questions": count,
        "cpu_s": round(seconds, 3),
        "ms_a_question": round(1000 * seconds / count, 3),
        "psi_ms_a_question": round(1000 * parts.scoring / count, 3),
        "networks_ms_a_question": round(1000 * parts.inside / count, 3),
        "highest_mib": round(own_memory_mib(), 1),
        "choices": [record.choice for record in records],
    }


def fits_of(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each series: exponent, slope and intercept of what was measured over what was changed."""
    series = dict.fromkeys(map(_series, rows))
    quantities = {"questions": ("cpu_s", "grew_mib", "highest_mib", "found_again_s")}
    for axis, model, selector in series:
        own = [row for row in rows if _series(row) == (axis, model, selector)]
        for quantity in quantities.get(axis, ("ms_a_question", "psi_ms_a_question")):
            values = [max(row[quantity], 1e-3) for row in own]
            if max(values) <= 1e-3:
                continue  # a selector without ψ
            fit = dataclasses.asdict(fitted([row["value"] for row in own], values))
            numbers = {name: float(f"{value:.4g}") for name, value in fit.items()}
            yield {"axis": axis, "model": model, "selector": selector, "quantity": quantity, **numbers,
                   "lowest": min(values), "highest": max(values)}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
