"""Embeddings as files in a folder of the user's (`psi.cache`), shared by runs, processes and machines.

A safetensors file an image, or a text: the boxes and their embeddings, found by the digest of the pixels (or the text)
below a folder for the weights and their preprocessing. Files are written beside their place and moved there, so that
readers see a whole one or none, on network file systems too, where `embedding_store`'s database is not safe. Each
carries a checksum over its key and content. What cannot be read or written is computed instead, and said once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from semclip_eval.console import warn
from semclip_eval.types import Box

# Below the user's folder: only what lies here is ever deleted.
PLACE = "psi-embeddings"
SUFFIX = ".safetensors"
PART = ".part"
CHECK = "check"
# The folder is looked through when this part of its limit has been written since, and is brought down to `KEPT_SHARE`.
SCAN_SHARE, KEPT_SHARE = 1 / 8, 3 / 4


class EmbeddingFiles:
    """Embeddings (float32 vectors) of one set of weights.

    weights: everything that an embedding depends on beside the pixels or the text. limit_mib: of all files below
    `folder`/psi-embeddings, whatever their weights; those that were used least recently go first. Several processes may
    write at once: of two that keep other boxes of an image at the same moment the later one wins, and the rest is
    computed again.
    """

    def __init__(self, folder: Path, weights: str, limit_mib: int) -> None:
        self.folder, self.limit = folder / PLACE, limit_mib * 2**20
        self._own = self.folder / hashlib.blake2b(weights.encode(), digest_size=8).hexdigest()
        self._weights = weights
        self._unseen: float | None = None  # bytes written since the folder was looked through
        self._broken = False

    def get(self, image: bytes, boxes: Sequence[Box]) -> dict[Box, np.ndarray]:
        """The stored embeddings among those of `boxes` of the image (or text) with this digest."""
        path = self._path(image)
        try:
            known = _read(path, image)
            if known:
                os.utime(path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._fail(error)
            return {}
        return {box: known[box] for box in boxes if box in known}

    def put(self, image: bytes, embeddings: Mapping[Box, np.ndarray]) -> None:
        """Keep these embeddings of the image (or text) with this digest, beside those of other boxes."""
        if self._broken:
            return
        path = self._path(image)
        try:
            known: dict[Box, np.ndarray] = {}
            with contextlib.suppress(FileNotFoundError):
                known = _read(path, image)
            data = _written(image, {**known, **embeddings}, self._weights)
            path.parent.mkdir(parents=True, exist_ok=True)
            # The same process number may write on another machine.
            temporary = path.with_name(f".{secrets.token_hex(8)}{PART}")
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            self._fail(error)
            return
        if self._unseen is not None:
            self._unseen += len(data)

    def commit(self) -> None:
        """Keep the folder within its limit."""
        if self._broken or (self._unseen is not None and self._unseen < self.limit * SCAN_SHARE):
            return
        files = [(stat.st_mtime_ns, stat.st_size, path) for path in self.folder.rglob("*") if (stat := _stat(path))]
        total = sum(size for _, size, _ in files)
        if total > self.limit:
            for _, size, path in sorted(files):
                with contextlib.suppress(OSError):  # another process may be quicker
                    path.unlink()
                total -= size
                if total <= self.limit * KEPT_SHARE:
                    break
        # Others write too: what is left until the limit counts as written, so that the next look comes in time.
        self._unseen = max(0.0, total - self.limit * (1 - SCAN_SHARE))

    def _path(self, image: bytes) -> Path:
        name = image.hex()
        return self._own / name[:2] / f"{name[2:]}{SUFFIX}"

    def _fail(self, error: Exception) -> None:
        if not self._broken:
            warn(f"psi.cache={self.folder}: embeddings are not kept there ({error}).")
        self._broken = True


def text_digest(text: str) -> bytes:
    """Of a text, as `pixel_digest` is of an image; no image has it."""
    return hashlib.blake2b(b"text\0" + text.encode(), digest_size=16).digest()


def _read(path: Path, key: bytes) -> dict[Box, np.ndarray]:
    """What the file holds; nothing where its checksum is not that of key and content. OSError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            check = (file.metadata() or {}).get(CHECK)
            boxes, vectors = file.get_tensor("boxes"), file.get_tensor("embeddings")
    except (SafetensorError, ValueError, KeyError):
        return {}
    if boxes.ndim != 2 or vectors.ndim != 2 or check != _check(key, boxes, vectors):
        return {}
    return {Box(*map(int, box)): vector for box, vector in zip(boxes, vectors, strict=True)}


def _written(key: bytes, embeddings: Mapping[Box, np.ndarray], weights: str) -> bytes:
    from safetensors.numpy import save

    boxes = np.array([tuple(box) for box in embeddings], dtype="<i8")
    vectors = np.stack([np.asarray(vector, dtype="<f4") for vector in embeddings.values()])
    content = {"boxes": boxes, "embeddings": vectors}
    return save(content, {CHECK: _check(key, boxes, vectors), "weights": weights})


def _check(key: bytes, boxes: np.ndarray, vectors: np.ndarray) -> str:
    shapes = f"{boxes.dtype}{boxes.shape}{vectors.dtype}{vectors.shape}".encode()
    return hashlib.blake2b(b"".join((key, shapes, boxes.tobytes(), vectors.tobytes())), digest_size=16).hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    """Of a file of ours; None for others, and for one that has just gone."""
    if path.suffix not in (SUFFIX, PART):
        return None
    try:
        return path.stat()
    except OSError:
        return None
