"""Published accuracies checked by arithmetic: does a count of the questions give each, and do the parts make the whole?

    python scripts/check_published.py [CSV] [--markdown]

CSV: docs/published.csv by default; its format is described in semclip_eval/results/published.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from semclip_eval.console import out, print_error
from semclip_eval.errors import SemclipEvalError
from semclip_eval.results.published import Finding, check, markdown, read_published

PUBLISHED = Path(__file__).resolve().parent.parent / "docs" / "published.csv"


def main() -> int:
    """Print a line a result, and how many cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, nargs="?", default=PUBLISHED, help="default: docs/published.csv")
    parser.add_argument("--markdown", action="store_true", help="the whole table as Markdown")
    chosen = parser.parse_args()
    try:
        findings = [check(published) for published in read_published(chosen.csv)]
    except SemclipEvalError as error:
        print_error(str(error))
        return error.exit_code
    if chosen.markdown:
        print(markdown(findings), end="")
    else:
        show(findings)
    return 0


def show(findings: list[Finding]) -> None:
    """A table for the terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("benchmark", "model", "method", "printed", "arithmetic"):
        table.add_column(heading, overflow="fold")
    for found in findings:
        published = found.published
        printed = " / ".join(each.percent for each in (*published.parts, published.overall))
        table.add_row(
            published.benchmark, published.model, published.method, printed, found.verdict,
            style="yellow" if found.problems else None,
        )  # fmt: skip
    out.print(table)
    wrong = sum(bool(found.problems) for found in findings)
    out.print(f"{wrong} of {len(findings)} results cannot be as printed.", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
