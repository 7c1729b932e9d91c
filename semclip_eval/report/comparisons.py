"""Which runs stand in one table, in which order, and what tells two runs of one selector apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semclip_eval.config import NOT_IN_RUN_ID
from semclip_eval.report.runs import KINDS, FinishedRun

SECTIONS = ("selector", "crops", "psi", "model", "benchmark", "run")
# Where the data and the weights lie and how the work is spread changes no answer; compare checks the questions.
SAME_ANSWERS = frozenset(
    [
        *"benchmark.path benchmark.hub_id model.path model.hub_id run.limit run.batch_size".split(),
        *(f"run.{name}" for name in NOT_IN_RUN_ID),
    ]
)
# What an accuracy run and the latency run of its configuration have in common, beside the choice of views.
TIMED_COLUMNS = "profile benchmark split protocol model model_revision dataset_revision".split()
# A run's own columns that every run of one comparison shares. The revisions are among them: answers of two versions
# of the weights or the data do not belong in one column, whatever else is the same.
SHARED = "profile benchmark split protocol metric model model_revision dataset_revision mode seed n".split()


@dataclass(frozen=True)
class Labelled:
    """A run and its name in tables and plots: the selector, and in what it differs from its namesakes there."""

    run: FinishedRun
    differs: str

    @property
    def name(self) -> str:
        return f"{self.run.selector} ({self.differs})" if self.differs else self.run.selector


@dataclass(frozen=True)
class Comparison:
    """Runs of one model over one set of questions, put and timed in one way, in the order of the table.

    slug: the beginning of its file names.
    """

    slug: str
    runs: tuple[Labelled, ...]

    def shared(self, column: str) -> str:
        """A cell of `SHARED`, the same for every run."""
        return _cell(self.runs[0].run, column)

    @property
    def random_weights(self) -> bool:
        return self.runs[0].run.random_weights

    @property
    def title(self) -> str:
        return f"{self.shared('benchmark')} · {self.shared('protocol')} · {self.shared('model')}" + (
            " · latency" if self.shared("mode") == "latency" else ""
        )


def comparisons(runs: Iterable[FinishedRun]) -> list[Comparison]:
    """The runs, sorted into comparisons: accuracy before latency, otherwise by name."""
    groups: dict[tuple[str, ...], list[FinishedRun]] = {}
    for run in runs:
        key = (*(_cell(run, column) for column in SHARED), str(run.random_weights))
        groups.setdefault(key, []).append(run)
    found: list[Comparison] = []
    slugs: dict[str, int] = {}
    for key in sorted(groups, key=_group_order):
        slug = _slug(dict(zip(SHARED, key, strict=False)))
        slugs[slug] = slugs.get(slug, 0) + 1
        if slugs[slug] > 1:
            slug = f"{slug}-{slugs[slug]}"
        found.append(Comparison(slug, tuple(_labelled(groups[key]))))
    return found


def _cell(run: FinishedRun, column: str) -> str:
    """A cell of `SHARED`. Answers made elsewhere come in a file for each way of choosing views: no other version."""
    return "answers made elsewhere" if column == "model_revision" and run.replayed else run.row[column]


def newest_of_each(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Of runs that were asked the same with the same settings, by older and newer code, only the newest; in order."""
    newest: dict[str, FinishedRun] = {}
    for run in runs:
        key = repr(([_cell(run, column) for column in SHARED], sorted(_settings(run).items())))
        before = newest.get(key)
        if before is None or (run.row["started_at"], run.id) > (before.row["started_at"], before.id):
            newest[key] = run
    kept = {run.id for run in newest.values()}
    return [run for run in runs if run.id in kept]


def times(timed: FinishedRun, run: FinishedRun) -> bool:
    """Is `timed` a latency run of the configuration, weights and data of `run`?"""
    return (
        timed.row["mode"] == "latency"
        and run.random_weights == timed.random_weights
        and all(run.row[name] == timed.row[name] for name in TIMED_COLUMNS)
        and all(run.config.get(name) == timed.config.get(name) for name in ("selector", "crops", "psi"))
    )


def latency_run(run: FinishedRun, timed: Iterable[FinishedRun]) -> FinishedRun | None:
    """Of `timed` the latency run of the same configuration: benchmark, protocol, model, selector, crops and ψ.

    Of several the one with most questions, then the newest.
    """
    same = [other for other in timed if times(other, run)]
    return max(same, key=lambda other: (int(other.row["n"]), other.row["started_at"], other.id), default=None)


