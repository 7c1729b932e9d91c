"""From overrides on the command line to runs: Hydra composes, and its errors become one or two lines with a remedy."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semclip_eval.components import did_you_mean
from semclip_eval.credentials import refuse_in_arguments
from semclip_eval.errors import ConfigError, RunFailed, SemclipEvalError
from semclip_eval.listing import GROUPS
from semclip_eval.paths import config_folder

if TYPE_CHECKING:
    from semclip_eval.results.sweep_table import Failure


def launch(arguments: list[str]) -> int:
    """One run, or a sweep of them (`-m`). A job of a sweep that fails does not stop the others."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    refuse_in_arguments(arguments)
    for argument in arguments:
        _check_choice(argument)
        _check_choices(argument, _folders(arguments))
    outcomes = Outcomes(detected=_asked_profile(arguments) in (None, "auto"))

    def job(config: DictConfig) -> None:
        outcomes.run(config)

    # Without this variable Hydra prints its own report and exits with 1; with it the exception comes to us.
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    argv = sys.argv
    sys.argv = ["semclip-eval", *_with_profile(arguments)]
    try:
        decorate = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
        decorate(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except (ValueError, OSError) as error:
        # Hydra's own, about its flags or the folder of a sweep; an error of a job is a fault of ours and stays whole.
        if error is outcomes.crash:
            raise
        raise ConfigError(f"{' '.join(str(error).split())} (see semclip-eval --help)") from error
    finally:
        sys.argv = argv
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
    return outcomes.finish()


def _check_choice(argument: str) -> None:
    """ConfigError for `group=null` and `group=[a,b]`, which Hydra takes apart or falls over in its own way."""
    group, _, value = argument.partition("=")
    if group not in (*GROUPS, "run") or group == "experiment":
        return
    if value in ("null", ""):
        raise ConfigError(f"{argument}: a run needs a {group}; leave the argument out for the profile's own.")
    if value.startswith(("[", "{")):
        raise ConfigError(f"{argument}: choose one {group}; a sweep over several is -m {group}={value.strip('[]{}')}")


def _check_choices(argument: str, folders: list[Path]) -> None:
    """ConfigError for a name that a sweep would only meet, and end at, after the jobs before it."""
    group, _, value = argument.partition("=")
    if group not in GROUPS or "," not in value or "(" in value:
        return
    known = [*(name for folder in folders for name in _names(folder / group)), "auto"]
    for name in value.split(","):
        if name.strip() not in known:
            raise ConfigError(_no_such(group, name.strip(), sorted(set(known) - {"auto"})))


def _folders(arguments: list[str]) -> list[Path]:
    """Where the configs of a group lie: the package's, and the user's own."""
    folders = [config_folder()]
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value or following).expanduser())
    return folders


def _names(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("*.yaml")]


def _no_such(group: str, name: str, known: Sequence[str]) -> str:
    return f"{group}={name}: there is no such {group}.{did_you_mean(name, known)} Available: {', '.join(known)}."


