"""What became of the jobs of a command: done, failed or not applicable; the sweep's tables and the exit code.

A launcher (joblib, submitit, Ray) may run jobs in other processes and on other machines. Those leave a note of each
outcome in the sweep's folder, which the process that was typed reads when all are through.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from semclip_eval.errors import ConfigError, NotApplicable, RunFailed, SemclipEvalError

if TYPE_CHECKING:
    from semclip_eval.results.sweep_table import Failure

NOTES = "outcomes"


class SweepFolder:
    """A Hydra callback (configs/config.yaml): tells the process that was typed where its sweep keeps its notes."""

    path: ClassVar[Path | None] = None

    def __getattr__(self, name: str) -> Any:
        """Every other event of Hydra's is of no interest."""
        if name.startswith("on_"):
            return lambda *arguments, **keywords: None
        raise AttributeError(name)

    @classmethod
    def forget(cls) -> None:
        """A command begins; that of an earlier one in this process is over."""
        cls.path = None

    def on_multirun_start(self, config: Any, **keywords: Any) -> None:
        """Note the folder of the sweep that begins."""
        type(self).path = Path(str(config.hydra.sweep.dir))


class Outcomes:
    """Runs jobs one after another and remembers which failed: one that fails does not stop the others.

    lost: what a launcher said when it lost a worker; empty where it did not.
    """

    def __init__(self, detected: bool) -> None:
        self.detected = detected
        self.process = os.getpid()
        self.jobs = 0
        # In the order in which they ran: the folder of a finished run, or what is to be said of a failed one.
        self.done: list[Path | Failure] = []
        self.exit_codes: list[int] = []
        self.crash: Exception | None = None
        self.lost = ""

    def run(self, config: Any) -> None:
        """One job, from its composed config; perhaps in another process than the one that was typed."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from semclip_eval.console import notice, print_error
        from semclip_eval.run import execute

        plain: Any = OmegaConf.to_container(config, resolve=True)
        is_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        if not self.jobs:
            self._announce(plain)
        self.jobs += 1
        try:
            folder = execute(plain)
        except NotApplicable as error:
            if is_sweep:
                notice(f"not applicable: {error}")
            else:
                print_error(str(error))
            self._fail(plain, str(error), error.exit_code, applicable=not is_sweep)
        except SemclipEvalError as error:
            print_error(str(error))
            self._fail(plain, str(error), error.exit_code)
        except Exception as error:
            if not is_sweep:
                self.crash = error
                raise
            # A fault of ours or of a library, in a sweep that may have run for hours: whole on the screen, and on.
            traceback.print_exc()
            self._fail(plain, f"{type(error).__name__}: {' '.join(str(error).split())}", RunFailed.exit_code)
        else:
            # Two jobs may be one run: answers made elsewhere have no selector to vary.
            if folder not in self.done:
                self.done.append(folder)
                self.exit_codes.append(0)
        if is_sweep and os.getpid() != self.process:
            hydra = HydraConfig.get()
            self._leave_note(Path(str(hydra.sweep.dir)) / NOTES / f"{int(hydra.job.num):06}.json")

    def finish(self) -> int:
        """The tables of a sweep and which of its jobs failed; the exit code.

        A sweep of which a part was done ran and failed, whatever was wrong with the rest; a job that does not apply is
        no failure, unless nothing else was asked for.
        """
        from semclip_eval.console import out, print_error
        from semclip_eval.results.sweep_table import Failure, sweep_tables

        if not self.jobs and SweepFolder.path is not None:
            self._read_notes(SweepFolder.path / NOTES)
        if not self.jobs and SweepFolder.path is not None and not self.lost:
            raise ConfigError("the sweep has no jobs: a glob(...) or a list of it names nothing.")
        failed = [job for job in self.done if isinstance(job, Failure) and job.applicable]
        finished = sum(not isinstance(job, Failure) for job in self.done)
        if finished and len(self.done) > 1:
            for number, table in enumerate(sweep_tables(self.done, "All runs of this sweep")):
                if number:
                    out.print()
                out.print(table)
        if self.lost:
            print_error(f"the launcher lost jobs ({self.lost}); the same command goes on from what is done.")
        if self.jobs > 1 and failed:
            print_error(f"{len(failed)} of {self.jobs} jobs failed:")
            for failure in failed:
                print_error(f"{failure.label}: {failure.message}")
        if finished or self.lost:
            return RunFailed.exit_code if failed or self.lost else 0
        return max(self.exit_codes, default=0)

    def _fail(self, config: Mapping[str, Any], message: str, exit_code: int, applicable: bool = True) -> None:
        from semclip_eval.results.sweep_table import Failure

        self.done.append(
            Failure(
                benchmark=str(config["benchmark"].get("name")),
                model=str(config["model"].get("name")),
                selector=str(config["selector"].get("name")),
                protocol=_protocol(config["benchmark"]),
                message=message,
                applicable=applicable,
            )
        )
        self.exit_codes.append(exit_code)

    def _leave_note(self, path: Path) -> None:
        from semclip_eval.results.records import write_atomically

        job = self.done[-1]
        note = {"folder": str(job)} if isinstance(job, Path) else {"failure": asdict(job)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**note, "exit_code": self.exit_codes[-1]}))

    def _read_notes(self, folder: Path) -> None:
        from semclip_eval.files import read_json
        from semclip_eval.results.sweep_table import Failure

        for path in sorted(folder.glob("*.json")):
            note = read_json(path)
            self.jobs += 1
            self.exit_codes.append(int(note["exit_code"]))
            job = Failure(**note["failure"]) if "failure" in note else Path(note["folder"])
            if job not in self.done:
                self.done.append(job)

    def _announce(self, config: Mapping[str, Any]) -> None:
        """The first line that a command prints: which profile, why, and how to have the other one."""
        from semclip_eval.console import notice

        notice(announced(config["profile"], self.detected))


def announced(profile: Mapping[str, Any], is_detected: bool) -> str:
    """Which profile it is, why, and how to have the other one. profile: the composed section."""
    why = ""
    if is_detected:
        why = " (there is no CUDA device)" if profile["name"] == "mini" else " (there is a CUDA device)"
    return f"profile={profile['name']}{why}: {profile['announcement']}"


def _protocol(section: Mapping[str, Any]) -> str:
    """What the finished runs of this benchmark say in the column `protocol`, as far as it can be built."""
    from semclip_eval.components import build

    try:
        return str(build("benchmark", section).described_protocol)
    except Exception:  # the job has failed and is reported: this is only the line under which it stands
        return str(section.get("protocol") or "")
