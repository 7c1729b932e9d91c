"""What is exported of a run, and what the formats have in common: answers, targets and numbers as others read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semclip_eval.errors import ConfigError
from semclip_eval.files import read_json, read_yaml, shown
from semclip_eval.json_output import plain, typed_row
from semclip_eval.results.records import SAMPLES, read_samples
from semclip_eval.results.summary import CATEGORIES, SUMMARY, metric_columns, read_rows, read_summary
from semclip_eval.scoring.choice import LETTERS

CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
# What of a record is not in a place of its own in either format.
DETAILS = (
    "category", "tags", "image_id", "cluster", "hint", "status", "reason", "views", "target_boxes", "target_coverage",
    "option_losses", "cost", "latency_ms", "chance",
)  # fmt: skip


@dataclass(frozen=True)
class ExportedRun:
    """A finished run: its row and its measures as values, the resolved config, the environment and the records."""

    row: Mapping[str, Any]
    measures: Mapping[str, Any]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]

    @property
    def n_unscored(self) -> int:
        """Questions without a score: errors, and answers of a forced length (latency mode)."""
        return sum(record["score"] is None for record in self.records)

    @property
    def metrics(self) -> dict[str, float]:
        """The benchmark's measure by its name, the ends of its interval, and the further measures; what is known."""
        row, name = self.row, str(self.row["metric"])
        values = {name: row["accuracy"], **{f"{name}_{end}": row[f"accuracy_{end}"] for end in ("ci_low", "ci_high")}}
        values |= {key: row[key] for key in ("chance_accuracy", "hit_rate", "visual_tokens_mean")} | dict(self.measures)
        return {key: value for key, value in values.items() if value is not None}


def exported_run(folder: Path) -> ExportedRun:
    """The finished run in `folder`; ConfigError where there is none, DataError where a file is damaged."""
    for name in (SUMMARY, CATEGORIES, SAMPLES, CONFIG, ENVIRONMENT):
        if not (folder / name).is_file():
            raise ConfigError(f"{shown(folder)}: holds no finished run (no {name}); name the folder of one.")
    rows = read_rows(folder / CATEGORIES)
    whole = [typed_row(row) for row in rows if row["breakdown"] == "all"]
    return ExportedRun(
        row=typed_row(read_summary(folder)),
        measures={name: row[name] for row in whole for name in metric_columns(rows)},
        config=read_yaml(folder / CONFIG),
        environment=read_json(folder / ENVIRONMENT),
        records=tuple(plain(record) for record in read_samples(folder)),
    )


def target(record: Mapping[str, Any]) -> list[str]:
    """The reference answers as text: the right option's, or those of a question without options."""
    truth = record["truth"]
    if record["options"]:
        return [record["options"][truth]]
    return [str(each) for each in truth] if isinstance(truth, list) else [str(truth)]


def answer(record: Mapping[str, Any]) -> str:
    """The answer as it was read: the chosen option's text, or what was generated; empty where nothing was read."""
    if record["options"]:
        return "" if record["choice"] is None else str(record["options"][record["choice"]])
    return record["answer"] or ""


def letter(index: int | None) -> str:
    """An option's letter; its number where there are more options than letters, empty for None."""
    if index is None:
        return ""
    return LETTERS[index] if index < len(LETTERS) else str(index)


def details(record: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of the record: views, boxes, losses, cost."""
    return {key: record.get(key) for key in DETAILS}


def json_text(document: object, indent: int | None = None) -> str:
    """JSON without NaN, readable where the text is."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=indent)
