"""Finding and reading a checkpoint in the published transformers layout: JSON, tokenizer and safetensors files."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from semclip_eval.checks import first_line
from semclip_eval.digest import folder_digest
from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.hub import offline_if_unreachable
from semclip_eval.lazy import import_transformers
from semclip_eval.models.transformers.memory import GIB, memory_remedies, out_of_memory
from semclip_eval.places import model_folder

# Never .bin or .py: weights only as safetensors, no code from a checkpoint.
WANTED_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
COMMIT = re.compile("[0-9a-f]{40}")
# A bar for weights that load in a blink is noise.
PROGRESS_FROM_BYTES = 2**28
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files come from; `fetch` gives the folder, downloading what is not there yet."""

    name: str
    hub_id: str | None
    path: str | None
    revision: str | None

    def __post_init__(self) -> None:
        if not self.path and not self.hub_id:
            raise ConfigError(f"model={self.name}: neither model.path nor model.hub_id is set; set one of them")
        if self.folder is not None and not self.folder.is_dir():
            raise ModelError(
                f"model.path={self.path}: no such folder; give a folder in the layout of a transformers checkpoint"
            )

    @property
    def folder(self) -> Path | None:
        """The local folder; None for a checkpoint of the hub."""
        if not self.path:
            return None
        return model_folder(self.path)

    def fetch(self, only_config: bool = False) -> Path:
        """The folder with everything that is needed, or at least its config.json.

        A local folder never touches the hub, nor does a pinned commit that is whole in the hub's cache. Raises
        ModelError where the hub has to be asked and cannot be.
        """
        if self.folder is not None:
            return self.folder
        from huggingface_hub import snapshot_download

        cached = self._cached(only_config)
        if cached is not None and COMMIT.fullmatch(self.revision or ""):
            return cached
        patterns = ["config.json"] if only_config else WANTED_FILES
        with offline_if_unreachable() as reason:
            try:
                if reason is not None:
                    # Offline the client gives a download that broke off for a whole one; `_cached` has looked closer.
                    raise OSError(reason)
                if not only_config:
                    require_disk(self.name, str(self.hub_id), self.revision, patterns)
                return Path(snapshot_download(str(self.hub_id), revision=self.revision, allow_patterns=patterns))
            except ModelError:
                raise
            # No connection, proxy, disk; not found, gated, offline; a malformed id: three libraries' unrelated types.
            except Exception as error:
                if cached is not None:
                    return cached
                raise ModelError(
                    f"{self.name}: {self.hub_id} at revision {self.revision or 'main'} is not cached and could not be "
                    f"fetched from the hub ({reason or f'{type(error).__name__}: {first_line(error)}'}); "
                    "give a local copy with model.path=FOLDER, or use profile=mini"
                ) from error

    def _cached(self, only_config: bool) -> Path | None:
        """The revision's folder in the hub's cache; None where it is not there or a download broke off."""
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(str(self.hub_id), revision=self.revision, local_files_only=True))
        except (OSError, ValueError):
            return None
        return folder if missing_file(folder, only_config) is None else None

    def resolved_revision(self, folder: Path) -> str:
        """A digest of a local folder; for the hub the commit, which is the snapshot folder's name."""
        return folder.name if self.folder is None else f"local:{folder_digest(folder)}"


def require_disk(name: str, hub_id: str, revision: str | None, patterns: list[str]) -> None:
    """Raise ModelError where the hub's files of those patterns that are not cached yet exceed the cache's free disk.

    Sizes are those that the hub announces.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    info = HfApi().model_info(hub_id, revision=revision, files_metadata=True)
    missing = sum(
        file.size or 0
        for file in info.siblings or []
        if any(fnmatch(file.rfilename, pattern) for pattern in patterns)
        and not isinstance(try_to_load_from_cache(hub_id, file.rfilename, revision=info.sha), str)
    )
    cache = Path(constants.HF_HUB_CACHE)
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if missing > free:
        raise ModelError(
            f"{name}: {missing / GIB:.1f} GiB of {hub_id} are still to be downloaded, {free / GIB:.1f} GiB are free in "
            f"{cache}; free some, set HF_HOME to a folder on a larger disk, or give a local copy with model.path=FOLDER"
        )


def read_config(folder: Path, model_type: str) -> Any:
    """The folder's config. Raises ModelError where it is missing, unreadable or of another architecture."""
    auto_config = import_transformers().AutoConfig
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{file}: missing; the folder must hold a transformers checkpoint")
    try:
        config = auto_config.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise unreadable(file, error) from error
    if config.model_type != model_type:
        raise ModelError(
            f"{file}: model_type is '{config.model_type}', this adapter reads '{model_type}'; choose the model=... of "
            "its family"
        )
    return config


