"""From overrides on the command line to runs: Hydra composes, and its errors become one or two lines with a remedy."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from semclip_eval.components import did_you_mean
from semclip_eval.credentials import refuse_in_arguments
from semclip_eval.devices import detected_profile
from semclip_eval.errors import ConfigError
from semclip_eval.listing import GROUPS
from semclip_eval.outcomes import Outcomes, SweepFolder
from semclip_eval.paths import config_folder


def launch(arguments: list[str]) -> int:
    """One run, or a sweep of them (`-m`). A job of a sweep that fails does not stop the others."""
    refuse_copies()
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from semclip_eval.variants import register

    register()
    refuse_in_arguments(arguments)
    arguments = models_outermost(keys_of_swept_groups([as_group_choice(argument) for argument in arguments]))
    for argument in taken_apart(arguments)[0]:
        _check_choice(argument)
        _check_choices(argument, _folders(arguments))
    outcomes = Outcomes(detected=_asked_profile(arguments) in (None, "auto"))
    SweepFolder.forget()

    def job(config: DictConfig) -> None:
        outcomes.run(config)

    # Without this variable Hydra prints its own report and exits with 1; with it the exception comes to us.
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    argv = sys.argv
    sys.argv = ["semclip-eval", *in_hydras_order(_with_profile(arguments))]
    try:
        decorate = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
        decorate(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except Exception as error:
        if error is outcomes.crash:
            raise  # a fault of ours in a single run: it stays whole
        if SweepFolder.path is not None and not isinstance(error, (ValueError, OSError)):
            # A launcher that lost a worker: what the other jobs did still counts.
            outcomes.lost = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        elif isinstance(error, (ValueError, OSError)):
            # Hydra's own, about its flags or the folder of a sweep.
            raise ConfigError(f"{' '.join(str(error).split())} (see semclip-eval --help)") from error
        else:
            raise
    finally:
        sys.argv = argv
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
    return outcomes.finish()


def refuse_copies() -> None:
    """ConfigError where torchrun or `accelerate launch` started this process as one of several."""
    copies, rank = os.environ.get("WORLD_SIZE", ""), os.environ.get("RANK")
    if rank is not None and copies.isdigit() and int(copies) > 1:
        raise ConfigError(
            f"this is process {rank} of {copies} (WORLD_SIZE={copies}, as torchrun and accelerate launch set it), and "
            f"all of them would do the same run. Start it once: semclip-eval run.workers={copies} ... (or auto)."
        )


# Hydra's flags that are followed by a value in a word of its own.
VALUED_FLAGS = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
OPTIONALLY_VALUED = {"--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")}
OPTIONALLY_VALUED["-i"] = OPTIONALLY_VALUED["--info"]


# Groups whose components take long to load, the longest first.
LOADED = ("model", "psi")


def in_hydras_order(arguments: Sequence[str]) -> list[str]:
    """Overrides first, then flags: Hydra's parser takes overrides from one place of the line only."""
    overrides, flags = taken_apart(arguments)
    return [*overrides, *flags]


def taken_apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of a command, and its flags with their values, each in the order typed."""
    overrides: list[str] = []
    flags: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        takes_value = word in VALUED_FLAGS or (waiting and waiting[0] in OPTIONALLY_VALUED.get(word, ()))
        if takes_value and waiting:
            flags.append(waiting.pop(0))
    return overrides, flags


_INNER = re.compile(r"selector((?:\.inner)+)=([A-Za-z0-9_][A-Za-z0-9_,]*)")


def as_group_choice(argument: str) -> str:
    """`selector.inner=NAME` as the choice of a config, `selector@selector.inner=NAME`; anything else as it is.

    So the inner selector's keys are those of its own config, and are set like others: `selector.inner.top_k=2`.
    """
    choice = _INNER.fullmatch(argument)
    if choice is None or choice.group(2) == "null":
        return argument
    return f"selector@selector{choice.group(1)}={choice.group(2)}"


def keys_of_swept_groups(arguments: Sequence[str]) -> list[str]:
    """The command with `selector.KEY=VALUE` as a sweep of one value, `choice(VALUE)`, where `selector` itself is swept.

    Hydra first composes a sweep without what is swept, with the default of the group, which may not have the key.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    overrides = taken_apart(arguments)[0]
    pairs = [override.partition("=") for override in overrides]
    swept = [name for name, _, value in pairs if name in GROUPS and ("," in value or "(" in value)]
    changed = []
    for argument in arguments:
        name, sign, value = argument.partition("=")
        is_key = sign and any(name.startswith(f"{group}.") for group in swept)
        is_plain = "," not in value or value.startswith(("[", "{", "'", '"'))
        changed.append(f"{name}=choice({value})" if is_key and is_plain and value and "(" not in value else argument)
    return changed


def models_outermost(arguments: Sequence[str]) -> list[str]:
    """The command with sweeps over models, then ψ, in front of the others, so that Hydra varies them least often.

    The jobs of one model then follow each other, and a process loads it once.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    overrides, flags = taken_apart(arguments)

    def order(override: str) -> int:
        name, _, value = override.partition("=")
        is_swept = "," in value or "(" in value
        return LOADED.index(name.partition(".")[0]) if is_swept and name.partition(".")[0] in LOADED else len(LOADED)

    return [*sorted(overrides, key=order), *flags]


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
    group = group.partition("@")[0]
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
        return [*arguments, f"profile={detected_profile()}"]
    return [
        re.sub(r"(?<=[=,])auto(?=,|$)", lambda _: detected_profile(), argument)
        if argument.startswith("profile=")
        else argument
        for argument in arguments
    ]


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
        if name.startswith("selector@"):
            place = name.partition("@")[2]
            return f"{place}=...: that selector has no inner one; selectors that have: gate, sparse, fastv, blank_crop."
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
