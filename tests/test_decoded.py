"""Images that several questions are about are decoded once in accuracy mode, and for each question in latency mode."""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.benchmarks import images
from semclip_eval.benchmarks.decoded import DECODED, DecodedImages
from semclip_eval.benchmarks.images import decode_rgb, read_rgb
from semclip_eval.config import RunConfig
from semclip_eval.errors import QuestionError
from semclip_eval.selectors.no_crop import NoCrop
from tests.fakes import ComputedVLM, DrawnBenchmark


def noise(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(autouse=True)
def nothing_kept():
    DECODED.clear()
    yield
    DECODED.clear()


@pytest.fixture
def decodings(monkeypatch):
    """How often a file or bytes were decoded."""
    counted: list[object] = []
    original = images._read

    def counting(source, access):
        counted.append(source)
        return original(source, access)

    monkeypatch.setattr(images, "_read", counting)
    return counted


def test_a_file_is_decoded_once_while_sharing_and_each_time_without(tmp_path, decodings):
    noise(0).save(tmp_path / "a.png")
    for _ in range(2):
        read_rgb(tmp_path / "a.png")
    assert len(decodings) == 2
    with DECODED.shared(True):
        first, second = read_rgb(tmp_path / "a.png"), read_rgb(tmp_path / "a.png")
        with DECODED.shared(False):
            read_rgb(tmp_path / "a.png")
    assert len(decodings) == 4
    assert first.tobytes() == second.tobytes() == noise(0).tobytes()


def test_what_a_question_draws_on_its_image_no_other_question_sees(tmp_path):
    noise(1).save(tmp_path / "a.png")
    with DECODED.shared(True):
        for _ in range(3):
            image = read_rgb(tmp_path / "a.png")
            assert image.tobytes() == noise(1).tobytes()
            image.paste((0, 0, 0), (0, 0, 40, 30))


def test_a_changed_file_is_read_anew_and_the_same_bytes_elsewhere_are_not(tmp_path, decodings):
    place = tmp_path / "a.png"
    noise(2).save(place)
    encoded = io.BytesIO()
    noise(3).save(encoded, "PNG")
    with DECODED.shared(True):
        read_rgb(place)
        place.write_bytes(encoded.getvalue())
        os.utime(place, ns=(1, 1))
        assert read_rgb(place).tobytes() == noise(3).tobytes()
        for _ in range(3):
            assert decode_rgb(bytes(encoded.getvalue())).tobytes() == noise(3).tobytes()
    assert len(decodings) == 3


def test_a_broken_image_is_broken_for_each_question(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with DECODED.shared(True):
        for _ in range(2):
            with pytest.raises(QuestionError, match=r"a\.jpg"):
                read_rgb(tmp_path / "a.jpg")
    with pytest.raises(QuestionError, match="no such image"), DECODED.shared(True):
        read_rgb(tmp_path / "b.jpg")


def test_threads_that_want_the_same_image_wait_for_one_decoding():
    store, started, release = DecodedImages(), threading.Event(), threading.Event()
    count = []

    def slow() -> Image.Image:
        count.append(1)
        started.set()
        assert release.wait(10)
        return noise(4)

    def ask() -> bytes:
        with store.shared(True):
            return store.get("a", slow).tobytes()

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(ask)
        assert started.wait(10)
        others = [threads.submit(ask) for _ in range(2)]
        release.set()
        assert {each.result(10) for each in (first, *others)} == {noise(4).tobytes()}
    assert len(count) == 1


@pytest.mark.parametrize(("count", "limit_mib", "kept"), [(2, 100, 2), (10, 1, 2)])
def test_it_holds_what_it_is_allowed_to_and_lets_the_oldest_go(count, limit_mib, kept):
    store = DecodedImages(count, limit_mib)
    decoded: list[int] = []

    def decode() -> Image.Image:
        decoded.append(1)
        return noise(5, (340, 340))  # 0.44 MiB

    with store.shared(True):
        for name in (*range(6), *reversed(range(6))):
            store.get(name, decode)
    assert len(decoded) == 12 - kept


def test_a_run_decodes_an_image_once_and_a_latency_run_for_each_question(tmp_path: Path, decodings):
    noise(6).save(tmp_path / "a.png")

    class OneImage(DrawnBenchmark):
        def _question(self, index):
            question = super()._question(index)
            object.__setattr__(question, "load_image", lambda: read_rgb(tmp_path / "a.png"))
            return question

    questions = OneImage(count=5).questions()
    for mode, expected in (("accuracy", 1), ("latency", 5)):
        decodings.clear()
        run = RunConfig(device="cpu", dtype="float32", mode=mode)
        Pipeline(OneImage(count=5), NoCrop(), None, None, ComputedVLM(), run).ask(questions)
        assert len(decodings) == expected
