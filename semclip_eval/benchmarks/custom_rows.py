"""Rows of a user's own data: JSON Lines, JSON, CSV, TSV, Parquet, Arrow, or a folder that holds one of them."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from semclip_eval.benchmarks.table_files import natural_key, table_files
from semclip_eval.benchmarks.table_readers import BatchCache, open_reader
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.files import read_text

TEXT_SUFFIXES = (".jsonl", ".json", ".csv")
TABLE_SUFFIXES = (".parquet", ".arrow", ".tsv")
IMAGE = "image"


@dataclass(frozen=True)
class Row:
    """One row. values: all columns but the image; image: gives that column's value. place: for messages."""

    values: dict[str, Any]
    image: Callable[[], Any]
    place: str


@dataclass(frozen=True)
class Rows:
    """All rows with their columns. files: what they were read from; folder: what image paths are relative to."""

    rows: list[Row]
    columns: list[str]
    files: list[Path]
    folder: Path


def read_rows(path: str) -> Rows:
    """The rows of `benchmark.path`, in file order. ConfigError where there is none, DataError for damaged data."""
    place = Path(path).expanduser()
    if not place.exists():
        raise ConfigError(f"benchmark.path={path}: no such file or folder.")
    files = [place] if place.is_file() else _files(place)
    suffix = files[0].suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return _tables(files)
    if suffix not in TEXT_SUFFIXES:
        known = ", ".join((*TEXT_SUFFIXES, *TABLE_SUFFIXES))
        raise DataError(f"{files[0]}: is not a kind of table that is read; give one of {known}.")
    (file,) = files
    records = list(_records(file))
    if not records:
        raise DataError(f"{file}: has no rows.")
    columns = list(dict.fromkeys(name for _, record in records for name in record))
    rows = [
        Row({name: value for name, value in record.items() if name != IMAGE}, partial(_given, record.get(IMAGE)), where)
        for where, record in records
    ]
    return Rows(rows, columns, [file], file.parent)


def _given(value: Any) -> Any:
    return value


def _files(folder: Path) -> list[Path]:
    """The one text table of a folder, or its Parquet, Arrow or TSV files."""
    texts = sorted((file for suffix in TEXT_SUFFIXES for file in folder.glob(f"*{suffix}")), key=natural_key)
    # `save_to_disk` writes JSON of its own beside its Arrow files.
    texts = [file for file in texts if file.name not in ("state.json", "dataset_info.json", "dataset_dict.json")]
    tables = [file for suffix in TABLE_SUFFIXES for file in folder.rglob(f"*{suffix}")]
    if len(texts) == 1 and not tables:
        return texts
    if texts:
        names = ", ".join(file.name for file in (*texts, *tables)[:6])
        raise DataError(f"{folder}: holds several tables ({names}). Name one of them with benchmark.path.")
    return table_files(folder, ("*.parquet",))


def _tables(files: Sequence[Path]) -> Rows:
    cache = BatchCache()
    rows: list[Row] = []
    columns: list[str] = []
    for file in files:
        reader = open_reader(file, cache)
        columns = list(dict.fromkeys((*columns, *reader.columns)))
        texts = [name for name in reader.columns if name != IMAGE]
        has_image = IMAGE in reader.columns
        for number, values in enumerate(reader.rows(texts)):
            image = partial(reader.value, IMAGE, number) if has_image else partial(_given, None)
            rows.append(Row(dict(values), image, f"{file}, row {number}"))
    if not rows:
        raise DataError(f"{files[0]}: has no rows.")
    return Rows(rows, columns, list(files), files[0].parent)


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = read_text(file)
    if file.suffix.lower() == ".csv":
        csv.field_size_limit(sys.maxsize)
        for number, row in enumerate(csv.DictReader(text.splitlines(keepends=True))):
            if None in row:
                raise DataError(f"{file}, row {number}: has more fields than the header; quote texts with commas.")
            yield f"{file}, row {number}", {name: value for name, value in row.items() if value not in (None, "")}
        return
    if file.suffix.lower() == ".json":
        yield from _checked(file, enumerate(_parsed(text, f"{file}")), "row")
        return
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    yield from _checked(file, ((number, _parsed(line, f"{file}, line {number}")) for number, line in lines), "line")


def _checked(file: Path, records: Any, word: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, record in records:
        if not isinstance(record, dict):
            raise DataError(f"{file}, {word} {number}: must be an object with named values, not {str(record)[:60]!r}.")
        yield f"{file}, {word} {number}", record


def _parsed(text: str, place: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: is not JSON ({error}).") from error
    if place.endswith(".json") and not isinstance(value, list):
        raise DataError(f"{place}: must be a list of objects.")
    return value
