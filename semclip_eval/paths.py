"""Where the package's own files lie: its configs and the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from semclip_eval.errors import ConfigError


def config_folder() -> Path:
    """The folder with Hydra's config groups."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"No configs found in {package} or beside it: the installation is incomplete, install it again.")


def default_cache_folder() -> Path:
    """`SEMCLIP_EVAL_CACHE`, else `semclip-eval` in the user's cache folder."""
    if chosen := os.environ.get("SEMCLIP_EVAL_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "semclip-eval"
