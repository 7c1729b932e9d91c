"""Crop embeddings on disk, shared by runs: the same pixels under the same weights are never encoded twice.

One SQLite file in the cache folder; on a network file system, where SQLite's log works within one machine only, a file
for each machine. A row is found by the weights and their preprocessing, the image's pixels and the box; its value
carries a checksum. What cannot be read or written is computed instead, and said once.
"""

from __future__ import annotations

import hashlib
import socket
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from semclip_eval.console import warn
from semclip_eval.types import Box

FILE = "crop-embeddings.sqlite"
MOUNTS = Path("/proc/self/mounts")
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p", "orangefs")
CHECK_BYTES = 8
_TABLE = """
CREATE TABLE IF NOT EXISTS crops (key BLOB PRIMARY KEY, value BLOB NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID
"""
_MANY = 500  # placeholders of one statement


class EmbeddingStore:
    """Embeddings (float32 vectors) of one set of weights.

    weights: everything that an embedding depends on beside the pixels. limit_mib: the file's size; the rows that were
    used least recently go first. Safe for several processes.
    """

    def __init__(self, folder: Path, weights: str, limit_mib: int) -> None:
        self.file, self.limit = folder / file_name(folder), limit_mib * 2**20
        self._weights = weights.encode()
        self._connection: sqlite3.Connection | None = None
        self._broken = False

    def get(self, image: bytes, boxes: Sequence[Box]) -> dict[Box, np.ndarray]:
        """The stored embeddings among those of `boxes` of the image with this digest."""
        keys = {self._key(image, box): box for box in boxes}
        found: dict[Box, np.ndarray] = {}
        try:
            connection = self._open()
            names = list(keys)
            for start in range(0, len(names), _MANY):
                part = names[start : start + _MANY]
                marks = ",".join("?" * len(part))
                for key, value in connection.execute(f"SELECT key, value FROM crops WHERE key IN ({marks})", part):
                    if (vector := _checked(key, value)) is not None:
                        found[keys[key]] = vector
                connection.execute(f"UPDATE crops SET used = ? WHERE key IN ({marks})", [int(time.time()), *part])
        except (OSError, sqlite3.Error) as error:
            self._fail(error)
        return found

    def put(self, image: bytes, embeddings: Mapping[Box, np.ndarray]) -> None:
        """Keep these embeddings of the image with this digest."""
        now = int(time.time())
        try:
            rows = []
            for box, vector in embeddings.items():
                key, value = self._key(image, box), np.ascontiguousarray(vector, dtype="<f4").tobytes()
                rows.append((key, _check(key, value) + value, now))
            self._open().executemany("INSERT OR REPLACE INTO crops VALUES (?, ?, ?)", rows)
        except (OSError, sqlite3.Error) as error:
            self._fail(error)

    def commit(self) -> None:
        """Make what was put visible to others, and keep the file within its limit."""
        if self._connection is None:
            return
        try:
            self._connection.commit()
            self._shrink(self._connection)
        except sqlite3.Error as error:
            self._fail(error)

    def _shrink(self, connection: sqlite3.Connection) -> None:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size <= self.limit:
            return
        count = connection.execute("SELECT COUNT(*) FROM crops").fetchone()[0]
        # A quarter at once: not a few rows after every block.
        surplus = max(count // 4, count - int(count * self.limit / ((pages - free) * size)))
        connection.execute(
            "DELETE FROM crops WHERE key IN (SELECT key FROM crops ORDER BY used, key LIMIT ?)", [surplus]
        )
        connection.commit()

    def _open(self) -> sqlite3.Connection:
        if self._broken:
            raise sqlite3.OperationalError("given up")
        if self._connection is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            # Threads take turns (the runner's one thread scores); another process waits at most this long.
            self._connection = sqlite3.connect(self.file, timeout=10, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=OFF")  # a lost row is computed again
            self._connection.execute(_TABLE)
        return self._connection

    def _fail(self, error: Exception) -> None:
        if not self._broken:
            warn(f"{self.file}: crop embeddings are not kept ({error}). Delete the file if this goes on.")
        self._broken, self._connection = True, None

    def _key(self, image: bytes, box: Box) -> bytes:
        return hashlib.blake2b(b"\0".join([self._weights, image, repr(tuple(box)).encode()]), digest_size=16).digest()


def file_name(folder: Path) -> str:
    """The store's file in this folder: `FILE`, with the machine's name in it on a network file system."""
    if not is_on_network(folder):
        return FILE
    name, _, suffix = FILE.rpartition(".")
    return f"{name}-{socket.gethostname()}.{suffix}"


def is_on_network(folder: Path) -> bool:
    """Is the folder, or the place where it would be made, on a network file system? No, where that cannot be known."""
    try:
        place = folder.resolve()
        mounts = [line.split(" ")[1:3] for line in MOUNTS.read_text(errors="replace").splitlines()]
    except (OSError, RuntimeError):
        return False
    holding = [(mount, kind) for mount, kind in mounts if place.is_relative_to(mount.replace("\\040", " "))]
    # Of mounts upon each other the last one counts.
    kind = max(enumerate(holding), key=lambda entry: (len(entry[1][0]), entry[0]))[1][1] if holding else ""
    return kind in NETWORK or kind.startswith("fuse.")


def pixel_digest(image: Image.Image) -> bytes:
    """Of an image's pixels, size and mode; 16 bytes."""
    # Not a cryptographic hash: nobody gains by forging an image, and this one runs at the speed of memory.
    digest = xxhash.xxh3_128(f"{image.mode} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.digest()


def _check(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(key + value, digest_size=CHECK_BYTES).digest()


def _checked(key: bytes, stored: bytes) -> np.ndarray | None:
    check, value = stored[:CHECK_BYTES], stored[CHECK_BYTES:]
    if not value or len(value) % 4 or _check(key, value) != check:
        return None
    return np.frombuffer(value, dtype="<f4")
