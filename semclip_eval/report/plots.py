"""The plots: accuracy against what it costs, hit rate and size of the target, calibration of ψ, latency by stage."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from semclip_eval.report.calibration import Calibration
from semclip_eval.report.canvas import (
    HEIGHT,
    LEGEND_ROW,
    LOG_RATIO,
    Plot,
    Point,
    drawn,
    figure_of,
    legend,
    legend_columns,
    log_ticks,
    points,
    scatter,
    shown_name,
)
from semclip_eval.report.comparisons import Comparison, Labelled
from semclip_eval.report.joined import Timings
from semclip_eval.report.lines import Line, timed_stages
from semclip_eval.report.style import INK, STAGE_COLOURS, Style
from semclip_eval.report.table import count, decimal, percent
from semclip_eval.results.pareto import front
from semclip_eval.results.targets import TARGET_SIZE

# A size with fewer questions than this has an interval that tells nothing.
FEWEST_OF_A_SIZE = 10


def plots(
    comparison: Comparison,
    rows: Sequence[Line],
    styles: Mapping[str, Style],
    timings: Timings,
    calibrations: Sequence[Calibration],
) -> list[Plot]:
    """The plots that the numbers allow: latencies in latency mode, otherwise accuracies of two runs or more.

    timings: latency runs of the same configurations; calibrations: of the runs whose ψ has one.
    """
    if comparison.shared("mode") == "latency":
        found = [_latency_plot(rows)]
    else:
        found = [
            *_cost_plots(rows, styles, timings),
            _hits_plot(rows, styles),
            *_size_plots(rows, styles),
            _calibration_plot(calibrations, styles),
        ]
    return [plot for plot in found if plot is not None]


def _cost_plots(rows: Sequence[Line], styles: Mapping[str, Style], timings: Timings) -> list[Plot | None]:
    """Accuracy against visual tokens, against forwards where any are spent, against ms where they were timed."""
    tokens = _cost_plot(
        "accuracy_tokens",
        "Accuracy against visual tokens",
        "visual tokens a question (mean)",
        points(rows, lambda line: line.run.number("visual_tokens_mean")),
        styles,
        lambda cost: f"{decimal(cost)} tokens",
    )
    spent = points(rows, lambda line: line.run.number("forwards_mean"))
    forwards = None
    if any(point.place > 0 for point in spent):
        forwards = _cost_plot(
            "accuracy_forwards",
            "Accuracy against forwards",
            "VLM forwards a question, with the answer's own (mean)",
            [Point(point.line, point.place + 1) for point in spent],
            styles,
            lambda cost: f"{decimal(cost, 1)} forwards",
        )
    milliseconds = _cost_plot(
        "accuracy_ms",
        "Accuracy against milliseconds",
        f"ms a question (median, latency runs)\n{timings.machine}",
        points(rows, lambda line: timings.milliseconds.get(line.run.id)),
        styles,
        lambda cost: f"{decimal(cost, 1)} ms",
    )
    return [tokens, forwards, milliseconds]


def _cost_plot(
    name: str,
    title: str,
    label: str,
    shown: Sequence[Point],
    styles: Mapping[str, Style],
    told: Callable[[float], str],
) -> Plot | None:
    if len(shown) < 2:
        return None

    def decorate(axes: Any) -> None:
        costs = [point.place for point in shown]
        axes.set_xlabel(label)
        if max(costs) > LOG_RATIO * min(costs) > 0:
            log_ticks(axes, min(costs), max(costs))
        corners = pareto_front([(point.place, point.accuracy) for point in shown if point.line.run.kind != "oracle"])
        if corners:
            # On to the right end: whoever has more to spend still has the best of the cheaper ones.
            steps = [*corners, (max(costs), corners[-1][1])]
            places, heights = [cost for cost, _ in steps], [100 * accuracy for _, accuracy in steps]
            axes.plot(places, heights, drawstyle="steps-post", color="#bdbdbd", linewidth=1.2, zorder=1)

    alt = "; ".join(f"{_reads(point.line)} at {told(point.place)}" for point in shown)
    return scatter(name, title, alt, shown, styles, decorate)


def pareto_front(costs_and_accuracies: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy) those that no other one beats at the same cost or less, by cost, each once."""
    return list(dict.fromkeys(costs_and_accuracies[place] for place in front(costs_and_accuracies)))


