"""Copies of data files on this machine's own disk, so that a network file system is read once a machine.

`SEMCLIP_EVAL_NODE_CACHE` names the folder (none: files are read where they are), `SEMCLIP_EVAL_NODE_CACHE_GIB` its
size. A copy is found by the place, size and time of its original; its name holds a checksum of the content, which is
compared before every use. Safe for several processes: one copies, the others wait for it. What cannot be copied is read
where it is, and said once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import xxhash
from filelock import FileLock

from semclip_eval.console import warn
from semclip_eval.errors import ConfigError

FOLDER, LIMIT_GIB = "SEMCLIP_EVAL_NODE_CACHE", "SEMCLIP_EVAL_NODE_CACHE_GIB"
DEFAULT_GIB = 64.0
CHUNK = 1 << 20
# Locks that all copies share, so that the folder does not fill with one for each image.
LOCKS = 64
# The folder is looked through after each such part of its limit that a process has added.
PART = 64


@contextmanager
def open_at_hand(path: Path) -> Iterator[BinaryIO]:
    """The file's content, from its copy where a folder for copies is named. OSError as `open` raises."""
    copies = _chosen()
    stream = copies.open(path) if copies is not None else None
    with stream if stream is not None else path.open("rb") as opened:
        yield opened


def at_hand(path: Path) -> Path:
    """The copy of a large file, made and verified now, or the file itself. Another process may take a copy away."""
    copies = _chosen()
    stream = copies.open(path) if copies is not None else None
    if stream is None:
        return path
    with stream:
        return Path(stream.name)


def _chosen() -> NodeCache | None:
    folder = os.environ.get(FOLDER, "")
    return _node_cache(folder, os.environ.get(LIMIT_GIB, "")) if folder else None


@cache
def _node_cache(folder: str, gib: str) -> NodeCache:
    try:
        limit = float(gib or DEFAULT_GIB)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise ConfigError(f"{LIMIT_GIB}={gib}: must be a positive number of GiB.")
    return NodeCache(Path(folder).expanduser(), int(limit * 2**30))


class NodeCache:
    """The copies in one folder. limit: bytes of all copies, about; those used least recently go first.

    copied: bytes of originals that this process has read.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.copied = 0
        self._added = 0
        self._is_broken = False

    def open(self, path: Path) -> BinaryIO | None:
        """The verified copy, opened at its start; None where the original has to be read in its place."""
        if self._is_broken:
            return None
        try:
            original = path.resolve()
            state = _state(original)
        except OSError:
            return None  # the original says what is wrong
        if state[0] > self.limit:
            return None
        key = hashlib.blake2b(repr((str(original), state)).encode(), digest_size=16).hexdigest()
        try:
            return self._verified(key) or self._copied(original, state, key)
        except (OSError, NotImplementedError) as error:
            self._is_broken = True
            warn(
                f"{self.folder}: no copies of data are kept there ({error}); files are read where they are ({FOLDER})."
            )
            return None

    def _place(self, key: str) -> Path:
        return self.folder / key[:2]  # a folder of a hundred thousand images is slow to look through

    def _verified(self, key: str) -> BinaryIO | None:
        """The copy under this key; one that is not what it was is removed."""
        for copy in self._place(key).glob(f"{key}-*"):
            try:
                stream = copy.open("rb")
            except FileNotFoundError:  # another process made room
                continue
            digest = xxhash.xxh3_128()
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
            if copy.stem.rpartition("-")[2] == digest.hexdigest():
                stream.seek(0)
                with suppress(OSError):
                    os.utime(copy)
                return stream
            stream.close()
            copy.unlink(missing_ok=True)
        return None

    def _copied(self, original: Path, state: tuple[int, int], key: str) -> BinaryIO | None:
        """Copy the original, unless another process has done it meanwhile."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._place(key).mkdir(exist_ok=True)
        with FileLock(self.folder / f".{int(key, 16) % LOCKS:02}.lock"):
            if (stream := self._verified(key)) is not None:
                return stream
            copy = self._copy(original, state, key)
        if self._added > self.limit // PART:
            self._added = 0
            self._make_room()
        return copy

    def _copy(self, original: Path, state: tuple[int, int], key: str) -> BinaryIO | None:
        try:
            source = original.open("rb")
        except OSError:
            return None  # the original says what is wrong
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=self._place(key))
        temporary = Path(name)
        try:
            digest = xxhash.xxh3_128()
            with source, os.fdopen(descriptor, "wb") as target:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
                    self.copied += len(chunk)
            if _state(original) != state or temporary.stat().st_size != state[0]:
                return None  # somebody writes it just now
            copy = self._place(key) / f"{key}-{digest.hexdigest()}{original.suffix}"
            os.replace(temporary, copy)
            self._added += state[0]
            return copy.open("rb")
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self) -> None:
        with FileLock(self.folder / ".room.lock"):
            copies = []
            for copy in self.folder.glob("??/[!.]*"):
                with suppress(FileNotFoundError):
                    copies.append((copy.stat().st_mtime_ns, copy.stat().st_size, copy))
            surplus = sum(size for _, size, _ in copies) - self.limit
            for _, size, copy in sorted(copies):
                if surplus <= 0:
                    break
                copy.unlink(missing_ok=True)
                surplus -= size


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change: what tells one content of a place from another without reading it."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
