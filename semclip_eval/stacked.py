"""Tables that never lose a number: what does not fit the terminal's width stands in a second table below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table

GAP = 2


class Stacked:
    """A rich table whose columns go into as many tables as the width asks for, each with the naming columns in front.

    keys: how many of the first columns name a row. Rich itself would cut what does not fit, and a log has the width of
    a narrow terminal.
    """

    def __init__(self, table: Table, keys: int = 1) -> None:
        self.table, self.keys = table, keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = list(self._parts(console, options))
        for number, part in enumerate(parts):
            if number:
                yield ""
            yield part

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.table)

    def _parts(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        keys, waiting = self.table.columns[: self.keys], self.table.columns[self.keys :]
        while True:
            count = len(waiting)
            while count > 1 and not _fits(_of(self.table, [*keys, *waiting[:count]]), console, options):
                count -= 1
            yield _of(self.table, [*keys, *waiting[:count]])
            waiting = waiting[count:]
            if not waiting:
                return


def _of(table: Table, columns: Sequence[Column]) -> Table:
    """The same table with some of its columns."""
    part = copy(table)
    part.columns = [_at(place, column) for place, column in enumerate(columns)]
    return part


def _at(place: int, column: Column) -> Column:
    """The column as the one in that place: rich pads the first and the last one in their own way."""
    moved = copy(column)
    moved._index = place
    return moved


def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    """Whole columns that may not be broken, and of the others their longest word, with two spaces between them."""
    wide = options.update(max_width=10_000)
    widths = []
    for column in table.columns:
        alone = Table(box=None, show_header=table.show_header, pad_edge=False, padding=0)
        alone.columns = [_at(0, column)]
        measured = Measurement.get(console, wide, alone)
        widths.append(measured.maximum if column.no_wrap else measured.minimum)
    return sum(widths) + GAP * (len(widths) - 1) <= options.max_width
