"""What a benchmark's files may make the program open: nothing outside the data folder, and no image without bound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semclip_eval.errors import ConfigError, QuestionError, SemclipEvalError
from semclip_eval.files import shown

# 200 million pixels come out of a telephone; decoded they are 600 MB.
MAX_MEGAPIXELS = 256.0
# The Hub's cache: a snapshot is a folder of links to the blobs beside it.
SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class FileAccess:
    """root: the folder that holds the data; None allows any. follow_links: open what lies outside of it all the same.

    max_megapixels: the largest image that is decoded.
    """

    root: Path | None = None
    follow_links: bool = False
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        if not isinstance(self.follow_links, bool):
            raise ConfigError(f"benchmark.follow_links={self.follow_links}: must be true or false.")
        number = isinstance(self.max_megapixels, (int, float)) and not isinstance(self.max_megapixels, bool)
        if not number or not 0 < self.max_megapixels < float("inf"):
            raise ConfigError(f"benchmark.max_megapixels={self.max_megapixels}: must be a positive number.")

    def inside(self, folder: Path) -> FileAccess:
        """The same rules for the data in `folder`; for a snapshot of the Hub's cache with the cached repository."""
        root = folder.parent.parent if folder.parent.name == SNAPSHOTS else folder
        return FileAccess(root.resolve(), self.follow_links, self.max_megapixels)

    def require_inside(self, path: Path, kind: type[Exception] = QuestionError) -> None:
        """Raise `kind` where the path, its links followed, leaves the data folder."""
        if self.root is None or self.follow_links:
            return
        try:
            inside = path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError, ValueError):  # a ring of links, a name with a NUL
            inside = False
        if not inside:
            raise kind(
                f"{shown(path)}: lies outside of the data folder {shown(self.root)}; if that is as it should be, set "
                "benchmark.follow_links=true."
            )

    def require_size(self, size: tuple[int, int]) -> None:
        """QuestionError where an image of (width, height) pixels is larger than allowed."""
        megapixels = size[0] * size[1] / 1e6
        if megapixels > self.max_megapixels:
            raise QuestionError(
                f"{size[0]}x{size[1]} pixels are {megapixels:.0f} megapixels, more than "
                f"benchmark.max_megapixels={self.max_megapixels:g}; raise it, or make the image smaller"
            )


ANYWHERE = FileAccess()


def require_inside_all(access: FileAccess, paths: list[Path], kind: type[SemclipEvalError]) -> None:
    """`require_inside` for several files."""
    for path in paths:
        access.require_inside(path, kind)
