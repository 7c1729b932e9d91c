"""Miniature benchmarks on disk, in the file formats of the real ones, so that the same loaders read them."""

import contextlib
import itertools
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from semclip_eval.mini import tables
from semclip_eval.mini.questions import MiniQuestion, lettered_text, make_question, shuffled
from semclip_eval.mini.world import WORLD_VERSION, Scene, Thing, make_scene, render
from semclip_eval.paths import default_cache_folder

VSTAR_CATEGORIES = ("direct_attributes", "relative_position")
QUESTIONS = 1000
# Part of the folders' names, so that a cache from before a change of `tables` is not taken for the new one.
TABLES_VERSION = 5
COMPLETE = "complete.json"
# The shipped models have learned from the scenes of the split "train", and were watched on those of "dev", below this.
FIRST_UNSEEN = 100_000
# Few of those that the overview answers: they teach ψ nothing.
TRAINING_QUESTIONS = {"direct_attributes": 3000, "relative_position": 300}


def vstar_questions(category: str, split: str, first: int = 0) -> Iterator[tuple[Scene, MiniQuestion]]:
    """The questions of a category with their scenes, one a scene, without end; both categories share no scene.

    first: an even number, the first scene. Every third question of direct_attributes is about two far-apart targets.
    """
    kinds = {"direct_attributes": ("color", "color", "color_pair"), "relative_position": ("relation",)}[category]
    index = first + VSTAR_CATEGORIES.index(category)
    for number in itertools.count():
        while (question := make_question(kinds[number % len(kinds)], make_scene(split, index))) is None:
            index += len(VSTAR_CATEGORIES)
        yield make_scene(split, index), question
        index += len(VSTAR_CATEGORIES)


def _save_jpeg(scene: Scene, path: Path) -> None:
    # Full chroma resolution: at the usual 4:2:0 the colour of a small object would bleed into the background.
    render(scene).save(path, "JPEG", quality=95, subsampling=0, optimize=False)


def _xywh(thing: Thing) -> list[int]:
    left, top, right, bottom = thing.box
    return [left, top, right - left, bottom - top]


def _short_options(question: MiniQuestion) -> list[str]:
    """Bare answers, as the published question file has them, right one first."""
    if question.kind == "color":
        return [option.rsplit(" ", 1)[1].removesuffix(".") for option in question.options]
    if question.kind == "color_pair":
        words = [option.removesuffix(".").split() for option in question.options]
        return [f"{sentence[3]} and {sentence[-1]}" for sentence in words]
    sides = {"left": "right", "right": "left", "above": "below", "below": "above"}
    return [question.answer, sides[question.answer]]


def build_vstar(
    folder: Path, questions_per_category: int | Mapping[str, int] = QUESTIONS, split: str = "test", first: int = 0
) -> None:
    """V* Bench's layout: a JPEG and a JSON for each question, and `test_questions.jsonl` with lettered options.

    `bbox` is [x, y, width, height] in pixels, `options` has the right sentence first. Letters come from the shuffle
    seeded by the question's own number, so a longer build starts with the same questions as a shorter one.
    questions_per_category: one number, or one by category. first: the first scene.
    """
    lines: list[str] = []
    images: list[Future[None]] = []
    # A picture depends on its scene alone; resizing and JPEG let other threads run.
    with ThreadPoolExecutor(os.cpu_count()) as drawing:
        for category in VSTAR_CATEGORIES:
            given = questions_per_category
            count = given if isinstance(given, int) else given[category]
            (folder / category).mkdir(parents=True)
            for scene, question in itertools.islice(vstar_questions(category, split, first), count):
                stem = f"sa_{100000 + scene.index}"
                images.append(drawing.submit(_save_jpeg, scene, folder / category / f"{stem}.jpg"))
                names = [thing.name if question.kind == "relation" else thing.shape for thing in question.targets]
                record = {
                    "target_object": names,
                    "bbox": [_xywh(thing) for thing in question.targets],
                    "question": question.text,
                    "options": list(question.options),
                }
                (folder / category / f"{stem}.json").write_text(json.dumps(record) + "\n")
                options, label = shuffled(_short_options(question), random.Random(f"vstar/{split}/{scene.index}"))
                line = {
                    "image": f"{category}/{stem}.jpg",
                    "text": lettered_text(question.text, options, "(A)"),
                    "category": category,
                    "label": label,
                    "question_id": str(len(lines)),
                }
                lines.append(json.dumps(line))
        for image in images:
            image.result()
    (folder / "test_questions.jsonl").write_text("\n".join(lines) + "\n")


BUILDERS: dict[str, Callable[[Path], None]] = {
    "vstar": build_vstar,
    # For `train-psi` and for choosing settings: scenes that neither model has seen and no result is reported on.
    "vstar-train": partial(build_vstar, questions_per_category=TRAINING_QUESTIONS, split="train", first=FIRST_UNSEEN),
    "vstar-dev": partial(build_vstar, split="dev", first=FIRST_UNSEEN),
    "pope": tables.build_pope,
    "mmbench": tables.build_mmbench,
    "textvqa": tables.build_textvqa,
    "gqa": tables.build_gqa,
    "seedbench": tables.build_seedbench,
    "scienceqa": tables.build_scienceqa,
    # Fewer questions: decoding and cutting large images is most of what a mini sweep's time goes into.
    "hrbench4k": partial(tables.build_hrbench, questions=40),
    "hrbench8k": partial(tables.build_hrbench, questions=16, resolution="8k"),
}


def ensure(benchmark: str, cache_folder: Path | None = None) -> Path:
    """Folder of a miniature benchmark, built on first use. Safe when several processes ask at once."""
    if benchmark not in BUILDERS:
        raise ValueError(f"no miniature of benchmark {benchmark!r}; there is {', '.join(sorted(BUILDERS))}")
    cache = cache_folder if cache_folder is not None else default_cache_folder()
    counts = {"vstar": QUESTIONS, "vstar-dev": QUESTIONS, "vstar-train": sum(TRAINING_QUESTIONS.values())}
    size = f"n{counts[benchmark]}" if benchmark in counts else f"t{TABLES_VERSION}"
    target = cache / f"mini-{benchmark}-v{WORLD_VERSION}-{size}"
    if (target / COMPLETE).is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    if (
        target.exists() and not (target / COMPLETE).is_file()
    ):  # damaged: its mark is missing, so somebody took files out of it
        damaged = tempfile.mkdtemp(prefix=f".{target.name}-damaged-", dir=cache)
        with contextlib.suppress(OSError):  # another process may be quicker
            target.rename(Path(damaged) / target.name)
        shutil.rmtree(damaged, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
    try:
        BUILDERS[benchmark](partial)
        (partial / COMPLETE).write_text(json.dumps({"world_version": WORLD_VERSION, "benchmark": benchmark}) + "\n")
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:
            # Somebody else finished first; a folder without its mark is a damaged one and must not be used.
            if not (target / COMPLETE).is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
