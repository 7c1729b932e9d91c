"""The V* loader on folders in the published format, written here with small real images."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semclip_eval.benchmarks.base import stratified_limit
from semclip_eval.benchmarks.images import read_rgb
from semclip_eval.benchmarks.vstar import PATTERNS, VStar
from semclip_eval.benchmarks.vstar_files import box_from_xywh
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.types import Answer, Box, Question

INSTRUCTION = "Answer with the option's letter from the given choices directly."

# (category, stem, annotation, options as lettered, label); the letters order and word the options in their own way.
GLOVE = {
    "target_object": ["glove"],
    "bbox": [[56, 14, 15, 16]],
    "question": "What is the material of the glove?",
    "options": [
        "The material of the glove is rubber.",
        "The material of the glove is cotton.",
        "The material of the glove is kevlar.",
        "The material of the glove is leather.",
    ],
}
DOG = {
    "target_object": ["dog", "motorcycle"],
    "bbox": [[70, 60, 12, 8], [34, 45, 15, 11]],
    "question": "Is the dog on the left or right side of the motorcycle?",
    "options": ["The dog is on the right side of the motorcycle.", "The dog is on the left side of the motorcycle."],
}
GLOVE_TEXT = f"{GLOVE['question']}\n(A) cotton\n(B) kevlar\n(C) rubber\n(D) leather\n{INSTRUCTION}"  # published wording
DOG_TEXT = f"{DOG['question']}\n(A) right\n(B) left\n{INSTRUCTION}"
ROWS: list[dict[str, Any]] = [
    {
        "image": "relative_position/sa_6183.jpg",
        "text": DOG_TEXT,
        "category": "relative_position",
        "label": "A",
        "question_id": "115",
    },
    {
        "image": "direct_attributes/sa_4690.jpg",
        "text": GLOVE_TEXT,
        "category": "direct_attributes",
        "label": "C",
        "question_id": "0",
    },
]


def write_image(path: Path, size: tuple[int, int] = (100, 75)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 30)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two questions of V* below a folder with dots in its name, and the two folders that are not part of it."""
    root = tmp_path / "vstar.v1.0" / "snap.shot"
    for category, stem, annotation in (
        ("direct_attributes", "sa_4690", GLOVE),
        ("relative_position", "sa_6183", DOG),
        ("OCR", "sa_1", GLOVE),
        ("GPT4V-hard", "sa_2", GLOVE),
    ):
        write_image(root / category / f"{stem}.jpg")
        (root / category / f"{stem}.json").write_text(json.dumps(annotation))
    write_rows(root, ROWS)
    return root


