"""Published data as they are: odd ids, odd shards, odd pictures, and nothing opened outside of the data folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from semclip_eval.answers.replay import Replay
from semclip_eval.benchmarks.access import FileAccess
from semclip_eval.benchmarks.images import decode_rgb, read_rgb
from semclip_eval.benchmarks.pope import Pope
from semclip_eval.benchmarks.seedbench import SEEDBench
from semclip_eval.benchmarks.textvqa import TextVqa
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.errors import ConfigError, DataError, QuestionError, SemclipEvalError
from tests import published as fixtures
from tests.test_vstar import DOG, GLOVE

DEEP = "[" * 100_000


def vstar_folder(root: Path, size: tuple[int, int] = (100, 75)) -> Path:
    for category, stem, annotation in (("direct_attributes", "sa_1", GLOVE), ("relative_position", "sa_2", DOG)):
        folder = root / category
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.json").write_text(json.dumps(annotation))
        noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{stem}.jpg")
    return root


def seedbench(folder: Path, **keywords: Any) -> SEEDBench:
    return SEEDBench(path=str(folder), **keywords)


# --- ids ---------------------------------------------------------------------------------------------------------


def test_an_id_that_is_published_twice_is_two_questions(tmp_path: Path) -> None:
    rows = [{"question_id": "49914"}, {"question_id": "5"}, {"question_id": "49914"}, {"question_id": "49914"}]
    benchmark = seedbench(fixtures.write_seedbench(tmp_path, rows))
    questions = benchmark.questions()
    assert [question.id for question in questions] == ["49914", "5", "49914_2", "49914_3"]
    assert [question.load_image().getpixel((0, 0))[0] for question in questions] == [0, 1, 2, 3]
    assert any("49914_2" in notice for notice in benchmark.notices)


def test_the_same_row_twice_stays_an_error(tmp_path: Path) -> None:
    row = {"question_id": "7", "data_id": "same", "question": "What?", "answer": "A", "question_type_id": 5,
           **{f"choice_{letter}": letter for letter in "abcd"}}  # fmt: skip
    with pytest.raises(DataError, match="two questions have the id '7'"):
        seedbench(fixtures.write_seedbench(tmp_path / "seed", [row, row])).questions()
    rows = [{"question_id": "1", "category": "random"}, {"question_id": "1", "category": "random"}]
    with pytest.raises(DataError, match="two questions have the id 'random_1'"):
        pope(fixtures.write_pope(tmp_path / "pope", rows, 1)).questions()


def pope(folder: Path) -> Pope:
    return Pope("pope", "test", "x/y", None, str(folder), "yes_no")


def test_replay_takes_an_answer_file_with_the_id_twice(tmp_path: Path) -> None:
    rows = [{"question_id": "49914"}, {"question_id": "5"}, {"question_id": "49914"}]
    benchmark = seedbench(fixtures.write_seedbench(tmp_path, rows))
    lines = [{"question_id": "49914", "text": "A"}, {"question_id": 5.0, "text": "B"},
             {"question_id": "49914", "text": "C"}]  # fmt: skip
    answers = replay(tmp_path, lines, benchmark)
    assert [answers.answer(question.id).text for question in benchmark.questions()] == ["A", "B", "C"]
    with pytest.raises(DataError, match="'5' is already in line 2"):
        replay(tmp_path, [*lines, {"question_id": "5", "text": "D"}], benchmark)


def replay(folder: Path, lines: list[dict[str, Any]], benchmark: Any) -> Replay:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = Replay("replay", str(path))
    questions = benchmark.questions()
    answers.check(questions, questions, benchmark.prompt, benchmark.protocol)
    return answers


def test_answers_to_other_questions_under_the_same_ids_are_refused(tmp_path: Path) -> None:
    """POPE as LLaVA lists it: 8,910 of the official ids, with other questions behind them."""
    benchmark = pope(fixtures.write_pope(tmp_path, 6))
    questions = benchmark.questions()
    suffix = "\nAnswer the question using a single word or phrase."
    for key, text in (("prompt", "{}" + suffix), ("question", "{}"), ("prompt", "<image>\n{}"), ("prompt", "  {} ")):
        lines = [
            {"question_id": question.id, "text": "yes", key: text.format(question.text.upper())}
            for question in questions
        ]
        assert replay(tmp_path, lines, benchmark).answer(questions[0].id).text == "yes"
        lines[3][key] = "Is there an umbrella in the imange?" + suffix
        with pytest.raises(
            ConfigError, match=rf"line 4: question '{questions[3].id}' is an answer to another question"
        ):
            replay(tmp_path, lines, benchmark)


@pytest.mark.parametrize("identity", [34602.0, "34602.0", "34602", 34602])
def test_ids_that_a_table_program_wrote_as_floats_are_whole_numbers(tmp_path: Path, identity: Any) -> None:
    folder = fixtures.write_textvqa(tmp_path, 3, 1)
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path,) = folder.rglob("*.parquet")
    table = pq.read_table(path)
    index = table.schema.get_field_index("question_id")
    values = [identity, *([1.0, 2.0] if isinstance(identity, float) else [str(1), str(2)])]
    if isinstance(identity, int):
        values = [identity, 1, 2]
    pq.write_table(table.set_column(index, "question_id", pa.array(values)), path)
    questions = TextVqa("textvqa", "validation", "x/y", None, str(folder), "short_answer").questions()
    assert [question.id for question in questions] == ["34602", "1", "2"]


# --- shards ------------------------------------------------------------------------------------------------------


def shards(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        fixtures.write_pope(folder / "one", [{"question": f"q{number}", "question_id": str(number)}], shards=1)
        (folder / "data").mkdir(exist_ok=True)
        os.replace(folder / "one/data/test-00000-of-00001.parquet", folder / "data" / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("names", [
    ("test-00000-of-00001", "test-00000-of-00003", "test-00001-of-00003", "test-00002-of-00003"),
    ("test-00000-of-00001", "test-00000-of-00001-1ef3b6e1d5a3b7ca"),
    ("test-00000-of-00002", "test-00001-of-00002", "test-00000-of-00001-1ef3b6e1d5a3b7ca"),
])  # fmt: skip
def test_two_uploads_of_one_table_are_not_read_together(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="two sets") as caught:
        pope(shards(tmp_path, *names)).questions()
    assert "test-00000-of-00001" in str(caught.value)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks 1 of 3 shards, the first is number 00001"):
        pope(shards(tmp_path, "test-00000-of-00003", "test-00002-of-00003")).questions()


def test_old_names_with_a_hash_are_read_alone(tmp_path: Path) -> None:
    names = ("test-00000-of-00002-1ef3b6e1d5a3b7ca", "test-00001-of-00002-9f3c6e1d5a3b7caa")
    assert [question.text for question in pope(shards(tmp_path, *names)).questions()] == ["q0", "q1"]


def test_a_saved_folder_with_an_index_mapping_is_refused(tmp_path: Path) -> None:
    import datasets

    source = fixtures.write_pope(tmp_path / "source", 6, 1)
    (parquet,) = source.rglob("*.parquet")
    datasets.Dataset.from_parquet(str(parquet)).save_to_disk(tmp_path / "saved")
    assert len(pope(tmp_path / "saved").questions()) == 6
    state = json.loads((tmp_path / "saved/state.json").read_text())
    for key in ("_indices_data_files", "_indices_files"):
        (tmp_path / "saved/state.json").write_text(json.dumps({**state, key: [{"filename": "indices.arrow"}]}))
        with pytest.raises(DataError, match="flatten_indices"):
            pope(tmp_path / "saved").questions()


# --- pictures ----------------------------------------------------------------------------------------------------


def pixels(size: tuple[int, int] = (20, 10)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("exif", [b"Exif\0\0broken", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\xff" * 40])
def test_broken_exif_beside_sound_pixels(tmp_path: Path, kind: str, exif: bytes) -> None:
    path = tmp_path / f"x.{kind}"
    lossless: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    with contextlib.suppress(Exception):  # not every writer takes every nonsense
        pixels().save(path, exif=exif, **lossless)
    if not path.exists():
        pixels().save(path, **lossless)
    image = read_rgb(path)
    assert image.size == (20, 10)
    if kind != "jpeg":
        assert image.tobytes() == pixels().tobytes()


def test_a_png_with_megabytes_of_text_and_profile_is_read(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("history", "x" * (2 * 2**20), zip=True)
    info.add_itxt("more", "y" * (2 * 2**20), zip=True)
    path = tmp_path / "x.png"
    pixels().save(path, pnginfo=info, icc_profile=b"p" * (2 * 2**20))
    assert read_rgb(path).tobytes() == pixels().tobytes()


def huge_png(side: int) -> bytes:
    """A picture of side x side white pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * ((side + 7) // 8)) * side, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_huge_image_meets_our_own_limit_and_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png(14_200))  # 202 megapixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(QuestionError, match=r"202 megapixels, more than benchmark\.max_megapixels=100"):
            read_rgb(path, FileAccess(max_megapixels=100))
        with pytest.raises(QuestionError, match=r"benchmark\.max_megapixels=100"):
            decode_rgb(path.read_bytes(), FileAccess(max_megapixels=100))
        assert read_rgb(path).size == (14_200, 14_200)
    for wrong in (0, -1, "x", True, float("inf")):
        with pytest.raises(ConfigError, match=r"benchmark\.max_megapixels="):
            VStar(path=str(tmp_path), max_megapixels=wrong)


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".avif", ".jpe", ".bmp", ".webp", ".GIF"])
def test_other_endings_beside_an_annotation(tmp_path: Path, suffix: str) -> None:
    folder = vstar_folder(tmp_path)
    old = folder / "direct_attributes" / "sa_1.jpg"
    kind = {".jfif": "JPEG", ".jpe": "JPEG"}.get(suffix.lower(), suffix[1:].upper())
    try:
        Image.open(old).save(old.with_suffix(suffix), kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {kind}")
    old.unlink()
    question = VStar(path=str(folder)).questions()[0]
    assert question.load_image().size == (100, 75)


def test_an_ending_that_is_none_of_an_image_is_named(tmp_path: Path) -> None:
    folder = vstar_folder(tmp_path)
    old = folder / "direct_attributes" / "sa_1.jpg"
    old.rename(old.with_suffix(".heic"))
    with pytest.raises(QuestionError, match=r"sa_1\.jpg: no such image\. Beside it lies sa_1\.heic"):
        VStar(path=str(folder)).questions()[0].load_image()


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_an_image_or_a_question_error(content: bytes) -> None:
    for encoded in (content, b"\x89PNG\r\n\x1a\n" + content, b"\xff\xd8\xff" + content, b"GIF89a" + content):
        try:
            decode_rgb(encoded)
        except QuestionError as error:
            assert "cannot be read" in str(error) or "megapixels" in str(error)  # noqa: PT017


def test_a_box_beyond_its_image_harms_only_who_uses_it(tmp_path: Path) -> None:
    from semclip_eval.results.records import read_samples
    from semclip_eval.run import execute
    from tests.fakes import ORACLE, SEMCLIP, config

    vstar_folder(tmp_path / "data", size=(70, 75))  # the glove's box ends at 71
    section = {"_target_": "semclip_eval.benchmarks.vstar.VStar", "name": "vstar", "path": str(tmp_path / "data")}
    run = {"benchmark": section, "run__max_error_rate": 1.0}
    (record, _) = read_samples(execute(config(tmp_path / "out", selector=SEMCLIP, **run)))
    assert record["status"] == "ok"
    assert record["target_boxes"] == [[56, 14, 71, 30]]
    assert record["target_coverage"] is not None
    (record, _) = read_samples(execute(config(tmp_path / "out", selector=ORACLE, **run)))
    assert record["status"] == "error"
    assert "box (56, 14, 71, 30) lies outside of the image of 70x75" in record["error"]["message"]


# --- security ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["absolute", "dots", "link"])
def test_a_table_row_opens_nothing_outside_of_the_data_folder(tmp_path: Path, place: str) -> None:
    secret = tmp_path / "elsewhere" / "x.png"
    secret.parent.mkdir()
    pixels().save(secret)
    folder = tmp_path / "data"
    folder.mkdir()
    path = {"absolute": str(secret), "dots": "../../elsewhere/x.png", "link": "x.png"}[place]
    fixtures.write_pope(folder, [{"image": {"bytes": None, "path": path}}], 1)
    if place == "link":
        (folder / "data" / "x.png").symlink_to(secret)
    with pytest.raises(QuestionError, match=r"lies outside of the data folder.*benchmark\.follow_links=true"):
        pope(folder).questions()[0].load_image()
    allowed = Pope("pope", "test", "x/y", None, str(folder), "yes_no", follow_links=True)
    assert allowed.questions()[0].load_image().size == (20, 10)
    inside = folder / "data" / "inside.png"
    pixels().save(inside)
    (folder / "data" / "x2.png").symlink_to(inside)
    fixtures.write_pope(folder, [{"image": {"bytes": None, "path": "x2.png"}}], 1)
    assert pope(folder).questions()[0].load_image().size == (20, 10)


@pytest.mark.parametrize("name", ["direct_attributes/sa_1.jpg", "direct_attributes/sa_1.json"])
def test_a_link_out_of_a_vstar_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    folder = vstar_folder(tmp_path / "data")
    target = tmp_path / "elsewhere"
    (folder / name).rename(target)
    (folder / name).symlink_to(target)
    with pytest.raises((QuestionError, DataError), match="lies outside of the data folder"):
        VStar(path=str(folder)).questions()[0].load_image()
    assert VStar(path=str(folder), follow_links=True).questions()[0].load_image().size == (100, 75)


def test_the_hubs_cache_is_links_and_is_read(tmp_path: Path) -> None:
    """snapshots/COMMIT/... are links to blobs/ beside them, also where such a folder is named by hand."""
    repository = tmp_path / "datasets--x--y"
    snapshot = vstar_folder(repository / "snapshots" / ("a" * 40))
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.rglob("*.*"))):
        blob = repository / "blobs" / str(number)
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    assert [question.load_image().size for question in VStar(path=str(snapshot)).questions()] == [(100, 75)] * 2


