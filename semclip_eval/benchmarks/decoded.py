"""One decoding for all questions about an image, while they are asked close to each other.

Benchmarks ask one picture several times (POPE 18 times) and store its file with each row. Images are known here by
their content: a file by its place, size and time of change, bytes by their digest. Off unless a thread says `shared`:
in latency mode every question pays for its own image.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import xxhash
from PIL import Image

MIB = 2**20


class DecodedImages:
    """The images that were decoded last: at most `count` of them and `limit_mib` of pixels."""

    def __init__(self, count: int = 16, limit_mib: int = 256) -> None:
        self.count, self.limit = count, limit_mib * MIB
        self._kept: OrderedDict[Hashable, Future[Image.Image]] = OrderedDict()
        self._lock = threading.Lock()
        self._thread = threading.local()

    @contextmanager
    def shared(self, on: bool) -> Iterator[None]:
        """Within it, and in this thread, images that are here are not decoded again."""
        before = getattr(self._thread, "on", False)
        self._thread.on = on
        try:
            yield
        finally:
            self._thread.on = before

    def get(self, name: Hashable, decode: Callable[[], Image.Image]) -> Image.Image:
        """The image of that name (None: of no name), the caller's own to change.

        A thread that finds it in another one's hands waits for it.
        """
        if name is None or not getattr(self._thread, "on", False):
            return decode()
        with self._lock:
            found = self._kept.get(name)
            if found is None:
                mine = self._kept[name] = Future[Image.Image]()
            else:
                self._kept.move_to_end(name)
        if found is not None:
            if found.exception() is not None:
                return decode()  # says what is wrong with it once more
            return found.result().copy()
        try:
            image = decode()
        except BaseException as error:
            with self._lock:
                self._kept.pop(name, None)
            mine.set_exception(error)
            raise
        mine.set_result(image)
        self._shrink()
        return image.copy()

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._kept.clear()

    def _shrink(self) -> None:
        with self._lock:
            while self._kept and (len(self._kept) > self.count or self._size() > self.limit):
                self._kept.popitem(last=False)

    def _size(self) -> int:
        done = [future.result() for future in self._kept.values() if future.done() and future.exception() is None]
        return sum(memory_of(image) for image in done)


def memory_of(image: Image.Image) -> int:
    """Bytes of a decoded image: Pillow keeps an RGB pixel in four."""
    return image.width * image.height * (1 if len(image.getbands()) == 1 else 4)


# Of this process: selectors and jobs of a sweep come and go, images stay.
DECODED = DecodedImages()


def file_name(path: Path) -> Hashable | None:
    """What a file is known by; None where it cannot be looked at."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def bytes_name(encoded: bytes) -> Hashable:
    """What encoded bytes are known by."""
    return len(encoded), xxhash.xxh3_128_digest(encoded)
