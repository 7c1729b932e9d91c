"""Loaded models stay for the next job of the same process: a sweep loads each of them once.

One VLM and one ψ are kept. A job that needs another one lets the old one go first, so that two never share the memory.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semclip_eval.components import build
from semclip_eval.digest import folder_digest
from semclip_eval.errors import ConfigError

_loaded: dict[str, tuple[str, Any]] = {}


def loaded(group: str, section: Mapping[str, Any], **context: Any) -> Any:
    """The component of this section, from the last job where it was built from the same values."""
    key = json.dumps([section, context], sort_keys=True, default=str)
    kept = _loaded.get(group)
    if kept is not None and kept[0] == key:
        return kept[1]
    forget(group)
    component = build(group, section, **context)
    _loaded[group] = (key, component)
    return component


def forget(group: str) -> None:
    """Let the kept component of a group go, and its memory with it."""
    if _loaded.pop(group, None) is None:
        return
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def resolved_path(path: str) -> str:
    """`path` itself, or the folder inside the package that a `mini://` marker stands for."""
    if not path.startswith("mini://"):
        return path
    from semclip_eval.mini import weights_folder

    return str(weights_folder(path.removeprefix("mini://")))


def model_revision(section: Mapping[str, Any]) -> str | None:
    """What tells one set of VLM weights from another, without loading them.

    The Hub revision, a digest of the files of a local folder, or the seed of random weights.
    """
    if section.get("load_format") == "dummy":
        return "dummy:seed0"
    path = section.get("path")
    return _digest("model.path", resolved_path(str(path))) if path else _text(section.get("revision"))


def psi_revision(section: Mapping[str, Any]) -> str | None:
    """The same for ψ: the pretrained tag, or a digest of local files."""
    model, pretrained = str(section.get("model") or ""), section.get("pretrained")
    if model.startswith("mini://"):
        return _digest("psi.model", resolved_path(model))
    if model.startswith("local-dir:"):
        return _digest("psi.model", model.removeprefix("local-dir:"))
    if pretrained and Path(str(pretrained)).exists():
        return _digest("psi.pretrained", str(pretrained))
    return _text(pretrained)


def _digest(key: str, path: str) -> str:
    if not Path(path).exists():
        raise ConfigError(f"{key}={path}: there is no such folder or file.")
    return folder_digest(Path(path))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
