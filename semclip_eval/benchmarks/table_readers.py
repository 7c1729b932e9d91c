"""Reading one table file row by row: parquet, Arrow or TSV, with no more than a few images in memory at a time.

What the `datasets` library would do (convert to Arrow, map into memory) keeps a second copy on disk and lets every page
that was touched count as resident. Here parquet is decoded forwards in small batches, an Arrow file is mapped and its
pages handed back, and a TSV is read at the row's place in the file (`scripts/benchmark_memory.py` measures all three).
"""

from __future__ import annotations

import csv
import io
import mmap
import sys
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from semclip_eval.benchmarks.node_cache import at_hand
from semclip_eval.benchmarks.table_files import LFS_POINTER
from semclip_eval.errors import DataError
from semclip_eval.files import open_regular

_TEXT_BATCH = 512
# Encoded bytes of image column for one decoded batch, and what all batches that are kept may hold once decoded.
_BATCH_BYTES = 8 << 20
_MOST_ROWS = 32
_CACHE_BYTES = 48 << 20
_READ_BYTES = 1 << 20
# After this many bytes of images, the pages of a mapped file are handed back to the system.
_MAPPED_BYTES = 16 << 20
# VLMEvalKit's rule (vlmeval/dataset/image_base.py): an image of at most 64 characters is the index of another row.
_REFERENCE_LENGTH = 64


class Reader(Protocol):
    """One table file."""

    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The named columns of every row, as plain Python values."""
        ...

    def present(self, column: str) -> list[bool]:
        """Whether each row has a value in this column, without keeping the values."""
        ...

    def unlike_images(self, column: str) -> str:
        """The column's type where encoded images cannot be of it, else nothing."""
        ...

    def value(self, column: str, row: int) -> Any:
        """One value of a column of large values (images). Safe to call from several threads."""
        ...


class BatchCache:
    """Decoded batches of a column, the least recently used dropped first; shared by the shards of a table."""

    def __init__(self, most_bytes: int = _CACHE_BYTES) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._batches: OrderedDict[tuple[object, ...], tuple[int, Any]] = OrderedDict()

    def find(self, owner: tuple[object, ...], row: int) -> tuple[int, Any] | None:
        """The first row of the batch that holds this row, and the batch."""
        for key, (_, batch) in self._batches.items():
            start = key[-1]
            if key[:-1] == owner and isinstance(start, int) and start <= row < start + len(batch):
                self._batches.move_to_end(key)
                return start, batch
        return None

    def keep(self, owner: tuple[object, ...], start: int, batch: Any) -> None:
        key, size = (*owner, start), int(batch.nbytes)
        self._drop(key)
        self._batches[key] = (size, batch)
        self.bytes += size
        while self.bytes > self.most_bytes and len(self._batches) > 1:
            self._drop(next(iter(self._batches)))

    def _drop(self, key: tuple[object, ...]) -> None:
        size, _ = self._batches.pop(key, (0, None))
        self.bytes -= size


def open_reader(path: Path, cache: BatchCache) -> Reader:
    """The reader for a file's suffix. Raises DataError where the file is empty, damaged or a Git LFS pointer."""
    with open_regular(path) as stream:
        head = stream.read(len(LFS_POINTER))
    if not head:
        raise DataError(f"{path}: is empty. Download it again.")
    if head == LFS_POINTER:
        raise DataError(f"{path}: is a Git LFS pointer, not the data. Run `git lfs pull` in the clone.")
    try:
        try:
            return _reader(at_hand(path), cache)
        except FileNotFoundError:  # a copy that another process took away
            return _reader(path, cache)
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's ArrowInvalid is a ValueError
        kind = {".parquet": "parquet", ".arrow": "Arrow", ".tsv": "TSV"}[path.suffix]
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: is not a readable {kind} file ({why[:160].rstrip('.')}). Download it again."
        ) from error


def _reader(path: Path, cache: BatchCache) -> Reader:
    if path.suffix == ".parquet":
        return ParquetReader(path, cache)
    return ArrowReader(path) if path.suffix == ".arrow" else TsvReader(path)


