"""Tables in Markdown that also read well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.results.table import Table
from seal_lightning.text.escaping import single_line


def render_titled(table_: Table) -> str:
    """A table below its title, if it has one."""
    rendered = table(table_.header, table_.rows)
    return f"{single_line(table_.title)}:\n\n{rendered}" if table_.title else rendered


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned rows below a head; columns without anything in them are left out, but not the first.

    No cell breaks its line or acts on a terminal.
    """
    head, *rows = [[single_line(cell) for cell in row] for row in [head, *rows]]
    used = [place for place in range(len(head)) if place == 0 or any(row[place] for row in rows)]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in used]
    lines = [[row[place].ljust(width) for place, width in zip(used, widths, strict=True)] for row in [head, *rows]]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled)
