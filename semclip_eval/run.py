"""One run: from a resolved config to a finished run folder, now or on from where the last process stopped.

The questions are cut into fixed blocks of `run.batch_size`; a process that goes on asks a half-written block again and
writes what was missing, so every question meets the same batch as in a run that was never stopped, and the finished
`samples.jsonl` is the same, byte for byte (accuracy mode). Workers (`run.workers`) are asked the same blocks; this
process alone writes, as answers come, and puts the file in the questions' order at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from semclip_eval.answers.answering import Answers, Closing, OwnProcess
from semclip_eval.answers.recording import as_recorded
from semclip_eval.console import Progress, notice, warn
from semclip_eval.errors import ConfigError, DataError, RunFailed, SemclipEvalError
from semclip_eval.modes import Mode, mode_of
from semclip_eval.plan import Plan, make_plan
from semclip_eval.preemption import at_block_ends
from semclip_eval.results.records import (
    LARGE,
    SAMPLES,
    SampleWriter,
    arrange_samples,
    lock,
    read_samples,
    write_atomically,
)
from semclip_eval.results.sessions import add_earlier_sessions, begin_session, write_environment
from semclip_eval.results.summary import (
    SUMMARY,
    accuracy_row,
    category_rows,
    flops_row,
    latency_row,
    read_rows,
    read_summary,
    write_roll_up,
    write_run,
)
from semclip_eval.results.table import run_table
from semclip_eval.scoring.markup import has_thoughts
from semclip_eval.trackers import track
from semclip_eval.types import Question
from semclip_eval.workers.answers import WorkerAnswers, close_workers
from semclip_eval.workers.layout import Layout, idle_hint, layout_of


def execute(config: Mapping[str, Any]) -> Path:
    """Do what is left of the run that a config describes, print its table, and return its folder.

    Raises ConfigError, DataError or ModelError for what the user can mend, RunFailed where too many questions ended in
    an error; KeyboardInterrupt passes through with everything done so far kept.
    """
    plan = make_plan(config)
    for text in plan.notices:
        notice(text)
    with lock(plan.folder):
        if is_finished(plan):
            notice(f"This run is finished already; nothing is asked again: {plan.folder}")
        else:
            with nothing_left_of_a_refusal(plan.folder):
                _ask_what_is_left(plan)
        write_roll_up(Path(plan.run.output_dir))
        run_table(plan.folder)
        track(plan.folder, plan.run.track)
    judge(plan)
    return plan.folder


@contextmanager
def nothing_left_of_a_refusal(folder: Path) -> Iterator[None]:
    """A run that is refused before its first record leaves no files that look like one that began."""
    try:
        yield
    except SemclipEvalError:
        if not read_samples(folder):
            for name in (SAMPLES, "config.yaml", "environment.json"):
                (folder / name).unlink(missing_ok=True)
        raise


def is_finished(plan: Plan) -> bool:
    """Is nothing left to ask? DataError where a run that its summary calls finished is not whole."""
    summary = plan.folder / SUMMARY
    if not summary.exists() or not read_rows(summary):
        return False
    errors = int(read_summary(plan.folder)["n_error"])
    _require_whole(plan)
    if not plan.run.resume:
        notice(f"run.resume=false does not undo a finished run: move {plan.folder} away to ask everything again.")
    if errors and plan.run.retry_errors:
        summary.unlink()
        return False
    if errors:
        notice(f"Questions of it that ended in an error: {errors}; run.retry_errors=true asks them again.")
    return True


def _require_whole(plan: Plan) -> None:
    """DataError where a run that its summary calls finished lacks records, or has other questions' records."""
    records = read_samples(plan.folder, LARGE)
    _require_same_questions(plan, records)
    missing = len(plan.questions) - len(records)
    if missing:
        raise DataError(
            f"{plan.folder}: {SUMMARY} says that this run is finished, and {missing} of its {len(plan.questions)} "
            f"records are not in samples.jsonl. Restore that file, or delete {SUMMARY} to ask what is missing."
        )


