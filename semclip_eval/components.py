"""From a config section to the object that it names.

A section says `_target_: package.module.Class`; every other key (but `description`) is a keyword of that class, so the
class signature is the section's schema, and a class outside this package is found like one inside it.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semclip_eval.errors import ConfigError, SemclipEvalError

PACKAGE = "semclip_eval"
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
    except Exception as error:  # the user's own module: its error keeps the place
        raise ConfigError(f"{group}._target_={target}: cannot be imported: {described(error)}.") from error
    if not inspect.isclass(found):
        raise ConfigError(f"{group}._target_={target}: is not a class.")
    return found


def config_class_of(target: type) -> type | None:
    """The dataclass `Config` of a class that takes its keys from one; None for a class with keywords of its own."""
    config_class = getattr(target, "Config", None)
    return config_class if inspect.isclass(config_class) and dataclasses.is_dataclass(config_class) else None


def parameters_of(target: type) -> Mapping[str, inspect.Parameter]:
    """The keys that a class's section may have, by name."""
    return inspect.signature(config_class_of(target) or target).parameters


def build(group: str, section: Mapping[str, Any], **context: Any) -> Any:
    """The object that a config section describes.

    A class with a dataclass `Config` takes its keys from that and is handed the object; any other class's keywords are
    its keys. `context` (the device, the dtype) is handed over where the class has a parameter of that name. Raises
    ConfigError for a key that the class does not know or a required one that is missing.
    """
    target = component_class(group, section)
    config_class = config_class_of(target)
    parameters = parameters_of(target)
    keywords = {key: value for key, value in section.items() if key not in NOT_PARAMETERS}
    for key in keywords:
        if key not in parameters:
            raise ConfigError(
                f"{group}.{key}: {target.__name__} has no such parameter.{did_you_mean(key, parameters)} "
                f"Available: {', '.join(parameters)}."
            )
    handed = {key: value for key, value in context.items() if key in inspect.signature(target).parameters}
    if config_class is None:
        keywords |= handed
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        and name not in keywords
    ]
    if missing:
        raise ConfigError(f"{group}.{missing[0]}: {target.__name__} needs it and the config does not set it.")
    with component_errors(group, target):
        return target(**keywords) if config_class is None else target(config_class(**keywords), **handed)


@contextmanager
def component_errors(group: str, component: type) -> Iterator[None]:
    """Errors of a class from outside the package become ConfigErrors that keep file and line; ours stay whole."""
    try:
        yield
    except SemclipEvalError:
        raise
    except Exception as error:
        if component.__module__.partition(".")[0] == PACKAGE:
            raise
        raise ConfigError(f"{group} ({component.__module__}.{component.__name__}): {described(error)}.") from error


def described(error: BaseException) -> str:
    """An exception in one line: type, message, and the place in code that is not a library's."""
    message = " ".join(str(error).split())
    place = error_place(error)
    return f"{type(error).__name__}: {message}" + (f" ({place})" if place else "")


def error_place(error: BaseException) -> str:
    """`file.py:line` where an exception left the innermost code from outside this package and its libraries.

    Empty where there is none: the error is the package's or a library's own.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    own = str(Path(__file__).resolve().parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith((own, "<")) or _is_library(frame.filename):
            continue
        return f"{Path(frame.filename).name}:{frame.lineno}"
    return ""


def _is_library(filename: str) -> bool:
    return "site-packages" in filename or filename.startswith((sysconfig.get_paths()["stdlib"], sys.base_prefix))
