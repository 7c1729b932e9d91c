"""`semclip-eval show`: one run, or one question of it, in the terminal."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from semclip_eval.components import did_you_mean
from semclip_eval.console import notice, out
from semclip_eval.errors import ConfigError
from semclip_eval.files import shown
from semclip_eval.json_output import print_json, typed_row
from semclip_eval.results.records import SAMPLES, read_samples
from semclip_eval.results.summary import CATEGORIES, SUMMARY, is_hit, read_rows, read_summary
from semclip_eval.results.table import run_table

FIRST_ERRORS = 5


def run_show(arguments: list[str]) -> int:
    """The verb; ConfigError where the folder holds no run or the run no such question."""
    parser = argparse.ArgumentParser(prog="semclip-eval show", description="One run, or one question of it.")
    parser.add_argument("run_dir", type=Path, help="the folder of a run (the last line that the run printed)")
    parser.add_argument("--question", metavar="ID", help="show this question instead of the table")
    parser.add_argument("--json", action="store_true", help="print JSON (docs/json.md)")
    chosen = parser.parse_args(arguments)
    folder: Path = chosen.run_dir
    if not (folder / SAMPLES).is_file():
        raise ConfigError(f"{folder}: there is no run here (no {SAMPLES}). results/runs.csv lists the finished runs.")
    records = read_samples(folder)
    if chosen.question is not None:
        by_id = {record["question_id"]: record for record in records}
        if chosen.question not in by_id:
            hint = did_you_mean(chosen.question, by_id)
            raise ConfigError(f"--question {chosen.question}: not among the {len(by_id)} questions of {folder}.{hint}")
        record = by_id[chosen.question]
        if chosen.json:
            print_json({"run_dir": shown(folder), "question": record | {"hit": is_hit(record)}})
        else:
            show_question(record)
        return 0
    finished = (folder / SUMMARY).is_file()
    if not finished:
        notice(f"This run is not finished: {len(records)} questions so far. The command that started it goes on.")
    if chosen.json:
        print_json(as_json(folder, records, finished))
        return 0
    if finished:
        run_table(folder)
    _show_errors(records)
    return 0


def as_json(folder: Path, records: Sequence[Mapping[str, Any]], finished: bool) -> dict[str, Any]:
    """The run's row and its rows by category as values, and every question that ended in an error."""
    errors = [record for record in records if record["status"] == "error"]
    return {
        "run_dir": shown(folder),
        "finished": finished,
        "n_records": len(records),
        "summary": typed_row(read_summary(folder)) if finished else None,
        "categories": [typed_row(row) for row in read_rows(folder / CATEGORIES)] if finished else [],
        "errors": [
            {"question_id": record["question_id"], **{name: record["error"][name] for name in ("type", "message")}}
            for record in errors
        ],
    }


def show_question(record: Mapping[str, Any]) -> None:
    """What was asked, what the model saw and answered, and what that was worth."""
    out.print(f"{record['question_id']} · {record['category']} · image {record['image_id']}", style="bold")
    out.print(record["question"], highlight=False)
    out.print(_options(record))
    if record["views"] is not None:
        out.print(_views(record))
    if record["target_boxes"]:
        covered = record["target_coverage"]
        found = (
            "no crop"
            if covered is None
            else f"{covered:.0%} covered by the crops, {'hit' if is_hit(record) else 'miss'}"
        )
        out.print(f"target boxes {record['target_boxes']} ({found})", highlight=False)
    if record["status"] == "error":
        out.print(f"error: {record['error']['type']}: {record['error']['message']}", style="red")
        return
    if record["answer"] is not None:
        out.print(f"answer: {json.dumps(record['answer'], ensure_ascii=False)}", highlight=False)
    tokens = "tokens unknown"
    if record["visual_tokens"] is not None:
        encoded = record.get("encoded_tokens")
        of = f" of {encoded}" if encoded not in (None, record["visual_tokens"]) else ""
        tokens = f"{record['visual_tokens']}{of} visual + {record['text_tokens']} text tokens"
    value = "not scored" if record["score"] is None else f"score {record['score']:g}"
    reason = f" ({record['reason']})" if record["reason"] else ""
    out.print(f"{record['status']}, {value}{reason}; {tokens}", highlight=False)
    cost = record.get("cost") or {}
    if any(cost.values()):
        spent = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in cost.items() if value)
        out.print(f"the choice cost of the VLM: {spent}", highlight=False)
    if record.get("trace"):
        kinds = Counter(step["kind"] for step in record["trace"])
        steps = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
        out.print(f"looked at on the way (samples.jsonl, `trace`): {steps}", highlight=False)
    if record["latency_ms"]:
        stages = ", ".join(f"{name} {value:.1f}" for name, value in record["latency_ms"].items())
        out.print(f"ms: {stages}", highlight=False)


def _options(record: Mapping[str, Any]) -> Table | str:
    if not record["options"]:
        return f"truth: {record['truth']}"
    table = Table(box=None, pad_edge=False)
    for name in ("", "option", "loss"):
        table.add_column(name, justify="right" if name == "loss" else "left")
    losses = record["option_losses"] or [None] * len(record["options"])
    for index, (option, loss) in enumerate(zip(record["options"], losses, strict=True)):
        marks = ("right" if index == record["truth"] else "") + (" chosen" if index == record["choice"] else "")
        table.add_row(marks.strip(), option, "" if loss is None else f"{loss:.4f}")
    return table


def _views(record: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("view", "box (left, top, right, bottom)", "ψ"):
        table.add_column(name)
    for view in record["views"]:
        psi = "" if view["psi"] is None else f"{view['psi']:.4f}"
        table.add_row(view["kind"], ", ".join(map(str, view["box"])), psi)
    return table


def _show_errors(records: list[dict[str, Any]]) -> None:
    errors = [record for record in records if record["status"] == "error"]
    for record in errors[:FIRST_ERRORS]:
        out.print(
            f"error in {record['question_id']}: {record['error']['type']}: {record['error']['message']}",
            style="red",
            soft_wrap=True,
        )
    if len(errors) > FIRST_ERRORS:
        out.print(f"and {len(errors) - FIRST_ERRORS} more errors")
