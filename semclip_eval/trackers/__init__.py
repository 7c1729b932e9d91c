"""Experiment trackers: a finished run is written to those that `run.track` names (docs/tracking.md).

Nothing is sent while questions are asked, and no tracker changes a run: it gets what summary.csv and categories.csv
say. One that fails is a warning, and the same command again tries it once more.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semclip_eval.console import notice, warn
from semclip_eval.errors import ConfigError, SemclipEvalError
from semclip_eval.files import read_json, shown
from semclip_eval.trackers.base import Tracker, tracked_run

# By name, which is also that of the extra to install: the class, and the package that it needs.
TRACKERS = {
    "tensorboard": ("semclip_eval.trackers.tensorboard_files.TensorBoard", "tensorboard"),
    "wandb": ("semclip_eval.trackers.weights_and_biases.WeightsAndBiases", "wandb"),
    "mlflow": ("semclip_eval.trackers.mlflow_runs.MLflow", "mlflow"),
}
NOTES = "tracked.json"


def require_installed(names: Sequence[str]) -> None:
    """ConfigError, before anything is asked, where a tracker's package is missing."""
    for name in names:
        package = TRACKERS[name][1]
        if not _is_installed(package):
            raise ConfigError(
                f"run.track={name}: the package {package} is not installed: pip install 'semclip-eval[{name}]', or "
                "leave run.track out."
            )


def track(folder: Path, names: Sequence[str]) -> None:
    """Write the finished run in `folder` to each tracker that does not have it yet as it is now."""
    if not names:
        return
    run = tracked_run(folder)
    state = hashlib.sha256(repr((sorted(run.metrics.items()), sorted(run.texts.items()))).encode()).hexdigest()[:12]
    notes = _notes(folder)
    for name in names:
        if notes.get(name, {}).get("state") == state:
            continue
        try:
            place = _tracker(name).write(run)
        except Exception as error:  # whatever the package met: the run is done, and its files are whole
            reason = " ".join(str(error).split())[:300]
            warn(
                f"run.track={name}: the run was not written there ({type(error).__name__}: {reason}). Its files are "
                f"whole in {shown(folder)}; the same command again tries once more."
            )
            continue
        notice(f"{name}: {place}")
        notes[name] = {"state": state, "place": place}
        _write_notes(folder, notes)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _tracker(name: str) -> Tracker:
    module, _, class_name = TRACKERS[name][0].rpartition(".")
    tracker: Tracker = getattr(importlib.import_module(module), class_name)()
    return tracker


def _notes(folder: Path) -> dict[str, Any]:
    path = folder / NOTES
    if not path.is_file():
        return {}
    try:
        notes = read_json(path)
    except SemclipEvalError as error:
        warn(f"{error} It is written anew.")
        return {}
    return {name: note for name, note in notes.items() if isinstance(note, dict)} if isinstance(notes, dict) else {}


def _write_notes(folder: Path, notes: dict[str, Any]) -> None:
    import json

    from semclip_eval.results.records import write_atomically

    write_atomically(folder / NOTES, json.dumps(notes, indent=1, ensure_ascii=False) + "\n")