def milliseconds(run: FinishedRun, timed: Iterable[FinishedRun]) -> float | None:
    """The median E2E latency in ms of the run's configuration; None where it was not timed."""
    other = latency_run(run, timed)
    return None if other is None else other.number("e2e_ms_p50")


def base_settings(run: FinishedRun) -> dict[str, Any]:
    """All that the answers depend on beside the choice of views, as dotted keys: what a paired reference must share."""
    return {key: value for key, value in _settings(run).items() if key.split(".")[0] in ("model", "benchmark", "run")}


def crop_settings(run: FinishedRun) -> dict[str, Any]:
    """The crop scheme of a run as dotted keys; empty for a selector that uses none."""
    return {key: value for key, value in _settings(run).items() if key.startswith("crops.")}


def _settings(run: FinishedRun) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section in SECTIONS:
        _flatten(section, run.config.get(section) or {}, flat)
    aside = SAME_ANSWERS | {"model.revision", "model.selector_name"} if run.replayed else SAME_ANSWERS
    return {
        key: value
        for key, value in flat.items()
        if key not in aside and key.rpartition(".")[2] not in ("description", "_target_")
    }


def _flatten(prefix: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{prefix}.{key}", item, into)
    else:
        into[prefix] = value


def _labelled(runs: Sequence[FinishedRun]) -> list[Labelled]:
    named: list[Labelled] = []
    for selector in sorted({run.selector for run in runs}):
        named += _namesakes([run for run in runs if run.selector == selector])
    return sorted(named, key=_row_order)


def _namesakes(runs: Sequence[FinishedRun]) -> list[Labelled]:
    """Labels of the runs of one selector: the keys in which they differ, the run's id where those do not suffice."""
    if len(runs) == 1:
        return [Labelled(runs[0], "")]
    settings = [_settings(run) for run in runs]
    keys = [key for key in dict.fromkeys(key for flat in settings for key in flat) if _differ(settings, key)]
    # The name of a crop scheme, a ψ or an inner selector says what its other keys would repeat, unless two of one name
    # differ.
    for section in ("crops", "psi", "selector.inner"):
        if f"{section}.name" in keys:
            same_name: dict[Any, list[dict[str, Any]]] = {}
            for flat in settings:
                same_name.setdefault(flat.get(f"{section}.name"), []).append(flat)
            keys = [
                key
                for key in keys
                if not key.startswith(f"{section}.")
                or key == f"{section}.name"
                or any(_differ(flats, key) for flats in same_name.values())
            ]
    texts = [", ".join(_setting(key, flat[key]) for key in keys if key in flat) for flat in settings]
    if len(set(texts)) < len(texts):
        texts = [f"{text}, run {run.id}" if text else f"run {run.id}" for text, run in zip(texts, runs, strict=True)]
    return [Labelled(run, text) for run, text in zip(runs, texts, strict=True)]


def _differ(settings: Sequence[Mapping[str, Any]], key: str) -> bool:
    return len({repr(flat.get(key)) for flat in settings}) > 1


def _setting(key: str, value: Any) -> str:
    section, _, name = key.partition(".")
    if name == "name":
        return f"{section} {value}"
    name = name.removesuffix(".name")
    return f"{name if section == 'selector' else key}={value}"


def _row_order(labelled: Labelled) -> tuple[Any, ...]:
    run = labelled.run
    # Numbers inside a label count as numbers: top_k=2 before top_k=10, keep_ratio=0.25 before 0.5.
    parts = [
        (float(part), "") if part[:1].isdigit() else (-1, part)
        for part in re.split(r"(\d+(?:\.\d+)?)", labelled.differs)
    ]
    return KINDS.index(run.kind), run.selector != "semclip", run.selector, parts, run.id


def _group_order(key: tuple[str, ...]) -> tuple[Any, ...]:
    cells = dict(zip(SHARED, key, strict=False))
    names = [cells[column] for column in ("profile", "benchmark", "protocol", "model", "split", "metric")]
    return *names, cells["mode"], int(cells["seed"]), int(cells["n"]), key


def _slug(cells: Mapping[str, str]) -> str:
    names = [cells[column] for column in ("profile", "benchmark", "protocol", "model", "mode")]
    text = "-".join([*names, f"seed{cells['seed']}", f"n{cells['n']}"])
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)
