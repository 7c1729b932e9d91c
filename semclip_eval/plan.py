"""What a run is to do, settled before any weights are loaded: the checked config, the questions, the run's identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semclip_eval import session
from semclip_eval.benchmarks.base import Benchmark, stratified_limit
from semclip_eval.code_identity import code_digests
from semclip_eval.components import build, component_class, component_errors, did_you_mean
from semclip_eval.config import GROUPS, RunConfig, run_config, run_id
from semclip_eval.credentials import refuse_in_config
from semclip_eval.errors import ConfigError, DataError, NotApplicable
from semclip_eval.files import shown
from semclip_eval.models.base import VLM
from semclip_eval.models.insight import CAPABILITIES
from semclip_eval.models.replay import Replay
from semclip_eval.selectors.base import Selector
from semclip_eval.selectors.tools import NEEDS
from semclip_eval.types import Question

# An image with room for every candidate of any crop scheme.
LARGE_SIDE = 4096
# Sections that a selector may not need; config.yaml of a finished run has null for them.
OPTIONAL = {"psi": "psi", "crops": "candidates"}


@dataclass(frozen=True)
class Plan:
    """Everything that is known before weights are loaded.

    Answers that were made elsewhere come with `answers` and without a `selector`: their views are not known here.
    `notices` are what the user should read before the run. `revisions` are those of data, model and ψ as they were
    found, and `code` the digests of the source that answers: both belong to the run's identity and stand in
    environment.json, so that `config` alone, with the same files, gives the same run again.
    """

    config: dict[str, Any]
    run: RunConfig
    benchmark: Benchmark
    selector: Selector | None
    answers: Replay | None
    questions: list[Question]
    notices: list[str]
    revisions: dict[str, str | None]
    code: dict[str, str]
    run_id: str
    folder: Path

    @property
    def selector_name(self) -> str:
        """What the column `selector` says."""
        return self.selector.name if self.selector else str(self.config["selector"]["name"])


def make_plan(config: Mapping[str, Any]) -> Plan:
    """Check the config, read the questions' texts and settle the run's identity. Loads no weights."""
    config = with_names(config)
    check_keys(config)
    refuse_in_config(config)
    run = run_config(config["run"])
    selector: Selector | None = None
    answers: Replay | None = None
    if issubclass(component_class("model", config["model"]), Replay):
        answers = build("model", config["model"])
        run = _run_of_answers(run, config["model"])
    else:
        selector = build("selector", config["selector"])
    benchmark: Benchmark = build("benchmark", config["benchmark"])
    if selector is not None:
        with component_errors("selector", type(selector)):
            _check_selector(selector, benchmark, config)
    with component_errors("benchmark", type(benchmark)):
        every = questions = benchmark.questions()
    _check_ids(benchmark, every)
    if run.limit is not None:
        questions = stratified_limit(questions, run.limit, run.seed, benchmark.keeps_clusters_together)
    notices = list(benchmark.notices)
    if answers is not None:
        notices.append(
            f"model={answers.name}: which views these answers are to is not known here, so the results say "
            f"selector={answers.selector}; the command's selector, crops and psi are not used."
        )
        notices += answers.check(every, questions, benchmark.prompt, benchmark.protocol)
    resolved = resolved_config(config, run, selector, answers)
    revisions = observed_revisions(config, resolved, run, benchmark, answers)
    code = code_digests({group: resolved[group] for group in GROUPS})
    identity = run_id(resolved, revisions, code)
    selector_name = selector.name if selector else resolved["selector"]["name"]
    parts = (resolved["profile"]["name"], benchmark.name, resolved["model"]["name"], selector_name, identity)
    folder = Path(run.output_dir).joinpath(*parts)
    return Plan(resolved, run, benchmark, selector, answers, questions, notices, revisions, code, identity, folder)


def _run_of_answers(run: RunConfig, section: Mapping[str, Any]) -> RunConfig:
    """The run section for answers that were made elsewhere, on a device and in a batch that are not known here.

    Constants stand in their place, so that this machine's do not make another run of the same answers.
    """
    if run.mode == "latency":
        raise ConfigError(
            f"run.mode=latency: model={section.get('name')} looks answers up, there is nothing to time. "
            "Leave run.mode out, or choose a model that computes."
        )
    return replace(run, device="cpu", dtype="float32", batch_size=1, num_workers=0)


def _check_ids(benchmark: Benchmark, questions: Sequence[Question]) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(
                f"benchmark={benchmark.name}: two questions have the id {question.id!r}, and results are kept by id. "
                "Remove one of them, or give each an id of its own."
            )
        seen.add(question.id)


def _check_selector(selector: Selector, benchmark: Benchmark, config: Mapping[str, Any]) -> None:
    if selector.uses_truth and not benchmark.has_boxes:
        raise NotApplicable(
            f"selector={selector.name} crops the annotated boxes and benchmark={benchmark.name} has none: "
            "choose another selector, or a benchmark with boxes (vstar)."
        )
    for group, need in OPTIONAL.items():
        if need in selector.needs and not config[group]:
            raise ConfigError(
                f"{group}=null: selector={selector.name} needs this section; choose one with {group}=NAME."
            )
    check_capabilities(selector, component_class("model", config["model"]), str(config["model"].get("name")))
    if "candidates" in selector.needs:
        selector.check_candidates(len(build("crops", config["crops"]).candidates(LARGE_SIDE, LARGE_SIDE)))


def check_capabilities(selector: Selector, model: type[VLM], name: str) -> None:
    """ConfigError for a need that no model knows, or that this one cannot meet; needs no weights."""
    unknown = selector.needs.difference(NEEDS)
    if unknown:
        raise ConfigError(f"selector={selector.name}: needs '{min(unknown)}'; what exists is {', '.join(NEEDS)}.")
    missing = selector.needs.intersection(CAPABILITIES).difference(model.capabilities)
    if missing:
        raise ConfigError(
            f"selector={selector.name} needs {', '.join(sorted(missing))} of the model, which model={name} does not "
            "offer; choose another selector or model (docs/models.md lists what each can do)."
        )


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


def resolved_config(
    config: Mapping[str, Any],
    run: RunConfig,
    selector: Selector | None,
    answers: Replay | None,
) -> dict[str, Any]:
    """The config with `auto` settled; sections that the selector does not use become null."""
    resolved: dict[str, Any] = {"profile": dict(config["profile"])}
    resolved |= {group: dict(config[group]) if config[group] else None for group in GROUPS}
    needs = selector.needs if selector else frozenset()
    if "psi" not in needs:
        resolved["psi"] = None
    if "candidates" not in needs:
        resolved["crops"] = None
    if answers is not None:
        resolved["selector"] = {"name": answers.selector}
    resolved["run"] = asdict(run)
    return resolved


def observed_revisions(
    config: Mapping[str, Any],
    resolved: Mapping[str, Any],
    run: RunConfig,
    benchmark: Benchmark,
    answers: Replay | None,
) -> dict[str, str | None]:
    """Which data, weights and ψ there really are: a Hub commit, or the digest of local files; by config group."""
    psi = resolved["psi"]
    return {
        "benchmark": benchmark.dataset_revision,
        "model": session.model_revision(config["model"]) if answers is None else answers.revision,
        "psi": build("psi", config["psi"], device=run.device, dtype=run.dtype).revision if psi else None,
    }
