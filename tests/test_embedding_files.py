"""`psi.cache`: embeddings as files. The same content once, never another's, never a damaged one, within the limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from semclip_eval.cli import main
from semclip_eval.errors import ConfigError
from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.relevance.embedding_files import PLACE, SUFFIX, EmbeddingFiles, text_digest
from semclip_eval.relevance.embedding_store import FILE, pixel_digest
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.results.records import read_samples
from semclip_eval.types import Box

BOXES = (Box(0, 0, 20, 20), Box(20, 0, 40, 20))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 40, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMCLIP_EVAL_CACHE", str(tmp_path / "cache-folder"))
    return tmp_path


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What passed the towers: (image or text, how many)."""
    passes: list[tuple[str, int]] = []
    original = OpenClipRelevance._embed

    def embed(self: OpenClipRelevance, kind: Any, batch: Any) -> Any:
        passes.append((kind, len(batch)))
        return original(self, kind, batch)

    monkeypatch.setattr(OpenClipRelevance, "_embed", embed)
    return passes


def mini(folder: Path, **changes: Any) -> OpenClipRelevance:
    return OpenClipRelevance("mini_clip", "mini://clip", **{"store_mib": 16, "cache": str(folder), **changes})


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"*{SUFFIX}"))


def test_images_and_texts_are_encoded_once_for_all_runs(tmp_path: Path, encoded: list[tuple[str, int]]) -> None:
    request = RelevanceRequest(picture(0), "i", BOXES, "a star")
    first = mini(tmp_path).score([request])
    assert sorted(encoded) == [("image", 2), ("text", 1)]
    encoded.clear()
    # Under another id, with a box and with a text that are new.
    more = RelevanceRequest(picture(0), "renamed", (*BOXES, Box(0, 0, 40, 20)), "a star")
    scores, _ = mini(tmp_path).score([more, RelevanceRequest(picture(0), "renamed", BOXES, "a circle")])
    assert sorted(encoded) == [("image", 1), ("text", 1)]
    assert scores[:2] == first[0]
    assert len(files(tmp_path)) == 3
    assert not (tmp_path / "cache-folder" / FILE).exists()
    without = OpenClipRelevance("mini_clip", "mini://clip").score([request])
    assert without[0] == pytest.approx(first[0], abs=1e-6)


def test_texts_are_counted_whether_or_not_they_are_known(tmp_path: Path) -> None:
    request = RelevanceRequest(picture(0), "i", BOXES, "a star")
    counts = []
    for _ in range(2):
        relevance = mini(tmp_path)
        relevance.score([request])
        counts.append(relevance.truncations)
    assert counts[0] == counts[1]
    assert counts[0]["texts"] == 1


