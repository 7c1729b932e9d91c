"""Which code made an answer: a digest of the source behind a run's components.

A component of this package is known by all of the package that can change an answer. A component from outside is known
by its own file and by those that it imports from the folder of its top-level package or module.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "semclip_eval"
# What only shows, lists or compares results, or parses a command line, changes no answer.
NOT_ANSWERS = (
    "export",
    "report",
    "results",
    "templates",
    "trackers",
    "ask",
    "choose.py",
    "cli.py",
    "console.py",
    "doctor.py",
    "json_output.py",
    "launch.py",
    "listing.py",
    "new.py",
    "outcomes.py",
    "rescore.py",
    "stacked.py",
    "variants.py",
    "review",
    "serve",
    "api.py",
    "__main__.py",
)


def code_digests(sections: Mapping[str, Mapping[str, Any] | None]) -> dict[str, str]:
    """Twelve hex digits for the package, and for each section whose `_target_` (or an inner one) lies outside of it."""
    digests = {PACKAGE: package_digest()}
    for group, section in sections.items():
        modules = sorted({target.rpartition(".")[0] for target in _targets(section)})
        outside = [module for module in modules if module.partition(".")[0] != PACKAGE]
        if outside:
            digests[group] = _digest({path: path.name for module in outside for path in module_files(module)})
    return digests


@cache
def package_digest() -> str:
    """The digest of the package's own source, in the order of the files' names."""
    root = Path(__file__).resolve().parent
    files = {path: path.relative_to(root) for path in root.rglob("*.py")}
    return _digest({path: name.as_posix() for path, name in files.items() if name.parts[0] not in NOT_ANSWERS})


def module_files(module: str) -> list[Path]:
    """The file of a module and those of its own folder that it imports, directly or through each other."""
    start = _file_of(module)
    if start is None:
        return []
    # For package.part.module the folder that holds `package`; for a lone module the folder it lies in.
    root = start.parent
    for _ in range(module.count(".") if start.name != "__init__.py" else module.count(".") + 1):
        root = root.parent
    files: dict[Path, None] = {}
    waiting = [(start, module)]
    while waiting:
        path, name = waiting.pop()
        if path in files:
            continue
        files[path] = None
        for imported in _imports(path, name):
            if imported.partition(".")[0] == PACKAGE:
                continue
            found = _under(root, imported)
            if found is not None and found not in files:
                waiting.append((found, imported))
    return sorted(files)


def _targets(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        target = value.get("_target_")
        if isinstance(target, str):
            yield target
        for inner in value.values():
            yield from _targets(inner)


def _file_of(module: str) -> Path | None:
    loaded = sys.modules.get(module)
    origin = getattr(loaded, "__file__", None)
    if origin is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        origin = spec.origin if spec is not None else None
    return Path(origin).resolve() if origin and origin.endswith(".py") else None


def _under(root: Path, module: str) -> Path | None:
    place = root.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path.resolve()
    return None


def _imports(path: Path, module: str) -> Iterable[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if package else []
            base = parts[: len(parts) - node.level + 1] if node.level else []
            name = ".".join([*base, *(node.module.split(".") if node.module else [])])
            if name:
                yield name
            yield from (f"{name}.{alias.name}" if name else alias.name for alias in node.names)


def _digest(files: Mapping[Path, str]) -> str:
    digest = hashlib.sha256()
    for path, name in sorted(files.items(), key=lambda item: item[1]):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]
