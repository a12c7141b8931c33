"""`dsim traces`: public request traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.options import Format, group, show

app = group("List, download or add public request traces.")
TraceName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the trace, see `dsim traces list`.")]


@app.command("list")
def list_(format: Format = "text") -> None:
    """List the public traces that dsim knows.

    Shows source, licence, citation, checksum and which are on this machine."""
    from simulator.traffic.public import cached_path, catalogue, is_here

    fields = ("name", "title", "url", "licence", "citation", "sha256", "size_bytes", "format")
    known = [
        {f: getattr(t, f) for f in fields} | {"files": len(t.files), "here": str(cached_path(t.name)) if is_here(t.name) else None}
        for t in catalogue()
    ]
    lines = []
    for trace in known:
        files = f" in {trace['files']} files" if trace["files"] > 1 else ""
        lines.append(f"{trace['name']}: {trace['title']} ({trace['size_bytes'] / 1e6:.1f} MB{files}, {trace['format']})")
        lines += [f"    {key:9} {trace[key]}" for key in ("url", "licence", "citation", "sha256")]
        lines.append(f"    here      {trace['here'] or 'no, run dsim traces get ' + trace['name']}")
    show(format, known, "\n".join(lines))


@app.command()
def get(name: TraceName, format: Format = "text") -> None:
    """Download a trace into the cache and verify its checksum."""
    from simulator.traffic.public import fetch

    path = fetch(name)
    show(format, {"name": name, "path": str(path)}, str(path))


@app.command()
def add(
    name: TraceName,
    file: Annotated[Path, typer.Argument(metavar="PATH", help="The file, or the folder of a trace with several files.")],
    format: Format = "text",
) -> None:
    """Copy a trace you have into the cache and verify its checksum."""
    from simulator.traffic.public import adopt

    path = adopt(name, file)
    show(format, {"name": name, "path": str(path)}, str(path))
