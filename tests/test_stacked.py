"""Tables in a narrow terminal: every cell is there, whole, and every part names its rows."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from semclip_eval.stacked import Stacked

WORD = st.text(alphabet="abcdefgh0123456789.", min_size=1, max_size=18)


def printed(table: Table, width: int, keys: int) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(Stacked(table, keys))
    return console.file.getvalue()


@given(
    st.integers(1, 7).flatmap(
        lambda columns: st.lists(st.lists(WORD, min_size=columns, max_size=columns), min_size=1, max_size=4)
    ),
    st.integers(40, 120),
)
def test_no_cell_is_cut_and_no_line_is_too_long(rows: list[list[str]], width: int) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True)
    for number in range(len(rows[0])):
        table.add_column(f"c{number}", justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(f"row{number}", *row)
    text = printed(table, width, 1)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for row in rows:
        for cell in row:
            assert words.count(cell) >= sum(other == cell for line in rows for other in line)
    parts = words.count("name")
    assert all(words.count(f"row{number}") == parts for number in range(len(rows)))


def test_a_table_that_fits_is_one_table_as_rich_prints_it() -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("selector", "accuracy", "tokens"):
        table.add_column(heading, no_wrap=True)
    table.add_row("semclip", "79.0 (75.6-82.1)", "98")
    plain = Console(file=io.StringIO(), width=60)
    plain.print(table)
    assert printed(table, 60, 1) == plain.file.getvalue()


def test_a_naming_column_that_may_break_does_so_before_the_table_is_taken_apart() -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("accuracy", no_wrap=True)
    table.add_row("a long name of several words that no terminal has room for", "79.0 (75.6-82.1)")
    text = printed(table, 40, 1)
    assert text.count("run") == 1
    assert "79.0 (75.6-82.1)" in text
