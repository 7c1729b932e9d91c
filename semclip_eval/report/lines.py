"""The numbers of one row of the main table: accuracies as fractions, latencies in ms, None for 'not measured'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semclip_eval.errors import SemclipEvalError
from semclip_eval.measure.stages import STAGES
from semclip_eval.report.comparisons import Comparison, Labelled, base_settings, crop_settings
from semclip_eval.report.runs import FinishedRun
from semclip_eval.results.comparison import Pair, Run, as_run, paired, refuse_different

LATENCY_COLUMNS = ("e2e_ms_p50", "e2e_ms_p90", "e2e_ms_p99", "ttft_ms_p50", "tpot_ms_p50")


@dataclass(frozen=True)
class Line:
    """A run in its comparison.

    reference: the no_crop run that it is paired with; None for that run itself, or where there is none. pair: the
    paired comparison; None where `why_no_pair` says why (empty for the reference itself). tokens_ratio: visual tokens
    over those of full_crop with the same crops, on the same questions; `why_no_ratio` where there is none.
    """

    labelled: Labelled
    reference: FinishedRun | None
    pair: Pair | None
    why_no_pair: str
    tokens_ratio: float | None
    why_no_ratio: str

    @property
    def run(self) -> FinishedRun:
        return self.labelled.run

    @property
    def name(self) -> str:
        return self.labelled.name

    @property
    def latency(self) -> dict[str, float]:
        """What was timed, by column of summary.csv; empty in accuracy mode, where nothing has a latency of its own."""
        if self.run.row["mode"] != "latency":
            return {}
        columns = (*(f"{stage}_ms_p50" for stage in STAGES), *LATENCY_COLUMNS)
        return {column: value for column in columns if (value := self.run.number(column)) is not None}


def lines(comparison: Comparison) -> list[Line]:
    """A line for each run of the comparison, in its order."""
    return [_line(labelled, comparison.runs) for labelled in comparison.runs]


def timed_stages(rows: Sequence[Line]) -> list[str]:
    """The stages that at least one of the runs has, in the order of the way of a question."""
    return [stage for stage in STAGES if any(f"{stage}_ms_p50" in line.latency for line in rows)]


def focus(rows: Sequence[Line]) -> Line | None:
    """The line that the report tells about in words and pictures: the first method, else the first with crops."""
    methods = [line for line in rows if line.run.kind == "method"]
    others = [line for line in rows if line.run.kind != "overview"]
    return next(iter([*methods, *others]), None)


def _line(labelled: Labelled, runs: Sequence[Labelled]) -> Line:
    run = labelled.run
    reference, why_no_pair = _reference(run, [other.run for other in runs])
    pair: Pair | None = None
    if reference is not None:
        pair, why_no_pair = _paired(reference, run)
    tokens_ratio, why_no_ratio = _tokens_ratio(run, [other.run for other in runs])
    return Line(labelled, reference, pair, why_no_pair, tokens_ratio, why_no_ratio)


def _reference(run: FinishedRun, runs: Sequence[FinishedRun]) -> tuple[FinishedRun | None, str]:
    """The no_crop run with the same model, protocol and run settings, or why there is none."""
    candidates = [other for other in runs if other.kind == "overview"]
    if run in candidates:
        return None, ""
    if not candidates:
        return None, "there is no no_crop run to pair with"
    mine = base_settings(run)
    for candidate in candidates:
        if base_settings(candidate) == mine:
            return candidate, ""
    theirs = base_settings(candidates[0])
    key = next(key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key))
    return None, f"no no_crop run has {key}={mine.get(key)}"


def _paired(reference: FinishedRun, run: FinishedRun) -> tuple[Pair | None, str]:
    if any(record["score"] is None and record["status"] != "error" for record in (*reference.records, *run.records)):
        return None, "the answers were timed, not scored"
    try:
        before, after = _as_run(reference), _as_run(run)
        refuse_different(before, after)
        return paired(before, after), ""
    except SemclipEvalError as error:
        reason = str(error)
        for side in (reference, run):
            reason = reason.replace(str(side.folder), f"{side.selector} {side.id}")
        return None, reason.rstrip(".")


def _as_run(run: FinishedRun) -> Run:
    """The run for `compare`'s arithmetic, without reading its files once more."""
    return as_run(run.folder, run.row, run.records, run.config)


def _tokens_ratio(run: FinishedRun, runs: Sequence[FinishedRun]) -> tuple[float | None, str]:
    full = [other for other in runs if other.kind == "everything" and base_settings(other) == base_settings(run)]
    if not full:
        return None, "there is no full_crop run of the same settings"
    crops = crop_settings(run)
    if crops:
        full = [other for other in full if crop_settings(other) == crops]
        if not full:
            return None, "no full_crop run has the same crops"
    elif len(full) > 1:
        return None, "full_crop was run with several crop schemes"
    ours, theirs = _tokens(run), _tokens(full[0])
    both = [identity for identity in theirs if identity in ours]
    total = sum(theirs[identity] for identity in both)
    if not total:
        return None, "visual tokens were not counted"
    return sum(ours[identity] for identity in both) / total, ""


def _tokens(run: FinishedRun) -> dict[str, int]:
    """Visual tokens of the questions that were answered."""
    return {
        str(record["question_id"]): record["visual_tokens"]
        for record in run.records
        if record["status"] != "error" and record.get("visual_tokens") is not None
    }