def test_other_content_weights_or_preprocessing_find_nothing(
    tmp_path: Path, encoded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = RelevanceRequest(picture(0), "i", BOXES, "a star")
    mini(tmp_path).score([request])
    encoded.clear()
    mini(tmp_path).score([RelevanceRequest(picture(1), "i", BOXES, "a star")])
    mini(tmp_path, resize_mode="longest").score([request])
    mini(tmp_path, precision="bf16").score([request])
    monkeypatch.setattr(OpenClipRelevance, "revision", "local:0123456789ab")
    mini(tmp_path).score([request])
    assert [count for kind, count in encoded if kind == "image"] == [2, 2, 2, 2]
    assert [count for kind, count in encoded if kind == "text"] == [1, 1, 1]


@pytest.mark.parametrize("damage", ["cut", "flip", "swap", "empty", "words"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, encoded: list[tuple[str, int]], damage: str) -> None:
    request = RelevanceRequest(picture(0), "i", BOXES, "a star")
    first = mini(tmp_path).score([request])
    places = files(tmp_path)
    for number, path in enumerate(places):
        data = path.read_bytes()
        path.write_bytes(
            {
                "cut": data[:-3],
                "flip": data[:-1] + bytes([data[-1] ^ 1]),
                "swap": places[1 - number].read_bytes() if number == 0 else data,
                "empty": b"",
                "words": b"no tensors" * 40,
            }[damage]
        )
    encoded.clear()
    assert mini(tmp_path).score([request]) == [pytest.approx(first[0], abs=1e-6)]
    assert len(encoded) == (1 if damage == "swap" else 2)
    encoded.clear()
    assert mini(tmp_path).score([request]) == first  # whole again
    assert encoded == []


def test_latency_mode_and_random_weights_keep_nothing(tmp_path: Path) -> None:
    relevance = mini(tmp_path)
    relevance.begin_block(keep=False)
    relevance.score([RelevanceRequest(picture(0), "i", BOXES, "a star")])
    assert OpenClipRelevance("d", "RN50", load_format="dummy", store_mib=16, cache=str(tmp_path))._open_store() is None
    assert mini(tmp_path, store_mib=0)._open_store() is None
    assert files(tmp_path) == []


def test_the_folder_keeps_its_limit_what_was_used_last_and_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"the user's own")
    store, vector = EmbeddingFiles(tmp_path, "weights", 1), np.zeros(1024, dtype=np.float32)
    first = pixel_digest(picture(0))
    store.put(first, {BOXES[0]: vector})
    for number in range(1, 600):
        store.put(text_digest(str(number)), {BOXES[0]: vector + number})
        # Files written within one tick of the clock are as old as each other.
        path = store._path(text_digest(str(number)))
        os.utime(path, (number, number))
        store.get(first, [BOXES[0]])
        store.commit()
    own = files(tmp_path / PLACE)
    assert 0.5 * 2**20 < sum(path.stat().st_size for path in own) <= 1.2 * 2**20
    assert store.get(first, [BOXES[0]])[BOXES[0]].tolist() == vector.tolist()
    assert store.get(text_digest("599"), [BOXES[0]])[BOXES[0]][0] == 599
    assert store.get(text_digest("1"), [BOXES[0]]) == {}
    assert (tmp_path / "weights.safetensors").read_bytes() == b"the user's own"


WRITER = """
import sys
from pathlib import Path
import numpy as np
from semclip_eval.relevance.embedding_files import EmbeddingFiles, text_digest
from semclip_eval.types import Box
store, me = EmbeddingFiles(Path(sys.argv[1]), "weights", 16), int(sys.argv[2])
for number in range(150):
    key, box = text_digest(str(number % 10)), Box(me, number, me + 1, number + 1)
    store.put(key, {box: np.full(32, me * 1000 + number, dtype=np.float32)})
    for known, vector in store.get(key, [Box(other, number, other + 1, number + 1) for other in (0, 1)]).items():
        assert set(vector) == {known.left * 1000 + number}, (known, vector)
    store.commit()
"""


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(me)], stderr=subprocess.PIPE)
               for me in (0, 1)]  # fmt: skip
    for writer in writers:
        assert writer.communicate()[1] == b""
        assert writer.returncode == 0
    assert not list(tmp_path.rglob("*.part"))
    assert len(files(tmp_path)) == 10
    for path in files(tmp_path):
        with safe_open(path, framework="np") as file:
            assert file.get_tensor("embeddings").shape[0] >= 15  # at least those of the last writer


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("no folder")
    request = RelevanceRequest(picture(0), "i", BOXES, "a star")
    relevance = mini(tmp_path / "file")
    scores = relevance.score([request])
    relevance.score([RelevanceRequest(picture(1), "j", BOXES, "a star")])
    assert scores == OpenClipRelevance("mini_clip", "mini://clip").score([request])
    assert capsys.readouterr().err.count("psi.cache") == 1  # said once
    with pytest.raises(ConfigError, match=r"psi\.cache is empty"):
        mini(tmp_path, cache=" ")


def test_a_run_chooses_the_same_with_and_without(tmp_path: Path) -> None:
    """One folder of results for all three: what is kept is no part of a run's identity."""
    records = []
    for name, words in (("without", ["psi.store_mib=0"]), ("empty", []), ("full", [])):
        words = words or [f"psi.cache={tmp_path / 'shared'}"]
        output = tmp_path / name
        assert main(["profile=mini", "selector=semclip", "run.limit=6", f"run.output_dir={output}", *words]) == 0
        (samples,) = output.rglob("samples.jsonl")
        records.append(read_samples(samples.parent))
        assert samples.parent.name == next((tmp_path / "without").rglob("samples.jsonl")).parent.name
    chosen = [[(record["choice"], [view["box"] for view in record["views"]]) for record in run] for run in records]
    assert chosen[0] == chosen[1] == chosen[2]
    assert records[1] == records[2]