class Outcomes:
    """Runs jobs one after another and remembers which failed: one that fails does not stop the others."""

    def __init__(self, detected: bool) -> None:
        self.detected = detected
        self.jobs = 0
        # In the order in which they ran: the folder of a finished run, or what is to be said of a failed one.
        self.done: list[Path | Failure] = []
        self.exit_codes: list[int] = []
        self.crash: Exception | None = None

    def run(self, config: Any) -> None:
        """One job, from its composed config."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        from semclip_eval.console import complain
        from semclip_eval.run import execute

        plain: Any = OmegaConf.to_container(config, resolve=True)
        if not self.jobs:
            self._announce(plain)
        self.jobs += 1
        try:
            folder = execute(plain)
        except SemclipEvalError as error:
            complain(str(error))
            self._fail(plain, str(error), error.exit_code)
        except Exception as error:
            if HydraConfig.get().mode is not RunMode.MULTIRUN:
                self.crash = error
                raise
            # A fault of ours or of a library, in a sweep that may have run for hours: whole on the screen, and on.
            traceback.print_exc()
            self._fail(plain, f"{type(error).__name__}: {' '.join(str(error).split())}", RunFailed.exit_code)
        else:
            # Two jobs may be one run: answers made elsewhere have no selector to vary.
            if folder not in self.done:
                self.done.append(folder)

    def finish(self) -> int:
        """The tables of a sweep and which of its jobs failed; the exit code.

        A sweep of which a part was done ran and failed, whatever was wrong with the rest.
        """
        from semclip_eval.console import complain, out
        from semclip_eval.results.sweep_table import Failure, sweep_tables

        failed = [job for job in self.done if isinstance(job, Failure)]
        finished = len(self.done) > len(failed)
        if finished and len(self.done) > 1:
            for number, table in enumerate(sweep_tables(self.done, "All runs of this sweep")):
                if number:
                    out.print()
                out.print(table)
        if self.jobs > 1 and failed:
            complain(f"{len(failed)} of {self.jobs} jobs failed:")
            for failure in failed:
                complain(f"{failure.label}: {failure.message}")
            return RunFailed.exit_code if finished else max(self.exit_codes)
        return max(self.exit_codes, default=0)

    def _fail(self, config: Mapping[str, Any], message: str, exit_code: int) -> None:
        from semclip_eval.results.sweep_table import Failure

        self.done.append(
            Failure(
                benchmark=str(config["benchmark"].get("name")),
                model=str(config["model"].get("name")),
                selector=str(config["selector"].get("name")),
                protocol=_protocol(config["benchmark"]),
                message=message,
            )
        )
        self.exit_codes.append(exit_code)

    def _announce(self, config: Mapping[str, Any]) -> None:
        """The first line that a command prints: which profile, why, and how to have the other one."""
        from semclip_eval.console import notice

        profile = config["profile"]
        why = ""
        if self.detected:
            why = " (there is no CUDA device)" if profile["name"] == "mini" else " (there is a CUDA device)"
        notice(f"profile={profile['name']}{why}: {profile['announcement']}")


def _protocol(section: Mapping[str, Any]) -> str:
    """What the finished runs of this benchmark say in the column `protocol`, as far as it can be built."""
    from semclip_eval.components import build

    try:
        return str(build("benchmark", section).described_protocol)
    except Exception:  # the job has failed and is reported: this is only the line under which it stands
        return str(section.get("protocol") or "")


def _asked_profile(arguments: list[str]) -> str | None:
    names = [argument.partition("=")[2] for argument in arguments if argument.startswith("profile=")]
    return names[-1] if names else None


def _with_profile(arguments: list[str]) -> list[str]:
    """The arguments with the profile that this machine has, where none or `auto` was asked for.

    Hydra refuses overrides of other groups below an interpolated choice, so the choice is made before it composes.
    """
    if _asked_profile(arguments) is None:
        if any(argument in ("--info", "-i", "--hydra-help", "--version") for argument in arguments):
            return list(arguments)
        return [*arguments, f"profile={_detected_profile()}"]
    return [
        re.sub(r"(?<=[=,])auto(?=,|$)", lambda _: _detected_profile(), argument)
        if argument.startswith("profile=")
        else argument
        for argument in arguments
    ]


def _detected_profile() -> str:
    """`full` where there is a CUDA device, `mini` where there is none."""
    import torch

    return "full" if torch.cuda.is_available() else "mini"


def explain(error: Exception) -> str:
    """Hydra's error in one or two lines: the value, the place and the remedy."""
    from hydra.errors import MissingConfigException, OverrideParseException

    from semclip_eval.listing import describe_group

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if not group:
            return f"--config-name={name}: there is no such config at the top of the config folder; leave it out."
        known = list(error.options or describe_group(group, [config_folder()]))
        return _no_such(group, name, known)
    text = " ".join(str(error).split())
    several = re.search(r"Ambiguous value for argument '([^']+)'", text)
    if several:
        return f"{several.group(1)}: several values need a sweep: semclip-eval -m {several.group(1)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is not an override ({text}). Quote values with special characters: 'key=\"value\"'."
    missing_group = re.search(r"Could not override '([^']+)'\. No match in the defaults list", text)
    if missing_group:
        name = missing_group.group(1)
        return f"{name}=...: there is no group {name!r}.{did_you_mean(name, GROUPS)} Groups: {', '.join(GROUPS)}."
    missing_key = re.search(r"Could not override '([^']+)'", text)
    if missing_key:
        return f"{missing_key.group(1)}: {_unknown_key(missing_key.group(1))}"
    return text


def _unknown_key(key: str) -> str:
    section, _, name = key.rpartition(".")
    known: list[str] = []
    if section == "run":
        from dataclasses import fields

        from semclip_eval.config import RunConfig

        known = [field.name for field in fields(RunConfig)]
    if not section:
        known = [*GROUPS, "run"]
    hint = did_you_mean(name, known)
    available = f" Available: {', '.join(known)}." if known else f" See: semclip-eval {section}=... --cfg job."
    return f"there is no such key.{hint}{available}"
