"""Keys live in environment variables and nowhere else: what is typed or configured must not hold one.

Config values name folders and fill result files, so a key in one of them would be written into the results.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from semclip_eval.errors import ConfigError

# Variables that hold keys of services that a run may use; `model.api_key_env` names another one.
VARIABLES = (
    "OPENAI_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
)
# Shorter values ("none", "EMPTY") are placeholders of servers that ask for no key.
SHORTEST_KEY = 8


def refuse_in_arguments(arguments: Iterable[str]) -> None:
    """ConfigError where a word of the command line holds a key; the message does not repeat it."""
    arguments = list(arguments)
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("model.api_key_env=")]
    for argument in arguments:
        name, separator, value = argument.partition("=")
        _refuse(value if separator else argument, name if separator else "the command line", named)


def refuse_in_config(config: Mapping[str, Any]) -> None:
    """ConfigError where a value of the composed config holds a key; the message names its place."""
    named = [str((config.get("model") or {}).get("api_key_env") or "")]
    for place, value in _texts(config, ""):
        _refuse(value, place, named)


def known_keys(named: Iterable[str] = ()) -> dict[str, str]:
    """The keys that the environment holds, by variable: the usual ones and those of `named` variables."""
    keys = {variable: os.environ.get(variable, "").strip() for variable in (*VARIABLES, *named) if variable}
    return {variable: key for variable, key in keys.items() if len(key) >= SHORTEST_KEY}


def _refuse(value: str, place: str, named: Iterable[str]) -> None:
    for variable, key in known_keys(named).items():
        if key in value:
            raise ConfigError(
                f"{place}: holds the key of the environment variable {variable}, and would be written into the "
                "results: take it out; the variable is enough."
            )


def _texts(value: Any, place: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{place}.{key}".lstrip("."), str(key)
            yield from _texts(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner, place)
    elif value is not None:
        yield place, str(value)