def read_tokenizer(folder: Path) -> Any:
    """The folder's fast tokenizer. Raises ModelError naming the file that is missing or unreadable."""
    from transformers import AutoTokenizer

    files = [folder / name for name in TOKENIZER_FILES]
    present = [file for file in files if file.is_file()]
    if not present:
        raise ModelError(f"{files[0]}: missing (so is tokenizer.model); copy the checkpoint's tokenizer files there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise unreadable(present[0], error) from error
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: has no fast tokenizer; add the checkpoint's tokenizer.json")
    return tokenizer


def read_image_processor(folder: Path) -> Any:
    """The folder's image processor on the PIL backend. Raises ModelError naming what is missing or unreadable.

    The models were trained and published with PIL's filters; torchvision's differ by a grey level here and there.
    """
    from transformers import AutoImageProcessor

    files = [folder / name for name in PROCESSOR_FILES]
    present = [file for file in files if file.is_file()]
    if not present:
        raise ModelError(f"{files[0]}: missing; copy the checkpoint's image processor configuration there")
    try:
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")
    except Exception as error:
        raise unreadable(present[0], error) from error


def read_model(folder: Path, dtype: str, attention: str, device: str, device_map: str | None = None) -> Any:
    """The folder's model, every layer of it from the files, on `device` or spread over all GPUs (`device_map='auto'`).

    Raises ModelError where a weight file is missing or damaged, or the files leave a layer without weights (which
    transformers would fill at random, with a warning).
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging as transformers_logging

    check_weight_files(folder)
    if sum(file.stat().st_size for file in weight_files(folder)) < PROGRESS_FROM_BYTES:
        transformers_logging.disable_progress_bar()
    else:
        transformers_logging.enable_progress_bar()
    # Straight to the GPU, shard by shard: going through the CPU would need the whole model's size there as well.
    placement: dict[str, Any] = {} if device == "cpu" else {"device_map": device_map or {"": device}}
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            trust_remote_code=False,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **placement,
        )
    except Exception as error:
        if out_of_memory(error):
            raise ModelError(
                f"{folder}: memory ran out on {device} while the weights were loaded ({first_line(error)}); free some, "
                f"or try {memory_remedies(dtype, device, device_map)}"
            ) from error
        raise unreadable(folder, error) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder}: the weight files lack {len(missing)} of the model's tensors, the first is {missing[0]}; "
            "the copy is incomplete or belongs to another config.json"
        )
    return model.eval()


def missing_file(folder: Path, only_config: bool = False) -> Path | None:
    """The first file that a whole checkpoint would have and this folder has not; None where nothing is missing."""
    if not (folder / "config.json").is_file():
        return folder / "config.json"
    for names in () if only_config else (TOKENIZER_FILES, PROCESSOR_FILES):
        if not any((folder / name).is_file() for name in names):
            return folder / names[0]
    files = [] if only_config else weight_files(folder)
    return next((file for file in files if not file.is_file()), None)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that the folder should hold, by its index if it has one."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise unreadable(index, error) from error


def check_weight_files(folder: Path) -> None:
    """Raise ModelError naming the first weight file that is missing or cut short. Reads headers, not tensors."""
    from safetensors import safe_open

    for file in weight_files(folder):
        if not file.is_file():
            raise ModelError(f"{file}: missing; weights are read as safetensors only, copy the file there")
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except Exception as error:  # safetensors raises its own type and plain OSError
            raise unreadable(file, error) from error


def unreadable(place: Path, error: Exception) -> ModelError:
    """A ModelError of one line for a file or folder that another library could not read."""
    return ModelError(f"{place}: cannot be read ({type(error).__name__}: {first_line(error)}); copy it again")


def bytes_by_device(model: Any) -> dict[str, int]:
    """Bytes of a model's parameters on each device, by torch's name of it ('cpu', 'cuda:0')."""
    sizes: dict[str, int] = {}
    for parameter in model.parameters():
        place = str(parameter.device)
        sizes[place] = sizes.get(place, 0) + parameter.numel() * parameter.element_size()
    return sizes
