"""`semclip-eval rescore`: stored answers scored again under another rule, as a run beside the old one.

Nothing is asked: no model is loaded and no image opened. What was asked must stay the same to the byte; only how the
answers are read may change.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from semclip_eval.answers.recording import as_recorded
from semclip_eval.benchmarks.base import Benchmark
from semclip_eval.code_identity import code_digests
from semclip_eval.components import build, component_errors
from semclip_eval.config import GROUPS, run_id
from semclip_eval.console import notice, out
from semclip_eval.errors import ConfigError, DataError, QuestionError
from semclip_eval.files import read_json, read_yaml
from semclip_eval.results.comparison import CONFIG, Pair, Run, differing, paired, read_run
from semclip_eval.results.records import SAMPLES, lock, rewrite_samples, write_atomically
from semclip_eval.results.sessions import ENVIRONMENT, write_environment
from semclip_eval.results.summary import (
    SUMMARY,
    accuracy_row,
    category_rows,
    read_summary,
    write_roll_up,
    write_run,
)
from semclip_eval.types import Answer, Question

EXAMPLES = 5


def run_rescore(arguments: list[str]) -> int:
    """The verb. ConfigError for what is no finished run and for overrides of anything but the reading."""
    parser = argparse.ArgumentParser(
        prog="semclip-eval rescore",
        description="Stored answers scored again under another rule, as a run beside the old one.",
    )
    parser.add_argument("run_dir", type=Path, help="the folder of a finished run")
    parser.add_argument("overrides", nargs="*", help="benchmark.KEY=VALUE, for instance benchmark.parser=official")
    chosen = parser.parse_args(arguments)
    before, after = rescore(chosen.run_dir, chosen.overrides)
    show(before, after)
    return 0


def rescore(folder: Path, overrides: Sequence[str]) -> tuple[Run, Run]:
    """The old run and the new one, which is written unless it is there already."""
    old = read_run(folder)
    config = read_yaml(folder / CONFIG)
    if config["run"].get("mode") == "latency":
        raise ConfigError(
            f"{folder}: was run in latency mode, where the length of answers is forced and none is scored."
        )
    section = with_overrides(config["benchmark"], overrides)
    before: Benchmark = build("benchmark", config["benchmark"])
    after: Benchmark = build("benchmark", section)
    if section == config["benchmark"]:
        raise ConfigError(f"rescore: no rule is changed; give one, such as benchmark.parser={_other_parser(after)}.")
    questions = _same_questions(folder, before, after, old.records)
    resolved = {**config, "benchmark": section}
    environment = read_json(folder / ENVIRONMENT)
    revisions = {
        "benchmark": environment.get("dataset_revision"),
        "model": environment.get("model_revision"),
        "psi": environment.get("psi_revision"),
    }
    code = {**code_digests({group: resolved[group] for group in GROUPS}), "answers": str(old.row["run_id"])}
    identity = run_id(resolved, revisions, code)
    target = folder.resolve().parent / identity
    if not (target / SUMMARY).is_file():
        records = [_scored_again(after, questions[name], record) for name, record in old.records.items()]
        row = read_summary(folder) | {
            "run_id": identity,
            "protocol": after.described_protocol,
            **accuracy_row(records, after.metric.units),
        }
        with lock(target):
            write_atomically(target / CONFIG, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
            write_environment(target, {**environment, "code": code, "rescored_from": str(old.row["run_id"])})
            rewrite_samples(target, records)
            write_run(target, row, category_rows(records, identity, after), after.metric.further_names)
    output = target.parents[4] if len(target.parents) > 4 else target.parent
    write_roll_up(output)
    return old, read_run(target)


def with_overrides(section: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The benchmark's section with `benchmark.KEY=VALUE` applied; ConfigError for any other override."""
    changed = dict(section)
    for override in overrides:
        name, separator, value = override.partition("=")
        group, _, key = name.partition(".")
        if not separator or group != "benchmark" or not key:
            raise ConfigError(
                f"{override}: rescore changes how answers are read and nothing else; give benchmark.KEY=VALUE."
            )
        try:
            changed[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{override}: the value cannot be read ({' '.join(str(error).split())}).") from error
    return changed


def _other_parser(benchmark: Benchmark) -> str:
    others = [name for name in benchmark.parsers if name != benchmark.parser]
    return others[0] if others else "NAME"


def _same_questions(
    folder: Path, before: Benchmark, after: Benchmark, records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Question]:
    """The questions of the records; ConfigError where the override, or the data, would ask them in other words."""
    with component_errors("benchmark", type(after)):
        asked = {question.id: question for question in before.questions()}
        questions = {question.id: question for question in after.questions()}
    for name, record in records.items():
        question = questions.get(name)
        if question is None:
            raise ConfigError(
                f"{folder}: the data have no question {name!r} (any more); rescore needs the run's own data."
            )
        other = next((key for key, value in as_recorded(question).items() if record.get(key) != value), None)
        if other is not None:
            raise ConfigError(
                f"{folder}: question {name!r} has another `{other}` here than in the run; rescore needs the run's own "
                "data, and a rule that reads the same questions."
            )
        try:
            same = before.prompt(asked[name]) == after.prompt(question)
        except QuestionError:
            continue  # it could not be asked then either
        if not same:
            raise ConfigError(
                f"{folder}: the overrides ask question {name!r} in other words, which needs a run of its own: "
                "semclip-eval with the same overrides."
            )
    return questions


def _scored_again(benchmark: Benchmark, question: Question, record: Mapping[str, Any]) -> dict[str, Any]:
    if record["status"] == "error":
        return dict(record)
    losses = record["option_losses"]
    answer = Answer(record["answer"], None if losses is None else tuple(losses), record["new_tokens"])
    try:
        score = benchmark.score(question, answer)
    except QuestionError as error:
        raise DataError(f"question {question.id}: its stored answer cannot be scored ({error}).") from error
    return {
        **record,
        "choice": score.choice,
        "score": score.value,
        "status": score.status,
        "reason": score.reason,
        "chance": benchmark.chance(question),
    }


def show(before: Run, after: Run) -> None:
    """What the rule alone moves: accuracies, the difference with its interval, and the answers that are read anew."""
    from rich.table import Table

    pair: Pair = paired(before, after)
    moved = differing(before, after, ("choice", "status", "score"))
    table = Table(box=None, pad_edge=False)
    table.add_column("rule", overflow="fold")
    for heading in ("n", "unparsed", "accuracy %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run, accuracy in ((before, pair.reference_accuracy), (after, pair.other_accuracy)):
        table.add_row(str(run.row["protocol"]), str(pair.n_units), str(run.row["n_unparsed"]), f"{100 * accuracy:.1f}")
    out.print(f"{before.row['benchmark']} · {before.row['model']} · {before.row['selector']}", style="bold")
    out.print(table)
    interval = ""
    if pair.difference is not None:
        interval = f" [{100 * pair.difference.low:+.1f}, {100 * pair.difference.high:+.1f}]"
    difference = 100 * (pair.other_accuracy - pair.reference_accuracy)
    out.print(
        f"The rule alone moves {len(moved)} of {len(before.records)} answers, and the accuracy by {difference:+.1f} "
        f"points{interval}: {len(pair.only_other)} better, {len(pair.only_reference)} worse.",
        highlight=False,
    )
    for name in moved[:EXAMPLES]:
        first, second = before.records[name], after.records[name]
        text = " ".join(str(first["answer"]).split())
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        out.print(f"  {name}: {shown!r}  {_reading(first)} → {_reading(second)}", highlight=False)
    if len(moved) > EXAMPLES:
        out.print(f"  and {len(moved) - EXAMPLES} more")
    notice(f"{after.folder / SAMPLES}")


def _reading(record: Mapping[str, Any]) -> str:
    if record["status"] != "ok":
        return f"{record['status']} ({record['reason']})" if record["reason"] else str(record["status"])
    if record["choice"] is not None and record["options"]:
        return f"{record['options'][record['choice']]} ({record['score']:g})"
    return f"score {record['score']:g}"
