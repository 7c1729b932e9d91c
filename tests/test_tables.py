"""Tables on disk and in the Hub's cache: which files are taken, what is checked, how an image becomes pixels."""

import base64
import io
import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from semclip_eval import places
from semclip_eval.benchmarks import tables
from semclip_eval.benchmarks.table_benchmark import LETTER, SHORT, TableBenchmark, lettered
from semclip_eval.benchmarks.tables import Published, Table, read_table
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.types import Answer, Prompt, Question, Score
from tests import published as fixtures

POPE = Published(("data/test-*.parquet",), ("question_id", "question", "answer", "category"), 18, "image")
MMBENCH = Published(("en/dev-*.parquet",), ("index", "question", "hint", "A", "answer", "L2-category"), 8, "image")


def opened(path: Path | str, published: Published = POPE, part: str = "") -> Table:
    return read_table("pope", published, "some/where", None, str(path), part)


def red(table: Table, row: int) -> int:
    """The red of a fixture's picture: which picture it is."""
    pixel = table.image_loader(row)().getpixel((5, 5))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def test_shards_are_read_in_their_order(tmp_path: Path) -> None:
    fixtures.write_pope(tmp_path, 24, shards=12)
    table = opened(tmp_path, Published(POPE.files, POPE.columns, 24, "image"))
    assert len(table) == 24
    assert table.notices == []
    assert [row["question"] for row in table.rows()] == [f"Is there a thing{n} in the image?" for n in range(24)]
    assert table.column("answer") == ["yes", "no"] * 12
    assert next(iter(table.rows("answer"))) == {"answer": "yes"}
    assert [red(table, row) for row in (23, 0, 7, 5)] == [1, 0, 1, 0]  # six rows an image, eight rows a category


def test_shards_without_leading_zeros_are_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0):
        fixtures.write_pope(tmp_path / "one", [{"question": f"shard {number}"}], shards=1)
        (tmp_path / "data").mkdir(exist_ok=True)
        shutil.move(tmp_path / "one/data/test-00000-of-00001.parquet", tmp_path / f"data/test-{number}-of-11.parquet")
    assert opened(tmp_path).column("question") == [f"shard {number}" for number in range(11)]


def as_parquet(folder: Path) -> Path:
    fixtures.write_pope(folder, [{"image": fixtures.picture(number)} for number in range(18)], shards=1)
    return folder / "data" / "test-00000-of-00001.parquet"


def as_saved(folder: Path) -> Path:
    import datasets

    table = datasets.Dataset.from_parquet(str(as_parquet(folder / "p")), cache_dir=str(folder / "cache"))
    datasets.DatasetDict({"test": table, "train": table.select([0])}).save_to_disk(str(folder / "saved"))
    # What mapping a saved data set leaves beside it:
    shutil.copy(folder / "saved/test/data-00000-of-00001.arrow", folder / "saved/test/cache-1234.arrow")
    return folder / "saved"


