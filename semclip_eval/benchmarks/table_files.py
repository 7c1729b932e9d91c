"""Which files of a folder are the table of a benchmark: the published layout, `save_to_disk` output, or one family.

A family is what belongs together: the shards of one split (`test-00000-of-00003.parquet`, ...), the Arrow files that a
`state.json` lists, or a single file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from semclip_eval.errors import DataError
from semclip_eval.files import read_json

SUFFIXES = (".parquet", ".arrow", ".tsv")
_SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]{8,})?$")
_SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<total>\d+)(?P<hash>-[0-9a-f]{8,})?$")
_STATE = "state.json"
# A repository cloned without Git LFS holds small texts that begin like this in place of its large files.
LFS_POINTER = b"version https://git-lfs"


def natural_key(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts `part-2` before `part-10`."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path.as_posix())]


def matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that any of the glob patterns names, in natural order."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(found, key=natural_key)


def table_files(folder: Path, patterns: Sequence[str], part: str = "") -> list[Path]:
    """The files of the table in natural (shard) order.

    Files at their published places (`patterns`) come first. Else the folder (or its subfolder `part`, or the files
    whose names begin with it) must hold one family of table files, or one that is named like the published one.
    Raises DataError where there is none, or several to choose from.
    """
    if found := matching(folder, patterns):
        require_whole_sets(found)
        return found
    families = _families(folder)
    if part:
        families = {name: files for name, files in families.items() if _belongs(folder, files[0], part)}
    named = {name: files for name, files in families.items() if _named_like(files[0], patterns)}
    choice = named or families
    if len(choice) == 1:
        files = next(iter(choice.values()))
        require_whole_sets(files)
        return files
    where = f"{folder / part}" if part else f"{folder}"
    if not choice:
        raise DataError(
            f"{where}: holds no table. Expected {' or '.join(patterns)} as published, or one "
            f"{', '.join(SUFFIXES)} file (benchmark.path)."
        )
    raise DataError(
        f"{where}: holds {len(choice)} tables ({', '.join(sorted(choice)[:6])}{', ...' if len(choice) > 6 else ''}), "
        f"none at the published place ({', '.join(patterns)}).\nName one of them with benchmark.path."
    )


def require_whole_sets(paths: Sequence[Path]) -> None:
    """Raise DataError where shards of two uploads lie together, or one of a set is missing.

    A name says how many shards its set has (`test-00000-of-00003.parquet`); older uploads end in a hash as well. Two
    sets under one name are the same questions twice.
    """
    families: dict[tuple[Path, str], dict[tuple[int, bool], dict[int, Path]]] = {}
    for path in paths:
        shard = _SHARD_NAME.match(path.stem)
        stem, number, total, hashed = (
            (shard["stem"], int(shard["number"]), int(shard["total"]), bool(shard["hash"]))
            if shard
            else (path.stem, 0, 0, False)
        )
        families.setdefault((path.parent, stem), {}).setdefault((total, hashed), {})[number] = path
    for (folder, stem), sets in families.items():
        if len(sets) > 1:
            names = " and ".join(sorted(_set_name(files) for files in sets.values()))
            raise DataError(
                f"{folder}: holds two sets of the table {stem!r}, {names}. Remove one of them, or name a file with "
                "benchmark.path."
            )
        ((total, _), files) = next(iter(sets.items()))
        missing = sorted(set(range(total)) - files.keys())
        if missing:
            raise DataError(
                f"{folder}: {_set_name(files)} lacks {len(missing)} of {total} shards, the first is number "
                f"{missing[0]:05}. Download it again."
            )


def _set_name(files: Mapping[int, Path]) -> str:
    first = min(files.values(), key=natural_key)
    return first.name if len(files) == 1 else f"{first.name} ... ({len(files)} files)"


def _families(folder: Path) -> dict[str, list[Path]]:
    """Family name (relative to the folder, `*` for the shards) -> its files in natural order."""
    families: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*"), key=natural_key):
        relative = path.relative_to(folder)
        if path.suffix not in SUFFIXES or not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        if path.suffix == ".arrow" and (path.parent / _STATE).is_file():
            # Beside the data lie the `cache-*.arrow` of whoever worked with them: only the listed ones count.
            if path.name in _listed(path.parent / _STATE):
                families.setdefault(relative.parent.as_posix(), []).append(path)
            continue
        stem = _SHARD.sub("-*", path.stem)
        families.setdefault((relative.parent / f"{stem}{path.suffix}").as_posix(), []).append(path)
    return families


def _listed(state: Path) -> list[str]:
    content = read_json(state)
    if isinstance(content, dict) and (content.get("_indices_data_files") or content.get("_indices_files")):
        # An old save_to_disk keeps a selection or a shuffle as a mapping beside the unchanged rows.
        raise DataError(
            f"{state.parent}: keeps which rows count, and in what order, in a file of indices. Load it with datasets, "
            "call flatten_indices() and save it again."
        )
    try:
        return [entry["filename"] for entry in content["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{state}: is not the `state.json` that `save_to_disk` writes ({error}).") from error


def _belongs(folder: Path, path: Path, part: str) -> bool:
    relative = path.relative_to(folder)
    return part in relative.parts[:-1] or relative.name.startswith(part) or folder.name == part


def _named_like(path: Path, patterns: Sequence[str]) -> bool:
    """Whether a file is called like a published one, or lies in a `save_to_disk` folder of the published split."""
    names = [pattern.rpartition("/")[2] for pattern in patterns]
    if any(fnmatch(path.name, name) for name in names):
        return True
    return (path.parent / _STATE).is_file() and path.parent.name in {name.partition("-")[0] for name in names}
