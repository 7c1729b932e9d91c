"""Libraries that take seconds to import, imported when something of them is first used.

A finished run is looked up, a run table printed and a config checked without them. A module writes

    if TYPE_CHECKING:
        import torch
    else:
        torch = library("torch")

so that type checkers see the library itself.

open_clip and transformers import large libraries for a few functions and classes that most runs never call
(`SELDOM_CALLED`). While they are imported (`seldom_called_deferred`), something stands for each of these names, and
imports its library when it is called.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Modules, and what is imported from them by name.
SELDOM_CALLED = {
    # By open_clip's adapter for timm's towers (SigLIP's).
    "timm": (),
    "timm.layers": ("AttentionPool2d", "Mlp", "RotAttentionPool2d", "to_2tuple"),
    # By transformers' losses of object detectors, which every model's module imports.
    "scipy.optimize": ("linear_sum_assignment",),
}


class Library:
    """Stands for a module; the first attribute that is asked for imports it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._module(), attribute)

    def __repr__(self) -> str:
        return f"<library {self._name}>"

    def _module(self) -> ModuleType:
        if (module := sys.modules.get(self._name)) is not None:
            return module
        with seldom_called_deferred():
            return importlib.import_module(self._name)


def library(name: str) -> Any:
    """The module of that name, not yet imported."""
    return Library(name)


def import_transformers() -> Any:
    """The library with what every model's module imports, and without what is seldom called."""
    with seldom_called_deferred():
        import transformers
        import transformers.modeling_utils
    return transformers


@contextmanager
def seldom_called_deferred() -> Iterator[None]:
    """Within it, importing a name in `SELDOM_CALLED` does not import its module; it does when it is called."""
    placed = {
        module: _StandIn(module, names)
        for module, names in SELDOM_CALLED.items()
        # A library that is not installed has to be missed at once.
        if module not in sys.modules and importlib.util.find_spec(module.partition(".")[0]) is not None
    }
    sys.modules.update(placed)
    try:
        yield
    finally:
        for module, stand_in in placed.items():
            if sys.modules.get(module) is stand_in:
                del sys.modules[module]


class _StandIn(ModuleType):
    """Has some functions of a module that is not imported; whatever else is asked of it imports the module."""

    def __init__(self, module: str, functions: Collection[str]) -> None:
        super().__init__(module)
        self.__spec__ = ModuleSpec(module, None)  # others ask only whether the library is installed
        self._functions = functions

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # the import system looks for `__path__` and the like
            raise AttributeError(attribute)
        if attribute not in self._functions:
            return getattr(self._module(), attribute)

        def deferred(*arguments: Any, **keywords: Any) -> Any:
            return getattr(self._module(), attribute)(*arguments, **keywords)

        return deferred

    def _module(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)


def without_gradients(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`torch.inference_mode()` as a decorator that does not import torch before the function is called."""

    @functools.wraps(function)
    def inner(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        import torch

        with torch.inference_mode():
            return function(*arguments, **keywords)

    return inner
