"""`samples.jsonl`: one complete line a question, on disk before the next one is asked.

A line is written with a single call, straight to the operating system, so a killed process leaves at most one torn
line, which the next one cuts off. A run folder is held by one process at a time.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from semclip_eval.console import warn
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.files import open_regular

# What takes most of a record's memory and no table is made of.
LARGE = ("candidates", "trace", "kept")
SAMPLES = "samples.jsonl"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What network file systems answer that have no locks, or whose lock server is away.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
LOCK = ".lock"


@dataclass(frozen=True)
class Record:
    """One line of `samples.jsonl`; the keys and their meaning are in docs/files.md.

    `views` are mappings with kind, box (left, top, right, bottom in pixels of the image) and psi; `option_losses` are
    nats per token. None means 'not measured' or 'not applicable', never zero.
    """

    question_id: str
    category: str
    image_id: str
    cluster: str
    tags: dict[str, str]
    question: str
    hint: str
    options: list[str]
    truth: Any
    answer: str | None
    choice: int | None
    option_losses: list[float] | None
    score: float | None
    status: str
    reason: str
    error: dict[str, str] | None
    views: list[dict[str, Any]] | None
    target_boxes: list[list[int]]
    target_coverage: float | None
    visual_tokens: int | None
    text_tokens: int | None
    new_tokens: int | None
    chance: float | None
    latency_ms: dict[str, float] | None
    candidates: list[dict[str, Any]] | None = None
    cost: dict[str, int] | None = None
    encoded_tokens: int | None = None
    kept: list[list[int]] | None = None
    trace: list[dict[str, Any]] | None = None
    measures: dict[str, float] | None = None
    image_size: list[int] | None = None
    flops: dict[str, int | None] | None = None

    def line(self) -> str:
        """The record as one line of JSON, with the line's end."""
        return json_line(asdict(self))


def json_line(record: Mapping[str, Any]) -> str:
    """One line of JSON, readable where the text is; half a surrogate pair, which no file can lock, is escaped."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(record, allow_nan=False) + "\n"
    return line


@contextmanager
def lock(folder: Path, name: str = LOCK, wait: bool = False) -> Iterator[None]:
    """Make the folder if need be and lock it; ConfigError where another process holds it or it cannot be written.

    wait: until the other process has let go, in place of the error.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock: BaseFileLock | None = FileLock(folder / name)
        assert lock is not None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "flock not supported", UserWarning)
            lock.acquire(blocking=wait)
        if isinstance(lock, SoftFileLock):
            # filelock's way out (ENOSYS): a marker, which a process killed on another machine leaves behind for good.
            lock.release()
            lock = None
    except NotImplementedError:
        # What older versions of filelock say to ENOSYS.
        lock = None
    except Timeout as error:
        raise ConfigError(
            f"{folder} is held by another process that runs the same config: wait for it, or give this one another "
            "run.output_dir."
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise output_error(folder, error) from error
        lock = None
    if lock is None:
        warn(f"{folder} is on a file system without locks: make sure that only one process runs this config.")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def output_error(path: Path, error: OSError) -> ConfigError:
    """The user's message for a file or folder that cannot be written."""
    remedy = "Free the disk or choose" if error.errno in FULL else "Choose"
    return ConfigError(
        f"{path}: cannot be written ({error.strerror or error}). {remedy} another run.output_dir; what was written "
        "before is kept and the same command goes on from there."
    )


class SampleWriter:
    """Appends records to `samples.jsonl`; a torn last line of a killed process is cut off first."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / SAMPLES
        try:
            _cut_torn_line(self.path)
            # Unbuffered: what a full disk refused must not be kept here and be written some time later.
            self._file: FileIO = self.path.open("ab", buffering=0)
        except OSError as error:
            raise output_error(self.path, error) from error

    def write(self, record: Record) -> None:
        """One line, handed to the system. On a full disk the torn line is cut off again and ConfigError says so."""
        line, start = record.line().encode(), self._file.tell()
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(start)
            raise output_error(self.path, error) from error

    def close(self) -> None:
        """Flush to the disk itself and close."""
        try:
            with self._file:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise output_error(self.path, error) from error


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        position, keep = size, 0
        while position > 0:
            step = min(65536, position)
            position -= step
            file.seek(position)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                keep = position + newline + 1
                break
        if keep < size:
            file.truncate(keep)


def read_samples(folder: Path, without: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The records of a run folder as mappings, in file order, one for each question (the last one counts).

    without: keys that are not kept in memory (`LARGE`). A torn last line is left out. DataError names file and line
    where another line is not JSON.
    """
    path = folder / SAMPLES
    if not path.exists():
        return []
    records: dict[str, dict[str, Any]] = {}
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                identity = str(record["question_id"])
                _check_shape(record)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: not a record ({error}). Remove that line, and its question is asked again."
                ) from error
            for key in without:
                record.pop(key, None)
            records[identity] = record
    return list(records.values())


def _check_shape(record: dict[str, Any]) -> None:
    """KeyError, TypeError or ValueError where a record lacks what every reader of it takes for granted."""
    if record["status"] not in ("ok", "unparsed", "error"):
        raise ValueError(f"status {record['status']!r}")
    score = record["score"]
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1):
        raise ValueError(f"score {score!r}")
    if record["status"] == "error":
        record["error"]["type"], record["error"]["message"]
    for key in ("views", "target_boxes", "options", "candidates"):
        if not isinstance(record.get(key), (list, type(None))):
            raise TypeError(f"`{key}` is no list")


def arrange_samples(folder: Path, questions: Iterable[str]) -> None:
    """Replace `samples.jsonl` by its records of these questions, in this order, atomically; one line in memory."""
    path = folder / SAMPLES
    places: dict[str, tuple[int, int]] = {}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open_regular(path) as file:
        start = 0
        for line in file:
            if line.endswith(b"\n"):
                places[str(json.loads(line)["question_id"])] = (start, len(line))
            start += len(line)
        try:
            with temporary.open("wb") as arranged:
                for question in questions:
                    start, length = places[question]
                    file.seek(start)
                    arranged.write(file.read(length))
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise output_error(path, error) from error


def rewrite_samples(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Replace `samples.jsonl` by these records, atomically."""
    write_atomically(folder / SAMPLES, "".join(json_line(record) for record in records))


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file beside its place and move it there; readers see the old one or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise output_error(path, error) from error
