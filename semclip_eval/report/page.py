"""The HTML page: everything in one file, nothing to load, every text of the data escaped by the template engine."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semclip_eval.report.canvas import Plot
from semclip_eval.report.comparisons import Comparison
from semclip_eval.report.contents import DUMMY_WARNING, MINI_WARNING
from semclip_eval.report.gallery import Gallery
from semclip_eval.report.lines import Line, focus
from semclip_eval.report.runs import LeftOut
from semclip_eval.report.style import ACCENT, INK, MUTED, TARGET, Style
from semclip_eval.report.table import Table, csv, decimal, p_value, percent, points, printable
from semclip_eval.report.viewer import Viewer, as_json

TEMPLATE = "page.html"
SCRIPTS = ("page.js", "drawing.js", "viewer.js")


@dataclass(frozen=True)
class Section:
    """One comparison with everything that the page shows of it; `tables` without those that it does not have."""

    comparison: Comparison
    lines: tuple[Line, ...]
    main: Table
    measures: Table | None
    breakdowns: tuple[Table, ...]
    stages: Table | None
    calibration: Table | None
    plots: tuple[Plot, ...]
    gallery: Gallery

    @property
    def tables(self) -> tuple[Table, ...]:
        found = (self.main, self.measures, *self.breakdowns, self.stages, self.calibration)
        return tuple(table for table in found if table is not None)

    @property
    def miniature(self) -> bool:
        return self.comparison.shared("profile") == "mini"

    @property
    def facts(self) -> str:
        """What all runs of the section share, beside its title."""
        shared = self.comparison.shared
        facts = [f"{shared('n')} questions of split {shared('split')}", f"seed {shared('seed')}"]
        facts += [f"{shared('mode')} mode", f"profile {shared('profile')}"]
        facts += [f"model revision {shared('model_revision') or 'unknown'}"]
        facts += [f"data revision {shared('dataset_revision') or 'unknown'}"]
        return ", ".join(facts)

    @property
    def chance(self) -> str:
        """The expected accuracy of guessing, empty where the questions have no options."""
        value = self.comparison.runs[0].run.number("chance_accuracy")
        return "" if value is None else f"{percent(value)} %"

    @property
    def finding(self) -> str:
        """What the comparison is about, in a sentence or two; empty where it could not be measured."""
        if self.comparison.random_weights and self.comparison.shared("mode") == "accuracy":
            return ""
        if self.comparison.shared("mode") == "latency":
            return self._times()
        line = focus(self.lines)
        if line is None or line.pair is None or line.pair.difference is None:
            return ""
        pair, difference = line.pair, line.pair.difference
        mean = pair.other_accuracy - pair.reference_accuracy  # as the table below says it, to the last digit
        text = (
            f"With {line.name} the {self.comparison.shared('metric')} is {percent(pair.other_accuracy)} %, "
            f"with no_crop {percent(pair.reference_accuracy)} %: a difference of {points(mean)} points "
            f"(95 % interval {points(difference.low)} to {points(difference.high)}"
            + (")" if pair.p is None or pair.n_clusters < pair.n_units else f", p {_equals(p_value(pair.p))})")
        )
        if pair.visual_tokens_ratio is not None:
            text += f", for {pair.visual_tokens_ratio:.1f} times the visual tokens of no_crop"
        if line.tokens_ratio is not None and line.run.kind != "everything":
            text += f" and {line.tokens_ratio:.2f} times those of full_crop"
        if pair.n_left_out:
            text += f", over the {pair.n} questions that both answered"
        if difference.low <= 0 <= difference.high:
            text += ". The interval includes zero: these questions do not show a difference"
        return text + "."

    def _times(self) -> str:
        times = [(line.latency.get("e2e_ms_p50"), line.name) for line in self.lines]
        known = [f"{decimal(time, 1)} ms with {name}" for time, name in times if time is not None]
        return f"At the median one question takes {', '.join(known)}." if known else ""


def _equals(text: str) -> str:
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


def page(
    sections: Sequence[Section],
    runs: Table,
    left_out: Sequence[LeftOut],
    styles: Mapping[str, Style],
    overview: Table | None = None,
    viewer: Viewer | None = None,
    most_pictures: int = 0,
) -> str:
    """The whole page. The same arguments give the same text.

    Its only script is our own, which the page's policy names by its hash; the questions are data that no browser runs.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    script = "\n".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in SCRIPTS)
    comparisons = [section.comparison for section in sections]
    return environment.get_template(TEMPLATE).render(
        sections=sections,
        title=_title(comparisons),
        summary=_summary(comparisons),
        runs=runs,
        left_out=left_out,
        styles=styles,
        all_miniature=all(section.miniature for section in sections),
        any_miniature=any(section.miniature for section in sections),
        any_oracle=any(line.run.kind == "oracle" for section in sections for line in section.lines),
        any_timed=any(section.stages for section in sections),
        any_joined=any(plot.name == "accuracy_ms" for section in sections for plot in section.plots),
        overview=overview,
        viewer=viewer,
        most_pictures=most_pictures,
        question_data=Markup(as_json(viewer.data)) if viewer else "",
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        mini_warning=MINI_WARNING,
        dummy_warning=DUMMY_WARNING,
        accent=ACCENT,
        ink=INK,
        muted=MUTED,
        target=TARGET,
        data_uri=data_uri,
        csv_uri=csv_uri,
    )


def data_uri(plot: Plot) -> str:
    """The plot's SVG as an address that needs no file; apart from the page's own markup, so that ids do not clash."""
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode("ascii")


def csv_uri(table: Table) -> str:
    """The table's CSV as an address that needs no file."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(csv(table).encode("utf-8")).decode("ascii")


def _shown(value: Any) -> Any:
    """Text without the control characters that HTML forbids."""
    return printable(value) if type(value) is str else value


def _title(comparisons: Sequence[Comparison]) -> str:
    models = _distinct(comparison.shared("model") for comparison in comparisons)
    benchmarks = _distinct(comparison.shared("benchmark") for comparison in comparisons)
    return f"Choosing image regions: {_named(models, 'models')} on {_named(benchmarks, 'benchmarks')}"


def _named(names: Sequence[str], plural: str) -> str:
    return " and ".join(names) if len(names) <= 2 else f"{len(names)} {plural}"


def _summary(comparisons: Sequence[Comparison]) -> list[tuple[str, list[str]]]:
    """Term and values of the list at the head of the page."""
    rows = [labelled.run.row for comparison in comparisons for labelled in comparison.runs]

    def pairs(name: str, revision: str) -> list[str]:
        found = [(row[name], row[revision]) for row in rows if row[name]]
        return _distinct(f"{one} ({other})" if other else one for one, other in found)

    return [
        (term, values)
        for term, values in (
            ("Profile", _distinct(row["profile"] for row in rows)),
            ("Models (revision)", pairs("model", "model_revision")),
            ("Benchmarks (revision)", pairs("benchmark", "dataset_revision")),
            ("Protocols", _distinct(row["protocol"] for row in rows)),
            ("ψ (revision)", pairs("psi", "psi_revision")),
            ("Devices", _distinct(f"{row['device']}, {row['dtype']}" for row in rows if row["device"])),
            ("Runs", [f"{len(rows)} in {len(comparisons)} comparison{'s' if len(comparisons) > 1 else ''}"]),
        )
        if values
    ]


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(values))
