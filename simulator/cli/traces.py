"""`dsim traces`: public request traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simulator.cli.options import Format, Override, group, show

app = group("List, download or add public request traces, and show any.")
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


@app.command("show")
def show_(
    trace: Annotated[str, typer.Argument(metavar="FILE", help="A file of requests, or the name of a public trace.")],
    override: Override = None,
    sessions: Annotated[bool, typer.Option("--sessions", help="Read it as sessions: turns that wait for the answer before them.")] = False,
    format: Format = "text",
) -> None:
    """Show what is read from a trace: requests, span, rate, lengths.

    --set takes the keys of workload.trace, for example --set unit=ms; with --sessions those of workload.sessions.recorded."""
    import numpy as np

    from simulator.errors import TraceError
    from simulator.schema import validate
    from simulator.study.run.document import apply_override
    from simulator.traffic.public import entry
    from simulator.traffic.recorded_sessions import RecordedSessions
    from simulator.traffic.traces import TraceSource

    if Path(trace).suffix and not Path(trace).exists():
        raise TraceError("no such file", where=trace, remedy="check the path")
    content = {"path": trace} if Path(trace).exists() else {"name": entry(trace).name}
    for change in override or []:
        apply_override(content, change)
    names = ("mean", "p50", "p90", "p99", "max")

    def points(values: Any) -> dict[str, float]:
        return dict(zip(names, [float(values.mean()), *np.quantile(values, [0.5, 0.9, 0.99, 1]).tolist()], strict=True))

    def told(rows: dict[str, dict[str, float]]) -> list[str]:
        return [f"{name}: {', '.join(f'{point} {value:,.0f}' for point, value in row.items())}" for name, row in rows.items()]

    if sessions:
        recorded = validate(RecordedSessions, content, "--set", TraceError)
        recorded.check_here("path")
        found = recorded.sessions
        rows = {
            "requests of a session": points(np.diff(found.at)),
            "prompt tokens": points(found.prompt_tokens),
            "output tokens": points(found.output_tokens),
        }
        show(format, {"trace": recorded.words, "sessions": len(found), "requests": len(found.turn)} | rows, "\n".join([recorded.words, *told(rows)]))
        return
    source = validate(TraceSource, content, "--set", TraceError)
    source.check_here("path")
    requests = source.load(Path())
    columns = {"prompt": requests.prompt_tokens, "cached": requests.cached_prompt_tokens, "output": requests.output_tokens}
    tokens = {name: points(values) for name, values in columns.items() if values.any()}
    each = np.bincount(requests.domain, minlength=len(requests.domains)).tolist()
    counts = dict(zip(requests.domains, each, strict=True)) if requests.domains != ("",) else {}
    words = source.words(Path())
    lines = [words, *told({f"{name} tokens": row for name, row in tokens.items()})]
    lines += [f"domains: {', '.join(f'{name} {count:,}' for name, count in counts.items())}"] if counts else []
    data = {"trace": words, "requests": len(requests), "span_s": float(requests.arrival_s[-1]), "tokens": tokens, "domains": counts}
    show(format, data, "\n".join(lines))
