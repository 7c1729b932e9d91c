"""A benchmark's table (parquet, Arrow, TSV), from a local copy or the Hub, with its images still encoded on disk."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from semclip_eval.benchmarks.access import ANYWHERE, FileAccess, require_inside_all
from semclip_eval.benchmarks.images import decode_rgb, read_rgb
from semclip_eval.benchmarks.table_files import SUFFIXES, matching, require_whole_sets, table_files
from semclip_eval.benchmarks.table_readers import BatchCache, Reader, open_reader
from semclip_eval.digest import add_file
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.places import data_folder, hub_folder, is_generated


@dataclass(frozen=True)
class Published:
    """A table as published.

    files: glob patterns inside the Hub repository. columns: those that must be there. rows: the published number of
    rows. image: the image column, as published (struct of bytes and path, a list of those, or a base64 text).
    """

    files: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int
    image: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """All columns that must be there, the image column included."""
        return tuple(dict.fromkeys((*self.columns, *((self.image,) if self.image else ()))))

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns other than the image column."""
        return tuple(name for name in self.columns if name != self.image)


class Table:
    """Rows in the official order. Rows are counted from 0.

    revision: the Hub commit, or `local:` and a digest of the content. origin: the folder or Hub repository, for
    messages. Columns are found in any capitalisation where only one fits (a TSV's `l2-category` is `L2-category`).
    """

    def __init__(
        self, name: str, published: Published, paths: Sequence[Path], origin: str, access: FileAccess = ANYWHERE
    ) -> None:
        require_inside_all(access, list(paths), DataError)
        self.access = access
        self.name, self.published, self.paths, self.origin = name, published, list(paths), origin
        self.revision = ""
        self.notices: list[str] = []
        cache = BatchCache()
        self._readers: list[Reader] = [open_reader(path, cache) for path in self.paths]
        self._names = [_names(path, reader, published) for path, reader in zip(paths, self._readers, strict=True)]
        self._starts = [0]
        for reader in self._readers:
            self._starts.append(self._starts[-1] + len(reader))
        if not len(self):
            raise DataError(f"{self.paths[0]}: has no rows. Download it again.")

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, *names: str) -> Iterator[dict[str, Any]]:
        """Each row's values of the named columns (default: all published ones but the image) as plain Python values.

        The image column, if asked for, comes encoded and is read image by image; `has_image` is quicker where only that
        matters. A TSV's values are texts, an empty one None. Raises DataError where a file turns out to be damaged.
        """
        wanted = names or self.published.texts
        texts = [name for name in wanted if name != self.published.image]
        for path, reader, actual in zip(self.paths, self._readers, self._names, strict=True):
            try:
                for number, row in enumerate(reader.rows([actual[name] for name in texts])):
                    values = {name: row[actual[name]] for name in texts}
                    if len(texts) < len(wanted):
                        image = self.published.image or ""
                        values[image] = reader.value(actual[image], number)
                    yield values
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: is damaged ({_reason(error)}). Download it again.") from error

    def column(self, name: str) -> list[Any]:
        """One column's values in row order; not for the image column, which would all be in memory."""
        return [row[name] for row in self.rows(name)]

    def has_image(self) -> list[bool]:
        """Whether each row has an image at all; no image is decoded for it."""
        column = self.published.image or ""
        present: list[bool] = []
        for path, reader, actual in zip(self.paths, self._readers, self._names, strict=True):
            try:
                present += reader.present(actual[column])
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: is damaged ({_reason(error)}). Download it again.") from error
        return present

    def place(self, row: int) -> str:
        """Where a row is, for messages."""
        return f"{self.origin}, row {row}"

    def text(self, row: int, values: Mapping[str, Any], name: str) -> str:
        """The text in a column of a row (`values`, of `rows`) as it stands; a number counts as one.

        Raises DataError that names the place where it is missing, blank, or no text at all.
        """
        value = values[name]
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            raise DataError(f"{self.place(row)}: {name} is empty.")
        if not isinstance(value, (str, int, float)):
            raise DataError(f"{self.place(row)}: {name} {str(value)[:80]!r} must be a text.")
        # pandas turns a column of whole numbers with one gap into floats.
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    def identity(self, row: int, values: Mapping[str, Any], name: str) -> str:
        """`text` for a column of ids: a whole number that a table program wrote as 34602.0 is 34602."""
        text = self.text(row, values, name).strip()
        whole = re.fullmatch(r"(\d+)\.0+", text)
        return whole[1] if whole else text

    def image_loader(self, row: int) -> Callable[[], Image.Image]:
        """A function that reads and decodes the row's image when called: upright RGB.

        It raises QuestionError that names table and row where there is no image or it cannot be decoded, and may be
        called from several threads.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self.origin} has {len(self)} rows, not a row {row}")
        return partial(self._image, row)

    def _image(self, row: int) -> Image.Image:
        index = bisect_right(self._starts, row) - 1
        column = self.published.image or ""
        try:
            value = self._readers[index].value(self._names[index][column], row - self._starts[index])
        except (OSError, ValueError) as error:
            raise QuestionError(f"{self.place(row)}: image cannot be read ({_reason(error)}).") from error
        return _decoded(value, self.paths[index].parent, self.place(row), self.access)


def read_table(
    name: str,
    published: Published,
    hub_id: str,
    revision: str | None,
    path: str | None,
    part: str = "",
    access: FileAccess = ANYWHERE,
) -> Table:
    """The table of a benchmark from `path`, or from the Hub (its cache, where the Hub is out of reach).

    path: a folder in the published layout, `save_to_disk` output, one .parquet, .arrow or .tsv file, or `mini://NAME`.
    revision: the Hub commit; None takes the newest, and `Table.revision` says which that was. part: for benchmarks of
    several tables, the subfolder or configuration that this one is in.
    Raises ConfigError for a path that is not there, DataError for missing or damaged files, missing columns, and from
    the Hub for another number of rows than published (locally that is a notice).
    """
    if path is None:
        folder, commit = hub_folder(hub_id, revision, published.files)
        origin = f"{hub_id} at {commit[:12]}"
        paths = matching(folder, published.files)
        if not paths:
            raise DataError(
                f"{origin}: has no files {' or '.join(published.files)}.\n"
                "Set benchmark.revision to a commit that has them, or give a local copy with benchmark.path=FOLDER."
            )
        require_whole_sets(paths)
        table = Table(name, published, paths, origin, access.inside(folder))
        table.revision = commit
    else:
        folder, paths = _local(path, published, part)
        table = Table(name, published, paths, str(paths[0] if len(paths) == 1 else folder), access.inside(folder))
        table.revision = _content_revision(table)
    if not is_generated(path):
        check_count(table, from_hub=path is None)
    return table


def check_count(table: Table, from_hub: bool) -> None:
    """A notice where a local table has another number of rows than published; from the Hub that is a DataError."""
    if len(table) == table.published.rows:
        return
    if from_hub:
        # Offline, the Hub's client hands out a download that broke off as if it were the whole.
        raise DataError(
            f"{table.origin}: the Hub's cache holds {len(table)} rows, published are {table.published.rows}.\n"
            "Run once with the Hub in reach, or give a local copy with benchmark.path=FOLDER."
        )
    table.notices.append(
        f"{table.name}: {len(table)} rows in {table.origin}; the published table has {table.published.rows}."
    )


def _local(path: str, published: Published, part: str) -> tuple[Path, list[Path]]:
    file = Path(path).expanduser()
    if not is_generated(path) and not file.exists():
        raise ConfigError(f"benchmark.path={path}: no such folder or file.")
    if not file.is_file():
        folder = data_folder(path)
        return folder, table_files(folder, published.files, part)
    if file.suffix not in SUFFIXES:
        raise DataError(f"{file}: must be a folder or one {', '.join(SUFFIXES)} file (benchmark.path).")
    if part:
        raise DataError(f"{file}: is one file, and {part} is a table of its own. Give the folder that holds both.")
    return file.parent, [file]


def _content_revision(table: Table) -> str:
    """`local:` and 12 hex digits of the SHA-256 over the files and the texts.

    Every file counts with its name, size, first and last MiB, and every value of the published columns but the image:
    no edited question, answer or option goes unnoticed, and gigabytes of images are not read to name the table. An
    image replaced by another of the very same size in the middle of a file is what this cannot see.
    """
    digest = hashlib.sha256()
    for path in table.paths:
        add_file(digest, path.name, path)
    for row in table.rows():
        digest.update(repr(list(row.values())).encode("utf-8", "surrogatepass"))
    return f"local:{digest.hexdigest()[:12]}"


def _names(path: Path, reader: Reader, published: Published) -> dict[str, str]:
    """Published column name -> the file's. Raises DataError where one is missing or the image column has no images."""
    by_lower: dict[str, list[str]] = {}
    for column in reader.columns:
        by_lower.setdefault(column.lower(), []).append(column)
    names = {column: column for column in reader.columns}
    for wanted in published.required:
        alike = by_lower.get(wanted.lower(), [])
        if wanted not in names and len(alike) == 1:
            names[wanted] = alike[0]
    missing = [wanted for wanted in published.required if wanted not in names]
    if missing:
        raise DataError(
            f"{path}: {'column' if len(missing) == 1 else 'columns'} {', '.join(missing)} missing; "
            f"it has {', '.join(reader.columns)}."
        )
    if published.image and (kind := reader.unlike_images(names[published.image])):
        raise DataError(
            f"{path}: column {published.image} holds {kind}, not images: bytes, a struct of `bytes` and `path`, or "
            "base64."
        )
    return names


def _decoded(value: Any, folder: Path, place: str, access: FileAccess) -> Image.Image:
    if isinstance(value, list):
        if len(value) != 1:
            raise QuestionError(f"{place}: has {len(value)} images, expected one.")
        value = value[0]
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            return read_rgb(folder / str(value["path"]), access)
        value = value.get("bytes")
    if not value:
        raise QuestionError(f"{place}: has no image.")
    try:
        encoded = base64.b64decode(value) if isinstance(value, str) else value
    except (binascii.Error, ValueError) as error:
        raise QuestionError(f"{place}: image is not base64 ({error}).") from error
    try:
        return decode_rgb(encoded, access)
    except QuestionError as error:
        raise QuestionError(f"{place}: {error}.") from error


def _reason(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return first[:160].rstrip(".")
