"""The miniatures of the benchmarks that are published as tables: test scenes, in the published format.

Every answer is true in its scene. What the real benchmark has and scenes cannot have (species, brands, common sense) is
not imitated; categories carry the names of the real ones that come closest, so that the tables look alike. Rows depend
on the counts alone: the same call writes the same rows and images.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from semclip_eval.mini import questions as q
from semclip_eval.mini.published import encoded, to_base64, write_parquet
from semclip_eval.mini.world import SCENE_SIZE, SHAPES, Scene, make_scene, render

Row = dict[str, Any]
SPLIT = "test"
# Where each miniature's scenes begin: none shares its first ten thousand with another or with V*.
_FIRST_SCENE = {
    name: 10_000 * (number + 1)
    for number, name in enumerate("pope mmbench textvqa gqa seedbench scienceqa hrbench".split())
}
_HINT = "There are {count} objects in the image."


def _scenes(name: str, sign: bool = False) -> Iterator[Scene]:
    index = _FIRST_SCENE[name]
    while True:
        yield make_scene(SPLIT, index, sign)
        index += 1


def _asked(kind: str, name: str, sign: bool = False, options: int = 0) -> Iterator[tuple[Scene, q.MiniQuestion]]:
    """Scenes that have a question of this kind (with this number of options), with it."""
    for scene in _scenes(name, sign):
        question = q.make_question(kind, scene)
        if question is not None and options in (0, len(question.options)):
            yield scene, question


def _rng(name: str, *parts: object) -> random.Random:
    return random.Random("/".join(map(str, (name, SPLIT, *parts))))


def _hint(scene: Scene) -> str:
    return _HINT.format(count=len(scene.things))


# --- POPE -------------------------------------------------------------------------------------------------------------

_POPE_PRESENT = 2


def build_pope(folder: Path, images: int = 33) -> None:
    """POPE: "Is there a star in the image?", four questions an image and category, half of them yes.

    Taken are scenes with five things, so three of the eight shapes are absent, and each category asks two of them:
    `random` any two; `popular` the two that most of the miniature's scenes show; `adversarial` the two that most often
    share a scene with the shapes of this one. The two present shapes asked about are the same in all categories. POPE
    asks six questions an image, three of them no; with three absent shapes that would be the same ones in every
    category. With so few shapes the categories are of about the same difficulty.
    """
    scenes = list(islice((scene for scene in _scenes("pope") if len(scene.things) == 5), images))
    shown = [{thing.shape for thing in scene.things} for scene in scenes]
    popularity = Counter(shape for shapes in shown for shape in shapes)
    together = Counter((one, other) for shapes in shown for one in shapes for other in shapes if one != other)
    pictures = [encoded(render(scene)) for scene in scenes]
    rows: list[Row] = []
    for category in ("adversarial", "popular", "random"):
        number = 0
        for scene, shapes, picture in zip(scenes, shown, pictures, strict=True):
            rng = _rng("pope", scene.index)
            present = rng.sample(sorted(shapes), _POPE_PRESENT)
            absent = rng.sample(sorted(set(SHAPES) - shapes), len(SHAPES) - len(shapes))
            if category == "popular":
                absent.sort(key=lambda shape: -popularity[shape])
            elif category == "adversarial":
                absent.sort(key=lambda shape, shapes=shapes: -sum(together[shape, other] for other in shapes))  # type: ignore[misc]
            for yes, no in zip(present, absent, strict=False):
                for shape, answer in ((yes, "yes"), (no, "no")):
                    number += 1
                    rows.append(
                        {
                            "id": str(len(rows)),
                            "question_id": str(number),
                            "question": f"Is there a {shape} in the image?",
                            "answer": answer,
                            "image_source": f"scene_{scene.index:012d}",
                            "image": picture,
                            "category": category,
                        }
                    )
    write_parquet("pope", folder, rows, shards=3)


# --- MMBench ----------------------------------------------------------------------------------------------------------

# Kind of question, number of options, share of the questions, category, L2-category.
_MMBENCH = (
    ("color_choice", 4, 0.6, "attribute_recognition", "finegrained_perception (instance-level)"),
    ("present_color_choice", 4, 0.2, "image_scene", "coarse_perception"),
    ("side_choice", 2, 0.2, "spatial_relationship", "finegrained_perception (cross-instance)"),
)


def build_mmbench(folder: Path, questions: int = 112) -> None:
    """MMBench: colours and sides by letter, each question once per rotation of its options.

    Rotation k of question i has the index i + k * 1,000,000 and its options moved on by k places; all first rotations
    come first. A quarter of the questions has a hint, which says how many objects there are. What is missing says
    "nan", as in the published file.
    """
    asked: list[tuple[Scene, q.MiniQuestion, str, str]] = []
    for kind, count, share, category, level in _MMBENCH:
        found = islice(_asked(kind, "mmbench", options=count), round(questions * share))
        asked += [(scene, question, category, level) for scene, question in found]
    pictures = {scene.index: encoded(render(scene)) for scene, *_ in asked}
    rows: list[Row] = []
    for turn in range(4):
        for number, (scene, question, category, level) in enumerate(asked):
            if turn >= len(question.options):
                continue
            options, _ = q.shuffled(question.options, _rng("mmbench", question.kind, scene.index))
            turned = options[turn:] + options[:turn]
            rows.append(
                {
                    "index": number + turn * 1_000_000,
                    "question": question.text,
                    "hint": _hint(scene) if number % 4 == 3 else "nan",
                    "answer": q.LETTERS[turned.index(question.options[0])],
                    **dict(zip(q.LETTERS, [*turned, "nan", "nan"], strict=False)),
                    "image": pictures[scene.index],
                    "category": category,
                    "source": "scenes",
                    "L2-category": level,
                    "comment": "nan",
                    "split": "dev",
                }
            )
    write_parquet("mmbench", folder, rows)


# --- TextVQA ----------------------------------------------------------------------------------------------------------

_FIRST_TEXTVQA = 34602  # where the published validation split's question_id begins


def build_textvqa(folder: Path, questions: int = 400) -> None:
    """TextVQA: the number on a sign. Ten answers, of which seven to ten agree; the others read wrong or give up.

    `ocr_tokens` holds the true number, which is what a faultless OCR system would read.
    """
    rows: list[Row] = []
    for scene, question in islice(_asked("number", "textvqa", sign=True), questions):
        rng = _rng("textvqa", scene.index)
        agreeing = rng.randint(7, 10)
        others = [rng.choice((*question.options[1:], "unanswerable")) for _ in range(10 - agreeing)]
        answers = [question.answer] * agreeing + others
        rng.shuffle(answers)
        rows.append(
            {
                "image_id": f"{scene.index:016x}",
                "question_id": _FIRST_TEXTVQA + len(rows),
                "question": question.text,
                "question_tokens": question.text.lower().rstrip("?").split(),
                "image": encoded(render(scene)),
                "image_width": SCENE_SIZE,
                "image_height": SCENE_SIZE,
                "flickr_original_url": "",
                "flickr_300k_url": "",
                "answers": answers,
                "image_classes": ["Sign"],
                "set_name": "val",
                "ocr_tokens": [question.answer],
            }
        )
    write_parquet("textvqa", folder, rows, shards=3)


# --- GQA --------------------------------------------------------------------------------------------------------------


def build_gqa(folder: Path, images: int = 80) -> None:
    """GQA: five questions an image with answers of one word; half of the existence questions are true.

    A shape's colour (query, attr), the side of one thing from another, horizontally and vertically (choose, rel), and
    whether there is a shape or a colour (verify, obj and attr).
    """
    rows: list[Row] = []
    pictures: list[Row] = []
    for scene in _scenes("gqa"):
        if len(pictures) == images:
            break
        rng = _rng("gqa", scene.index)
        sides = [q.relative_position(scene, rng, axis) for axis in sorted(q.SIDES)]
        if None in sides:
            continue
        present = len(pictures) % 2 == 0
        asked = [
            (q.color_of_shape(scene, rng), "query", "attr", "directWhich"),
            (sides[0], "choose", "rel", "relChooser"),
            (sides[1], "choose", "rel", "relChooser"),
            (q.shape_existence(scene, rng, present), "verify", "obj", "existC"),
            (q.color_existence(scene, rng, not present), "verify", "attr", "existAttrC"),
        ]
        pictures.append({"id": f"n{scene.index}", "image": encoded(render(scene))})
        for number, (question, structural, semantic, detailed) in enumerate(asked):
            if question is not None:
                types = {"structural": structural, "semantic": semantic, "detailed": detailed}
                rows.append(_gqa_row(scene, number, question, types))
    write_parquet("gqa_instructions", folder, rows)
    write_parquet("gqa_images", folder, pictures)


def _gqa_row(scene: Scene, number: int, question: q.MiniQuestion, types: dict[str, str]) -> Row:
    identity = f"{scene.index}{number:02d}"
    things = [(scene.things.index(thing), thing) for thing in question.targets]
    steps = [f"{thing.name} ({index})" for index, thing in things]
    return {
        "id": identity,
        "imageId": f"n{scene.index}",
        "question": question.text,
        "answer": question.answer,
        "fullAnswer": question.options[0],
        "isBalanced": True,
        "groups": {"global": None, "local": None},
        "entailed": "[]",
        "equivalent": f"['{identity}']",
        "types": types,
        "annotations": {
            "question": [{"objectId": str(index), "value": thing.name} for index, thing in things],
            "answer": [],
            "fullAnswer": [],
        },
        "semantic": [{"operation": "select", "argument": step, "dependencies": []} for step in steps],
        "semanticStr": "->".join(f"select: {step}" for step in steps),
    }


# --- SEED-Bench -------------------------------------------------------------------------------------------------------


def build_seedbench(folder: Path, images: int = 200, videos: int = 10) -> None:
    """SEED-Bench: a shape's colour (Instance Attributes) and a colour that is there (Scene Understanding) by letter.

    Two questions an image, and a few rows about "videos" (eight scenes), which are no part of the image benchmark.
    """
    rows: list[Row] = []
    scenes = _asked("present_color_choice", "seedbench", options=4)
    for scene, there in islice(scenes, images):
        picture = encoded(render(scene))
        color = q.make_question("color_choice", scene)
        for question, question_type in ((color, 3), (there, 1)):
            if question is not None:
                rows.append(_seed_row(scene, question, question_type, [picture], len(rows)))
    for scene, question in islice(scenes, videos):
        frames = [encoded(render(make_scene(SPLIT, scene.index + step))) for step in range(8)]
        rows.append(_seed_row(scene, question, 10, frames, len(rows)))
    write_parquet("seedbench", folder, rows, shards=2)


def _seed_row(scene: Scene, question: q.MiniQuestion, question_type: int, pictures: list[bytes], number: int) -> Row:
    options, letter = q.shuffled(question.options, _rng("seedbench", question.kind, scene.index))
    return {
        "answer": letter,
        **{f"choice_{mark.lower()}": option for mark, option in zip(q.LETTERS, options, strict=True)},
        "data_id": str(scene.index),
        "data_type": "image" if len(pictures) == 1 else "video",
        "question": question.text,
        "question_id": str(number),
        "question_type_id": question_type,
        "image": pictures,
        "segment": [],
    }


# --- ScienceQA --------------------------------------------------------------------------------------------------------

# Kind of question, subject, topic.
_SCIENCE = (
    ("color_choice", "natural science", "physics"),
    ("side_choice", "social science", "geography"),
    ("color_choice", "natural science", "biology"),
    ("present_color_choice", "language science", "vocabulary"),
)


def build_scienceqa(folder: Path, questions: int = 400, without_image: int = 20) -> None:
    """ScienceQA: colours and sides by letter with two to four choices; half of the questions have a hint.

    Some rows have no image, like half of ScienceQA; they are no part of the image benchmark.
    """
    asked = [
        islice(_asked(kind, "scienceqa"), number, None, len(_SCIENCE)) for number, (kind, *_) in enumerate(_SCIENCE)
    ]
    every = max(1, questions // max(1, without_image))
    rows: list[Row] = []
    for number in range(questions):
        scene, question = next(asked[number % len(_SCIENCE)])
        row = _science_row(scene, question, number)
        rows.append(row)
        if number % every == every - 1 and len(rows) - number <= without_image:
            rows.append({**row, "image": None})
    write_parquet("scienceqa", folder, rows)


def _science_row(scene: Scene, question: q.MiniQuestion, number: int) -> Row:
    options, letter = q.shuffled(question.options, _rng("scienceqa", question.kind, scene.index))
    _, subject, topic = _SCIENCE[number % len(_SCIENCE)]
    return {
        "image": encoded(render(scene)),
        "question": question.text,
        "choices": options,
        "answer": q.LETTERS.index(letter),
        "hint": _hint(scene) if number // len(_SCIENCE) % 2 else "",
        "task": "closed choice",
        "grade": f"grade{number % 12 + 1}",
        "subject": subject,
        "topic": topic,
        "category": "Scenes",
        "skill": "Look at the scene",
        "lecture": "",
        "solution": "",
    }


# --- HR-Bench ---------------------------------------------------------------------------------------------------------


def build_hrbench(folder: Path, questions: int = 100, resolution: str = "4k") -> None:
    """HR-Bench: a shape's colour (`single`) and which colour any of the things has (`cross`), in four cyclic orders.

    HR-Bench's `cross` relates several things; with four options the miniature VLM cannot tell sides (it has learned
    pairs of them), so this asks what takes a look at all things instead.

    The scene is enlarged two times for 4k (1008 px) and four times for 8k (2016 px). That makes the images large, as
    the loader and the crops will meet them, and adds no detail: nothing can be seen in them that the scene did not
    show. No two questions have the same text, options and answer, by which the loader tells them apart.
    """
    scale = {"4k": 2, "8k": 4}[resolution]
    singles, crosses = (
        _distinct(_asked(kind, "hrbench", options=4)) for kind in ("color_choice", "present_color_choice")
    )
    rows: list[Row] = []
    for number in range(questions):
        category = ("single", "cross")[number % 2]
        scene, question = next((singles, crosses)[number % 2])
        options, _ = q.shuffled(question.options, _rng("hrbench", question.kind, scene.index))
        large = render(scene).resize((SCENE_SIZE * scale, SCENE_SIZE * scale), Image.Resampling.BICUBIC)
        picture = to_base64(encoded(large))
        for turn in range(4):
            turned = options[4 - turn :] + options[: 4 - turn]
            rows.append(
                {
                    "index": len(rows),
                    "question": question.text,
                    "answer": q.LETTERS[turned.index(question.answer)],
                    "category": category,
                    **dict(zip(q.LETTERS, turned, strict=True)),
                    "cycle_category": str(turn),
                    "image": picture,
                }
            )
    write_parquet(f"hrbench{resolution}", folder, rows)


def _distinct(asked: Iterator[tuple[Scene, q.MiniQuestion]]) -> Iterator[tuple[Scene, q.MiniQuestion]]:
    seen: set[tuple[Any, ...]] = set()
    for scene, question in asked:
        key = (question.text, frozenset(question.options), question.answer)
        if key not in seen:
            seen.add(key)
            yield scene, question
