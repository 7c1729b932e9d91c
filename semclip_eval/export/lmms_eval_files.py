"""A run as lmms-eval logs it: a line a question, and the results beside it.

The keys are those that its `loggers/evaluation_tracker.py` writes (`save_results_samples`, `save_results_aggregated`)
and its `baselines/loader.py` reads, as of lmms-eval 0.7.3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semclip_eval.export.exported import ExportedRun, answer, details, json_text, target

SAMPLES_MARK = "_samples_"


def files(run: ExportedRun, output: Path) -> dict[Path, str]:
    """The samples in `output`, the results where lmms-eval looks for them: `X_samples_TASK.jsonl`, `X_results.json`."""
    samples = [
        _sample(place, record) for place, record in enumerate(run.records) if record["score"] is not None
    ]  # a question without a score would be read as a wrong answer
    start = output.stem.split(SAMPLES_MARK)[0]
    return {
        output: "".join(json_text(sample) + "\n" for sample in samples),
        output.with_name(f"{start}_results.json"): json_text(_results(run, samples), indent=2) + "\n",
    }


def _sample(place: int, record: Mapping[str, Any]) -> dict[str, Any]:
    read, references = answer(record), target(record)
    sample = {
        "doc_id": place,
        "question_id": record["question_id"],
        "target": references[0] if len(references) == 1 else str(references),
        "filtered_resps": read,
        "token_counts": [_token_counts(record)],
        "doc_hash": _hash(json_text({key: record[key] for key in ("question", "options", "truth", "image_id")})),
        "input": record["question"],
        "score": record["score"],
        **details(record),
    }
    # As lmms-eval has it: the answer as generated, where reading it changed it.
    generated = record["answer"]
    return sample if generated is None or generated == read else {**sample, "resps": [generated]}


def _token_counts(record: Mapping[str, Any]) -> dict[str, int] | None:
    visual, text, new = (record[f"{kind}_tokens"] for kind in ("visual", "text", "new"))
    counts = {} if visual is None or text is None else {"input_tokens": visual + text}
    return (counts if new is None else {**counts, "output_tokens": new}) or None


def _results(run: ExportedRun, samples: list[dict[str, Any]]) -> dict[str, Any]:
    row = run.row
    task = str(row["benchmark"])
    hashes = "".join(f"sample_{place}{sample['doc_hash']}" for place, sample in enumerate(samples))
    return {
        "results": {task: {"alias": task, **{f"{name},none": value for name, value in run.metrics.items()}}},
        "group_subtasks": {task: []},
        "configs": {
            task: {
                "task": task,
                "test_split": row["split"],
                "output_type": "generate_until" if _generates(run) else "multiple_choice",
                "metadata": {"version": row["dataset_revision"], "protocol": row["protocol"]},
            }
        },
        "versions": {task: row["dataset_revision"]},
        "n-shot": {task: 0},
        "higher_is_better": {task: {str(row["metric"]): True}},
        "n-samples": {task: {"original": row["n"], "effective": len(samples)}},
        "config": {
            "model": row["model"],
            "model_args": f"revision={row['model_revision']}",
            "batch_size": row["batch_size"],
            "device": row["device"],
            "limit": run.config["run"].get("limit"),
            "random_seed": row["seed"],
            "semclip_eval": dict(row),
        },
        "git_hash": row["git_commit"],
        "date": row["started_at"],
        "task_hashes": {task: _hash(hashes)},
        "model_source": "semclip-eval",
        "model_name": row["model"],
        "model_name_sanitized": str(row["model"]).replace("/", "__"),
    }


def _generates(run: ExportedRun) -> bool:
    return any(record["answer"] is not None for record in run.records)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
