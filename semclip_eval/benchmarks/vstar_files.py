"""The files of V* as published: an image and a JSON of the same stem for each question, and test_questions.jsonl.

Read strictly: a malformed file is a DataError that names it (and its line), never a question less.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from semclip_eval.benchmarks.access import ANYWHERE, FileAccess, require_inside_all
from semclip_eval.errors import DataError
from semclip_eval.files import open_regular, parse_json, read_json
from semclip_eval.types import Box

ROWS = "test_questions.jsonl"
TEXT_SUFFIXES = (".json", ".jsonl")
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".ppm"),
)

Key = tuple[str, str]  # category folder and file stem: what joins an annotation and its published row


@dataclass(frozen=True)
class Annotation:
    """One per-image JSON. Options are sentences, the right one first; boxes in pixels of the image."""

    category: str
    stem: str
    image: Path
    question: str
    options: tuple[str, ...]
    boxes: tuple[Box, ...]

    @property
    def name(self) -> str:
        """The image's name without its suffix, relative to the data folder."""
        return f"{self.category}/{self.stem}"


@dataclass(frozen=True)
class PublishedRow:
    """One line of test_questions.jsonl: the text with lettered options, and the right letter."""

    key: Key
    question_id: str
    text: str
    label: str
    place: str


@dataclass(frozen=True)
class Files:
    """What a folder holds. `rows` is None without test_questions.jsonl; `paths` are all files that were taken."""

    annotations: dict[Key, Annotation]
    rows: list[PublishedRow] | None
    rows_left_out: int
    paths: list[Path]


def read(folder: Path, categories: Sequence[str], access: FileAccess = ANYWHERE) -> Files:
    """Everything of the category folders that the folder has, joined with test_questions.jsonl where it is there.

    Annotations are sorted by category and stem. Raises DataError: no category folder at all, an image without JSON,
    a malformed file, an annotation without a row or two rows for one.
    """
    present = [category for category in categories if (folder / category).is_dir()]
    if not present:
        raise DataError(
            f"{folder}: has neither {' nor '.join(categories)}; is it the folder of the published V* files?"
        )
    annotations: dict[Key, Annotation] = {}
    paths: list[Path] = []
    for category in present:
        jsons, images = _by_stem(folder / category)
        paths += [*jsons.values(), *images.values()]
        require_inside_all(access, list(jsons.values()), DataError)
        for stem in sorted(images.keys() - jsons.keys()):
            raise DataError(f"{images[stem]}: has no {stem}.json beside it. Add the annotation or remove the image.")
        for stem, path in sorted(jsons.items()):
            # A missing image is that question's own error when it is asked; its place is named as published.
            annotations[category, stem] = _annotation(path, category, images.get(stem, path.with_name(f"{stem}.jpg")))
    if not annotations:
        raise DataError(f"{folder}: {' and '.join(present)} hold no questions.")
    rows_path = folder / ROWS
    if not rows_path.is_file():
        return Files(annotations, None, 0, paths)
    access.require_inside(rows_path, DataError)
    rows = _rows(rows_path, categories)
    kept = [row for row in rows if row.key in annotations]
    for category, stem in sorted(annotations.keys() - {row.key for row in kept}):
        raise DataError(f"{rows_path}: has no row for {category}/{stem}. Add it, or remove the annotation.")
    return Files(annotations, kept, len(rows) - len(kept), [*paths, rows_path])


def _by_stem(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    jsons: dict[str, Path] = {}
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        found = jsons if path.suffix == ".json" else images if path.suffix.lower() in IMAGE_SUFFIXES else None
        if found is None or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(f"{path}: {found[path.stem].name} has the same stem. Remove one of them.")
        found[path.stem] = path
    return jsons, images


def _annotation(path: Path, category: str, image: Path) -> Annotation:
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: must hold one JSON object.")
    options = _key(data, "options", path)
    if not _texts(options) or len(options) < 2:
        raise DataError(f"{path}: `options` must be two or more texts, the right one first.")
    question = _key(data, "question", path)
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{path}: `question` must be a text.")
    targets, boxes = _key(data, "target_object", path), _key(data, "bbox", path)
    if not _texts(targets) or not isinstance(boxes, list) or len(targets) != len(boxes):
        raise DataError(f"{path}: `target_object` and `bbox` must be lists of one length.")
    return Annotation(
        category=category,
        stem=path.stem,
        image=image,
        question=question,
        options=tuple(options),
        boxes=tuple(box_from_xywh(box, path) for box in boxes),
    )


def box_from_xywh(values: Any, path: Path) -> Box:
    """A published `[x, y, width, height]` as the smallest box of whole pixels that holds it.

    Raises DataError where it is not four finite numbers with a positive width and height.
    """
    numbers = values if isinstance(values, list) else []
    if len(numbers) != 4 or not all(_number(number) for number in numbers):
        raise DataError(f"{path}: bbox {values!r} must be four numbers, [x, y, width, height].")
    # Rounded so that float arithmetic (0.1 + 0.2) does not push a box one pixel further.
    x, y, width, height = (round(float(number), 6) for number in numbers)
    if width <= 0 or height <= 0:
        raise DataError(f"{path}: bbox {values!r} must have a positive width and height.")
    return Box(math.floor(x), math.floor(y), math.ceil(round(x + width, 6)), math.ceil(round(y + height, 6)))


def _content(path: Path) -> bytes:
    with open_regular(path) as stream:
        return stream.read()


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 10**9  # also refuses NaN and infinity


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value)


def _key(data: dict[str, Any], key: str, place: Path | str) -> Any:
    if key not in data:
        raise DataError(f"{place}: the key `{key}` is missing.")
    return data[key]


def _rows(path: Path, categories: Sequence[str]) -> list[PublishedRow]:
    """The rows of the given categories, in file order."""
    rows: list[PublishedRow] = []
    seen: dict[Key | str, str] = {}
    for number, line in enumerate(_content(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        data = parse_json(line, place)
        if not isinstance(data, dict):
            raise DataError(f"{place}: must hold one JSON object.")
        image = PurePosixPath(str(_key(data, "image", place)))
        if image.parent.name not in categories:
            continue
        row = PublishedRow(
            key=(image.parent.name, image.stem),
            question_id=str(_key(data, "question_id", place)),
            text=str(_key(data, "text", place)),
            label=str(_key(data, "label", place)).strip(),
            place=place,
        )
        for what, name in ((row.key, f"image {image}"), (row.question_id, f"question_id {row.question_id}")):
            if what in seen:
                raise DataError(f"{place}: {name} is already in {seen[what].rpartition(', ')[2]}.")
            seen[what] = place
        rows.append(row)
    return rows


def content_revision(folder: Path, files: Iterable[Path]) -> str:
    """`local:` and 12 hex digits of the SHA-256 over the files' relative names, sizes and, for JSON, contents.

    Images count by name and size only: a data set of gigabytes is not read to name it.
    """
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        # A missing image is one question's error later; here it only counts as missing.
        size = path.stat().st_size if path.exists() else -1
        digest.update(f"{name}\0{size}\0".encode())
        if path.suffix.lower() in TEXT_SUFFIXES:
            digest.update(path.read_bytes())
    return f"local:{digest.hexdigest()[:12]}"