def write_rows(root: Path, rows: list[dict[str, Any]]) -> None:
    (root / "test_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change(root: Path, **keys: Any) -> Path:
    path = root / "direct_attributes" / "sa_4690.json"
    path.write_text(json.dumps({**GLOVE, **keys}))
    return path


def vstar(folder: Path, protocol: str = "likelihood") -> VStar:
    return VStar(path=str(folder), protocol=protocol)


def test_likelihood_questions(folder: Path) -> None:
    benchmark = vstar(folder)
    dog, glove = benchmark.questions()
    assert (dog.id, dog.category, dog.image_id) == ("115", "relative_position", "relative_position/sa_6183")
    assert dog.target_boxes == (Box(70, 60, 82, 68), Box(34, 45, 49, 56))
    assert glove.text == "What is the material of the glove?"
    assert glove.options == tuple(GLOVE["options"])
    assert glove.truth == 0
    assert benchmark.chance(glove) == 0.25
    assert benchmark.chance(dog) == 0.5
    prompt = benchmark.prompt(glove)
    assert (prompt.text, prompt.continuations) == (GLOVE["question"], tuple(GLOVE["options"]))
    image = glove.load_image()
    assert (image.mode, image.size) == ("RGB", (100, 75))


def test_letter_questions_keep_the_published_text_order_and_label(folder: Path) -> None:
    benchmark = vstar(folder, "letter")
    dog, glove = benchmark.questions()
    assert glove.options == ("cotton", "kevlar", "rubber", "leather")
    assert glove.truth == 2
    assert glove.text == GLOVE["question"]
    assert dog.options == ("right", "left")
    assert dog.truth == 0
    assert glove.target_boxes == (Box(56, 14, 71, 30),)
    prompt = benchmark.prompt(glove)
    assert prompt.text == GLOVE_TEXT
    assert (prompt.continuations, prompt.max_new_tokens) == ((), 16)


@pytest.mark.parametrize("ending", [f"\n{INSTRUCTION}", "", "\n", f"\n{INSTRUCTION}\n"])
def test_the_instruction_is_there_exactly_once(folder: Path, ending: str) -> None:
    bare = GLOVE_TEXT.removesuffix(f"\n{INSTRUCTION}")
    write_rows(folder, [ROWS[0], {**ROWS[1], "text": bare + ending}])
    benchmark = vstar(folder, "letter")
    question = benchmark.questions()[1]
    text = benchmark.prompt(question).text
    assert text.count(INSTRUCTION) == 1
    assert text.rstrip("\n") == f"{bare}\n{INSTRUCTION}"
    assert question.options[-1] == "leather"


def test_scores_by_loss(folder: Path) -> None:
    benchmark = vstar(folder)
    glove = benchmark.questions()[1]

    def score(*losses: float) -> Any:
        return benchmark.score(glove, Answer(option_losses=losses))

    right, wrong, tie = score(1.0, 2.0, 3.0, 4.0), score(3.0, 2.0, 2.5, 4.0), score(1.0, 1.0, 1.0, 1.0)
    assert (right.value, right.choice, right.status) == (1.0, 0, "ok")
    assert (wrong.value, wrong.choice, wrong.status) == (0.0, 1, "ok")
    assert (tie.value, tie.choice, tie.status, tie.reason) == (0.0, None, "unparsed", "tie")
    with pytest.raises(QuestionError, match="option 2 is nan"):
        score(1.0, 2.0, math.nan, 4.0)
    with pytest.raises(QuestionError, match="question 0: 3 option losses for 4 options"):
        score(1.0, 2.0, 3.0)
    with pytest.raises(QuestionError, match=r"no option losses.*benchmark\.protocol=letter"):
        benchmark.score(glove, Answer(text="A"))


def test_scores_by_letter(folder: Path) -> None:
    benchmark = vstar(folder, "letter")
    glove = benchmark.questions()[1]
    assert benchmark.score(glove, Answer(text="C")).value == 1.0
    assert benchmark.score(glove, Answer(text="The glove is rubber.")).value == 1.0
    wrong = benchmark.score(glove, Answer(text="A"))
    assert (wrong.value, wrong.choice, wrong.status) == (0.0, 0, "ok")
    unread = benchmark.score(glove, Answer(text="Cannot say."))
    assert (unread.value, unread.choice, unread.status) == (0.0, None, "unparsed")
    assert unread.reason
    with pytest.raises(QuestionError, match="needs an answer text"):
        benchmark.score(glove, Answer(option_losses=(1.0, 2.0, 3.0, 4.0)))


def test_without_the_rows_likelihood_goes_by_category_and_stem(folder: Path) -> None:
    (folder / "test_questions.jsonl").unlink()
    assert [question.id for question in vstar(folder).questions()] == ["sa_4690", "sa_6183"]
    with pytest.raises(DataError, match=r"test_questions\.jsonl: missing[\s\S]*benchmark\.protocol=likelihood"):
        vstar(folder, "letter").questions()


def test_one_photograph_in_both_folders_is_two_questions(folder: Path) -> None:
    (folder / "test_questions.jsonl").unlink()
    for suffix in ("jpg", "json"):
        shutil.copy(folder / f"relative_position/sa_6183.{suffix}", folder / f"direct_attributes/sa_6183.{suffix}")
    ids = [question.id for question in vstar(folder).questions()]
    assert ids == ["sa_4690", "direct_attributes/sa_6183", "relative_position/sa_6183"]


def test_other_counts_than_published_are_a_notice(folder: Path) -> None:
    benchmark = vstar(folder)
    benchmark.questions()
    assert benchmark.notices == [
        "vstar: 2 questions (1 direct_attributes + 1 relative_position); V* publishes 191 (115 + 76)."
    ]
    shutil.rmtree(folder / "relative_position")
    part = vstar(folder)
    assert [question.id for question in part.questions()] == ["0"]
    assert part.notices[1] == "vstar: 1 rows of test_questions.jsonl have no files here and are left out."


def test_the_miniature_is_read_like_the_real_thing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ensure(name: str) -> Path:
        asked.append(name)
        return folder

    monkeypatch.setattr("semclip_eval.mini.build.ensure", ensure)
    benchmark = VStar(path="mini://vstar")
    assert [question.id for question in benchmark.questions()] == ["115", "0"]
    assert (asked, benchmark.notices) == (["vstar"], [])
    assert benchmark.dataset_revision.startswith("local:")


def test_the_published_counts_give_no_notice(tmp_path: Path) -> None:
    for category, count, annotation in (("direct_attributes", 115, GLOVE), ("relative_position", 76, DOG)):
        (tmp_path / category).mkdir()
        for number in range(count):
            (tmp_path / category / f"sa_{number}.json").write_text(json.dumps(annotation))
    benchmark = vstar(tmp_path)
    assert len(benchmark.questions()) == 191
    assert benchmark.notices == []


def test_revision_follows_the_content(folder: Path) -> None:
    def revision() -> str:
        benchmark = vstar(folder)
        benchmark.questions()
        return benchmark.dataset_revision

    names = sorted(
        path.relative_to(folder).as_posix()
        for part in ("direct_attributes/*", "relative_position/*", "test_questions.jsonl")
        for path in folder.glob(part)
    )
    content = b""
    for name in names:
        data = (folder / name).read_bytes()
        content += f"{name}\0{len(data)}\0".encode() + (b"" if name.endswith(".jpg") else data)
    before = revision()
    assert before == f"local:{hashlib.sha256(content).hexdigest()[:12]}"
    (folder / "OCR" / "sa_1.json").write_text("{}")
    (folder / "README.md").write_text("not part of it")
    assert revision() == before
    change(folder, question="What is the colour of the glove?")
    assert revision() != before


def test_an_image_at_fault_is_that_question_alone(folder: Path) -> None:
    image = folder / "direct_attributes" / "sa_4690.jpg"
    whole = image.read_bytes()
    dog, glove = vstar(folder).questions()
    for content, message in ((whole[: len(whole) // 2], "cannot be read"), (b"no image", "cannot be read")):
        image.write_bytes(content)
        with pytest.raises(QuestionError, match=rf"sa_4690\.jpg: {message}"):
            glove.load_image()
    image.unlink()
    with pytest.raises(QuestionError, match=r"sa_4690\.jpg: no such image"):
        vstar(folder).questions()[1].load_image()
    assert dog.load_image().size == (100, 75)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"options": ["only one"]}, "two or more"),
        ({"options": "rubber"}, "two or more"),
        ({"options": ["rubber", 3]}, "two or more"),
        ({"bbox": [[1, 2, 3]]}, "four numbers"),
        ({"bbox": [[1, 2, 3, "4"]]}, "four numbers"),
        ({"bbox": [[1, 2, 3, math.nan]]}, "four numbers"),
        ({"bbox": [[1, 2, 3, True]]}, "four numbers"),
        ({"bbox": [56, 14, 15, 16], "target_object": ["a", "b", "c", "d"]}, "four numbers"),
        ({"bbox": [[1, 2, 0, 4]]}, "positive"),
        ({"bbox": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "one length"),
        ({"target_object": "glove"}, "one length"),
        ({"question": " "}, "`question`"),
    ],
)
def test_a_malformed_annotation_names_its_file(folder: Path, keys: dict[str, Any], message: str) -> None:
    path = change(folder, **keys)
    with pytest.raises(DataError, match=message) as caught:
        vstar(folder).questions()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["target_object", "bbox", "question", "options"])
