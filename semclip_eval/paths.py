"""Where the configs lie: inside an installed package, or beside it in a source tree."""

from __future__ import annotations

from pathlib import Path

from semclip_eval.errors import ConfigError


def config_folder() -> Path:
    """The folder with Hydra's config groups."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"No configs found in {package} or beside it: the installation is incomplete, install it again.")
