"""Copies of data on a machine's own disk: used in place of the original, verified, bounded, made once by many."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from semclip_eval.benchmarks import node_cache
from semclip_eval.benchmarks.images import read_rgb
from semclip_eval.benchmarks.node_cache import FOLDER, LIMIT_GIB, NodeCache
from semclip_eval.benchmarks.table_readers import BatchCache, open_reader
from semclip_eval.errors import ConfigError, QuestionError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path: Path, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return pixels.tobytes()


def copies(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/[!.]*"))


def test_the_copy_is_read_and_is_the_original(cache: Path, tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 0)
    assert read_rgb(tmp_path / "a.png").tobytes() == pixels
    (copy,) = copies(cache)
    assert copy.read_bytes() == (tmp_path / "a.png").read_bytes()
    # The original is not opened again: in its place, size and time stands something else.
    state = (tmp_path / "a.png").stat()
    (tmp_path / "a.png").write_bytes(b"\0" * state.st_size)
    os.utime(tmp_path / "a.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert read_rgb(tmp_path / "a.png").tobytes() == pixels


def test_another_content_of_the_same_place_is_another_copy(cache: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        pixels = picture(tmp_path / "a.png", seed)
        os.utime(tmp_path / "a.png", (seed, seed))
        assert read_rgb(tmp_path / "a.png").tobytes() == pixels
    assert len(copies(cache)) == 2


@pytest.mark.parametrize("damage", [b"", b"\x89PNG and nothing else", None])
def test_a_damaged_copy_is_made_anew(cache: Path, tmp_path: Path, damage: bytes | None) -> None:
    pixels = picture(tmp_path / "a.png", 0)
    read_rgb(tmp_path / "a.png")
    (copy,) = copies(cache)
    content = copy.read_bytes()
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage is None else damage)
    assert read_rgb(tmp_path / "a.png").tobytes() == pixels
    assert [path.read_bytes() for path in copies(cache)] == [content]


def test_tables_are_read_from_their_copies(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    parquet.write_table(pa.table({"question": ["a", "b"], "image": [b"1", b"22"]}), path)
    for kind in ("parquet", "tsv"):
        if kind == "tsv":
            path = tmp_path / "table.tsv"
            path.write_text(f"question\timage\na\t{'MQ' * 50}\nb\t{'MQ' * 60}\n")
        reader = open_reader(path, BatchCache())
        path.write_bytes(b"")  # the original is of no interest any more
        assert [row["question"] for row in reader.rows(["question"])] == ["a", "b"]
        assert len(reader.value("image", 1)) == (2 if kind == "parquet" else 120)
    assert {copy.suffix for copy in copies(cache)} == {".parquet", ".tsv"}


def test_errors_name_the_original(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(QuestionError, match=str(tmp_path / "a.png")):
        read_rgb(tmp_path / "a.png")
    with pytest.raises(QuestionError, match="no such image"):
        read_rgb(tmp_path / "b.png")


def test_the_folder_stays_within_its_limit_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.bin" for number in range(30)]
    for file in files:
        file.write_bytes(os.urandom(1000))
    cache = NodeCache(tmp_path / "cache", limit=10_000)
    for number, file in enumerate(files):
        stream = cache.open(file)
        assert stream is not None
        with stream:
            assert stream.read() == file.read_bytes()
            os.utime(stream.name, (number, number))
        first = cache.open(files[0])  # used between all others
        assert first is not None
        with first:
            os.utime(first.name, (1000, 1000))
        assert sum(copy.stat().st_size for copy in copies(tmp_path / "cache")) <= 10_000
    kept = {copy.read_bytes() for copy in copies(tmp_path / "cache")}
    assert {files[0].read_bytes(), files[-1].read_bytes()} <= kept
    assert cache.copied == 30 * 1000
    (tmp_path / "large.bin").write_bytes(bytes(10_001))
    assert cache.open(tmp_path / "large.bin") is None


def read_all(folder: Path, files: list[Path]) -> tuple[int, list[bytes]]:
    """What a worker does: bytes of the originals that it read, and what it got."""
    cache, contents = NodeCache(folder, limit=1 << 30), []
    for file in files:
        stream = cache.open(file)
        assert stream is not None
        with stream:
            contents.append(stream.read())
    return cache.copied, contents


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_many_that_read_at_once_read_every_original_once(tmp_path: Path, kind: str) -> None:
    files = [tmp_path / f"{number}.bin" for number in range(40)]
    for file in files:
        file.write_bytes(os.urandom(50_000))
    if kind == "threads":
        pool: ThreadPoolExecutor | ProcessPoolExecutor = ThreadPoolExecutor(8)
    else:
        pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        results = [pool.submit(read_all, tmp_path / "cache", files) for _ in range(8 if kind == "threads" else 2)]
        found = [result.result() for result in results]
    assert sum(copied for copied, _ in found) == 40 * 50_000
    assert all(contents == [file.read_bytes() for file in files] for _, contents in found)
    assert not list((tmp_path / "cache").glob("??/.*.part"))


def test_where_nothing_can_be_kept_originals_are_read_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "below"))
    for number in range(3):
        assert read_rgb_of(tmp_path, number)
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("no copies of data are kept there") == 1
    assert FOLDER in err


def read_rgb_of(folder: Path, seed: int) -> bool:
    pixels = picture(folder / f"{seed}.png", seed)
    return read_rgb(folder / f"{seed}.png").tobytes() == pixels


def test_a_limit_that_is_none_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png", 0)
    for wrong in ("many", "0", "-1", "inf"):
        monkeypatch.setenv(LIMIT_GIB, wrong)
        with pytest.raises(ConfigError, match=f"{LIMIT_GIB}={wrong}"):
            node_cache.at_hand(tmp_path / "a.png")
        with pytest.raises(ConfigError, match=f"{LIMIT_GIB}={wrong}"):  # the run's fault, no question's
            read_rgb(tmp_path / "a.png")
