"""`environment.json`: what a run ran on, and the processes (sessions) that took part in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from semclip_eval.console import warn
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.files import read_json
from semclip_eval.results.records import write_atomically

ENVIRONMENT = "environment.json"
MAY_CHANGE = ("package_version", "git_commit", "device")


def begin_session(described: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of a run that begins now, with this process as its one session."""
    environment = {**described, "started_at": datetime.now(UTC).isoformat(timespec="seconds")}
    session = {key: environment[key] for key in ("started_at", *MAY_CHANGE)}
    return {**environment, "sessions": [session]}


def add_earlier_sessions(environment: dict[str, Any], folder: Path, timed: bool) -> None:
    """Put the sessions that asked the questions already done before this one; the run began with the first, whose
    `batch_size` is the run's.

    Says what is not as it was in the last one. Raises ConfigError where it is a timed run: latencies of two machines or
    versions must not share a row.
    """
    path = folder / ENVIRONMENT
    if not path.exists():
        return
    try:
        begun = read_json(path)
        earlier: list[dict[str, Any]] = begun["sessions"]
        before = {key: earlier[-1][key] for key in MAY_CHANGE}
        environment["started_at"] = earlier[0]["started_at"]
    except (DataError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Move {folder} away to ask everything again.") from error
    changed = [key for key in MAY_CHANGE if before[key] != environment[key]]
    changes = ", ".join(f"{key} {before[key]} -> {environment[key]}" for key in changed)
    if changes and timed:
        raise ConfigError(
            f"{folder} was begun under something else ({changes}), and latencies of both must not share a row: use "
            "run.resume=false to start over, or another run.output_dir."
        )
    if changes:
        warn(f"The earlier questions of this run were asked under something else: {changes}.")
    environment["sessions"] = [*earlier, *environment["sessions"]]
    environment["batch_size"] = begun.get("batch_size", environment["batch_size"])


def write_environment(folder: Path, environment: Mapping[str, Any]) -> None:
    """Write `environment.json` whole."""
    write_atomically(folder / ENVIRONMENT, json.dumps(environment, indent=2, ensure_ascii=False) + "\n")
