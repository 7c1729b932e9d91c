"""The plots: accuracy against visual tokens, hit rate and size of the target, latency by stage.

Drawn small, so that their text stays readable on a phone; the same bytes for the same numbers.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from semclip_eval.report.comparisons import Comparison, Labelled
from semclip_eval.report.lines import Line, timed_stages
from semclip_eval.report.style import INK, MUTED, STAGE_COLOURS, Style
from semclip_eval.report.table import count, decimal, percent
from semclip_eval.results.pareto import front
from semclip_eval.results.targets import TARGET_SIZE

WIDTH, HEIGHT = 4.5, 3.8
PNG_DPI = 200
# Beyond this ratio of most to fewest tokens the few are told apart on a logarithmic axis only.
LOG_RATIO = 8
# Runs at the same place stand side by side, this many points apart.
DODGE_POINTS = 8
DODGE_PART = 0.02
# And closer where many share a place, so that none stands far from where it belongs.
DODGE_MOST = 24
# With more runs than this, intervals are drawn thin and pale behind the marks.
CROWD = 8
# A size with fewer questions than this has an interval that tells nothing.
FEWEST_OF_A_SIZE = 10
# Height in inches of one row of the legend.
LEGEND_ROW = 0.2


@dataclass(frozen=True)
class Plot:
    """A finished plot. name: the end of its file names. alt: what it shows, in words and numbers."""

    name: str
    title: str
    alt: str
    png: bytes
    svg: str


def plots(comparison: Comparison, rows: Sequence[Line], styles: Mapping[str, Style]) -> list[Plot]:
    """The plots that the numbers allow: latencies in latency mode, otherwise accuracies of two runs or more."""
    if comparison.shared("mode") == "latency":
        found = [_latency_plot(rows)]
    else:
        found = [_tokens_plot(rows, styles), _hits_plot(rows, styles), *_size_plots(rows, styles)]
    return [plot for plot in found if plot is not None]


def _tokens_plot(rows: Sequence[Line], styles: Mapping[str, Style]) -> Plot | None:
    return cost_plot(
        "tokens", "visual tokens", [(line, line.run.number("visual_tokens_mean")) for line in rows], styles
    )


def cost_plot(
    name: str, unit: str, costs: Sequence[tuple[Line | Labelled, float | None]], styles: Mapping[str, Style]
) -> Plot | None:
    """Accuracy against what a question costs on average, with the Pareto front; None for fewer than two runs.

    Runs whose accuracy or cost was not measured are left out; oracles are drawn, but no part of the front.
    """
    measured = [(line, cost) for line, cost in costs if cost is not None and _measured(line, "accuracy")]
    if len(measured) < 2:
        return None
    shown, places = [line for line, _ in measured], [cost for _, cost in measured]

    def decorate(axes: Any) -> None:
        axes.set_xlabel(f"{unit} a question")
        if max(places) > LOG_RATIO * min(places) > 0:
            _log_ticks(axes, min(places), max(places))
        else:
            # Room for marks that stand side by side at the ends.
            axes.margins(x=0.08)
        steps = _front_steps(shown, places)
        if len(steps) > 1:
            axes.plot(*zip(*steps, strict=True), drawstyle="steps-post", color="#bdbdbd", linewidth=1.2, zorder=1)

    alt = "; ".join(f"{_reads(line)} at {count(cost)} {unit}" for line, cost in measured)
    return _scatter(f"accuracy_{name}", f"Accuracy against {unit}", alt, places, shown, styles, decorate)


def _hits_plot(rows: Sequence[Line], styles: Mapping[str, Style]) -> Plot | None:
    shown = [line for line in rows if _measured(line, "accuracy") and _measured(line, "hit_rate")]
    if len(shown) < 2:
        return None

    def decorate(axes: Any) -> None:
        axes.set_xlabel("hit rate, %")
        axes.set_xlim(-4, 104)

    alt = "; ".join(f"{_reads(line)} at a hit rate of {percent(line.run.number('hit_rate'))} %" for line in shown)
    places = [100 * _value(line, "hit_rate") for line in shown]
    return _scatter("accuracy_hits", "Accuracy against hit rate", alt, places, shown, styles, decorate)


def _size_plots(rows: Sequence[Line], styles: Mapping[str, Style]) -> list[Plot | None]:
    """Accuracy by size of the target, a plot for each category that has questions of three sizes or more."""
    names = dict.fromkeys(row["category"] for line in rows for row in line.run.breakdowns.get(TARGET_SIZE, ()))
    categories = dict.fromkeys(name.rpartition(", ")[0] for name in names)
    return [_size_plot(category, rows, styles) for category in categories]


def _size_plot(category: str, rows: Sequence[Line], styles: Mapping[str, Style]) -> Plot | None:
    points: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for line in rows:
        for row in line.run.breakdowns.get(TARGET_SIZE, ()):
            of, _, size = row["category"].rpartition(", ")
            if of == category and row["accuracy"] and int(row["n"]) >= FEWEST_OF_A_SIZE:
                points.setdefault(line.run.id, []).append((size, row))
    shown = [line for line in rows if line.run.id in points]
    sizes = list(dict.fromkeys(size for line in shown for size, _ in points[line.run.id]))
    if len(sizes) < 3:
        return None
    names = [line.name + (" (sees the boxes)" if line.run.kind == "oracle" else "") for line in shown]
    columns = _legend_columns(names)
    title = f"Accuracy by size of the target{f', {category}' if category else ''}"
    told = []
    with _figure(HEIGHT + LEGEND_ROW * (len(names) / columns - 2)) as figure:
        axes = figure.add_subplot()
        for name, line in zip(names, shown, strict=True):
            own = points[line.run.id]
            style = styles[line.run.id]
            accuracies = [100 * float(row["accuracy"]) for _, row in own]
            ends = [
                [100 * float(row[f"accuracy_ci_{end}"] or row["accuracy"]) for _, row in own] for end in ("low", "high")
            ]
            axes.errorbar(
                [sizes.index(size) for size, _ in own],
                accuracies,
                yerr=[
                    [accuracy - low for accuracy, low in zip(accuracies, ends[0], strict=True)],
                    [high - accuracy for accuracy, high in zip(accuracies, ends[1], strict=True)],
                ],
                fmt=f"{style.mark}-",
                color=style.colour,
                markerfacecolor="white" if style.hollow else style.colour,
                markersize=6,
                linewidth=1.2,
                elinewidth=1,
                capsize=2,
                label=name,
            )
            told.append(f"{name} " + ", ".join(f"{a:.1f}" for a in accuracies))
        axes.set_xticks(range(len(sizes)), [size.removesuffix(" %") for size in sizes], fontsize=9)
        axes.set_xlabel("size of the smallest target, % of the image's side")
        axes.set_ylabel("accuracy, % (95 % interval)")
        _legend(figure, columns)
        name = re.sub(r"[^A-Za-z0-9]+", "_", f"accuracy_size_{category}").rstrip("_")
        return _drawn(figure, name, title, f"{title}, from {sizes[0]} to {sizes[-1]}: {'; '.join(told)}.")


def _scatter(
    name: str,
    title: str,
    alt: str,
    places: Sequence[float],
    shown: Sequence[Line | Labelled],
    styles: Mapping[str, Style],
    decorate: Callable[[Any], None],
) -> Plot:
    """Accuracies with their intervals over a place for each run; `decorate` sets up the horizontal axis."""
    from matplotlib.colors import to_rgba
    from matplotlib.transforms import ScaledTranslation

    crowded = len(shown) > CROWD
    names = [line.name + (" (sees the boxes)" if line.run.kind == "oracle" else "") for line in shown]
    columns = _legend_columns(names)
    with _figure(HEIGHT + LEGEND_ROW * (len(names) / columns - 2)) as figure:
        axes = figure.add_subplot()
        decorate(axes)
        for name_shown, line, place, shift in zip(names, shown, places, _dodge(places), strict=True):
            style = styles[line.run.id]
            accuracy = 100 * _value(line, "accuracy")
            low, high = line.run.number("accuracy_ci_low"), line.run.number("accuracy_ci_high")
            interval = (
                [[accuracy - 100 * low], [100 * high - accuracy]] if low is not None and high is not None else None
            )
            axes.errorbar(
                [place],
                [accuracy],
                yerr=interval,
                fmt=style.mark,
                color=style.colour,
                markerfacecolor="white" if style.hollow else style.colour,
                markersize=6 if crowded else 7,
                ecolor=to_rgba(style.colour, 0.35 if crowded else 1),
                elinewidth=0.9 if crowded else 1.3,
                capsize=0 if crowded else 2.5,
                label=name_shown,
                transform=axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans),
                zorder=3,
            )
        _accuracy_axis(axes, shown)
        _legend(figure, columns)
        return _drawn(figure, name, title, f"{title}. {alt}.")


def _accuracy_axis(axes: Any, shown: Sequence[Line | Labelled]) -> None:
    chance = shown[0].run.number("chance_accuracy")
    ends = [
        100 * value
        for line in shown
        for column in ("accuracy_ci_low", "accuracy_ci_high", "accuracy")
        if (value := line.run.number(column)) is not None
    ]
    if chance is not None:
        ends.append(100 * chance)
        axes.axhline(100 * chance, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
        # Outside, where no interval runs through it.
        axes.annotate(
            "chance",
            (1, 100 * chance),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            color=MUTED,
            fontsize=9,
        )
    pad = 0.06 * max(10.0, max(ends) - min(ends))
    axes.set_ylim(max(-2.0, min(ends) - pad), min(102.0, max(ends) + pad))
    axes.set_ylabel("accuracy, % (95 % interval)")


def _front_steps(shown: Sequence[Line | Labelled], places: Sequence[float]) -> list[tuple[float, float]]:
    """Corners of the Pareto front up to the highest cost, accuracies in percent; oracles are no methods."""
    points = [
        (place, 100 * _value(line, "accuracy"))
        for line, place in zip(shown, places, strict=True)
        if line.run.kind != "oracle"
    ]
    steps = [points[index] for index in front(points)]
    return [*steps, (max(places), steps[-1][1])] if steps else []


def _log_ticks(axes: Any, least: float, most: float) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5 of every power of ten, as plain numbers."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

    axes.set_xscale("log")
    ticks = [digit * 10**power for power in range(8) for digit in (1, 2, 5)]
    axes.set_xlim(least / 1.35, most * 1.35)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if least / 1.35 <= tick <= most * 1.35]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _dodge(places: Sequence[float]) -> list[float]:
    """Horizontal shifts in points that put runs at (nearly) the same place side by side."""
    near = DODGE_PART * (max(places) - min(places))
    groups: dict[float, list[int]] = defaultdict(list)
    for index in sorted(range(len(places)), key=lambda index: places[index]):
        start = next((start for start in groups if abs(places[index] - start) <= near), places[index])
        groups[start].append(index)
    shifts = [0.0] * len(places)
    for members in groups.values():
        apart = min(DODGE_POINTS, DODGE_MOST / max(1, len(members) - 1))
        for rank, index in enumerate(sorted(members)):
            shifts[index] = apart * (rank - (len(members) - 1) / 2)
    return shifts


def _latency_plot(rows: Sequence[Line]) -> Plot | None:
    shown = [line for line in rows if line.latency]
    if not shown:
        return None
    with _figure(1.4 + 0.36 * len(shown)) as figure:
        axes = figure.add_subplot()
        names = [line.name for line in shown]
        left = [0.0] * len(shown)
        for stage in timed_stages(shown):
            times = [line.latency.get(f"{stage}_ms_p50", 0.0) for line in shown]
            axes.barh(names, times, left=left, height=0.62, color=STAGE_COLOURS[stage], label=stage)
            left = [start + time for start, time in zip(left, times, strict=True)]
        whole = [(line.latency["e2e_ms_p50"], line.name) for line in shown if "e2e_ms_p50" in line.latency]
        if whole:
            axes.plot(*zip(*whole, strict=True), "|", color=INK, markersize=15, markeredgewidth=2, label="E2E median")
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("ms a question (median of each stage)")
        axes.grid(visible=False, axis="y")
        _legend(figure, columns=4)
        alt = "; ".join(f"{line.name} {decimal(line.latency.get('e2e_ms_p50'), 1)} ms" for line in shown)
        return _drawn(figure, "latency", "Latency by stage", f"Latency by stage. End to end at the median: {alt}.")


def _legend_columns(names: Sequence[str]) -> int:
    longest = max(len(name) for name in names)
    return 3 if longest <= 14 else 2 if longest <= 26 else 1


def _legend(figure: Any, columns: int) -> None:
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5, handletextpad=0.5)


@contextmanager
def _figure(height: float) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_rc()):
        yield Figure(figsize=(WIDTH, height), layout="constrained")


def _rc() -> dict[str, Any]:
    return {
        "font.family": "sans-serif",
        # The first ships with matplotlib, so the layout is the same everywhere; the others are for whoever lacks it.
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
        "font.size": 10.5,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e8e8e8",
        "grid.linewidth": 0.7,
        "text.color": INK,
        # Names come from data: a dollar sign in one is a dollar sign.
        "text.parse_math": False,
        "text.usetex": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "svg.fonttype": "none",
        "svg.hashsalt": "semclip-eval",
    }


def _drawn(figure: Any, name: str, title: str, alt: str) -> Plot:
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return Plot(name, title, alt, png.getvalue(), svg.getvalue())


def _reads(line: Line | Labelled) -> str:
    return f"{line.name} {percent(line.run.number('accuracy'))} %"


def _measured(line: Line | Labelled, column: str) -> bool:
    return line.run.number(column) is not None


def _value(line: Line | Labelled, column: str) -> float:
    value = line.run.number(column)
    assert value is not None
    return value
