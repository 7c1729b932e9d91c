"""`semclip-eval new`: a component of one's own, as small working files outside of the package.

The templates are ordinary modules and configs (`templates/KIND/`), checked and run by the tests like the rest; a copy
differs from its template by the component's name.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from semclip_eval.errors import ConfigError
from semclip_eval.files import shown
from semclip_eval.paths import config_folder

KINDS = ("benchmark", "selector", "psi", "model")
TEMPLATES = Path(__file__).resolve().parent / "templates"
NAME = re.compile(r"[a-z][a-z0-9_]*")
# A word of Hydra's grammar that needs no quotes.
PLAIN = re.compile(r"[\w./~-]+")
TEXTS = (".py", ".yaml", ".md")
ABOUT = {
    "benchmark": "The questions are in `data/`; how they are read, put and scored is in `{module}`.",
    "selector": "Which crops the VLM is shown is decided in `{module}`.",
    "psi": "How well a crop fits a question is decided in `{module}`.",
    "model": "How the VLM reads images and answers is in `{module}`.",
}
PAGES = {"benchmark": "docs/adding_a_benchmark.md", "model": "docs/models.md"}


@dataclass(frozen=True)
class Component:
    """What is to be made: its kind, its name, and the folder that gets the module, the config and the README."""

    kind: str
    name: str
    folder: Path

    @property
    def class_name(self) -> str:
        """`my_benchmark` → `MyBenchmark`."""
        return "".join(part[:1].upper() + part[1:] for part in self.name.split("_"))

    @property
    def command(self) -> str:
        """The command that runs the component on the miniature, from the folder that `new` was called in."""
        return f"PYTHONPATH={shlex.quote(str(self.folder))} semclip-eval {shlex.join(self.arguments)}"

    @property
    def arguments(self) -> list[str]:
        """The command's words after `semclip-eval`."""
        words = ["--config-dir", str(self.folder / "configs"), f"{self.kind}={self.name}", "profile=mini"]
        if self.kind == "psi":
            words.append("selector=semclip")
        if self.kind == "benchmark":
            words.append(f"benchmark.path={_hydra_text(str(self.folder / 'data'))}")
        return [*words, "run.limit=4"]

    def files(self) -> dict[Path, bytes]:
        """Every file with its content."""
        folder = TEMPLATES / self.kind
        files = {
            self._place(path.relative_to(folder)): self._renamed(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }
        return files | {self.folder / f"{self.name}.md": self._readme().encode()}

    def _place(self, template: Path) -> Path:
        name = template.name.replace(f"my_{self.kind}", self.name)
        if template.suffix == ".yaml":
            return self.folder / "configs" / self.kind / name
        return self.folder / template.with_name(name)

    def _renamed(self, template: Path) -> bytes:
        content = template.read_bytes()
        if template.suffix not in TEXTS:
            return content
        own = Component(self.kind, f"my_{self.kind}", self.folder)
        text = content.decode().replace(own.name, self.name).replace(own.class_name, self.class_name)
        return text.encode()

    def _readme(self) -> str:
        about = ABOUT[self.kind].format(module=f"{self.name}.py")
        page = PAGES.get(self.kind, "docs/extending.md")
        return (
            f"# {self.kind}={self.name}\n\n{about}\nIts keys are in `configs/{self.kind}/{self.name}.yaml`; "
            f"semclip-eval's {page} says more.\n\n    {self.command}\n"
        )


def run_new(arguments: list[str]) -> int:
    """The verb. ConfigError for a name that cannot be used, or where a file of it exists."""
    parser = argparse.ArgumentParser(
        prog="semclip-eval new",
        description="A component of your own: a module, its config and a README, which run on the miniature as they "
        "are. Nothing is overwritten.",
    )
    parser.add_argument("kind", help=f"one of: {', '.join(KINDS)}")
    parser.add_argument("name", help="its name, as in selector=NAME; the module is NAME.py")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a folder of that name, here)")
    chosen = parser.parse_args(arguments)
    if chosen.kind not in KINDS:
        from semclip_eval.components import did_you_mean

        raise ConfigError(
            f"new {chosen.kind}: no such kind.{did_you_mean(chosen.kind, KINDS)} Kinds: {', '.join(KINDS)}."
        )
    folder = Path(chosen.name) if chosen.folder is None else chosen.folder.expanduser()
    component = Component(chosen.kind, chosen.name, folder)
    _check_name(component)
    for path in create(component):
        print(shown(path))
    print(f"\nNext, the miniature's first questions with it:\n  {shown(component.command)}")
    return 0


def create(component: Component) -> list[Path]:
    """Write the component's files and return their paths; ConfigError, with nothing written, where one exists."""
    files = component.files()
    for path in files:
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{shown(path)}: exists and is not overwritten; choose another name or --folder.")
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise ConfigError(
            f"{shown(component.folder)}: cannot be written ({error.strerror}); choose another --folder."
        ) from error
    return list(files)


def _check_name(component: Component) -> None:
    kind, name = component.kind, component.name
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(
            f"new {kind} {name}: must be a name for a Python module, of small letters, digits and _, such as my_{kind}."
        )
    if (config_folder() / kind / f"{name}.yaml").exists():
        raise ConfigError(f"new {kind} {name}: semclip-eval has a {kind} of that name; choose another.")
    if _is_module(component):
        raise ConfigError(f"new {kind} {name}: that is a module or a class already; choose another.")


def _is_module(component: Component) -> bool:
    """Does the name stand for another module, or its class's name for something that the template uses?"""
    template = (TEMPLATES / component.kind / f"my_{component.kind}.py").read_text(encoding="utf-8")
    own = component.class_name == f"My{component.kind.capitalize()}"
    if not own and re.search(rf"\b{component.class_name}\b", template):
        return True
    if (component.folder / f"{component.name}.py").exists():
        return False  # that it is not overwritten is the better message
    spec = importlib.util.find_spec(component.name)
    return spec is not None and spec.origin is not None  # a folder beside has none


def _hydra_text(text: str) -> str:
    """A value as Hydra's grammar takes it for text."""
    if PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