def _unlike_images(kind: Any) -> str:
    """The Arrow type; nothing where it is bytes, a text (base64), a struct with `bytes`, or a list of one of these."""
    from pyarrow import types

    inner = kind
    if types.is_list(inner) or types.is_large_list(inner) or types.is_fixed_size_list(inner):
        inner = inner.value_type
    if types.is_dictionary(inner):
        inner = inner.value_type
    if types.is_struct(inner):
        return "" if inner.get_field_index("bytes") >= 0 else str(kind)
    texts_and_bytes = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return "" if str(inner) in texts_and_bytes else str(kind)


class ParquetReader:
    """A parquet file. Values are decoded forwards, a batch at a time; going back starts at the row group again."""

    def __init__(self, path: Path, cache: BatchCache) -> None:
        import pyarrow.parquet as parquet

        self._file = parquet.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False)
        self._cache, self._lock = cache, threading.Lock()
        self.columns = tuple(self._file.schema_arrow.names)
        metadata = self._file.metadata
        self._starts = [0]
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._cursor: tuple[str, int, int, Iterator[Any]] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        for batch in self._file.iter_batches(_TEXT_BATCH, columns=list(names), use_threads=False):
            yield from batch.to_pylist()

    def unlike_images(self, column: str) -> str:
        return _unlike_images(self._file.schema_arrow.field(column).type)

    def present(self, column: str) -> list[bool]:
        import pyarrow

        kind = self._file.schema_arrow.field(column).type
        # Of an image struct the small part is enough: the struct itself is missing where there is no image.
        small = pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0
        read = f"{column}.path" if small else column
        batches = self._file.iter_batches(_MOST_ROWS, columns=[read], use_threads=False)
        return [flag for batch in batches for flag in batch.column(0).is_valid().to_pylist()]

    def value(self, column: str, row: int) -> Any:
        group = bisect_right(self._starts, row) - 1
        with self._lock:
            start, batch = self._batch(column, group, row - self._starts[group])
            return batch[row - self._starts[group] - start].as_py()

    def _batch(self, column: str, group: int, row: int) -> tuple[int, Any]:
        owner = (id(self), column, group)
        if found := self._cache.find(owner, row):
            return found
        cursor = self._cursor
        # Taken away while it moves: after an error in the middle the next call starts afresh.
        self._cursor = None
        if cursor is None or cursor[:2] != (column, group) or cursor[2] > row:
            cursor = (column, group, 0, self._batches(column, group))
        *_, start, batches = cursor
        for batch in batches:
            values = batch.column(0)
            self._cache.keep(owner, start, values)
            if row < start + len(values):
                self._cursor = (column, group, start + len(values), batches)
                return start, values
            start += len(values)
        raise OSError(f"row group {group} ends at row {start}")

    def _batches(self, column: str, group: int) -> Iterator[Any]:
        described = self._file.metadata.row_group(group)
        chunks = (described.column(index) for index in range(described.num_columns))
        encoded = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
        rows = max(1, min(_MOST_ROWS, _BATCH_BYTES * described.num_rows // max(1, encoded)))
        return iter(self._file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False))


class ArrowReader:
    """An Arrow file (stream or file format), mapped; pages of images that were read are handed back."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        buffer = pyarrow.py_buffer(self._map)
        if self._map[:6] == b"ARROW1":
            opened = pyarrow.ipc.open_file(buffer)
            batches = [opened.get_batch(index) for index in range(opened.num_record_batches)]
        else:
            opened = pyarrow.ipc.open_stream(buffer)
            batches = list(opened)
        self.columns, self._schema = tuple(opened.schema.names), opened.schema
        self._batches, self._lock, self._touched = batches, threading.Lock(), 0
        self._starts = [0]
        for batch in batches:
            self._starts.append(self._starts[-1] + batch.num_rows)

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            yield from batch.select(list(names)).to_pylist()

    def unlike_images(self, column: str) -> str:
        return _unlike_images(self._schema.field(column).type)

    def present(self, column: str) -> list[bool]:
        return [flag for batch in self._batches for flag in batch.column(column).is_valid().to_pylist()]

    def value(self, column: str, row: int) -> Any:
        index = bisect_right(self._starts, row) - 1
        scalar = self._batches[index].column(column)[row - self._starts[index]]
        value = scalar.as_py()
        with self._lock:
            self._touched += _size(value)
            if self._touched > _MAPPED_BYTES and hasattr(mmap, "MADV_DONTNEED"):
                # The map is read-only and shared with the file: a page that is needed again comes back from it.
                self._map.madvise(mmap.MADV_DONTNEED)
                self._touched = 0
        return value


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, (bytes, str)) else 0


class TsvReader:
    """A tab-separated file as VLMEvalKit publishes them: one row a question, `image` in base64.

    Every value is a text, an empty one None. A short `image` is the `index` of the row whose image it shares. The texts
    are kept, the images are read from their rows' places in the file.
    """

    def __init__(self, path: Path) -> None:
        # One limit for the process: the standard library's is 128 KiB, less than one image.
        csv.field_size_limit(max(csv.field_size_limit(), min(sys.maxsize, 2**31 - 1)))
        self._path, self._lock = path, threading.Lock()
        self._texts: list[tuple[str | None, ...]] = []
        self._pictured: list[bool] = []
        self._places: list[tuple[int, int]] = []
        self._stream = path.open("rb")
        rows = _tsv_rows(self._stream)
        _, header = next(rows)
        self.columns = tuple(_fields(header.removeprefix(b"\xef\xbb\xbf")))
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("two columns of one name in its first line")
        self._image = self.columns.index("image") if "image" in self.columns else -1
        self._by_index: dict[str, int] = {}
        index_at = self.columns.index("index") if "index" in self.columns else -1
        for offset, raw in rows:
            if not raw.strip():
                continue
            fields = _fields(raw)
            if len(fields) != len(self.columns):
                raise ValueError(
                    f"row {len(self._texts)} has {len(fields)} fields, the first line names {len(self.columns)}"
                )
            if index_at >= 0:
                self._by_index.setdefault(fields[index_at], len(self._texts))
            if self._image >= 0:
                self._pictured.append(bool(fields[self._image]))
                fields[self._image] = ""
            self._places.append((offset, len(raw)))
            self._texts.append(tuple(field or None for field in fields))

    def __len__(self) -> int:
        return len(self._texts)

    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        positions = [(name, self.columns.index(name)) for name in names]
        for texts in self._texts:
            yield {name: texts[position] for name, position in positions}

    def unlike_images(self, column: str) -> str:
        return ""

    def present(self, column: str) -> list[bool]:
        return list(self._pictured)

    def value(self, column: str, row: int) -> Any:
        image = self._field(column, row)
        if 0 < len(image) <= _REFERENCE_LENGTH:
            if image not in self._by_index:
                raise OSError(f"image {image!r} is neither base64 nor the index of a row")
            image = self._field(column, self._by_index[image])
            if len(image) <= _REFERENCE_LENGTH:
                raise OSError(f"its image is that of a row that has none itself ({image!r})")
        return image or None

    def _field(self, column: str, row: int) -> str:
        offset, length = self._places[row]
        with self._lock:
            self._stream.seek(offset)
            raw = self._stream.read(length)
        return _fields(raw)[self.columns.index(column)]


def _tsv_rows(stream: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Every row's place in the file and its bytes; a quoted field may hold line ends."""
    offset = 0
    lines: list[bytes] = []
    quotes = 0
    for line in stream:
        lines.append(line)
        quotes += line.count(b'"')
        if quotes % 2:
            continue
        raw = b"".join(lines)
        yield offset, raw
        offset, lines, quotes = offset + len(raw), [], 0
    if lines:
        raise ValueError(f"a quoted field that begins after byte {offset} does not end")


def _fields(raw: bytes) -> list[str]:
    text = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    if '"' not in text:  # most rows; the csv module would hold an image in four bytes a character
        return text.split("\t")
    return next(csv.reader([text], delimiter="\t", strict=True))