def as_arrow_file(folder: Path) -> Path:
    """The random-access kind of Arrow file, as pandas' feather and polars write it."""
    table = parquet.read_table(as_parquet(folder / "p"))
    with pa.ipc.new_file(str(folder / "test.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return folder / "test.arrow"


def as_tsv(folder: Path) -> Path:
    rows = parquet.read_table(as_parquet(folder / "p")).to_pylist()
    path = folder / "pope.tsv"
    lines = ["\t".join(rows[0])]
    for row in rows:
        row["image"] = base64.b64encode(row["image"]["bytes"]).decode()
        lines.append("\t".join(row.values()))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("write", [as_parquet, as_saved, as_arrow_file, as_tsv])
def test_every_format_gives_the_same_table(write: Callable[[Path], Path], tmp_path: Path) -> None:
    table = opened(write(tmp_path))
    reference = opened(as_parquet(tmp_path / "reference"))
    assert list(table.rows()) == list(reference.rows())
    assert table.has_image() == [True] * 18
    for row in (0, 17, 3):
        assert table.image_loader(row)().tobytes() == reference.image_loader(row)().tobytes()


@pytest.mark.parametrize("write", [as_parquet, as_arrow_file, as_tsv])
def test_images_may_be_loaded_by_several_threads_in_any_order(write: Callable[[Path], Path], tmp_path: Path) -> None:
    table = opened(write(tmp_path))
    found: dict[int, int] = {}

    def load(rows: range) -> None:
        for row in rows:
            found[row] = red(table, row)

    threads = [threading.Thread(target=load, args=(rows,)) for rows in (range(17, -1, -2), range(0, 18, 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {row: row for row in range(18)}


def test_batches_of_a_row_group_and_going_back(tmp_path: Path) -> None:
    """More rows than a batch holds, more than the cache holds, in a random order."""
    rows = [{"image": fixtures.picture(n, (300, 200))} for n in range(150)]
    fixtures.write_pope(tmp_path, rows, shards=1)
    table = opened(tmp_path)
    cache = table._readers[0]._cache  # type: ignore[attr-defined]
    cache.most_bytes = 20_000
    order = [*random.Random(0).sample(range(150), 60), 149, 0, 99, 100]
    assert [red(table, row) for row in order] == order
    assert cache.bytes <= 20_000 or len(cache._batches) == 1


def test_clone_with_other_configurations_beside(tmp_path: Path) -> None:
    fixtures.write_pope(tmp_path)
    fixtures.write_mmbench(tmp_path)
    (tmp_path / "Full").mkdir()
    shutil.copy(tmp_path / "data/test-00000-of-00003.parquet", tmp_path / "Full/random-00000-of-00001.parquet")
    assert len(opened(tmp_path)) == 18
    assert len(opened(tmp_path, MMBENCH)) == 8


def test_one_family_elsewhere_is_taken(tmp_path: Path) -> None:
    fixtures.write_pope(tmp_path / "a")
    shutil.move(tmp_path / "a/data", tmp_path / "b")
    assert len(opened(tmp_path / "b")) == 18
    assert len(opened(tmp_path)) == 18
    # A split of another name beside it: the one named like the published one is meant.
    shutil.copy(tmp_path / "b/test-00000-of-00003.parquet", tmp_path / "b/train-00000-of-00001.parquet")
    assert len(opened(tmp_path / "b")) == 18


def test_several_families_are_listed(tmp_path: Path) -> None:
    file = as_parquet(tmp_path / "source")
    for name in ("one.parquet", "two-00000-of-00002.parquet", "two-00001-of-00002.parquet"):
        (tmp_path / "x").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "x" / name)
    with pytest.raises(DataError, match=r"2 tables \(one\.parquet, two-\*\.parquet\).*\nName one"):
        opened(tmp_path / "x")
    assert len(opened(tmp_path / "x" / "one.parquet")) == 18


def test_two_tables_of_one_repository(tmp_path: Path) -> None:
    fixtures.write_gqa(tmp_path / "published", 6)
    images = Published(("testdev_balanced_images/testdev-*.parquet",), ("id",), 3, "image")
    assert len(opened(tmp_path / "published", images, "testdev_balanced_images")) == 3
    # As `save_to_disk` or renaming leaves them: the part's name decides.
    flat = tmp_path / "flat"
    flat.mkdir()
    for part in ("instructions", "images"):
        source = tmp_path / f"published/testdev_balanced_{part}/testdev-00000-of-00001.parquet"
        shutil.copy(source, flat / f"testdev_balanced_{part}.parquet")
    assert opened(flat, images, "testdev_balanced_images").column("id") == ["n0", "n1", "n2"]
    with pytest.raises(DataError, match="Give the folder that holds both"):
        opened(flat / "testdev_balanced_images.parquet", images, "testdev_balanced_images")


def test_missing_columns_are_named_with_those_there(tmp_path: Path) -> None:
    fixtures.write_pope(tmp_path)
    wanted = Published(POPE.files, ("question", "label", "hint"), 18, "picture")
    with pytest.raises(DataError, match=r"columns label, hint, picture missing; it has id, question_id, question"):
        opened(tmp_path, wanted)


def test_columns_in_another_capitalisation(tmp_path: Path) -> None:
    """VLMEvalKit's TSV says `l2-category` where the parquet says `L2-category`."""
    table = opened(fixtures.write_mmbench_tsv(tmp_path), MMBENCH)
    assert set(table.column("L2-category")) == {"finegrained_perception (instance-level)", "coarse_perception"}


def test_another_count_is_a_notice_here_and_an_error_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixtures.write_pope(tmp_path, 12)
    table = opened(tmp_path)
    assert table.notices == [f"pope: 12 rows in {tmp_path}; the published table has 18."]
    monkeypatch.setattr(tables, "hub_folder", lambda *_: (tmp_path, "c" * 40))
    with pytest.raises(DataError, match=r"(?s)cache holds 12 rows, published are 18.*benchmark\.path=FOLDER"):
        read_table("pope", POPE, "some/where", "main", None)


def test_the_hub_is_asked_for_these_files_and_the_commit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixtures.write_pope(tmp_path)
    fixtures.write_mmbench(tmp_path)
    asked: list[Any] = []

    def answer(*arguments: Any) -> tuple[Path, str]:
        asked.append(arguments)
        return tmp_path, "0123456789abcdef" * 2

    monkeypatch.setattr(tables, "hub_folder", answer)
    table = read_table("pope", POPE, "some/where", None, None)
    assert asked == [("some/where", None, POPE.files)]
    assert table.revision == "0123456789abcdef" * 2
    assert table.place(3) == "some/where at 0123456789ab, row 3"
    with pytest.raises(DataError, match=r"has no files elsewhere/\*\.parquet"):
        read_table("pope", Published(("elsewhere/*.parquet",), (), 1), "some/where", None, None)


def hub_cache(root: Path, files: Path) -> str:
    """A Hub cache as huggingface_hub lays it out, holding `files` under some/where."""
    commit = "f" * 40
    repository = root / "datasets--some--where"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(files, repository / "snapshots" / commit)
    return commit


def test_the_cache_serves_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    fixtures.write_pope(tmp_path / "files")
    commit = hub_cache(tmp_path / "hub", tmp_path / "files")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    fetched = __import__("huggingface_hub").snapshot_download

    def snapshot_download(*arguments: Any, **keywords: Any) -> str:
        return str(fetched(*arguments, cache_dir=str(tmp_path / "hub"), **keywords))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for revision in (commit, None):
        table = read_table("pope", POPE, "some/where", revision, None)
        assert (len(table), table.revision) == (18, commit)
    with pytest.raises(DataError, match="no/thing at its newest commit is not cached"):
        places.hub_folder("no/thing", None, POPE.files)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    file = as_parquet(tmp_path)
    whole = file.read_bytes()
    for content, message in (
        (b"", "is empty"),
        (whole[: len(whole) // 2], "is not a readable parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer.*git lfs pull"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"{file}: .*{message}"):
            opened(tmp_path)
    parquet.write_table(pa.Table.from_pylist([], schema=pa.schema({"question": pa.string()})), file)
    with pytest.raises(DataError, match="has no rows"):
        opened(file, Published(("x",), ("question",), 1))


def test_a_file_that_breaks_off_inside_is_named(tmp_path: Path) -> None:
    """The footer is whole, so opening succeeds; the first look at a column finds the damage."""
    file = as_parquet(tmp_path)
    content = bytearray(file.read_bytes())
    content[4:1000] = bytes(996)
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"{file}: is damaged"):
        opened(tmp_path)


def test_a_question_id_that_comes_twice_is_named_with_its_table(tmp_path: Path) -> None:
    fixtures.write_pope(tmp_path, [{}, {"id": "0"}, {}], shards=1)
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: two questions have the id '0'"):
        small(tmp_path).questions()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "row 2: question is empty"),
        ("  ", "row 2: question is empty"),
        (float("nan"), "row 2: question is empty"),
        ([1, 2], r"row 2: question '\[1, 2\]' must be a text"),
        ({"x": "y"}, "row 2: question .* must be a text"),
        (b"bytes", "row 2: question .* must be a text"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, value: Any, message: str) -> None:
    fixtures.write_pope(tmp_path, 3, shards=1)
    table = opened(tmp_path)
    assert table.text(2, {"question": " Where? "}, "question") == " Where? "
    assert table.text(2, {"question": 2024}, "question") == "2024"
    with pytest.raises(DataError, match=message):
        table.text(2, {"question": value}, "question")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([7, 8], "holds int64, not images"),
        ([None, None], "holds null, not images"),
        ([{"x": 1}, {"x": 2}], "holds struct<x: int64>, not images"),
        ([[1.5], [2.5]], r"holds list<.*double>, not images"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_column_that_cannot_hold_images_is_refused(
    tmp_path: Path, suffix: str, values: list[Any], message: str
) -> None:
    fixtures.write_pope(tmp_path / "whole", 2, shards=1)
    whole = parquet.read_table(tmp_path / "whole" / "data" / "test-00000-of-00001.parquet")
    table = whole.set_column(whole.schema.get_field_index("image"), "image", pa.array(values))
    path = tmp_path / f"test.{suffix}"
    if suffix == "parquet":
        parquet.write_table(table.replace_schema_metadata(None), path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(DataError, match=rf"{path}: column image {message}"):
        opened(path)


def test_an_unknown_image_format_is_said_the_same_way_each_time(tmp_path: Path) -> None:
    fixtures.write_pope(tmp_path, [{"image": b"no image"}])
    with pytest.raises(QuestionError, match=r"row 0: cannot be read as an image \(no known format\)\.$"):
        opened(tmp_path).image_loader(0)()


def test_paths_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no table\. Expected data/test-\*\.parquet"):
        opened(tmp_path)
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"must be a folder or one \.parquet, \.arrow, \.tsv file"):
        opened(tmp_path / "rows.csv")
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "data.arrow").write_bytes(b"x")
    with pytest.raises(DataError, match=r"state\.json: is not"):
        opened(tmp_path)


def test_what_is_wrong_with_one_image_is_that_questions_error(tmp_path: Path) -> None:
    whole = fixtures.encoded(fixtures.picture(9, (200, 200)), "JPEG")
    rows = [{"image": image} for image in (whole, None, b"", b"no image", whole[:400])]
    fixtures.write_pope(tmp_path, rows, shards=1)
    table = opened(tmp_path)
    assert table.has_image() == [True, False, True, True, True]
    assert table.image_loader(0)().size == (200, 200)
    for row, message in ((1, "no image"), (2, "no image"), (3, "cannot be read as an image"), (4, "cannot be read")):
        with pytest.raises(QuestionError, match=f"row {row}: .*{message}"):
            table.image_loader(row)()
    with pytest.raises(IndexError):
        table.image_loader(5)


def test_an_image_may_be_a_path_beside_the_table(tmp_path: Path) -> None:
    fixtures.write_pope(tmp_path, [{"image": {"bytes": None, "path": "one.png"}}], shards=1)
    table = opened(tmp_path)
    with pytest.raises(QuestionError, match=r"data/one\.png: no such image"):
        table.image_loader(0)()
    fixtures.picture(77).save(tmp_path / "data" / "one.png")
    assert red(table, 0) == 77


def test_a_list_of_images_must_hold_one(tmp_path: Path) -> None:
    published = Published(("data/test-*.parquet",), ("question_id",), 3, "image")
    picture = fixtures.picture(5)
    fixtures.write_seedbench(tmp_path, [{"image": [picture]}, {"image": []}, {"image": [picture] * 8}])
    table = opened(tmp_path, published)
    assert red(table, 0) == 5
    for row, count in ((1, 0), (2, 8)):
        with pytest.raises(QuestionError, match=f"row {row}: has {count} images, expected one"):
            table.image_loader(row)()


def test_base64_images(tmp_path: Path) -> None:
    published = Published(("hr_bench_4k.parquet",), ("index",), 3, "image")
    fixtures.write_hrbench(tmp_path, [{}, {"image": "!!not base64!"}, {"image": "abc"}])
    table = opened(tmp_path, published)
    assert red(table, 0) == 0
    for row in (1, 2):
        with pytest.raises(QuestionError, match=f"row {row}: "):
            table.image_loader(row)()


def test_images_are_upright_and_rgb(tmp_path: Path) -> None:
    turned = Image.new("RGB", (40, 20), "blue")
    turned.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    stream = io.BytesIO()
    turned.save(stream, "PNG", exif=exif)
    rows = [{"image": stream.getvalue()}, {"image": Image.new("LA", (4, 4), (0, 0))}, {"image": Image.new("L", (4, 4))}]
    fixtures.write_pope(tmp_path, rows, shards=1)
    table = opened(tmp_path)
    upright = table.image_loader(0)()
    assert (upright.size, upright.mode) == ((20, 40), "RGB")
    assert upright.getpixel((19, 0)) == (255, 0, 0)
    assert table.image_loader(1)().getpixel((0, 0)) == (255, 255, 255)  # transparent, over white
    assert table.image_loader(2)().mode == "RGB"


def test_tsv_rows_share_images_by_index(tmp_path: Path) -> None:
    rows = [{}, {}, {"image": "241"}, {"image": "9999"}, {"image": "241"}, {"image": ""}, {"image": "1000242"}, {}]
    table = opened(fixtures.write_mmbench_tsv(tmp_path, rows), MMBENCH)
    assert table.column("index")[:3] == ["241", "242", "1000241"]
    assert [red(table, row) for row in (1, 2, 4, 0)] == [1, 0, 0, 0]
    assert table.has_image() == [True] * 5 + [False] + [True] * 2
    for row, message in ((3, "neither base64 nor the index"), (5, "has no image"), (6, "that has none itself")):
        with pytest.raises(QuestionError, match=message):
            table.image_loader(row)()


def test_tsv_texts_are_read_as_pandas_reads_them(tmp_path: Path) -> None:
    import pandas

    texts = ['say "left"', "two\nlines", "a\ttab", "plain", "é 漢", '"', "  spaces ", "\r\nboth"]
    rows = [{"question": text} for text in texts]
    path = fixtures.write_mmbench_tsv(tmp_path, rows)
    table = opened(path, MMBENCH)
    assert table.column("question") == texts == list(pandas.read_csv(path, sep="\t")["question"])
    assert table.column("hint") == [None] * 8
    assert [red(table, row) for row in range(8)] == [0, 1] * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index\tquestion\n1\ta\tb\n", "row 0 has 3 fields, the first line names 2"),
        ('index\tquestion\n1\t"open\n', "does not end"),
        ("index\tindex\n1\t2\n", "two columns of one name"),
        ("index\tquestion\n", "has no rows"),
    ],
)
def test_malformed_tsv(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(DataError, match=f"t.tsv: .*{message}"):
        opened(tmp_path / "t.tsv", Published(("x",), ("index",), 1))


def test_revision_follows_the_content(tmp_path: Path) -> None:
    def revision(folder: str, rows: Any = 18, **keywords: Any) -> str:
        fixtures.write_pope(tmp_path / folder, rows, **keywords)
        return opened(tmp_path / folder).revision

    first = revision("one")
    assert first == revision("other")
    rows: list[dict[str, Any]] = [{} for _ in range(18)]
    rows[9] = {"answer": "yes"}
    assert revision("answer", rows) != first
    rows[9] = {"image": fixtures.picture(200)}
    assert revision("image", rows) != first
    assert first.startswith("local:")
    assert len(first) == len("local:") + 12


class Small(TableBenchmark):
    protocols = ("yes_no",)
    published = POPE

    def _read(self) -> list[Question]:
        table = self._table()
        return [
            Question(row["id"], row["question"], row["category"], "", table.image_loader(number), row["answer"])
            for number, row in enumerate(table.rows("id", "question", "category", "answer"))
        ]

    def prompt(self, question: Question) -> Prompt:
        return Prompt(question.text + SHORT)

    def score(self, question: Question, answer: Answer) -> Score:
        return Score(1.0)


def small(path: Any, protocol: str = "yes_no") -> Small:
    return Small("pope", "test", "some/where", None, path, protocol)


def test_table_benchmark_reads_once_and_hands_out_copies(tmp_path: Path) -> None:
    fixtures.write_pope(tmp_path, 6)
    benchmark = small(str(tmp_path))
    assert (benchmark.dataset_revision, benchmark.notices) == ("", [])
    first = benchmark.questions()
    assert benchmark.dataset_revision == opened(tmp_path).revision
    assert len(benchmark.notices) == 1
    first.clear()
    shutil.rmtree(tmp_path / "data")
    assert len(benchmark.questions()) == 6


def test_miniatures_have_no_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMCLIP_EVAL_CACHE", str(tmp_path))
    monkeypatch.setitem(
        __import__("semclip_eval.mini.build").mini.build.BUILDERS, "pope", lambda folder: fixtures.write_pope(folder, 6)
    )
    benchmark = small("mini://pope")
    assert len(benchmark.questions()) == 6
    assert benchmark.notices == []


def test_table_benchmark_checks_its_keywords(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.protocol=letter: must be yes_no"):
        small(None, "letter")
    with pytest.raises(ConfigError, match=r"benchmark\.path is empty: name a folder or a file"):
        small("")
    os.makedirs(tmp_path / "2024")
    assert small(2024).path == "2024"


class Two(Small):
    def _read(self) -> list[Question]:
        self._table()
        self._table(MMBENCH)
        return []


def test_two_tables_give_one_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixtures.write_pope(tmp_path)
    fixtures.write_mmbench(tmp_path)
    benchmark = Two("pope", "test", "some/where", None, str(tmp_path), "yes_no")
    benchmark.questions()
    both = benchmark.dataset_revision
    assert both.startswith("local:")
    fixtures.write_mmbench(tmp_path, [{"answer": "D"}] * 8)
    again = Two("pope", "test", "some/where", None, str(tmp_path), "yes_no")
    again.questions()
    assert again.dataset_revision != both
    monkeypatch.setattr(tables, "hub_folder", lambda *_: (tmp_path, "c" * 40))
    hub = Two("pope", "test", "some/where", None, None, "yes_no")
    hub.questions()
    assert hub.dataset_revision == "c" * 40


def test_lettered_text_and_instructions_are_llavas() -> None:
    assert lettered("What?", ["x", "y"]) + LETTER == (
        "What?\nA. x\nB. y\nAnswer with the option's letter from the given choices directly."
    )
    assert SHORT == "\nAnswer the question using a single word or phrase."


def test_fixture_columns_of_saved_state(tmp_path: Path) -> None:
    """`save_to_disk` lists its files in state.json; shards are taken in that order's natural form."""
    import datasets

    rows = datasets.Dataset.from_dict({"question": [f"q{n}" for n in range(30)]})
    rows.save_to_disk(str(tmp_path / "saved"), num_shards=11)
    listed = json.loads((tmp_path / "saved/state.json").read_text())["_data_files"]
    assert len(listed) == 11
    table = opened(tmp_path / "saved", Published(("data/test-*.parquet",), ("question",), 30))
    assert table.column("question") == [f"q{n}" for n in range(30)]
