"""What all plots share: figure, fonts, legend, axes, and the scatter of accuracies over a cost.

Drawn small, so that their text stays readable on a phone; the same bytes for the same numbers.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from semclip_eval.report.comparisons import Labelled
from semclip_eval.report.lines import Line
from semclip_eval.report.style import INK, MUTED, Style

WIDTH, HEIGHT = 4.5, 3.8
PNG_DPI = 200
# Beyond this ratio of most to least the few are told apart on a logarithmic axis only.
LOG_RATIO = 8
# Runs at the same place stand side by side, this many points apart.
DODGE_POINTS = 8
DODGE_PART = 0.02
# And closer where many share a place, so that none stands far from where it belongs.
DODGE_MOST = 24
# With more runs than this, intervals are drawn thin and pale behind the marks.
CROWD = 8
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


@dataclass(frozen=True)
class Point:
    """A run in a scatter: where it stands on the horizontal axis, in that axis's unit."""

    line: Line | Labelled
    place: float

    @property
    def accuracy(self) -> float:
        """As a fraction; only runs that have one are shown."""
        accuracy = self.line.run.number("accuracy")
        assert accuracy is not None
        return accuracy


def points(rows: Sequence[Line], place: Callable[[Line], float | None]) -> list[Point]:
    """The runs with an accuracy and a place."""
    return [
        Point(line, value)
        for line in rows
        if line.run.number("accuracy") is not None and (value := place(line)) is not None
    ]


def scatter(
    name: str,
    title: str,
    alt: str,
    shown: Sequence[Point],
    styles: Mapping[str, Style],
    decorate: Callable[[Any], None],
) -> Plot:
    """Accuracies with their intervals at their places; `decorate` sets up the horizontal axis."""
    from matplotlib.colors import to_rgba
    from matplotlib.transforms import ScaledTranslation

    crowded = len(shown) > CROWD
    names = [shown_name(point.line) for point in shown]
    columns = legend_columns(names)
    with figure_of(HEIGHT + LEGEND_ROW * (len(names) / columns - 2)) as figure:
        axes = figure.add_subplot()
        decorate(axes)
        shifts = _dodge([point.place for point in shown])
        for label, point, shift in zip(names, shown, shifts, strict=True):
            run, style = point.line.run, styles[point.line.run.id]
            accuracy = 100 * point.accuracy
            low, high = run.number("accuracy_ci_low"), run.number("accuracy_ci_high")
            interval = (
                [[accuracy - 100 * low], [100 * high - accuracy]] if low is not None and high is not None else None
            )
            axes.errorbar(
                [point.place],
                [accuracy],
                yerr=interval,
                fmt=style.mark,
                color=style.colour,
                markerfacecolor="white" if style.hollow else style.colour,
                markersize=6 if crowded else 7,
                ecolor=to_rgba(style.colour, 0.35 if crowded else 1),
                elinewidth=0.9 if crowded else 1.3,
                capsize=0 if crowded else 2.5,
                label=label,
                transform=axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans),
                zorder=3,
            )
        _accuracy_axis(axes, [point.line for point in shown])
        legend(figure, columns)
        return drawn(figure, name, title, f"{title}. {alt}.")


def shown_name(line: Line | Labelled) -> str:
    """The run's name in a legend; an oracle says that it is one."""
    return line.name + (" (sees the boxes)" if line.run.kind == "oracle" else "")


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


def log_ticks(axes: Any, least: float, most: float) -> None:
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


def legend_columns(names: Sequence[str]) -> int:
    longest = max(len(name) for name in names)
    return 3 if longest <= 14 else 2 if longest <= 26 else 1


def legend(figure: Any, columns: int) -> None:
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5, handletextpad=0.5)


@contextmanager
def figure_of(height: float) -> Iterator[Any]:
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


def drawn(figure: Any, name: str, title: str, alt: str) -> Plot:
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return Plot(name, title, alt, png.getvalue(), svg.getvalue())
