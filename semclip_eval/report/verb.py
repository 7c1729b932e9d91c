"""`semclip-eval report`: from a results folder to a page, its tables and its plots."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from semclip_eval.console import notice, out
from semclip_eval.errors import ConfigError
from semclip_eval.report import table as tables
from semclip_eval.report.breakdowns import breakdown_tables, measure_table
from semclip_eval.report.calibration import calibration_table, calibrations
from semclip_eval.report.comparisons import comparisons
from semclip_eval.report.contents import main_table, run_table, stage_table
from semclip_eval.report.gallery import galleries
from semclip_eval.report.joined import timings
from semclip_eval.report.lines import lines
from semclip_eval.report.overview import overview_table
from semclip_eval.report.page import Section, page
from semclip_eval.report.pictures import ImageSources
from semclip_eval.report.plots import plots
from semclip_eval.report.runs import FinishedRun, LeftOut, read_results
from semclip_eval.report.style import styles
from semclip_eval.report.table import Table
from semclip_eval.report.viewer import PICTURES, viewer

PAGE = "report.html"
GALLERY = 12

T = TypeVar("T")


def run_report(arguments: list[str]) -> int:
    """The verb; ConfigError where the folder holds no finished run or the report cannot be written."""
    parser = argparse.ArgumentParser(
        prog="semclip-eval report",
        description="One page about all finished runs of a results folder, its tables and its plots.",
    )
    parser.add_argument("results_dir", type=Path, help="the run.output_dir of the runs (results by default)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: RESULTS_DIR/report)")
    parser.add_argument(
        "--gallery",
        type=int,
        default=GALLERY,
        metavar="N",
        help=f"questions in each comparison's gallery (default {GALLERY})",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=PICTURES,
        metavar="N",
        help=f"most images among all questions, whose texts are always there (default {PICTURES})",
    )
    chosen = parser.parse_args(arguments)
    if chosen.gallery < 0:
        raise ConfigError(f"--gallery {chosen.gallery}: must be 0 or more.")
    if chosen.pictures < 0:
        raise ConfigError(f"--pictures {chosen.pictures}: must be 0 or more.")
    files, left_out = report(chosen.results_dir, chosen.gallery, chosen.pictures)
    folder = chosen.output or chosen.results_dir / "report"
    write(folder, files)
    for folder_left in left_out:
        notice(f"left out: {folder_left.folder}: {folder_left.why}")
    count = {ending: sum(name.endswith(ending) for name in files) for ending in (".csv", ".svg")}
    notice(f"{count['.csv']} tables (CSV, Markdown, LaTeX) and {count['.svg']} plots (PNG, SVG) lie beside the page.")
    out.print(str(folder / PAGE), markup=False, highlight=False, soft_wrap=True)
    return 0


def report(
    results: Path, gallery: int = GALLERY, pictures: int = PICTURES
) -> tuple[dict[str, bytes], Sequence[LeftOut]]:
    """The report's files by their names relative to its folder, and the run folders that it leaves out.

    The same results give the same bytes. `gallery` is the number of questions in the gallery of each comparison,
    `pictures` the most images among all questions. Raises ConfigError where `results` holds no finished run.
    """
    with _uncollected(lambda: read_results(results)) as (runs, left_out):
        return _files(runs, left_out, gallery, pictures), left_out


def _files(runs: list[FinishedRun], left_out: list[LeftOut], gallery: int, pictures: int) -> dict[str, bytes]:
    found = comparisons(runs)
    marks = styles(found)
    rows = [lines(comparison) for comparison in found]
    together = list(zip(found, rows, strict=True))
    sources = ImageSources()
    shown = galleries(together, gallery, sources)
    calibrated = [calibrations(comparison, run_lines) for comparison, run_lines in together]
    sections = [
        Section(
            comparison=comparison,
            lines=tuple(run_lines),
            main=main_table(comparison, run_lines),
            measures=measure_table(comparison, run_lines),
            breakdowns=breakdown_tables(comparison, run_lines),
            stages=stage_table(comparison, run_lines),
            calibration=calibration_table(comparison, margins),
            plots=tuple(plots(comparison, run_lines, marks, timings(comparison, runs), margins)),
            gallery=looked_at,
        )
        for (comparison, run_lines), looked_at, margins in zip(together, shown, calibrated, strict=True)
    ]
    runs_table, overview = run_table(found), overview_table(together)
    questions = viewer(together, marks, sources, pictures)
    text = page(sections, runs_table, left_out, marks, overview, questions, pictures)
    files: dict[str, bytes] = {PAGE: text.encode()}
    for table in (runs_table, overview):
        files |= _table_files(table.name, table) if table is not None else {}
    for section in sections:
        slug = section.comparison.slug
        for table in section.tables:
            files |= _table_files(f"{slug}.{table.name}", table)
        for plot in section.plots:
            files[f"plots/{slug}.{plot.name}.png"] = plot.png
            files[f"plots/{slug}.{plot.name}.svg"] = plot.svg.encode()
    return files


@contextmanager
def _uncollected(make: Callable[[], T]) -> Iterator[T]:
    """What `make` gives, kept from the garbage collector: records are millions of small objects, none of them garbage,
    and to look through them again and again takes a third of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        made = make()
        gc.freeze()
    finally:
        if was_on:
            gc.enable()
    try:
        yield made
    finally:
        gc.unfreeze()


def _table_files(name: str, table: Table) -> dict[str, bytes]:
    writers = {"csv": tables.csv, "md": tables.markdown, "tex": tables.latex}
    return {f"tables/{name}.{ending}": writer(table).encode() for ending, writer in writers.items()}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files below a folder, the page last; ConfigError where that fails."""
    for name in sorted(files, key=lambda name: (name == PAGE, name)):
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[name])
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be written ({error.strerror or error}). Free the disk or name another folder "
                "with --output."
            ) from error
