"""What a run is to do, settled before any weights are loaded: the checked config, the questions, the run's identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semclip_eval.answers.sources import OPTIONAL, Source, source_of
from semclip_eval.benchmarks.base import Benchmark, stratified_limit
from semclip_eval.code_identity import code_digests
from semclip_eval.components import build, component_errors, did_you_mean
from semclip_eval.config import GROUPS, RunConfig, run_config, run_id
from semclip_eval.credentials import refuse_in_config
from semclip_eval.errors import ConfigError, DataError
from semclip_eval.files import shown
from semclip_eval.trackers import require_installed
from semclip_eval.types import Question


@dataclass(frozen=True)
class Plan:
    """Everything that is known before weights are loaded.

    `source` is where the answers come from. `notices` are what the user should read before the run. `revisions` are
    those of data, model and ψ as they were found, and `code` the digests of the source that answers: both belong to the
    run's identity and stand in
    environment.json, so that `config` alone, with the same files, gives the same run again.
    """

    config: dict[str, Any]
    run: RunConfig
    benchmark: Benchmark
    source: Source
    questions: list[Question]
    notices: list[str]
    revisions: dict[str, str | None]
    code: dict[str, str]
    run_id: str
    folder: Path


def make_plan(config: Mapping[str, Any]) -> Plan:
    """Check the config, read the questions' texts and settle the run's identity. Loads no weights."""
    config = with_names(config)
    check_keys(config)
    refuse_in_config(config)
    source = source_of(config)
    run = source.settled(run_config(config["run"]))
    require_installed(run.track)
    notices = []
    if source.one_process_only and (run.executor, run.workers) != ("local", 1):
        name = config["model"].get("name")
        notices = [f"run.workers={run.workers} is not used with model={name}: {source.one_process_only}."]
        run = replace(run, executor="local", workers=1)
    benchmark: Benchmark = build("benchmark", config["benchmark"])
    with component_errors("benchmark", type(benchmark)):
        all_questions = questions = benchmark.questions()
    _check_ids(benchmark, all_questions)
    if run.limit is not None:
        questions = stratified_limit(questions, run.limit, run.seed, benchmark.keeps_clusters_together)
    notices += [*benchmark.notices, *source.check(benchmark, all_questions, questions)]
    resolved = resolved_config(config, run, source)
    revisions = {"benchmark": benchmark.dataset_revision, **source.revisions(resolved, run)}
    code = code_digests({group: resolved[group] for group in GROUPS})
    identity = run_id(resolved, revisions, code)
    names = (resolved["profile"]["name"], benchmark.name, resolved["model"]["name"], source.selector_name)
    folder = Path(run.output_dir).joinpath(*names, identity)
    return Plan(resolved, run, benchmark, source, questions, notices, revisions, code, identity, folder)


def _check_ids(benchmark: Benchmark, questions: Sequence[Question]) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(
                f"benchmark={benchmark.name}: two questions have the id {question.id!r}, and results are kept by id. "
                "Remove one of them, or give each an id of its own."
            )
        seen.add(question.id)


def with_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the names of its sections as text: Hydra reads `model.name=5` as a number.

    ConfigError where a name is something whose text as typed is lost (1e3, true, null), and for text that no file can
    hold.
    """
    named = dict(config)
    for group in ("profile", *GROUPS):
        section = config.get(group)
        if not isinstance(section, Mapping) or "name" not in section:
            continue
        name = section["name"]
        if isinstance(name, int) and not isinstance(name, bool):
            named[group] = {**section, "name": str(name)}
        elif not isinstance(name, str):
            shown_name = {None: "null", True: "true", False: "false"}.get(name, name)
            raise ConfigError(
                f"{group}.name={shown_name}: is not text; put it in quotes: '{group}.name=\"{shown_name}\"'."
            )
    _check_text(named, "")
    return named


def _check_text(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_text(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_text(inner, place)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{place}={shown(value)}: is not UTF-8; rename the file or folder.") from None


def check_keys(config: Mapping[str, Any]) -> None:
    """ConfigError for a section that nothing reads, a missing one, or a name that would leave its folder."""
    known = ("profile", "run", *GROUPS)
    for key in config:
        if key not in known and key != "description":
            raise ConfigError(f"{key}: nothing reads it.{did_you_mean(key, known)} Sections: {', '.join(known)}.")
    for group in known:
        if group in OPTIONAL and config.get(group, "") is None:
            continue
        if not isinstance(config.get(group), Mapping):
            shown_value = "null" if config.get(group) is None else config[group]
            raise ConfigError(f"{group}={shown_value}: a run needs this section; choose one with {group}=NAME.")
        name = str(config[group].get("name", "x"))
        if not name or name.startswith(".") or "/" in name:
            raise ConfigError(f"{group}.name={name!r}: names a folder of the results; use letters, digits, _ and -.")


def resolved_config(config: Mapping[str, Any], run: RunConfig, source: Source) -> dict[str, Any]:
    """The config with `auto` settled; sections that the source does not use become null."""
    resolved: dict[str, Any] = {"profile": dict(config["profile"])}
    resolved |= {group: dict(config[group]) if config[group] else None for group in GROUPS}
    return {**source.sections(resolved), "run": asdict(run)}