def _ask_what_is_left(plan: Plan) -> None:
    done = records_so_far(plan)
    mode = mode_of(plan.run)
    layout = layout_of(plan.run, plan.config["model"])
    # No more workers than blocks; how large these are a model of their own says.
    most = -(-(len(plan.questions) - len(done)) // (mode.batch_size or 1))
    with _answers(plan, mode, layout, most) as answers:
        environment = begin(plan, mode, answers, resumed=bool(done))
        mode = replace(mode, batch_size=environment["batch_size"])
        blocks = [block for block in _blocks(plan, mode) if any(question.id not in done for question in block)]
        if plan.run.batch_size == "auto" and (
            hint := idle_hint(len(plan.questions), layout.workers, mode.batch_size or 1)
        ):
            notice(hint)
        start = time.perf_counter()
        asked = _ask(answers, plan, blocks, done)
        wall_s = time.perf_counter() - start
        closing = answers.closing()
    finish(plan, mode, environment, closing, asked, wall_s, bool(done), layout.workers)


def begin(plan: Plan, mode: Mode, answers: Answers, resumed: bool) -> dict[str, Any]:
    """Write what the run runs on and ask the warm-up questions; the environment."""
    environment = _begin_session(plan, mode, answers, resumed)
    answers.warm_up(plan.questions[: mode.warmup])
    return environment


def finish(
    plan: Plan, mode: Mode, environment: dict[str, Any], closing: Closing, asked: int, wall_s: float, resumed: bool,
    workers: int = 1,
) -> None:  # fmt: skip
    """Write the tables of a run whose questions are all answered; `asked` of them by this process in `wall_s` s."""
    records = _in_order(plan, read_samples(plan.folder, LARGE))
    cost: dict[str, Any] = {
        "wall_s": None if resumed else wall_s,
        # Replay measures no model throughput.
        "questions_per_s": asked / wall_s if asked and plan.source.uses_machine else None,
        "workers": workers if plan.source.uses_machine else None,
        **closing.measured,
    }
    row = summary_row(plan, mode, records, environment, cost)
    measures = plan.source.selector.measure_names if plan.source.selector else ()
    categories = category_rows(records, plan.run_id, plan.benchmark, measures)
    write_run(plan.folder, row, categories, [*plan.benchmark.metric.further_names, *measures])
    environment["sessions"][-1] |= closing.notes
    write_environment(plan.folder, environment)
    _report_truncation(closing.truncations)
    _report_thoughts(plan, records)


@contextmanager
def _answers(plan: Plan, mode: Mode, layout: Layout, blocks: int) -> Iterator[Answers]:
    """What answers this run's questions. Workers that an error or an interrupt finds at work are ended."""
    if layout.is_own_process:
        close_workers()  # of an earlier job of a sweep
        yield OwnProcess(plan, mode)
        return
    try:
        yield WorkerAnswers(plan, mode, layout, blocks)
    except BaseException:
        close_workers()
        raise


def _begin_session(plan: Plan, mode: Mode, answers: Answers, resumed: bool) -> dict[str, Any]:
    """Write `config.yaml` and `environment.json` of a run that begins or goes on; the environment."""
    revisions = {
        "model_revision": plan.revisions["model"],
        "dataset_revision": plan.revisions["benchmark"],
        "psi_revision": plan.revisions["psi"],
        "psi_training": plan.revisions.get("psi_training"),
    }
    environment = begin_session({**answers.described, **revisions, "code": plan.code})
    if resumed:
        add_earlier_sessions(environment, plan.folder, timed=mode.times)
    write_atomically(plan.folder / "config.yaml", yaml.safe_dump(plan.config, sort_keys=False, allow_unicode=True))
    write_environment(plan.folder, environment)
    return environment


def records_so_far(plan: Plan) -> dict[str, dict[str, Any]]:
    """The records of an earlier process that count; DataError where they are of other questions."""
    records = read_samples(plan.folder, LARGE)
    if records and not plan.run.resume:
        number = len(list(plan.folder.glob("samples.previous*.jsonl")))
        aside = plan.folder / f"samples.previous{number or ''}.jsonl"
        (plan.folder / "samples.jsonl").replace(aside)
        notice(f"run.resume=false: starting over; the {len(records)} earlier records are kept in {aside}.")
        return {}
    if plan.run.retry_errors and any(record["status"] == "error" for record in records):
        records = [record for record in records if record["status"] != "error"]
        arrange_samples(plan.folder, [record["question_id"] for record in records])
    _require_same_questions(plan, records)
    if records:
        notice(f"Going on after {len(records)} of {len(plan.questions)} questions: {plan.folder}")
    return {record["question_id"]: record for record in records}


def _require_same_questions(plan: Plan, records: Sequence[Mapping[str, Any]]) -> None:
    """ConfigError where a record is of a question that this run does not ask, or not in these words."""
    questions = {question.id: question for question in plan.questions}
    remedy = "restore the file, move the folder away or choose another run.output_dir."
    for record in records:
        question = questions.get(record["question_id"])
        if question is None:
            raise ConfigError(
                f"{plan.folder}/samples.jsonl holds question {record['question_id']!r}, which this run does not ask: "
                + remedy
            )
        for key, value in as_recorded(question).items():
            if record.get(key) != value:
                raise ConfigError(
                    f"{plan.folder}/samples.jsonl, question {question.id!r}: its `{key}` is not that of the data "
                    f"({_short(record.get(key))} in the file, {_short(value)} now): {remedy}"
                )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _ask(answers: Answers, plan: Plan, blocks: Sequence[list[Question]], done: Mapping[str, Mapping[str, Any]]) -> int:
    """Ask every block that is not done, write its records as they come, and return how many questions were asked."""
    writer = SampleWriter(plan.folder)
    asked = 0
    label = f"{plan.benchmark.name} {plan.source.selector_name}"
    # Where an accuracy is not that of the single answers, it is known at the end only.
    score_name = "accuracy" if plan.benchmark.metric.is_over_questions else "answers right"
    try:
        with (
            at_block_ends(plan.run.grace_s) as ends,
            Progress(label, len(plan.questions), list(done.values()), score_name) as progress,
        ):
            for records in answers.answered(blocks):
                for record in records:
                    if record.question_id in done:
                        continue
                    writer.write(record)
                    asked += 1
                    progress.advance(asdict(record))
                if ends.wanted:
                    answers.wind_up()
    finally:
        writer.close()
    return asked


def _blocks(plan: Plan, mode: Mode) -> list[list[Question]]:
    size = mode.batch_size or 1
    return [plan.questions[start : start + size] for start in range(0, len(plan.questions), size)]


def _in_order(plan: Plan, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records in the order of the questions; so is the file then, which retries and workers write out of order."""
    by_id = {record["question_id"]: record for record in records}
    ordered = [by_id[question.id] for question in plan.questions]
    if [record["question_id"] for record in records] != [record["question_id"] for record in ordered]:
        arrange_samples(plan.folder, [record["question_id"] for record in ordered])
    return ordered


def summary_row(
    plan: Plan,
    mode: Mode,
    records: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    """The one row of `summary.csv`."""
    return {
        "run_id": plan.run_id,
        "profile": plan.config["profile"]["name"],
        "benchmark": plan.benchmark.name,
        "split": plan.benchmark.split,
        "protocol": plan.benchmark.described_protocol,
        "model": plan.config["model"]["name"],
        "model_revision": environment["model_revision"],
        "dataset_revision": environment["dataset_revision"],
        "selector": plan.source.selector_name,
        "crops": (plan.config["crops"] or {}).get("name"),
        "psi": (plan.config["psi"] or {}).get("name"),
        "psi_revision": environment["psi_revision"],
        "psi_training": environment.get("psi_training"),
        "uses_truth": plan.source.selector.uses_truth if plan.source.selector else None,
        "mode": plan.run.mode,
        "metric": plan.benchmark.metric.name,
        "device": environment["device"] if plan.source.uses_machine else None,
        "dtype": plan.run.dtype if plan.source.uses_machine else None,
        "batch_size": mode.batch_size if plan.source.uses_machine else None,
        "seed": plan.run.seed,
        "package_version": environment["package_version"],
        "git_commit": environment["git_commit"],
        "started_at": environment["started_at"],
        **accuracy_row(records, plan.benchmark.metric.units),
        **latency_row(records),
        **flops_row(records, environment.get("ceilings")),
        **cost,
    }


def _report_truncation(counts: Mapping[str, int]) -> None:
    if counts.get("truncated"):
        warn(
            f"ψ read only the first {counts['context']} tokens of {counts['truncated']} of {counts['texts']} texts "
            f"(the longest has {counts['longest']}); psi.text=question is the shortest choice."
        )


def _report_thoughts(plan: Plan, records: Sequence[Mapping[str, Any]]) -> None:
    """The official rules were written before models marked their thoughts, and read them as the answer."""
    if plan.benchmark.parser != "official":
        return
    count = sum(record["answer"] is not None and has_thoughts(record["answer"]) for record in records)
    if count:
        warn(
            f"{count} of {len(records)} answers hold marked thoughts, which the official rule of {plan.benchmark.name} "
            "reads as part of the answer. Turn thinking off, or read with the strict rule where the benchmark has one "
            "(semclip-eval rescore RUN_DIR benchmark.parser=strict)."
        )


def judge(plan: Plan) -> None:
    """RunFailed where more questions ended in an error than `run.max_error_rate` allows."""
    row = read_summary(plan.folder)
    errors, total = int(row["n_error"]), int(row["n"])
    if total and errors / total > plan.run.max_error_rate:
        first = next(record for record in read_samples(plan.folder, LARGE) if record["status"] == "error")
        raise RunFailed(
            f"{errors} of {total} questions ended in an error (run.max_error_rate={plan.run.max_error_rate}). "
            f"The first, question {first['question_id']}: {first['error']['type']}: {first['error']['message']}"
        )
