"""A run as inspect_ai's eval log (JSON, version 2), which `inspect view` and `read_eval_log` open.

The keys are those of inspect_ai's `EvalLog` (inspect_ai/log/_log.py), as of inspect_ai 0.3.285.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semclip_eval.export.exported import ExportedRun, answer, details, json_text, letter, target

VERSION = 2


def files(run: ExportedRun, output: Path) -> dict[Path, str]:
    """The log in `output`."""
    samples = [_sample(run, record) for record in run.records]
    log = {
        "version": VERSION,
        "status": "success",
        "eval": _spec(run),
        "plan": {"name": "plan", "steps": []},
        "results": _results(run),
        "stats": {"started_at": run.row["started_at"] or "", "completed_at": "", "model_usage": {}},
        "samples": samples,
    }
    return {output: json_text(log, indent=2) + "\n"}


def _spec(run: ExportedRun) -> dict[str, Any]:
    row = run.row
    spec = {
        "eval_id": _identity(run, "eval"),
        "run_id": _identity(run, "run"),
        "created": row["started_at"],
        "task": row["benchmark"],
        "task_id": _identity(run, "task"),
        "task_version": 0,
        "task_args": {key: row[key] for key in ("protocol", "selector", "crops", "psi", "mode", "seed")},
        "dataset": {
            "name": row["benchmark"],
            "location": row["dataset_revision"],
            "samples": row["n"],
            "sample_ids": [record["question_id"] for record in run.records],
            "shuffled": False,
        },
        "model": f"semclip-eval/{row['model']}",
        "model_args": {"revision": row["model_revision"], "dtype": row["dtype"], "attn": row["attn"]},
        "config": {"limit": run.config["run"].get("limit"), "epochs": 1},
        "packages": {
            "semclip_eval": row["package_version"],
            **{name: version for name, version in (run.environment.get("packages") or {}).items() if version},
        },
        "metadata": {"semclip_eval": dict(row), "config": dict(run.config)},
        "scorers": [{"name": row["metric"]}],
    }
    if row["git_commit"]:
        spec["revision"] = {"type": "git", "origin": "", "commit": row["git_commit"]}
    return spec


def _identity(run: ExportedRun, kind: str) -> str:
    """22 hex digits: the same for the same run."""
    return hashlib.sha256(f"{kind} {run.row['run_id']} {run.row['started_at']}".encode()).hexdigest()[:22]


def _results(run: ExportedRun) -> dict[str, Any]:
    row = run.row
    metrics = {name: {"name": name, "value": value} for name, value in run.metrics.items()}
    score = {
        "name": row["metric"],
        "scorer": row["metric"],
        "scored_samples": row["n_scored"],
        "unscored_samples": row["n"] - row["n_scored"],
        "metrics": metrics,
    }
    return {"total_samples": row["n"], "completed_samples": row["n"] - row["n_error"], "scores": [score]}


def _sample(run: ExportedRun, record: Mapping[str, Any]) -> dict[str, Any]:
    options = record["options"]
    references = [letter(record["truth"])] if options else target(record)
    model = f"semclip-eval/{run.row['model']}"
    given = record["answer"] if record["answer"] is not None else answer(record)
    sample: dict[str, Any] = {
        "id": record["question_id"],
        "epoch": 1,
        "input": record["question"],
        "choices": list(options) or None,
        "target": references[0] if len(references) == 1 else references,
        "messages": [{"role": "user", "content": record["question"]}],
        "output": {"model": model, "choices": [], "completion": ""},
        "scores": None,
        "metadata": details(record),
    }
    if record["status"] == "error":
        message = f"{record['error']['type']}: {record['error']['message']}"
        return sample | {"error": {"message": message, "traceback": "", "traceback_ansi": ""}}
    reply = {"role": "assistant", "content": given, "source": "generate", "model": model}
    sample["messages"].append(reply)
    sample["output"] = {"model": model, "choices": [{"message": reply, "stop_reason": "stop"}], "completion": given}
    if (usage := _usage(record)) is not None:
        sample["output"]["usage"] = usage
        sample["model_usage"] = {model: usage}
    if record["score"] is not None:
        score = {
            "value": record["score"],
            "answer": letter(record["choice"]) if options else answer(record),
            "explanation": f"{record['status']}: {record['reason']}" if record["reason"] else None,
        }
        sample["scores"] = {str(run.row["metric"]): score}
    return sample


def _usage(record: Mapping[str, Any]) -> dict[str, int] | None:
    visual, text, new = (record[f"{kind}_tokens"] for kind in ("visual", "text", "new"))
    if visual is None or text is None:
        return None
    return {"input_tokens": visual + text, "output_tokens": new or 0, "total_tokens": visual + text + (new or 0)}
