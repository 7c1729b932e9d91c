"""Colours and marks of the selectors: the same in tables, plots and gallery, and told apart without colour too.

The colours are those of Okabe & Ito, made for all kinds of colour vision; a selector keeps its colour through the whole
report, and runs of one selector in one table have different marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from semclip_eval.report.comparisons import Comparison

ACCENT = "#0b5a9d"
INK = "#1a1a1a"
MUTED = "#595959"
TARGET = "#ffe100"

_KNOWN = {
    "no_crop": "#4d4d4d",
    "full_crop": "#0072b2",
    "semclip": "#d55e00",
    "random_crop": "#cc79a7",
    "center_crop": "#56b4e9",
    "oracle": "#009e73",
}
_OTHERS = ("#882255", "#a6761d", "#332288", "#999933", "#e69f00", "#44aa99", "#117733", "#aa4499")

# matplotlib's name of a mark, and the same shape as an SVG path in a box of 12 x 12.
_MARKS = {
    "o": "M6 1.4a4.6 4.6 0 1 0 .01 0Z",
    "s": "M2 2H10V10H2Z",
    "D": "M6 .8 11.2 6 6 11.2 .8 6Z",
    "^": "M6 1.2 11.2 10.6H.8Z",
    "v": "M6 10.8 11.2 1.4H.8Z",
    "P": "M4.2 1H7.8V4.2H11V7.8H7.8V11H4.2V7.8H1V4.2H4.2Z",
    "X": "M3.2 1 6 3.8 8.8 1 11 3.2 8.2 6 11 8.8 8.8 11 6 8.2 3.2 11 1 8.8 3.8 6 1 3.2Z",
    "h": "M6 .8 10.5 3.4V8.6L6 11.2 1.5 8.6V3.4Z",
}

# Colours that no selector has; neighbours differ in a grey print too.
STAGE_COLOURS = {
    "load": "#333333",
    "select": "#e6ab02",
    "prepare": "#bdbdbd",
    "vision": "#6a51a3",
    "prune": "#e7298a",
    "prefill": "#9e9ac8",
    "decode": "#dadaeb",
}


@dataclass(frozen=True)
class Style:
    """How a run is drawn: a colour, matplotlib's mark, the mark as an SVG path in a box of 12 x 12.

    hollow: white inside, for an oracle.
    """

    colour: str
    mark: str
    path: str
    hollow: bool


def styles(found: Iterable[Comparison]) -> dict[str, Style]:
    """The style of every run of the report by its id."""
    found = list(found)
    colours = _colours({labelled.run.selector for comparison in found for labelled in comparison.runs})
    chosen: dict[str, Style] = {}
    marks = list(_MARKS)
    for comparison in found:
        seen: dict[str, int] = {}
        for labelled in comparison.runs:
            selector = labelled.run.selector
            position = list(colours).index(selector) + seen.get(selector, 0)
            seen[selector] = seen.get(selector, 0) + 1
            mark = marks[position % len(marks)]
            chosen[labelled.run.id] = Style(colours[selector], mark, _MARKS[mark], labelled.run.kind == "oracle")
    return chosen


def _colours(selectors: Iterable[str]) -> Mapping[str, str]:
    """Known selectors first, in a fixed order, so that a new one moves no other one's colour or mark."""
    unknown = sorted(set(selectors) - set(_KNOWN))
    return {**_KNOWN, **{name: _OTHERS[index % len(_OTHERS)] for index, name in enumerate(unknown)}}
