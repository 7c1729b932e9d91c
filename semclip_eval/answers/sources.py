"""What a run's answers come from, as far as a plan needs to know it, and how it is opened when questions are asked.

Two sources: a model that is asked, with a selector; and a file of answers, whose selector is only a name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from semclip_eval import session
from semclip_eval.answers.ahead import ReadsAhead
from semclip_eval.answers.batching import questions_at_once
from semclip_eval.answers.pipeline import Pipeline
from semclip_eval.answers.recording import Item
from semclip_eval.answers.replay import Replay
from semclip_eval.answers.stored import StoredAnswers
from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.components import build, component_class, component_errors
from semclip_eval.config import RunConfig
from semclip_eval.console import warn
from semclip_eval.errors import ConfigError, NotApplicable
from semclip_eval.measure.stages import peak_memory_mib
from semclip_eval.models.insight import CAPABILITIES
from semclip_eval.modes import mode_of
from semclip_eval.relevance.base import check_psi_text
from semclip_eval.results.records import Record
from semclip_eval.selectors.base import Selector
from semclip_eval.selectors.tools import NEEDS
from semclip_eval.types import Question

if TYPE_CHECKING:
    from semclip_eval.models.base import VLM

# Side in px of a nominal image at which every crop scheme yields all its candidates.
LARGE_SIDE = 4096
# Sections that a selector may not need; config.yaml of a finished run has null for them.
OPTIONAL = {"psi": "psi", "crops": "candidates"}


class Asker(ReadsAhead, Protocol):
    """What asks blocks of questions."""

    def ask(self, questions: Sequence[Question], executor: Executor | None = None) -> list[Record]:
        """The records of a block, in its order."""

    def ask_loaded(self, items: list[Item], executor: Executor | None = None) -> list[Record]:
        """`ask` for items that are loaded, and may be chosen."""


@dataclass(frozen=True)
class Opened:
    """A source that is ready: `asker` asks; what ψ and the model have to say is asked for when all is done.

    batch_size: questions in a block.
    """

    asker: Asker
    batch_size: int = 1
    relevance: Any = None
    vlm: VLM | None = None

    def measured(self, device: str) -> dict[str, Any]:
        """Columns of the summary that are known when all is asked."""
        if self.vlm is None:
            return {}
        if self.vlm.is_served:
            return {"device": self.vlm.device, "dtype": None}
        return {"attn": getattr(self.vlm, "attention", None), "peak_memory_mib": peak_memory_mib(device)}

    def notes(self) -> dict[str, Any]:
        """What environment.json says of this process's use of ψ and the model."""
        truncation = self.relevance.truncations if self.relevance is not None else None
        return {"psi_truncation": truncation, **(self.vlm.session_notes if self.vlm is not None else {})}


class Source(ABC):
    """selector: None for a file of answers, whose views are not known here. uses_machine: does this machine compute?"""

    selector: Selector | None
    uses_machine: bool

    @property
    @abstractmethod
    def selector_name(self) -> str:
        """What the column `selector` says."""

    @property
    @abstractmethod
    def one_process_only(self) -> str:
        """Why several workers make no sense, in a few words; empty where they do."""

    @abstractmethod
    def settled(self, run: RunConfig) -> RunConfig:
        """The run section with what this source does not know replaced by constants."""

    @abstractmethod
    def check(self, benchmark: Benchmark, all_questions: Sequence[Question], asked: Sequence[Question]) -> list[str]:
        """Refuse what cannot be answered, before any weights are loaded; what the user should know."""

    @abstractmethod
    def sections(self, resolved: dict[str, Any]) -> dict[str, Any]:
        """The resolved config's sections with those set to null that this source does not use."""

    @abstractmethod
    def revisions(self, resolved: Mapping[str, Any], run: RunConfig) -> dict[str, str | None]:
        """Revisions of `model` and `psi` as they were found, and what ψ has learned from; loads no weights."""

    @abstractmethod
    def open(self, benchmark: Benchmark, resolved: Mapping[str, Any], run: RunConfig,
             questions: Sequence[Question]) -> Opened:  # fmt: skip
        """Load what is needed and be ready to ask."""


def source_of(config: Mapping[str, Any]) -> Source:
    """The source that the section `model` names."""
    if issubclass(component_class("model", config["model"]), Replay):
        return StoredSource(config)
    return LiveSource(config)


class StoredSource(Source):
    """A file of answers that were made elsewhere."""

    selector = None
    uses_machine = False

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.answers: Replay = build("model", config["model"])

    @property
    def selector_name(self) -> str:
        return self.answers.selector

    @property
    def one_process_only(self) -> str:
        return "it looks answers up"

    def settled(self, run: RunConfig) -> RunConfig:
        """Constants for device and batch: this machine's must not make another run of the same answers."""
        if run.mode == "latency":
            raise ConfigError(
                f"run.mode=latency: model={self.answers.name} looks answers up, there is nothing to time. "
                "Leave run.mode out, or choose a model that computes."
            )
        return replace(run, device="cpu", dtype="float32", batch_size=1, num_workers=0)

    def check(self, benchmark: Benchmark, all_questions: Sequence[Question], asked: Sequence[Question]) -> list[str]:
        views_unknown = (
            f"model={self.answers.name}: which views these answers are to is not known here, so the results say "
            f"selector={self.answers.selector}; the command's selector, crops and psi are not used."
        )
        return [views_unknown, *self.answers.check(all_questions, asked, benchmark.prompt, benchmark.protocol)]

    def sections(self, resolved: dict[str, Any]) -> dict[str, Any]:
        return {**resolved, "psi": None, "crops": None, "selector": {"name": self.answers.selector}}

    def revisions(self, resolved: Mapping[str, Any], run: RunConfig) -> dict[str, str | None]:
        return {"model": self.answers.revision, "psi": None}

    def open(self, benchmark: Benchmark, resolved: Mapping[str, Any], run: RunConfig,
             questions: Sequence[Question]) -> Opened:  # fmt: skip
        return Opened(StoredAnswers(benchmark, self.answers))