def test_a_missing_key_is_named(folder: Path, key: str) -> None:
    path = folder / "direct_attributes" / "sa_4690.json"
    path.write_text(json.dumps({name: value for name, value in GLOVE.items() if name != key}))
    with pytest.raises(DataError, match=rf"sa_4690\.json: the key `{key}` is missing"):
        vstar(folder).questions()


def test_broken_json_names_file_and_line(folder: Path) -> None:
    annotation = folder / "direct_attributes" / "sa_4690.json"
    annotation.write_text('{\n"question": "?",\n oops }')
    with pytest.raises(DataError, match=r"sa_4690\.json, line 3: not JSON"):
        vstar(folder).questions()
    change(folder)
    rows = folder / "test_questions.jsonl"
    rows.write_text(rows.read_text() + "\n{broken\n")
    with pytest.raises(DataError, match=r"test_questions\.jsonl, line 4: not JSON"):
        vstar(folder).questions()


def test_files_without_their_partner(folder: Path) -> None:
    write_image(folder / "direct_attributes" / "sa_9.jpg")
    with pytest.raises(DataError, match=r"sa_9\.jpg: has no sa_9\.json"):
        vstar(folder).questions()
    (folder / "direct_attributes" / "sa_9.json").write_text(json.dumps(GLOVE))
    with pytest.raises(DataError, match=r"no row for direct_attributes/sa_9"):
        vstar(folder).questions()
    write_image(folder / "direct_attributes" / "sa_9.png")
    with pytest.raises(DataError, match=r"sa_9\.png: sa_9\.jpg has the same stem"):
        vstar(folder).questions()


