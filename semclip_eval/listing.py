"""`semclip-eval list`: what there is, a line each, read from the configs alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import yaml

from semclip_eval.errors import ConfigError
from semclip_eval.paths import config_folder

GROUPS = ("benchmark", "selector", "model", "psi", "crops", "profile", "experiment")


def run_list(arguments: list[str]) -> int:
    """The verb: all groups, or those named; `--config-dir` adds a folder of the user's own."""
    parser = argparse.ArgumentParser(prog="semclip-eval list", description="What there is, one line each.")
    parser.add_argument("group", nargs="*", help=f"one of: {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON (docs/json.md)")
    parser.add_argument("--config-dir", type=Path, help="a folder of your own config groups, listed as well")
    chosen = parser.parse_args(arguments)
    for group in chosen.group:
        if group not in GROUPS:
            from semclip_eval.components import did_you_mean

            raise ConfigError(f"{group!r} is no group.{did_you_mean(group, GROUPS)} Groups: {', '.join(GROUPS)}.")
    folders = [config_folder()]
    if chosen.config_dir is not None:
        if not chosen.config_dir.is_dir():
            raise ConfigError(f"--config-dir {chosen.config_dir}: there is no such folder.")
        folders.append(chosen.config_dir)
    groups = {group: describe_group(group, folders) for group in chosen.group or GROUPS}
    if chosen.json:
        from semclip_eval.json_output import print_json

        print_json(as_json(groups))
        return 0
    for group, entries in groups.items():
        if not entries and not chosen.group:
            continue
        print(f"{group}=")
        width = max((len(name) for name in entries), default=0)
        for name, description in entries.items():
            print(f"  {name:<{width}}  {description}".rstrip())
    return 0


def as_json(groups: Mapping[str, Mapping[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Every group with its configs, by name."""
    return {
        group: [{"name": name, "description": description} for name, description in entries.items()]
        for group, entries in groups.items()
    }


def describe_group(group: str, folders: list[Path]) -> dict[str, str]:
    """Name and description of every config of a group; the folder named last wins."""
    entries: dict[str, str] = {}
    for folder in folders:
        for path in sorted((folder / group).glob("*.yaml")):
            entries[path.stem] = _description(group, path)
    return dict(sorted(entries.items()))


def _description(group: str, path: Path) -> str:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error}).") from error
    own = content.get(group)
    section = own if isinstance(own, dict) else content
    return str(section.get("description", ""))
