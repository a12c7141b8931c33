"""The terminal's end of a plan: the choices, the answer, its warnings, and where the page is."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulator.report import plan_tables as tables
from simulator.report.page import Table


def summary(result: Mapping[str, Any], folder: Path) -> str:
    """All that a person at a terminal needs to decide."""
    parts = [plain_table(tables.choices(result))]
    parts += [plain_table(t) for t in tables.present([tables.what_if(result), tables.day(result), tables.gains(result)])]
    for warning in sorted(result["warnings"], key=lambda w: w["severity"] != "warning"):
        parts.append(f"{warning['severity']}: {warning['text']} → {warning['remedy']}")
    parts.append("\n".join(result["answer"]))
    parts.append(f"written to {folder / 'report.html'}")
    return "\n\n".join(parts)


def plain_table(table: Table) -> str:
    """A table for the terminal, without the intervals below the numbers where room is short."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Drawn

    drawn = Drawn(box=box.SIMPLE_HEAD, title=table.caption, title_justify="left", title_style="", pad_edge=False)
    for column in table.columns:
        title = f"{column.title}\n{column.unit}" if column.unit else column.title
        drawn.add_column(title, justify="left" if column.words else "right", vertical="bottom")
    for group in table.groups:
        for row in group.rows:
            drawn.add_row(*(f"{cell.text}\n{cell.detail}" if cell.detail else cell.text for cell in row))
    out = io.StringIO()
    Console(file=out, width=max(shutil.get_terminal_size((120, 24)).columns, 60), color_system=None).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())
