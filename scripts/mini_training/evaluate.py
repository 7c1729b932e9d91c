"""Measure shipped weights: full-sentence likelihood and letters on the benchmark layout, selector by selector.

The models are loaded from the exported folder through transformers and open_clip, in fp32. Every question is scored
with its options as branches of one prompt, which gives the losses of separate forward passes (`check_forward`).
"""

import itertools
import json
import math
import multiprocessing
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mini_training.clip import to_pixels
from mini_training.packing import Encoder, pack, token_losses
from mini_training.scenes import INPUT_SIZE, WHOLE, grid_cells
from mini_training.vocabulary import SYSTEM
from semclip_eval.mini.build import VSTAR_CATEGORIES, vstar_questions
from semclip_eval.mini.questions import MiniQuestion, lettered_text, make_question, short_text, shuffled
from semclip_eval.mini.signs import DIGITS
from semclip_eval.mini.world import SCENE_SIZE, Box, Scene, make_scene, render

ORACLE_SIDE = 3.0  # of a tight crop, in sides of its target
BRIEF = ("no_crop", "random_crop", "semclip", "oracle")
SELECTORS = ("no_crop", "random_crop", "semclip", "semclip_top2", "semclip_5x5", "full_3x3", "oracle")


@dataclass(frozen=True)
class Task:
    """A row of the table: where its questions come from and how question and options are put to the model."""

    kind: str
    put: Callable[[MiniQuestion, Scene], tuple[str, list[str], int]]  # text, options, number of the right one
    chance: float


def _sentences(question: MiniQuestion, scene: Scene) -> tuple[str, list[str], int]:
    return question.text, list(question.options), 0


def _short(question: MiniQuestion, scene: Scene) -> tuple[str, list[str], int]:
    return short_text(question.text), list(question.options), 0


def _letters(style: str) -> Callable[[MiniQuestion, Scene], tuple[str, list[str], int]]:
    def put(question: MiniQuestion, scene: Scene) -> tuple[str, list[str], int]:
        options, letter = shuffled(question.options, random.Random(f"letters/{scene.split}/{scene.index}"))
        letters = list("ABCD"[: len(options)])
        return lettered_text(question.text, options, style), letters, letters.index(letter)

    return put


TASKS = {
    "direct_attributes": Task("direct_attributes", _sentences, 0.25),
    "relative_position": Task("relative_position", _sentences, 0.5),
    "direct_attributes, letters": Task("color_choice", _letters("(A)"), 0.25),
    "two targets, letters": Task("color_pair_choice", _letters("(A)"), 0.25),
    "relative_position, letters": Task("side_choice", _letters("(A)"), 0.5),
    "shape existence, yes/no": Task("shape_existence", _short, 0.5),
    "color existence, yes/no": Task("color_existence", _short, 0.5),
    "color, short answer": Task(
        "color", lambda q, s: (short_text(q.text), [o.split()[-1].rstrip(".") for o in q.options], 0), 0.25
    ),
    "side, short answer": Task("side_choice", _short, 0.5),
    "number on a sign, short answer": Task(
        "number", lambda q, s: (short_text(q.text), [q.answer, *(d for d in DIGITS if d != q.answer)], 0), 0.1
    ),
    "color of a shape, A. B. C. D.": Task("color_choice", _letters("A."), 0.25),
    "color in the image, A. B. C. D.": Task("present_color_choice", _letters("A."), 0.25),
}