class LiveSource(Source):
    """A model that is asked about the views that a selector chooses."""

    uses_machine = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.chooser: Selector = build("selector", config["selector"])
        self.selector = self.chooser

    @property
    def selector_name(self) -> str:
        return self.chooser.name

    @property
    def one_process_only(self) -> str:
        if getattr(component_class("model", self.config["model"]), "is_served", False):
            return "its server answers; raise run.batch_size and model.max_in_flight for more requests at a time"
        return ""

    def settled(self, run: RunConfig) -> RunConfig:
        if run.mode == "latency" and "drop" in self.chooser.needs:
            raise ConfigError(
                f"run.mode=latency: selector={self.chooser.name} masks what it drops inside the language model, which "
                "gives the answers and saves no time. Leave run.mode out, or choose another selector (sparse)."
            )
        return run

    def check(self, benchmark: Benchmark, all_questions: Sequence[Question], asked: Sequence[Question]) -> list[str]:
        with component_errors("selector", type(self.chooser)):
            self._check(benchmark)
        return []

    def _check(self, benchmark: Benchmark) -> None:
        selector, config = self.chooser, self.config
        if selector.uses_truth and "judge" not in selector.needs and not benchmark.has_boxes:
            raise NotApplicable(
                f"selector={selector.name} crops the annotated boxes and benchmark={benchmark.name} has none: "
                "choose another selector, or a benchmark with boxes (vstar)."
            )
        for group, need in OPTIONAL.items():
            if need in selector.needs and not config[group]:
                raise ConfigError(
                    f"{group}=null: selector={selector.name} needs this section; choose one with {group}=NAME."
                )
        if "psi" in selector.needs:
            check_psi_text(config["psi"].get("text", "question"))
        check_capabilities(selector, component_class("model", config["model"]), str(config["model"].get("name")))
        if "candidates" in selector.needs:
            selector.check_candidates(len(build("crops", config["crops"]).candidates(LARGE_SIDE, LARGE_SIDE)))

    def sections(self, resolved: dict[str, Any]) -> dict[str, Any]:
        unused = [group for group, need in OPTIONAL.items() if need not in self.chooser.needs]
        return {**resolved, **dict.fromkeys(unused)}

    def revisions(self, resolved: Mapping[str, Any], run: RunConfig) -> dict[str, str | None]:
        relevance = None
        if resolved["psi"]:
            relevance = build("psi", self.config["psi"], device=run.device, dtype=run.dtype)
        return {
            "model": session.model_revision(self.config["model"]),
            "psi": relevance.revision if relevance is not None else None,
            "psi_training": relevance.training or None if relevance is not None else None,
        }

    def open(self, benchmark: Benchmark, resolved: Mapping[str, Any], run: RunConfig,
             questions: Sequence[Question]) -> Opened:  # fmt: skip
        mode, config, selector = mode_of(run), self.config, self.chooser
        context = {"device": run.device, "dtype": run.dtype}
        crops = build("crops", config["crops"]) if resolved["crops"] else None
        relevance = self._psi(mode.keeps, context) if resolved["psi"] else None
        vlm: VLM = session.loaded("model", dict(config["model"]), **context)
        vlm.reset()
        if relevance is not None and relevance.needs_vlm:
            relevance.attach(vlm)
        if questions:
            candidates = len(crops.candidates(LARGE_SIDE, LARGE_SIDE)) if crops else 0
            kept = {"kept": selector.most_kept} if "prune" in selector.needs else {}
            new_tokens = mode.new_tokens(benchmark.prompt(questions[0]))
            vlm.check_views(selector.most_views(candidates), new_tokens, **kept)
        psi_reads = (resolved["psi"] or {}).get("text") or "question"
        pipeline = Pipeline(benchmark, selector, crops, relevance, vlm, run, psi_reads)
        size = mode.batch_size if mode.batch_size is not None else questions_at_once(pipeline, questions)
        return Opened(pipeline, size, relevance=relevance, vlm=vlm)

    def _psi(self, keeps: bool, context: Mapping[str, Any]) -> Any:
        section = dict(self.config["psi"])
        relevance = session.loaded("psi", section, **context)
        if not keeps and not relevance.forgets:
            # What it may have kept of earlier jobs is out of reach of `begin_block`: it is built anew.
            session.forget("psi")
            relevance = session.loaded("psi", section, **context)
            warn(
                f"psi={relevance.name}: does not say how it forgets (Relevance.begin_block), so it was built anew for "
                "this run. A cache of its own by pixels or text would still make `select` look too fast."
            )
        relevance.reset()
        relevance.load()
        return relevance


def check_capabilities(selector: Selector, model: type[VLM], name: str) -> None:
    """ConfigError for a need that no model knows, NotApplicable for one that this model lacks; needs no weights."""
    unknown = selector.needs.difference(NEEDS)
    if unknown:
        raise ConfigError(f"selector={selector.name}: needs '{min(unknown)}'; what exists is {', '.join(NEEDS)}.")
    missing = selector.needs.intersection(CAPABILITIES).difference(model.capabilities)
    if missing:
        raise NotApplicable(
            f"selector={selector.name} needs {', '.join(sorted(missing))} of the model, which model={name} does not "
            "offer; choose another selector or model (docs/models.md lists what each can do)."
        )
