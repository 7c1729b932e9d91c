"""From a config section to the object that it names.

A section says `_target_: package.module.Class`; every other key (but `description`) is a keyword of that class, so the
class signature is the section's schema, and a class outside this package is found like one inside it.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from semclip_eval.errors import ConfigError

NOT_PARAMETERS = ("_target_", "description")


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known name, else an empty string."""
    close = difflib.get_close_matches(value, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def component_class(group: str, section: Mapping[str, Any]) -> type:
    """The class that `section["_target_"]` names; ConfigError where it is missing or cannot be imported."""
    target = section.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{group}._target_={target!r}: must be a dotted path such as package.module.Class.")
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{group}._target_={target}: cannot be imported ({error}).") from error
    if not inspect.isclass(found):
        raise ConfigError(f"{group}._target_={target}: is not a class.")
    return found


def build(group: str, section: Mapping[str, Any], **context: Any) -> Any:
    """The object that a config section describes.

    `context` (the device, the dtype) is handed over where the class has a parameter of that name. Raises ConfigError
    for a key that the class does not know or a required one that is missing.
    """
    target = component_class(group, section)
    parameters = inspect.signature(target).parameters
    keywords = {key: value for key, value in section.items() if key not in NOT_PARAMETERS}
    for key in keywords:
        if key not in parameters:
            raise ConfigError(
                f"{group}.{key}: {target.__name__} has no such parameter.{did_you_mean(key, parameters)} "
                f"Available: {', '.join(parameters)}."
            )
    keywords |= {key: value for key, value in context.items() if key in parameters}
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        and name not in keywords
    ]
    if missing:
        raise ConfigError(f"{group}.{missing[0]}: {target.__name__} needs it and the config does not set it.")
    return target(**keywords)
