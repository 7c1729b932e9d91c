"""Where a benchmark's files come from: a local folder, the miniature, or a Hub repository at a pinned revision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from semclip_eval.errors import ConfigError, DataError
from semclip_eval.hub import offline_if_unreachable

MINI = "mini://"
TEXT_SUFFIXES = (".json", ".jsonl")


def path_text(path: object) -> str | None:
    """`benchmark.path` as a text (Hydra reads a folder named 2024 as a number); None stands for the Hub.

    Raises ConfigError for an empty one, which would be the folder that the command is run in.
    """
    if path is None:
        return None
    if not str(path).strip():
        raise ConfigError("benchmark.path is empty: name a folder or a file, or write null for the Hub.")
    return str(path)


def local_folder(path: str) -> Path:
    """The folder that `benchmark.path` names; `mini://NAME` is that miniature's.

    ConfigError where there is none, or where the miniature cannot be written into its cache folder.
    """
    if path.startswith(MINI):
        from semclip_eval.mini.build import ensure
        from semclip_eval.paths import default_cache_folder

        try:
            return Path(ensure(path.removeprefix(MINI)))
        except ValueError as error:
            raise ConfigError(f"benchmark.path={path}: {error}.") from error
        except OSError as error:
            raise ConfigError(
                f"The miniature cannot be written to {default_cache_folder()} ({error.strerror or error}): set "
                "SEMCLIP_EVAL_CACHE to a folder that can be written."
            ) from error
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"benchmark.path={path}: no such folder.")
    return folder


def hub_folder(hub_id: str, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str]:
    """A local snapshot of the matching files of a Hub dataset repository, and the commit it is of.

    Without a revision it is the newest commit, or the newest one in the cache. Downloads once; afterwards, and with
    HF_HUB_OFFLINE=1, the cache serves. Raises DataError with the remedy where the Hub cannot be reached or has no such
    repository or revision.
    """
    from huggingface_hub import snapshot_download

    with offline_if_unreachable() as reason:
        try:
            fetched = snapshot_download(
                hub_id,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=reason is not None,
            )
        except Exception as error:  # whatever the client met (network, offline, access, disk), the remedy is the same
            message = reason or f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '').rstrip('.')}"
            raise DataError(
                f"{hub_id} at {revision or 'its newest commit'} is not cached and could not be fetched from the Hub "
                f"({message[:160]}).\n"
                "Give a local copy with benchmark.path=FOLDER, or use the miniature with profile=mini."
            ) from error
    folder = Path(fetched)
    return folder, folder.name


def content_revision(folder: Path, files: Iterable[Path]) -> str:
    """`local:` and 12 hex digits of the SHA-256 over the files' relative names, sizes and, for JSON, contents.

    Images count by name and size only: a data set of gigabytes is not read to name it.
    """
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        # A missing image is one question's error later; here it only counts as missing.
        size = path.stat().st_size if path.exists() else -1
        digest.update(f"{name}\0{size}\0".encode())
        if path.suffix.lower() in TEXT_SUFFIXES:
            digest.update(path.read_bytes())
    return f"local:{digest.hexdigest()[:12]}"
