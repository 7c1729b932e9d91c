"""Crop embeddings on disk: the same pixels once, never another's, never a damaged one, within the limit."""

from __future__ import annotations

import multiprocessing
import socket
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semclip_eval.relevance import embedding_store
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.relevance.embedding_store import FILE, EmbeddingStore, pixel_digest
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.types import Box

BOXES = (Box(0, 0, 20, 20), Box(20, 0, 40, 20))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 40, 3), dtype=np.uint8))


def counted(relevance: OpenClipRelevance, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each forward pass of the image tower had."""
    passes: list[int] = []
    original = OpenClipRelevance._embed

    def embed(self: OpenClipRelevance, kind: Any, batch: Any) -> Any:
        if kind == "image":
            passes.append(len(batch))
        return original(self, kind, batch)

    monkeypatch.setattr(OpenClipRelevance, "_embed", embed)
    return passes


def mini(store_mib: int = 16, **changes: Any) -> OpenClipRelevance:
    return OpenClipRelevance("mini_clip", "mini://clip", store_mib=store_mib, **changes)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMCLIP_EVAL_CACHE", str(tmp_path))
    return tmp_path


def test_another_process_finds_them_and_scores_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = counted(mini(), monkeypatch)
    request = RelevanceRequest(picture(0), "i", BOXES, "a star")
    first = mini().score([request])
    assert passes == [2]
    # Under another id, and with a box that is new.
    again = RelevanceRequest(picture(0), "renamed", (*BOXES, Box(0, 0, 40, 20)), "a star")
    (scores,) = mini().score([again])
    assert passes == [2, 1]
    assert scores[:2] == first[0]
    assert mini(0).score([request])[0] == pytest.approx(first[0], abs=1e-6)


def test_an_image_is_read_once_however_many_crops_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Image.Image] = []
    monkeypatch.setattr(
        "semclip_eval.relevance.open_clip_relevance.pixel_digest",
        lambda image: read.append(image) or pixel_digest(image),
    )
    mini().score([RelevanceRequest(picture(seed), f"{seed}", BOXES, "a star") for seed in range(3)])
    assert len(read) == 3


def test_other_pixels_weights_or_preprocessing_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    request = RelevanceRequest(picture(0), "i", BOXES, "a star")
    mini().score([request])
    passes = counted(mini(), monkeypatch)
    mini().score([RelevanceRequest(picture(1), "i", BOXES, "a star")])
    mini(resize_mode="longest").score([request])
    mini(precision="bf16").score([request])
    assert passes == [2, 2, 2]


def test_latency_mode_and_random_weights_keep_nothing(own_cache: Path) -> None:
    relevance = mini()
    relevance.begin_block(keep=False)
    relevance.score([RelevanceRequest(picture(0), "i", BOXES, "a star")])
    dummy = OpenClipRelevance("d", "RN50", load_format="dummy", store_mib=16)
    assert dummy._open_store() is None
    assert not (own_cache / FILE).exists()


def test_a_damaged_row_is_computed_again(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = RelevanceRequest(picture(0), "i", BOXES, "a star")
    first = mini().score([request])
    with sqlite3.connect(own_cache / FILE) as connection:
        ((key, value), *_) = list(connection.execute("SELECT key, value FROM crops"))
        connection.execute("UPDATE crops SET value = ? WHERE key = ?", [value[:-1] + bytes([value[-1] ^ 1]), key])
    passes = counted(mini(), monkeypatch)
    assert mini().score([request]) == [pytest.approx(first[0], abs=1e-6)]
    assert passes == [1]


def test_a_damaged_file_costs_only_time(own_cache: Path, capsys: Any) -> None:
    (own_cache / FILE).write_bytes(b"no database" * 100)
    request = RelevanceRequest(picture(0), "i", BOXES, "a star")
    relevance = mini()
    scores = relevance.score([request])
    relevance.score([RelevanceRequest(picture(1), "j", BOXES, "a star")])
    assert scores == mini(0).score([request])
    assert capsys.readouterr().err.count(FILE) == 1  # said once


def test_the_file_keeps_its_limit_and_what_was_used_last(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EmbeddingStore(own_cache, "weights", 1)
    now = 1000
    monkeypatch.setattr("semclip_eval.relevance.embedding_store.time.time", lambda: now)
    first = pixel_digest(picture(0))
    vector = np.zeros(1024, dtype=np.float32)
    store.put(first, {BOXES[0]: vector})
    for number in range(1, 600):
        now = 1000 + number
        store.put(pixel_digest(picture(number)), {BOXES[0]: vector + number})
        store.get(first, [BOXES[0]])
        store.commit()
    assert (own_cache / FILE).stat().st_size < 2 * 2**20
    assert store.get(first, [BOXES[0]])[BOXES[0]].tolist() == vector.tolist()
    assert store.get(pixel_digest(picture(599)), [BOXES[0]])[BOXES[0]][0] == 599
    assert store.get(pixel_digest(picture(1)), [BOXES[0]]) == {}


def put_and_get(folder: Path, worker: int) -> int:
    """What a worker does: keeps its own embeddings and those that all have; how many of the common ones it finds."""
    store, found = EmbeddingStore(folder, "weights", 16), 0
    for number in range(40):
        common, own = f"common{number}".encode(), f"{worker}-{number}".encode()
        found += len(store.get(common, BOXES))
        store.put(common, dict.fromkeys(BOXES, np.full(8, number, "<f4")))
        store.put(own, {BOXES[0]: np.full(8, 1000 * worker + number, "<f4")})
        store.commit()
    assert not store._broken
    return found


def test_many_processes_write_into_one_file(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        for result in [pool.submit(put_and_get, tmp_path, worker) for worker in range(4)]:
            result.result()
    store = EmbeddingStore(tmp_path, "weights", 16)
    for number in range(40):
        assert [vector[0] for vector in store.get(f"common{number}".encode(), BOXES).values()] == [number, number]
        for worker in range(4):
            (vector,) = store.get(f"{worker}-{number}".encode(), BOXES[:1]).values()
            assert vector[0] == 1000 * worker + number


def test_on_a_network_file_system_every_machine_has_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's write-ahead log needs memory that its processes share (sqlite.org/wal.html)."""
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(embedding_store, "MOUNTS", mounts)
    lines = ["proc /proc proc rw 0 0", "/dev/sda / ext4 rw 0 0", "server:/home /home nfs4 rw 0 0"]
    mounts.write_text(
        "\n".join([*lines, "/dev/sdb /home/local/my\\040disk xfs rw 0 0", "x@y:/ /mnt fuse.sshfs rw 0 0"])
    )
    for place, remote in (("/home/me/x", True), ("/home/local/my disk/x", False), ("/mnt", True), ("/tmp/x", False)):
        assert embedding_store.is_on_network(Path(place)) is remote, place
        assert (socket.gethostname() in embedding_store.file_name(Path(place))) is remote
    mounts.unlink()
    assert embedding_store.file_name(Path("/home")) == FILE