@pytest.mark.parametrize(
    ("change_row", "message"),
    [
        ({"label": "E"}, "line 2: label 'E' is none of the letters ABCD"),
        ({"label": "rubber"}, "label 'rubber'"),
        ({"label": ""}, "label ''"),
        ({"text": "What?\n(A) one\n(C) two"}, "letters 'AC'"),
        ({"text": "What?"}, "letters 'none'"),
        ({"image": ROWS[0]["image"]}, r"line 2: image relative_position/sa_6183\.jpg is already in line 1"),
        ({"question_id": "115"}, "line 2: question_id 115 is already in line 1"),
    ],
)
def test_a_malformed_row_names_its_line(folder: Path, change_row: dict[str, str], message: str) -> None:
    write_rows(folder, [ROWS[0], {**ROWS[1], **change_row}])
    with pytest.raises(DataError, match=message):
        vstar(folder, "letter").questions()


def test_wrong_values_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.protocol=guess: must be likelihood or letter"):
        VStar(protocol="guess")
    with pytest.raises(ConfigError, match=r"benchmark\.path=.*missing: no such folder"):
        VStar(path=str(tmp_path / "missing")).questions()
    with pytest.raises(DataError, match="neither direct_attributes nor relative_position"):
        VStar(path=str(tmp_path)).questions()


@given(st.tuples(*[st.floats(0, 6000)] * 2, *[st.floats(0.01, 6000)] * 2))
def test_the_box_holds_the_published_rectangle_and_little_more(values: tuple[float, float, float, float]) -> None:
    x, y, width, height = values
    box = box_from_xywh([x, y, width, height], Path("a.json"))
    for low, high, start, length in ((box.left, box.right, x, width), (box.top, box.bottom, y, height)):
        assert low - 1e-5 <= start < low + 1 + 1e-5
        assert high - 1 - 1e-5 < start + length <= high + 1e-5


@given(*[st.integers(0, 6000)] * 2, *[st.integers(1, 6000)] * 2)
def test_whole_numbers_convert_exactly(x: int, y: int, width: int, height: int) -> None:
    box = box_from_xywh([x, y, width, height], Path("a.json"))
    assert box == (x, y, x + width, y + height)
    assert box.area == width * height


# Images of every mode.


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the stored left side is the top
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_rgb(tmp_path / "turned.png")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (255, 0, 0)
    assert upright.getpixel((10, 35)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("RGB", (10, 20, 30), "png", (10, 20, 30)),
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), "png", (204, 204, 204)),
        ("LA", (0, 0), "png", (255, 255, 255)),
        ("I;16", 32896, "png", (128, 128, 128)),
        ("I;16", 65535, "png", (255, 255, 255)),
        ("I", 200, "tiff", (200, 200, 200)),
        ("I", 65535, "tiff", (255, 255, 255)),
        ("F", 0.5, "tiff", (128, 128, 128)),
        ("F", 128.0, "tiff", (128, 128, 128)),
        ("CMYK", (0, 255, 255, 0), "tiff", (255, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, color: Any, suffix: str, expected: tuple[int, ...]) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new(mode, (3, 2), color).save(path)
    image = read_rgb(path)
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert image.getpixel((1, 1)) == expected


def test_palettes_keep_their_colors_and_lose_their_holes(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "hole.png", transparency=1)
    assert np.asarray(read_rgb(tmp_path / "plain.png")).tolist() == [[[255, 0, 0], [0, 255, 0]]]
    assert np.asarray(read_rgb(tmp_path / "hole.png")).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_a_broken_header_is_the_question_s_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    Image.new("RGB", (4, 4)).save(path)
    data = bytearray(path.read_bytes())
    data[16:20] = struct.pack(">I", 2**31 - 1)  # a width of two thousand million
    path.write_bytes(bytes(data))
    with pytest.raises(QuestionError, match=r"broken\.png: cannot be read"):
        read_rgb(path)
    with pytest.raises(QuestionError, match="cannot be read"):
        read_rgb(tmp_path)


# The stratified limit.


def make_questions(counts: dict[str, int]) -> list[Question]:
    return [
        Question(f"{category}{number}", "?", category, "i", lambda: Image.new("RGB", (1, 1)), 0)
        for number in range(max(counts.values()))
        for category, count in counts.items()
        if number < count
    ]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 30), min_size=1),
    st.integers(1, 80),
    st.integers(0, 5),
)
def test_the_limit_is_proportional_ordered_and_nested(counts: dict[str, int], limit: int, seed: int) -> None:
    questions = make_questions(counts)
    chosen = stratified_limit(questions, limit, seed)
    assert len(chosen) == min(limit, len(questions))
    positions = [questions.index(question) for question in chosen]
    assert positions == sorted(set(positions))
    if limit < len(questions):
        share = limit / len(questions)
        for category, count in counts.items():
            got = sum(question.category == category for question in chosen)
            # Webster: got = count * t rounded, for one t; the k roundings sum to at most k / 2, which bounds t too.
            assert abs(got - share * count) <= 0.5 + len(counts) / 2 * count / len(questions) + 1e-9
    larger = stratified_limit(questions, limit + 1, seed)
    assert {question.id for question in chosen} <= {question.id for question in larger}


