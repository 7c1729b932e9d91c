"""`semclip-eval push`: a results folder as a dataset on the Hub, for `datasets`, its viewer and other people."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from semclip_eval.console import notice, out, warn
from semclip_eval.errors import ConfigError
from semclip_eval.export.dataset_card import card
from semclip_eval.export.dataset_files import (
    IMAGE_TABLES,
    RUN_TABLE,
    image_table,
    refuse_secrets,
    roll_up,
    run_files,
    run_table,
    sample_tables,
)
from semclip_eval.export.hub_repository import checked_name, push
from semclip_eval.report.runs import FinishedRun, read_results
from semclip_eval.results.summary import ROLL_UP


def run_push(arguments: list[str]) -> int:
    """The verb. ConfigError for what is no results folder, a key in a file, and whatever the Hub refuses."""
    parser = argparse.ArgumentParser(
        prog="semclip-eval push",
        description="The finished runs of a results folder as a dataset on the Hugging Face Hub (docs/exporting.md).",
    )
    parser.add_argument("results_dir", type=Path, help="the run.output_dir of the runs (results by default)")
    parser.add_argument("repo", help="the dataset repository: OWNER/NAME, or NAME for one of your own")
    parser.add_argument("--public", action="store_true", help="for everybody to see (default: private)")
    parser.add_argument("--images", action="store_true", help="the benchmarks' images too (mind their licences)")
    parser.add_argument("--replace", action="store_true", help="let go of runs that the folder does not have any more")
    parser.add_argument("--dry-run", action="store_true", help="only list the files and their sizes")
    chosen = parser.parse_args(arguments)
    repo = checked_name(chosen.repo)
    runs, left_out = read_results(chosen.results_dir)
    for folder in left_out:
        notice(f"left out: {folder.folder}: {folder.why}")
    with tempfile.TemporaryDirectory(prefix="semclip_eval_push_") as scratch:
        files: dict[str, bytes | Path] = {
            "README.md": card(runs, repo, chosen.images),
            ROLL_UP: roll_up(runs),
            RUN_TABLE: run_table(runs),
            **sample_tables(runs),
            **run_files(runs, chosen.results_dir),
        }
        if chosen.images:
            files |= _images(runs, Path(scratch))
        refuse_secrets(files, runs)
        if chosen.dry_run:
            _list(files, repo, chosen.public)
            return 0
        if chosen.public:
            warn("--public: everybody sees questions, answers and the paths of this machine in config.yaml.")
        address = push(repo, files, chosen.public, chosen.replace)
    notice(f"{len(runs)} runs, {len(files)} files, {'public' if chosen.public else 'private'}.")
    out.print(address, markup=False, highlight=False, soft_wrap=True)
    return 0


def _images(runs: Sequence[FinishedRun], folder: Path) -> dict[str, Path]:
    """A table of the images of each benchmark; ConfigError where its data are not here, or not those of the runs."""
    from semclip_eval.report.pictures import ImageSources

    sources, files = ImageSources(), {}
    by_data: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        by_data.setdefault((run.row["benchmark"], run.row["dataset_revision"]), []).append(run)
    for number, ((benchmark, _), own) in enumerate(by_data.items()):
        try:
            images = sources.of(own[0])
        except ValueError as error:
            raise ConfigError(f"--images: {benchmark}: {error}. Leave --images out, or put the data back.") from error
        place = folder / f"{number}.parquet"
        image_table(place, benchmark, _each_once(own, images))
        files[f"{IMAGE_TABLES}/{benchmark}{f'-{number}' if number else ''}.parquet"] = place
    return files


def _each_once(runs: Sequence[FinishedRun], images: Any) -> Iterator[tuple[str, Any]]:
    known = set()
    for record in (record for run in runs for record in run.records):
        if record["image_id"] not in known:
            known.add(record["image_id"])
            try:
                image = images.load(str(record["question_id"]))
            except ValueError as error:
                notice(f"--images: {record['image_id']} is left out: {error}")
                continue
            yield str(record["image_id"]), image


def _list(files: dict[str, bytes | Path], repo: str, public: bool) -> None:
    sizes = {
        name: content.stat().st_size if isinstance(content, Path) else len(content) for name, content in files.items()
    }
    total = sum(sizes.values())
    width = max(len(f"{total:,}"), 5)
    for name, size in sizes.items():
        out.print(f"{size:>{width},}  {name}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"{total:>{width},}  bytes in {len(files)} files", markup=False, highlight=False, soft_wrap=True)
    notice(
        f"Nothing was pushed. Without --dry-run these become the {'public' if public else 'private'} dataset {repo}."
    )