def cost_plot(
    name: str, unit: str, costs: Sequence[tuple[Line | Labelled, float | None]], styles: Mapping[str, Style]
) -> Plot | None:
    """Accuracy against what a question costs on average, with the Pareto front; None for fewer than two runs.

    Runs whose accuracy or cost was not measured are left out; oracles are drawn, but no part of the front.
    """
    shown = [Point(line, cost) for line, cost in costs if cost is not None and line.run.number("accuracy") is not None]
    return _cost_plot(
        f"accuracy_{name}",
        f"Accuracy against {unit}",
        f"{unit} a question",
        shown,
        styles,
        lambda cost: f"{count(cost)} {unit}",
    )


def _hits_plot(rows: Sequence[Line], styles: Mapping[str, Style]) -> Plot | None:
    def hit_rate(line: Line) -> float | None:
        rate = line.run.number("hit_rate")
        return None if rate is None else 100 * rate

    shown = points(rows, hit_rate)
    if len(shown) < 2:
        return None

    def decorate(axes: Any) -> None:
        axes.set_xlabel("hit rate, %")
        axes.set_xlim(-4, 104)

    alt = "; ".join(f"{_reads(point.line)} at a hit rate of {decimal(point.place, 1)} %" for point in shown)
    return scatter("accuracy_hits", "Accuracy against hit rate", alt, shown, styles, decorate)


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
    names = [shown_name(line) for line in shown]
    columns = legend_columns(names)
    title = f"Accuracy by size of the target{f', {category}' if category else ''}"
    told = []
    with figure_of(HEIGHT + LEGEND_ROW * (len(names) / columns - 2)) as figure:
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
        legend(figure, columns)
        name = re.sub(r"[^A-Za-z0-9]+", "_", f"accuracy_size_{category}").rstrip("_")
        return drawn(figure, name, title, f"{title}, from {sizes[0]} to {sizes[-1]}: {'; '.join(told)}.")


def _calibration_plot(calibrations: Sequence[Calibration], styles: Mapping[str, Style]) -> Plot | None:
    if not calibrations:
        return None
    names = [calibration.line.name for calibration in calibrations]
    columns = legend_columns(names)
    title = "Hit rate by the margin of ψ"
    told = []
    with figure_of(HEIGHT + LEGEND_ROW * (len(names) / columns - 2)) as figure:
        axes = figure.add_subplot()
        for name, calibration in zip(names, calibrations, strict=True):
            style = styles[calibration.line.run.id]
            rates = [100 * group.hit_rate for group in calibration.groups]
            ends = [group.hit_interval for group in calibration.groups]
            axes.errorbar(
                range(1, len(rates) + 1),
                rates,
                yerr=[
                    [rate - 100 * low for rate, (low, _) in zip(rates, ends, strict=True)],
                    [100 * high - rate for rate, (_, high) in zip(rates, ends, strict=True)],
                ],
                fmt=f"{style.mark}-",
                color=style.colour,
                markersize=6,
                linewidth=1.2,
                elinewidth=1,
                capsize=2,
                label=name,
            )
            told.append(f"{name} " + ", ".join(f"{rate:.1f}" for rate in rates))
        axes.set_ylim(-4, 104)
        axes.set_xticks(range(1, len(calibrations[0].groups) + 1))
        axes.set_xlabel("fifth of the questions, from small to large margin")
        axes.set_ylabel("hit rate, % (95 % interval)")
        legend(figure, columns)
        return drawn(
            figure, "psi_margin", title, f"{title}, from the smallest to the largest fifth: {'; '.join(told)}."
        )


def _latency_plot(rows: Sequence[Line]) -> Plot | None:
    shown = [line for line in rows if line.latency]
    if not shown:
        return None
    with figure_of(1.4 + 0.36 * len(shown)) as figure:
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
        legend(figure, columns=4)
        alt = "; ".join(f"{line.name} {decimal(line.latency.get('e2e_ms_p50'), 1)} ms" for line in shown)
        return drawn(figure, "latency", "Latency by stage", f"Latency by stage. End to end at the median: {alt}.")


def _reads(line: Line | Labelled) -> str:
    return f"{line.name} {percent(line.run.number('accuracy'))} %"
