"""The card of a pushed results folder: what `datasets` reads first, and a person too."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

import semclip_eval
from semclip_eval.export.dataset_files import IMAGE_TABLES, RUN_TABLE, SAMPLE_TABLES
from semclip_eval.report.comparisons import comparisons
from semclip_eval.report.contents import main_table
from semclip_eval.report.lines import lines
from semclip_eval.report.runs import FinishedRun
from semclip_eval.report.table import markdown

SPLIT = "test"


def card(runs: Sequence[FinishedRun], repo: str, with_images: bool) -> bytes:
    """README.md: the YAML header that names the tables, the accuracies of every comparison, and how they were made."""
    tables = {SAMPLE_TABLES: f"{SAMPLE_TABLES}/*.parquet", "runs": RUN_TABLE}
    if with_images:
        tables[IMAGE_TABLES] = f"{IMAGE_TABLES}/*.parquet"
    configs = [
        {
            "config_name": name,
            "data_files": [{"split": SPLIT, "path": path}],
            **({"default": True} if place == 0 else {}),
        }
        for place, (name, path) in enumerate(tables.items())
    ]
    header = {
        "pretty_name": repo.rpartition("/")[2],
        "tags": ["semclip-eval", "evaluation-results"],
        "task_categories": ["visual-question-answering"],
        "configs": configs,
    }
    found = comparisons(runs)
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        "# Results of semclip-eval",
        f"What choosing image regions buys a vision-language model: {len(runs)} finished runs, every question with its "
        "answer, what the selector looked at and what it cost. Written by `semclip-eval push` "
        f"({semclip_eval.__version__}).",
        *(markdown(main_table(comparison, lines(comparison))).rstrip() for comparison in found),
        "## How they were made",
        _block("sh", [command_of(runs_of) for runs_of in _by_command(runs)]),
        "What else was set stands in the `config.yaml` of each run, versions and machine in its `environment.json`.",
        "## Reading them",
        _block("python", [
            "from datasets import load_dataset", "",
            f'samples = load_dataset("{repo}", split="{SPLIT}")          # a row for each question of each run',
            f'runs = load_dataset("{repo}", "runs", split="{SPLIT}")     # a row for each run',
            *([f'images = load_dataset("{repo}", "{IMAGE_TABLES}", split="{SPLIT}")'] if with_images else []),
        ]),
        "The repository is a results folder itself:",
        _block("sh", [
            f"hf download --repo-type dataset {repo} --local-dir results",
            "semclip-eval report results",
        ]),
        "`truth` is the index of the right option, `references` are the right texts; boxes are pixels of the original "
        "image; accuracies are fractions; an empty cell means 'not measured', never zero. Questions and answers are "
        "those of the benchmarks, whose licences hold for them.",
    ]  # fmt: skip
    return ("\n\n".join(parts) + "\n").encode("utf-8", "backslashreplace")


def _by_command(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """The runs, together where one sweep makes them: a selector without crops or ψ goes with any."""
    groups: list[list[FinishedRun]] = []
    for run in sorted(runs, key=lambda run: not (run.row["crops"] and run.row["psi"])):
        fitting = [
            group
            for group in groups
            if _asked(group[0]) == _asked(run)
            and all(_shared(group, name) in ("", run.row[name] or _shared(group, name)) for name in ("crops", "psi"))
        ]
        if fitting:
            fitting[0].append(run)
        else:
            groups.append([run])
    return groups


def _shared(runs: Sequence[FinishedRun], name: str) -> str:
    """The crops or ψ of a group; empty where none of its runs has any."""
    return next((run.row[name] for run in runs if run.row[name]), "")


def command_of(runs: Sequence[FinishedRun]) -> str:
    """The command for runs that differ in nothing but their selector (or what `config.yaml` says beside)."""
    selectors = ",".join(dict.fromkeys(run.selector for run in runs))
    chosen = [f"{name}={_shared(runs, name)}" for name in ("crops", "psi") if _shared(runs, name)]
    return " ".join(
        ["semclip-eval", *(["-m"] if "," in selectors else []), *_asked(runs[0]), f"selector={selectors}", *chosen]
    )


def _asked(run: FinishedRun) -> list[str]:
    """The overrides of a run that say what was asked, and of whom."""
    row, own = run.row, run.config["run"]
    told = [f"{name}={row[name]}" for name in ("profile", "benchmark", "model")]
    if run.config["benchmark"].get("protocol"):
        told.append(f"benchmark.protocol={run.config['benchmark']['protocol']}")
    told += [f"run.limit={own['limit']}"] if own.get("limit") else []
    told += [f"run.mode={row['mode']}"] if row["mode"] != "accuracy" else []
    return [*told, f"run.seed={row['seed']}"]


def _block(language: str, text: Sequence[str]) -> str:
    return "\n".join((f"```{language}", *text, "```"))