# --- damaged -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "deep", "bytes"])
@pytest.mark.parametrize("name", ["direct_attributes/sa_1.json", "test_questions.jsonl"])
def test_a_damaged_annotation_is_named_and_not_waited_for(tmp_path: Path, kind: str, name: str) -> None:
    folder = vstar_folder(tmp_path)
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "fifo" and name.endswith("jsonl"):
        pytest.skip("what is no file is no test_questions.jsonl")
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(DEEP.encode() if kind == "deep" else b"\xff\xfe{}")
    with pytest.raises(DataError, match=Path(name).name.replace(".", r"\.")):
        VStar(path=str(folder)).questions()


@given(content=st.one_of(st.binary(max_size=200), st.just(DEEP.encode()), st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["question", "options", "bbox", "target_object", "question_id", "text", "image", "label"]),
        inner, max_size=5),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_a_data_file_are_a_message_or_questions(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = vstar_folder(tmp_path_factory.mktemp("data"))
    answers = folder / "answers.jsonl"
    answers.write_bytes(content)
    (folder / "direct_attributes" / "sa_1.json").write_bytes(content)
    rows = vstar_folder(tmp_path_factory.mktemp("rows"))
    (rows / "test_questions.jsonl").write_bytes(content)
    table = tmp_path_factory.mktemp("table") / "x.tsv"
    table.write_bytes(content)
    for read in (
        lambda: VStar(path=str(folder)).questions(),
        lambda: VStar(path=str(rows), protocol="letter").questions(),
        lambda: Replay("replay", str(answers)),
        lambda: Pope("pope", "test", "x/y", None, str(table), "yes_no").questions(),
    ):
        with contextlib.suppress(SemclipEvalError):
            read()


def test_bytes_of_an_image_in_a_column_keep_their_rules(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pixels((300, 200)).save(buffer, "PNG")
    folder = fixtures.write_pope(tmp_path, [{"image": buffer.getvalue()}], 1)
    small = Pope("pope", "test", "x/y", None, str(folder), "yes_no", max_megapixels=0.05)
    with pytest.raises(QuestionError, match=r"row 0: 300x200 pixels are 0 megapixels"):
        small.questions()[0].load_image()
