"""What Hydra composes for a command line, without a command line: for the Python interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semclip_eval.devices import detected_profile
from semclip_eval.errors import ConfigError
from semclip_eval.paths import config_folder


def compose(
    overrides: Sequence[str] = (), profile: str = "auto", config_dir: str | Path | None = None
) -> dict[str, Any]:
    """The config of `semclip-eval profile=... OVERRIDES` as plain mappings.

    overrides: as on the command line. config_dir: a folder of your own config groups. Raises ConfigError for a group,
    name or key that there is not.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from semclip_eval.launch import as_group_choice, explain

    chosen = detected_profile() if profile == "auto" else profile
    search = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).expanduser().resolve()}]"]
    # Hydra keeps one configuration for the whole process; whoever had set it up finds it again.
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = hydra_compose("config", [f"profile={chosen}", *search, *map(as_group_choice, overrides)])
        plain: Any = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)
    return dict(plain)
