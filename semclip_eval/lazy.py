"""Libraries that take seconds to import, imported when something of them is first used.

A finished run is looked up, a run table printed and a config checked without them. A module writes

    if TYPE_CHECKING:
        import torch
    else:
        torch = library("torch")

so that type checkers see the library itself.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Library:
    """Stands for a module; the first attribute that is asked for imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._module(), attribute)

    def __repr__(self) -> str:
        return f"<library {self._name}>"

    def _module(self) -> ModuleType:
        return sys.modules.get(self._name) or importlib.import_module(self._name)


def library(name: str) -> Any:
    """The module of that name, not yet imported."""
    return Library(name)


def without_gradients(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`torch.inference_mode()` as a decorator that does not import torch before the function is called."""

    @functools.wraps(function)
    def inner(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        import torch

        with torch.inference_mode():
            return function(*arguments, **keywords)

    return inner
