"""What the user sees: notices and progress on standard error, tables on standard output."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

# Everything that is printed may hold text of data, models and servers: none of it is the terminal library's markup.
out = Console(markup=False)
err = Console(stderr=True, markup=False)


def notice(text: str) -> None:
    """Something that the user should know, in one or two lines."""
    err.print(text, style="cyan", highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Something that the user should look at."""
    err.print(text, style="yellow", highlight=False, soft_wrap=True)


def print_error(text: str) -> None:
    """Print the message that ends the command."""
    err.print(f"semclip-eval: {text}", style="red", highlight=False, soft_wrap=True)


def percent(value: float | str | None, digits: int = 1) -> str:
    """A fraction as percent without the sign; `-` where it was not measured."""
    return "-" if value in (None, "") else f"{100 * float(value):.{digits}f}"


class Progress:
    """What is running, how far it is, the running mean of the scores under `score_name`, and the time left.

    On a terminal a live bar; elsewhere (a log file, CI) a line about every thirty seconds.
    """

    LINE_EVERY_S = 30.0

    def __init__(
        self, label: str, total: int, records: Sequence[Mapping[str, Any]], score_name: str = "accuracy"
    ) -> None:
        self._label = label
        self._score_name = score_name
        self._total = total
        self._done = len(records)
        self._before = len(records)
        scores = [record["score"] for record in records if record["score"] is not None]
        self._right, self._scored = sum(scores), len(scores)
        self._errors = sum(record["status"] == "error" for record in records)
        self._start = self._last_line = time.monotonic()
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[accuracy]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=err,
            disable=not err.is_terminal,
        )
        self._task = self._bar.add_task(label, total=total, completed=self._done, accuracy=self._accuracy())

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not err.is_terminal and kind is None:
            self._line()

    def advance(self, record: Mapping[str, Any]) -> None:
        """One more record is on disk."""
        self._done += 1
        if record["score"] is not None:
            self._right += record["score"]
            self._scored += 1
        self._errors += record["status"] == "error"
        self._bar.update(self._task, completed=self._done, accuracy=self._accuracy())
        if not err.is_terminal and time.monotonic() - self._last_line > self.LINE_EVERY_S:
            self._line()

    def _accuracy(self) -> str:
        text = (
            f"{self._score_name} {percent(self._right / self._scored)} %" if self._scored else f"{self._score_name} -"
        )
        return text + (f", errors: {self._errors}" if self._errors else "")

    def _line(self) -> None:
        now = time.monotonic()
        self._last_line = now
        asked = self._done - self._before
        rate = asked / (now - self._start) if now > self._start else 0.0
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate and self._done < self._total else ""
        speed = f", {rate:.1f} questions/s" if asked else ""
        notice(f"{self._label}: {self._done}/{self._total}, {self._accuracy()}{speed}{left}")
