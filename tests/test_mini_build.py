"""The built V* folder has the published layout, and a cache folder never shows a half-built one."""

import json
import multiprocessing
from pathlib import Path

import pytest
from PIL import Image

from semclip_eval.mini import build
from semclip_eval.mini.world import make_scene

COUNT = 12


@pytest.fixture(scope="module")
def vstar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vstar")
    build.build_vstar(folder, COUNT)
    return folder


def test_layout(vstar: Path) -> None:
    lines = [json.loads(line) for line in (vstar / "test_questions.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [str(i) for i in range(2 * COUNT)]
    assert [line["category"] for line in lines] == ["direct_attributes"] * COUNT + ["relative_position"] * COUNT
    for line in lines:
        assert list(line) == ["image", "text", "category", "label", "question_id"]
        image = vstar / line["image"]
        record = json.loads(image.with_suffix(".json").read_text())
        assert list(record) == ["target_object", "bbox", "question", "options"]
        assert line["text"].startswith(record["question"] + "\n(A) ")
        assert line["text"].endswith("\nAnswer with the option's letter from the given choices directly.")
        shown = dict(part[1:].split(") ") for part in line["text"].split("\n")[1:-1])
        assert list(shown) == list("ABCD"[: len(record["options"])])
        words = record["options"][0].rstrip(".").split()
        assert all(word in words for word in shown[line["label"]].split())
        assert len(record["target_object"]) == len(record["bbox"])
        third = int(line["question_id"]) % 3 == 2
        assert len(record["bbox"]) == (2 if third or line["category"] == "relative_position" else 1)


def test_boxes_are_xywh_of_the_named_things(vstar: Path) -> None:
    for path in sorted(vstar.glob("*/*.json")):
        record = json.loads(path.read_text())
        things = {t.shape: t for t in make_scene("test", int(path.stem.removeprefix("sa_")) - 100000).things}
        for name, (x, y, width, height) in zip(record["target_object"], record["bbox"], strict=True):
            assert things[name.split()[-1]].box == (x, y, x + width, y + height)


def test_pictures_are_the_scenes(vstar: Path) -> None:
    path = sorted(vstar.glob("direct_attributes/*.jpg"))[0]
    with Image.open(path) as image:
        assert image.size == (504, 504)
        thing = next(
            t for t in make_scene("test", int(path.stem.removeprefix("sa_")) - 100000).things if t.shape != "ring"
        )
        pixel = image.convert("RGB").getpixel(thing.center)
    assert isinstance(pixel, tuple)
    assert max(abs(a - b) for a, b in zip(pixel, thing.rgb, strict=True)) < 30


def test_longer_build_starts_with_the_same_questions(vstar: Path, tmp_path: Path) -> None:
    build.build_vstar(tmp_path / "short", 5)
    short = (tmp_path / "short" / "test_questions.jsonl").read_text().splitlines()
    assert short[:5] == (vstar / "test_questions.jsonl").read_text().splitlines()[:5]
    for path in (tmp_path / "short").glob("*/*"):
        assert path.read_bytes() == (vstar / path.relative_to(tmp_path / "short")).read_bytes()


def _small(folder: Path) -> None:
    build.build_vstar(folder, 4)


def _ensure_small(cache: Path) -> Path:
    build.BUILDERS["vstar"] = _small
    return build.ensure("vstar", cache)


def test_ensure_once_for_many_processes(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        folders = set(pool.map(_ensure_small, [tmp_path] * 3))
    assert [path.name for path in tmp_path.iterdir()] == [folder.name for folder in folders]
    assert len(list(folders.pop().glob("*/*.jpg"))) == 8


def test_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setitem(build.BUILDERS, "vstar", broken)
    with pytest.raises(KeyboardInterrupt):
        build.ensure("vstar", tmp_path)
    assert not list(tmp_path.iterdir())


def test_built_folder_is_reused_and_damaged_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(build.BUILDERS, "vstar", _small)
    folder = build.ensure("vstar", tmp_path)
    stamp = (folder / "test_questions.jsonl").stat().st_mtime_ns
    assert build.ensure("vstar", tmp_path) == folder
    assert (folder / "test_questions.jsonl").stat().st_mtime_ns == stamp
    (folder / build.COMPLETE).unlink()
    (folder / "test_questions.jsonl").unlink()
    assert (build.ensure("vstar", tmp_path) / "test_questions.jsonl").is_file()


def test_cache_folder_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SEMCLIP_EVAL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert build.default_cache_folder() == tmp_path / "xdg" / "semclip-eval"
    monkeypatch.setenv("SEMCLIP_EVAL_CACHE", str(tmp_path / "own"))
    assert build.default_cache_folder() == tmp_path / "own"


def test_unknown_benchmark_is_named() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        build.ensure("nosuch")
