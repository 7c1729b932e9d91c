"""Where weights and data lie: inside the package (`mini://NAME`), in a local folder, or in a Hub repository.

The only room that knows the marker `mini://`: loaders get folders, and one question, whether the set is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from semclip_eval.errors import ConfigError, DataError, ModelError
from semclip_eval.hub import offline_if_unreachable
from semclip_eval.paths import default_cache_folder

MINI = "mini://"
MINI_VLM = f"{MINI}vlm"
MINI_CLIP = f"{MINI}clip"


def is_generated(path: str | None) -> bool:
    """Does `benchmark.path` name a generated set, whose size is not the published one's?"""
    return path is not None and path.startswith(MINI)


def path_text(path: object) -> str | None:
    """`benchmark.path` as a text (Hydra reads a folder named 2024 as a number); None stands for the Hub.

    Raises ConfigError for an empty one, which would be the folder that the command is run in.
    """
    if path is None:
        return None
    if not str(path).strip():
        raise ConfigError("benchmark.path is empty: name a folder or a file, or write null for the Hub.")
    return str(path)


def data_folder(path: str) -> Path:
    """The folder that `benchmark.path` names; a generated set is written into the cache folder first.

    ConfigError where there is none, or where the cache folder cannot be written.
    """
    if not is_generated(path):
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"benchmark.path={path}: no such folder.")
        return folder
    from semclip_eval.mini.build import ensure

    try:
        return Path(ensure(path.removeprefix(MINI)))
    except ValueError as error:
        raise ConfigError(f"benchmark.path={path}: {error}.") from error
    except OSError as error:
        raise ConfigError(
            f"The miniature cannot be written to {default_cache_folder()} ({error.strerror or error}): set "
            "SEMCLIP_EVAL_CACHE to a folder that can be written."
        ) from error


def hub_folder(hub_id: str | None, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str]:
    """A local snapshot of the matching files of a Hub dataset repository, and the commit it is of.

    Without a revision it is the newest commit, or the newest one in the cache. Downloads once; afterwards, and with
    HF_HUB_OFFLINE=1, the cache serves. Raises DataError with the remedy where the Hub cannot be reached or has no such
    repository or revision.
    """
    if not hub_id:
        raise ConfigError("benchmark.path=null: this benchmark has no Hub repository; give benchmark.path=FOLDER.")
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


def model_folder(path: str) -> Path:
    """The folder that `model.path` names. ModelError where the package lacks its own weights."""
    return _package_weights("model.path", "vlm") if path == MINI_VLM else Path(path).expanduser()


def psi_model(model: str, folder_mark: str) -> str:
    """`psi.model` as open_clip is asked for it: the package's own weights become `folder_mark` and their folder."""
    return f"{folder_mark}{_package_weights('psi.model', 'clip')}" if model == MINI_CLIP else model


def _package_weights(key: str, name: Literal["vlm", "clip"]) -> Path:
    from semclip_eval.mini import weights_folder

    try:
        return weights_folder(name)
    except FileNotFoundError as error:
        raise ModelError(f"{key}={MINI}{name}: {error}") from error
