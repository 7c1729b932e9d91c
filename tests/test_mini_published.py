"""The miniature tables: read by the loaders of the real data, true in their scenes, balanced, the same every time."""

import functools
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.components import build as build_component
from semclip_eval.mini import build, tables
from semclip_eval.mini.published import FORMATS
from semclip_eval.mini.world import SHAPES, Scene, make_scene
from semclip_eval.paths import config_folder
from semclip_eval.types import Question

# Small counts, and what the builder is expected to write with them.
SMALL: dict[str, Callable[[Path], None]] = {
    "pope": functools.partial(tables.build_pope, images=6),
    "mmbench": functools.partial(tables.build_mmbench, questions=15),
    "textvqa": functools.partial(tables.build_textvqa, questions=9),
    "gqa": functools.partial(tables.build_gqa, images=4),
    "seedbench": functools.partial(tables.build_seedbench, images=5, videos=1),
    "scienceqa": functools.partial(tables.build_scienceqa, questions=16, without_image=3),
    "hrbench4k": functools.partial(tables.build_hrbench, questions=6),
    "hrbench8k": functools.partial(tables.build_hrbench, questions=2, resolution="8k"),
}
COUNTS = {"pope": 72, "mmbench": 54, "textvqa": 9, "gqa": 20, "seedbench": 10, "scienceqa": 16} | {
    "hrbench4k": 24,
    "hrbench8k": 8,
}


def loaded(name: str, folder: Path) -> Benchmark:
    section = yaml.safe_load((config_folder() / "benchmark" / f"{name}.yaml").read_text())
    return build_component("benchmark", section | {"path": str(folder)})


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Benchmark]:
    found = {}
    for name, builder in SMALL.items():
        folder = tmp_path_factory.mktemp(name)
        builder(folder)
        found[name] = loaded(name, folder)
    return found


def test_every_table_has_a_builder_and_a_config() -> None:
    assert set(build.BUILDERS) == {"vstar", "vstar-train", "vstar-dev", *SMALL}
    assert {path.stem for path in (config_folder() / "benchmark").glob("*.yaml")} >= {"vstar", *SMALL}


def test_the_loaders_of_the_real_data_read_them(benchmarks: dict[str, Benchmark]) -> None:
    assert {name: len(benchmark.questions()) for name, benchmark in benchmarks.items()} == COUNTS
    for name, benchmark in benchmarks.items():
        assert benchmark.dataset_revision.startswith("local:"), name
        assert len({question.id for question in benchmark.questions()}) == COUNTS[name]


@functools.cache
def scenes(name: str) -> list[Scene]:
    begin = tables._FIRST_SCENE["hrbench" if name.startswith("hrbench") else name]
    return [make_scene("test", index, sign=name == "textvqa") for index in range(begin, begin + 60)]


def scene_of(name: str, question: Question) -> Scene:
    """The scene that a question shows: the one whose things' colours are in the picture, at their centres."""
    picture = question.load_image()
    scale = picture.width // 504

    def difference(scene: Scene) -> float:
        filled = [thing for thing in scene.things if thing.shape != "ring"]
        pixels = [picture.getpixel((thing.center[0] * scale, thing.center[1] * scale)) for thing in filled]
        return sum(
            abs(a - b)
            for pixel, thing in zip(pixels, filled, strict=True)
            for a, b in zip(pixel, thing.rgb, strict=True)
        ) / len(filled)

    best = min(scenes(name), key=difference)
    assert difference(best) < 30
    return best


def true_answer(question: Question, scene: Scene) -> set[str]:
    """What a question's answer may be, worked out from its text and the scene alone."""
    things = {thing.shape: thing for thing in scene.things}
    colors = {thing.color for thing in scene.things}
    text = question.text
    if found := re.fullmatch(r"What is the color of the (\w+)\?", text):
        return {things[found[1]].color}
    if text == "Which color is in the image?":
        return colors
    if text == "What number is on the sign?":
        assert scene.sign is not None
        return {scene.sign.number}
    if found := re.fullmatch(r"Is there an? (\w+) in the image\?", text):
        return {"yes" if found[1] in things else "no"}
    if found := re.fullmatch(r"Is there an? (\w+) object in the image\?", text):
        return {"yes" if found[1] in colors else "no"}
    found = re.fullmatch(r"Is the \w+ (\w+) (?:on the left or right side of|above or below) the \w+ (\w+)\?", text)
    assert found, text
    one, other = things[found[1]].center, things[found[2]].center
    if "left or right" in text:
        return {"left" if one[0] < other[0] else "right"}
    return {"above" if one[1] < other[1] else "below"}


@pytest.mark.parametrize("name", list(SMALL))
def test_answers_are_true_in_the_scene(name: str, benchmarks: dict[str, Benchmark]) -> None:
    for question in benchmarks[name].questions():
        scene = scene_of(name, question)
        right = true_answer(question, scene)
        if question.options:
            assert isinstance(question.truth, int)
            named = [option for option in question.options if option in right]
            assert named == [question.options[question.truth]], (question, scene)
        elif isinstance(question.truth, tuple):
            assert {Counter(question.truth).most_common(1)[0][0]} == right
        else:
            assert question.truth in right
        if question.hint:
            assert question.hint == f"There are {len(scene.things)} objects in the image."


