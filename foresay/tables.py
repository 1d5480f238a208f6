"""Tables that a narrow terminal shows whole: too many columns become several tables, one below the other.

In: a console, and what makes a table of some of the columns. Out: tables.
Careful: rich does not refuse a table that is too wide, it cuts words and numbers off with dots. So break the lines of a
cell where it may break; nothing else is broken here.
"""

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_WIDEST = 10_000


def in_pieces(console: Console, make: Callable[[range], Table], count: int) -> Iterator[Table]:
    """Tables of `count` columns, each with as many of them as fit.

    Args:
        console: whose width counts.
        make: a table of these columns, and of whatever leads each table.
        count: of the columns; a column that is too wide even alone gets a table of its own.
    """
    start = 0
    while start < count:
        end = start + 1
        while end < count and _width(console, make(range(start, end + 1))) <= console.width:
            end += 1
        yield make(range(start, end))
        start = end


def _width(console: Console, table: Table) -> int:
    """In which no line of a cell is broken."""
    return Measurement.get(console, console.options.update(width=_WIDEST), table).maximum
