"""What the verbs print with `--json`: one document on standard output (docs/json.md)."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from semclip_eval.results.columns import CATEGORY_NAMES, FLAG_NAMES, NUMERIC_NAMES, SUMMARY_NAMES


def print_json(document: Any) -> None:
    """The document as valid JSON; None and what is not finite are null.

    Text is readable where the terminal's encoding can hold it, else escaped.
    """
    text = json.dumps(plain(document), ensure_ascii=False, allow_nan=False, indent=1)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(plain(document), allow_nan=False, indent=1)
    sys.stdout.write(text + "\n")


def plain(value: Any) -> Any:
    """The value with None in place of NaN and infinities, at any depth; tuples become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def typed_row(row: Mapping[str, str]) -> dict[str, Any]:
    """The cells of a row of `summary.csv` or `categories.csv` as values: numbers, flags, text; None for an empty one.

    Columns of the benchmark's own measures are numbers.
    """
    return {name: _typed(name, cell) for name, cell in row.items()}


def _typed(name: str, cell: str) -> Any:
    if cell == "":
        return None
    if name in FLAG_NAMES:
        return cell == "true"
    if name in NUMERIC_NAMES or name not in (*SUMMARY_NAMES, *CATEGORY_NAMES):
        return number(cell)
    return cell


def number(cell: str) -> int | float | None:
    """A cell as a whole number where it is written as one, else as a float; None where it is no finite number."""
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