def test_the_limit_is_seeded() -> None:
    questions = make_questions({"direct_attributes": 115, "relative_position": 76})
    chosen = [question.id for question in stratified_limit(questions, 20, 0)]
    assert chosen == [question.id for question in stratified_limit(questions, 20, 0)]
    assert chosen != [question.id for question in stratified_limit(questions, 20, 1)]
    assert sum(identity.startswith("direct") for identity in chosen) == 12  # 20 * 115 / 191 = 12.04
    assert stratified_limit(questions, 500, 0) == questions


@pytest.mark.parametrize("limit", [0, -3, 2.5, True])
def test_a_wrong_limit_names_the_key(limit: Any) -> None:
    with pytest.raises(ConfigError, match=rf"run\.limit={limit}: "):
        stratified_limit([], limit, 0)


# The Hub, served from this machine.


def test_only_the_files_of_the_191_are_fetched() -> None:
    from huggingface_hub.utils import filter_repo_objects

    ours = ["direct_attributes/sa_1.jpg", "direct_attributes/sa_1.json", "relative_position/sa_2.jpg"]
    others = ["OCR/sa_3.jpg", "GPT4V-hard/0.JPG", "README.md", ".gitattributes", "data/direct_attributes.parquet"]
    rows = ["test_questions.jsonl"]
    assert list(filter_repo_objects([*others, *ours, *rows], allow_patterns=list(PATTERNS))) == [*ours, *rows]


HUB_SCRIPT = """
import json, sys
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.errors import DataError
try:
    benchmark = VStar(revision=sys.argv[1])
    print(json.dumps([[q.id for q in benchmark.questions()], benchmark.dataset_revision]))
except DataError as error:
    print(json.dumps(str(error)))
"""


def ask_hub(cache: Path, revision: str, **environment: str) -> Any:
    """What a fresh process reads with the given Hub settings (the Hub client fixes them when it is imported)."""
    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT, revision],
        env={"HF_HOME": str(cache), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached_snapshot(folder: Path, cache: Path) -> Path:
    """`folder` as the Hub's cache would hold it."""
    snapshots = cache / "hub" / "datasets--craigwu--vstar_bench"
    shutil.copytree(folder, snapshots / "snapshots" / COMMIT)
    (snapshots / "refs").mkdir()
    (snapshots / "refs" / "main").write_text(COMMIT)
    return snapshots / "snapshots" / COMMIT


def test_a_cached_snapshot_needs_no_hub(folder: Path, tmp_path: Path) -> None:
    snapshot = cached_snapshot(folder, tmp_path)
    (snapshot / "test_questions.jsonl").unlink()
    for category, count in (("direct_attributes", 115), ("relative_position", 76)):
        image = next((snapshot / category).glob("*.jpg"))
        have = len(list((snapshot / category).glob("*.jpg")))
        for number in range(count - have):
            shutil.copy(image, snapshot / category / f"sa_9{number:04}.jpg")
            shutil.copy(image.with_suffix(".json"), snapshot / category / f"sa_9{number:04}.json")
    answer = ask_hub(tmp_path, COMMIT, HF_HUB_OFFLINE="1")
    assert not isinstance(answer, str), answer
    identities, revision = answer
    assert (len(identities), revision) == (191, COMMIT)


def test_a_download_that_broke_off_is_not_taken_for_the_data_set(folder: Path, tmp_path: Path) -> None:
    cached_snapshot(folder, tmp_path)
    message = ask_hub(tmp_path, COMMIT, HF_HUB_OFFLINE="1")
    assert "published are 191" in message
    assert message.count("\n") == 1
    assert "benchmark.path=FOLDER" in message


def test_an_unreachable_hub_is_two_lines_with_the_remedy(tmp_path: Path) -> None:
    message = ask_hub(tmp_path, "main", HF_ENDPOINT="http://127.0.0.1:9")
    assert message.startswith("craigwu/vstar_bench at main is not cached and could not be fetched from the Hub (")
    assert message.count("\n") == 1
    assert "benchmark.path=FOLDER" in message
    assert "profile=mini" in message
