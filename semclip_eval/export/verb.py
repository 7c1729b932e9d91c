"""`semclip-eval export`: a finished run as lmms-eval's or inspect_ai's files, for their readers and viewers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from semclip_eval.components import did_you_mean
from semclip_eval.console import notice
from semclip_eval.errors import ConfigError
from semclip_eval.export import inspect_log, lmms_eval_files
from semclip_eval.export.exported import ExportedRun, exported_run
from semclip_eval.files import shown

# By name: how FILE must end, and what makes the texts of the files (FILE is the first).
FORMATS: dict[str, tuple[str, Callable[[ExportedRun, Path], dict[Path, str]]]] = {
    "lmms-eval": (".jsonl", lmms_eval_files.files),
    "inspect": (".json", inspect_log.files),
}


def run_export(arguments: list[str]) -> int:
    """The verb. ConfigError for what is no finished run, an unknown format or a file that cannot be written."""
    parser = argparse.ArgumentParser(
        prog="semclip-eval export", description="A finished run in another harness's file format (docs/exporting.md)."
    )
    parser.add_argument("run_dir", type=Path, help="the folder of a finished run")
    parser.add_argument("--format", required=True, help=f"one of: {', '.join(FORMATS)}")
    parser.add_argument("--output", required=True, metavar="FILE", type=Path, help="lmms-eval: .jsonl; inspect: .json")
    chosen = parser.parse_args(arguments)
    if chosen.format not in FORMATS:
        hint = did_you_mean(chosen.format, FORMATS)
        raise ConfigError(f"--format {chosen.format}: no such format.{hint} Formats: {', '.join(FORMATS)}.")
    ending, make = FORMATS[chosen.format]
    output: Path = chosen.output.expanduser()
    if output.suffix != ending:
        raise ConfigError(f"--output {shown(output)}: {chosen.format} reads such files by their ending {ending}.")
    run = exported_run(chosen.run_dir)
    for path, text in make(run, output).items():
        _write(path, text)
        print(shown(path))
    if run.n_unscored:
        notice(
            f"{run.n_unscored} of {len(run.records)} questions have no score (an error, or in latency mode an answer "
            "of a forced length): lmms-eval's files leave them out, inspect's have them without one."
        )
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise ConfigError(
            f"--output {shown(path)}: cannot be written ({error.strerror}); name another file."
        ) from error
