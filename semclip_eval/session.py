"""Loaded models stay for the next job of the same process: a sweep loads each of them once.

One VLM and one ψ are kept. A job that needs another one lets the old one go first, so that two never share the memory.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from typing import Any

from semclip_eval.components import build
from semclip_eval.digest import folder_digest
from semclip_eval.errors import ConfigError
from semclip_eval.places import model_folder

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
    if group == "model" and "psi" in _loaded:
        _loaded["psi"][1].reset()  # a ψ that looks through the VLM's tower would keep all of it
    if _loaded.pop(group, None) is None:
        return
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def model_revision(section: Mapping[str, Any]) -> str | None:
    """What tells one set of VLM weights from another, without loading them.

    The Hub revision, `local:` and a digest of a local folder's files, or the seed of random weights. Raises ConfigError
    where `model.path` does not exist.
    """
    if section.get("load_format") == "dummy":
        return "dummy:seed0"
    if not section.get("path"):
        return None if section.get("revision") is None else str(section["revision"])
    folder = model_folder(str(section["path"]))
    if not folder.exists():
        raise ConfigError(f"model.path={section['path']}: there is no such folder.")
    return f"local:{folder_digest(folder)}"