def test_pope_is_balanced_and_its_categories_choose_as_they_say(benchmarks: dict[str, Benchmark]) -> None:
    questions = benchmarks["pope"].questions()
    assert Counter((question.category, question.truth) for question in questions) == {
        (category, truth): 12 for category in ("adversarial", "popular", "random") for truth in (0, 1)
    }
    one_each = {question.image_id: question for question in questions}
    shown = {
        image: {thing.shape for thing in scene_of("pope", question).things} for image, question in one_each.items()
    }
    frequency = Counter(shape for shapes in shown.values() for shape in shapes)
    for image, shapes in shown.items():
        absent = set(SHAPES) - shapes
        asked = {
            category: {
                question.text.split()[3]
                for question in questions
                if (question.category, question.image_id, question.truth) == (category, image, 1)
            }
            for category in ("adversarial", "popular", "random")
        }
        assert all(len(names) == 2 and names <= absent for names in asked.values())
        left_out = (absent - asked["popular"]).pop()
        assert frequency[left_out] <= min(frequency[shape] for shape in asked["popular"])
        together = {
            shape: sum(len(shapes & others) for others in shown.values() if shape in others) for shape in absent
        }
        left_out = (absent - asked["adversarial"]).pop()
        assert together[left_out] <= min(together[shape] for shape in asked["adversarial"])


def test_rotations_show_each_option_at_each_letter(benchmarks: dict[str, Benchmark]) -> None:
    for name in ("mmbench", "hrbench4k"):
        groups: dict[str, list[Question]] = {}
        for question in benchmarks[name].questions():
            groups.setdefault(question.cluster, []).append(question)
        for rotations in groups.values():
            count = len(rotations[0].options)
            assert len(rotations) == count
            assert {question.truth for question in rotations} == set(range(count))
            assert len({question.options for question in rotations}) == count
            assert len({frozenset(question.options) for question in rotations}) == 1
    indices = [int(question.id) for question in benchmarks["mmbench"].questions()]
    assert Counter(index // 1_000_000 for index in indices) == {0: 15, 1: 15, 2: 12, 3: 12}


def test_right_letters_and_sides_are_spread() -> None:
    """No option is right by habit: over a few hundred seeds the letters come out about evenly."""
    letters = Counter(
        tables.q.shuffled(("a", "b", "c", "d"), tables._rng("seedbench", "color_choice", n))[1] for n in range(400)
    )
    assert set(letters) == set("ABCD")
    assert min(letters.values()) > 70


def test_textvqa_answers_disagree_like_people_do(benchmarks: dict[str, Benchmark]) -> None:
    agreeing = []
    for question in benchmarks["textvqa"].questions():
        assert isinstance(question.truth, tuple)
        assert len(question.truth) == 10
        agreeing.append(Counter(question.truth).most_common(1)[0][1])
    assert min(agreeing) >= 7
    assert len(set(agreeing)) > 1


def test_scienceqa_and_seedbench_hold_rows_that_are_no_image_questions(tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    SMALL["scienceqa"](tmp_path / "s")
    table = parquet.read_table(tmp_path / "s" / "ScienceQA-IMG")
    assert (len(table), table["image"].null_count) == (19, 3)
    assert {len(choices) for choices in table["choices"].to_pylist()} == {2, 3, 4}
    SMALL["seedbench"](tmp_path / "b")
    kinds = parquet.read_table(tmp_path / "b" / "data")["data_type"].to_pylist()
    assert Counter(kinds) == {"image": 10, "video": 1}


def test_hrbench_images_are_large(benchmarks: dict[str, Benchmark]) -> None:
    for name, side in (("hrbench4k", 1008), ("hrbench8k", 2016)):
        assert benchmarks[name].questions()[0].load_image().size == (side, side)


@pytest.mark.parametrize("name", ["pope", "mmbench", "gqa", "textvqa"])
def test_same_call_same_bytes(name: str, tmp_path: Path) -> None:
    for folder in ("one", "other"):
        SMALL[name](tmp_path / folder)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.parquet"))
    assert files
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "other" / path).read_bytes()


def test_a_longer_miniature_begins_with_the_same_questions(tmp_path: Path, benchmarks: dict[str, Benchmark]) -> None:
    tables.build_textvqa(tmp_path, questions=4)
    short = loaded("textvqa", tmp_path).questions()
    longer = benchmarks["textvqa"].questions()[:4]
    assert [(q.id, q.text, q.truth) for q in short] == [(q.id, q.text, q.truth) for q in longer]


def test_columns_and_types_as_published(tmp_path: Path) -> None:
    """POPE's card (MICV-yonsei/VisAttnSink, C_datasets/POPE/README.md), read back by the datasets library."""
    import datasets

    SMALL["pope"](tmp_path)
    files = [str(path) for path in sorted(tmp_path.glob("data/test-*-of-00003.parquet"))]
    read = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    text = datasets.Value("string")
    assert read.features == {
        **dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), text),
        "image": datasets.Image(),
        "category": text,
    }
    assert read[0]["image"].size == (504, 504)


def test_formats_cover_every_table() -> None:
    for name, published in FORMATS.items():
        assert published.file.endswith(".parquet"), name
        assert len(published.paths(Path(), 3)) == 3


def test_full_size_miniature_is_built_into_the_cache(tmp_path: Path) -> None:
    folder = build.ensure("gqa", tmp_path)
    assert (folder / build.COMPLETE).is_file()
    assert folder.parent == tmp_path
    assert os.listdir(tmp_path) == [folder.name]
    benchmark = loaded("gqa", folder)
    assert len(benchmark.questions()) == 400
    truths = Counter(q.truth for q in benchmark.questions() if q.category == "verify")
    assert truths == {"yes": 80, "no": 80}