def oracle_boxes(question: MiniQuestion) -> list[Box]:
    """A tight square around each target, inside the scene; the middle cell where there is none."""
    middle = SCENE_SIZE // 2
    boxes = [thing.box for thing in question.targets[:2]] or [(middle - 28, middle - 28, middle + 28, middle + 28)]
    crops = []
    for left, top, right, bottom in boxes:
        side = math.ceil(ORACLE_SIDE * max(right - left, bottom - top))
        x = min(max((left + right - side) // 2, 0), SCENE_SIZE - side)
        y = min(max((top + bottom - side) // 2, 0), SCENE_SIZE - side)
        crops.append((x, y, x + side, y + side))
    return crops


class Judge:
    """The two shipped models, and the views of a scene that each selector chooses."""

    def __init__(self, folder: Path) -> None:
        self.model = LlavaForConditionalGeneration.from_pretrained(folder / "vlm", dtype=torch.float32).eval()
        self.model.set_attn_implementation("eager")  # the branch mask is a full matrix
        self.encoder = Encoder(PreTrainedTokenizerFast.from_pretrained(folder / "vlm"))
        self.clip = open_clip.create_model_and_transforms(f"local-dir:{folder / 'clip'}")[0].eval()
        self._cells: dict[tuple[int, int], torch.Tensor] = {}  # by scene number and grid: scenes of one split only
        self.clip_tokenizer = open_clip.get_tokenizer(f"local-dir:{folder / 'clip'}")

    @staticmethod
    def see(image: Image.Image, box: Box) -> np.ndarray:
        """A view as uint8 (84, 84, 3)."""
        return np.asarray(image.crop(box).resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC))

    def ranked_cells(self, image: Image.Image, text: str, scene: Scene, side: int) -> list[Box]:
        """Cells of a grid of `side` x `side` by their match with the question, best first."""
        cells, key = grid_cells(side), (scene.index, side)
        if key not in self._cells:
            views = to_pixels(np.stack([self.see(image, cell) for cell in cells]))
            self._cells[key] = self.clip.encode_image(views, normalize=True)
        wanted = self.clip.encode_text(self.clip_tokenizer([text]), normalize=True)[0]
        scores = (self._cells[key] @ wanted).tolist()
        return [cells[i] for i in sorted(range(len(cells)), key=lambda i: -scores[i])]

    def views(self, selector: str, image: Image.Image, question: MiniQuestion, scene: Scene) -> list[Box]:
        if selector == "random_crop":
            rng = random.Random(f"crop/{question.kind}/{scene.index}")
            return [WHOLE, rng.choice(grid_cells(3))]
        if selector.startswith("semclip"):
            side, count = (5 if selector.endswith("5x5") else 3), (2 if selector.endswith("top2") else 1)
            return [WHOLE, *self.ranked_cells(image, question.text, scene, side)[:count]]
        if selector.startswith("full"):
            return [WHOLE, *grid_cells(int(selector[-1]))]
        return [WHOLE, *oracle_boxes(question)] if selector == "oracle" else [WHOLE]

    def losses(self, items: list[tuple[str, list[str], list[np.ndarray]]]) -> list[list[float]]:
        """Mean token cross-entropy of each option (end token included) for (question, options, views) items."""
        batch = []
        for text, options, views in items:
            prefix = self.encoder.prefix(len(views)) + self.encoder.question(text)
            answers = [[*self.encoder.ids(f" {option}"), self.encoder.end] for option in options]
            batch.append(pack(prefix, [(ids, [1.0] * len(ids)) for ids in answers], views))
        values, _, places = token_losses(self.model, batch, self.encoder.image)
        sums: list[dict[int, list[float]]] = [{} for _ in items]
        for (sample, _, branch), value in zip(places, values.tolist(), strict=True):
            sums[int(sample)].setdefault(int(branch), []).append(value)
        return [[float(np.mean(branches[k])) for k in sorted(branches)] for branches in sums]


def _questions(kind: str, split: str, count: int) -> list[tuple[Scene, MiniQuestion]]:
    """The first `count` questions of a V* category (those of the built benchmark) or of one kind, one a scene."""
    if kind in VSTAR_CATEGORIES:
        return list(itertools.islice(vstar_questions(kind, split), count))
    found: list[tuple[Scene, MiniQuestion]] = []
    for index in itertools.count():
        scene = make_scene(split, index, sign=kind == "number")
        question = make_question(kind, scene)
        if question is not None:
            found.append((scene, question))
        if len(found) == count:
            return found
    raise AssertionError("itertools.count has no end")


@torch.no_grad()
def _measure(job: tuple[Path, str, str, int, tuple[str, ...]]) -> list[dict[str, object]]:
    folder, task_name, split, count, selectors = job
    torch.set_num_threads(1)
    judge, task = Judge(folder), TASKS[task_name]
    pairs = [(scene, question, render(scene)) for scene, question in _questions(task.kind, split, count)]
    rows: list[dict[str, object]] = []
    for selector in selectors:
        right = 0
        step = 8 if selector == "full_3x3" else 25
        for first in range(0, len(pairs), step):
            items, truths = [], []
            for scene, question, image in pairs[first : first + step]:
                text, options, truth = task.put(question, scene)
                boxes = judge.views(selector, image, question, scene)
                items.append((text, options, [judge.see(image, box) for box in boxes]))
                truths.append(truth)
            right += sum(int(np.argmin(row)) == truth for row, truth in zip(judge.losses(items), truths, strict=True))
        row = {"task": task_name, "selector": selector, "split": split, "n": len(pairs), "right": right}
        rows.append(row | {"accuracy": right / len(pairs)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def evaluate(folder: Path, split: str, count: int, tasks: tuple[str, ...] = tuple(TASKS)) -> list[dict[str, object]]:
    """Accuracy of every task, two tasks at a time: V* and signs with all selectors, the others with four."""
    complete = ("direct_attributes", "relative_position", "number on a sign, short answer")
    jobs = [(folder, task, split, count, SELECTORS if task in complete else BRIEF) for task in tasks]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return [row for rows in pool.map(_measure, jobs, chunksize=1) for row in rows]


@torch.no_grad()
def check_forward(folder: Path, count: int = 20) -> float:
    """Largest difference between packed option losses and those of whole, separate prompts through the processor."""
    judge = Judge(folder)
    plain = LlavaForConditionalGeneration.from_pretrained(folder / "vlm", dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder / "vlm")
    worst = 0.0
    for scene, question in _questions("direct_attributes", "dev", count):
        image = render(scene)
        # Already at the input size: the processor's own resizing differs from Pillow's by rounding.
        views = [judge.see(image, box) for box in judge.views("oracle", image, question, scene)]
        crops = [Image.fromarray(view) for view in views]
        packed = judge.losses([(question.text, list(question.options), views)])[0]
        prompt = f"{SYSTEM} USER: <image>\n<image>\n{question.text} ASSISTANT:"
        start = processor(text=[prompt], images=crops, return_tensors="pt").input_ids.shape[1]
        for option, loss in zip(question.options, packed, strict=True):
            inputs = processor(text=[f"{prompt} {option}</s>"], images=crops, return_tensors="pt")
            logits = plain(**inputs).logits[0, start - 1 : -1]
            expected = torch.nn.functional.cross_entropy(logits, inputs.input_ids[0, start:]).item()
            worst = max(worst, abs(expected - loss))
    return worst
