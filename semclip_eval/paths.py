"""Where files lie: the package's configs, the weights that `mini://` stands for, and the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from semclip_eval.errors import ConfigError, ModelError

MINI_VLM = "mini://vlm"


def config_folder() -> Path:
    """The folder with Hydra's config groups."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"No configs found in {package} or beside it: the installation is incomplete, install it again.")


def model_folder(path: str) -> Path:
    """The folder that `model.path` names; the marker `mini://vlm` stands for the weights inside the package.

    Raises ModelError where the package lacks them; another folder is not looked at.
    """
    if path != MINI_VLM:
        return Path(path).expanduser()
    from semclip_eval.mini import weights_folder

    try:
        return weights_folder("vlm")
    except FileNotFoundError as error:
        raise ModelError(str(error)) from error


def default_cache_folder() -> Path:
    """`SEMCLIP_EVAL_CACHE`, else `semclip-eval` in the user's cache folder."""
    if chosen := os.environ.get("SEMCLIP_EVAL_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "semclip-eval"
