"""A short fingerprint of files on disk, so that a result can say which weights it used."""

from __future__ import annotations

import hashlib
from pathlib import Path

END_BYTES = 1 << 20


def folder_digest(path: str | Path) -> str:
    """Twelve hex digits for a folder's content, or a single file's.

    SHA-256 over every file's relative name, size, first and last MiB, in the order of the names: quick for weights of
    many GB, and any replaced or retrained file shows. Names that begin with a dot (caches, editors' files) do not
    count, nor does the name of a single file. Raises OSError where the path cannot be read.
    """
    root = Path(path)
    if root.is_dir():
        names = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.is_file()}
        files = {name: file for name, file in names.items() if not any(part[0] == "." for part in name.split("/"))}
    else:
        files = {"": root}
    digest = hashlib.sha256()
    for name in sorted(files):
        add_file(digest, name, files[name])
    return digest.hexdigest()[:12]


def add_file(digest: hashlib._Hash, name: str, file: Path) -> None:
    """Add a file's name, size, first and last MiB to a digest."""
    size = file.stat().st_size
    digest.update(f"{name}\0{size}\0".encode())
    with file.open("rb") as stream:
        digest.update(stream.read(END_BYTES))
        stream.seek(max(0, size - END_BYTES))
        digest.update(stream.read(END_BYTES))
