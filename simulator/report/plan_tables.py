"""The tables of a plan, as cells of text: the page, the Markdown, the terminal and the notebook read the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.report import wording
from simulator.report.page import Cell, Column, Group, Table
from simulator.study.run.result import Estimate

Result = Mapping[str, Any]


def estimate(raw: Mapping[str, Any] | None) -> Estimate | None:
    """Of a result's mean and interval."""
    return None if raw is None or raw["mean"] is None else Estimate(**raw)


def money(value: float | None) -> str:
    """An amount as people read it."""
    return wording.plain(value, 2 if value is not None and 0.1 <= abs(value) < 100 else None)


def choices(result: Result) -> Table:
    """What each cell needs and costs, cheapest first."""
    columns = (
        Column("policy", words=True),
        Column("replicas"),
        Column("GPUs"),
        Column("cost", f"{result['price']['currency']} per million output tokens"),
        Column("cost", f"{result['price']['currency']} per hour", spare=True),
        Column("headroom", "load that still fits"),
        Column("speed", "tok/s kept at the peak"),
        Column("TTFT", "ms kept at the peak", spare=True),
        Column("a replica fewer", "kept", spare=True),
        Column("at most", "tok/s, alone on a replica", spare=True),
        Column("verdict", words=True),
    )
    rows = []
    for cell in sorted(result["cells"], key=lambda c: (c["cost_per_hour"] is None, c["cost_per_hour"] or 0, -(c["headroom"] or 0))):
        point = next((p for p in cell["points"] if p["replicas"] == cell["replicas_needed"]), None)
        metrics = point["metrics"] if point else {}
        speed, ttft = estimate(metrics.get("speed")), estimate(metrics.get("ttft"))
        fewer = cell["fewer"]
        rows.append(
            (
                Cell(cell["label"], "the plan" if cell["cell"] == result["best"] else "bound, not a plan" if cell["bound"] else ""),
                Cell(wording.load(cell["replicas"])),
                Cell(wording.load(cell["gpus"])),
                Cell(money(cell["cost_per_mtok"])),
                Cell(money(cell["cost_per_hour"])),
                Cell(wording.percent(cell["headroom"])),
                Cell(wording.plain(speed.mean if speed else None, 1), wording.bounds(speed, 1)),
                Cell(wording.plain(ttft.mean * 1000 if ttft else None, 0), wording.bounds(ttft.scaled(1000), 0) if ttft else ""),
                Cell(f"{fewer['kept']} of {fewer['n']}" if fewer else wording.DASH),
                Cell(wording.plain(cell["alone_tps"], 1)),
                Cell(outcome(cell)),
            )
        )
    share = result["sla"]["speed"]["share"]
    caption = f"Least fleets that keep the promise. Speed: what {100 * share:.3g} % of users reach; brackets: 95 % over replications."
    return Table("choices", caption, columns, (Group("", tuple(rows)),))


def outcome(cell: Mapping[str, Any]) -> str:
    """How a cell's search ended, in words."""
    if cell["outcome"] == "unattainable":
        return "not attainable with any fleet"
    return {"planned": "keeps the promise", "too few replicas": "not with the replicas allowed", "not clear": "not clear: more replications"}[
        cell["outcome"]
    ]


def points(result: Result) -> Table:
    """Every simulated fleet at the planned load."""
    columns = (
        Column("replicas"), Column("GPUs"), Column("load", "requests/s each"), Column("speed", "tok/s"), Column("surely", "tok/s"),
        Column("TTFT", "ms"),
        Column("throughput", "tok/s/GPU"), Column("accepted length"), Column("budget", "tok/request/step"), Column("in service"), Column("n"),
        Column("promise", words=True),
    )  # fmt: skip
    groups = []
    for cell in result["cells"]:
        rows = []
        for p in cell["points"]:
            m = {name: estimate(found) for name, found in p["metrics"].items()}
            speed, ttft, flow = m["speed"], m["ttft"], m["throughput_tok_s_gpu"]
            rows.append(
                (
                    Cell(wording.load(p["replicas"])),
                    Cell(wording.load(p["gpus"])),
                    Cell(wording.plain(p["rps_per_replica"])),
                    Cell(wording.plain(speed.mean if speed else None, 1), wording.bounds(speed, 1)),
                    Cell(wording.plain(p["sure_speed"], 1)),
                    Cell(wording.plain(ttft.mean * 1000 if ttft else None, 0)),
                    Cell(wording.plain(flow.mean if flow else None, 0)),
                    *(Cell(wording.plain(e.mean if (e := m[k]) else None, 2)) for k in ("accepted_length", "verification_budget")),
                    Cell(wording.plain(e.mean if (e := m["concurrency_mean"]) else None, 1)),
                    Cell(str(p["n"])),
                    Cell(p["kept"] if p["verdict"] == "stable" else f"{p['kept']}, {p['verdict']}"),
                )
            )
        if rows:
            groups.append(Group(cell["label"], tuple(rows)))
    caption = "Every simulated fleet at the planned load. Surely: what the next replication reaches with 95 % confidence."
    return Table("points", caption, columns, tuple(groups))


def what_if(result: Result) -> Table | None:
    """The answer in other worlds."""
    if not result["what_if"]:
        return None
    columns = (
        Column("if", words=True), Column("replicas needed"), Column("GPUs"), Column("promised speed of the unchanged fleet", "change"),
        Column("the unchanged fleet", words=True),
    )  # fmt: skip
    rows = []
    for m in result["what_if"]:
        change = estimate(m["speed_change"])
        kept = "still keeps the promise" if m["keeps_unchanged"] else "is overloaded" if m["overloads"] else "does not surely keep it"
        text = "more than allowed" if m["replicas"] is None else wording.load(m["replicas"])
        rows.append(
            (Cell(m["label"]), Cell(text), Cell(wording.load(m["gpus"])), Cell(wording.gain_mean(change), wording.gain_bounds(change)), Cell(kept))
        )
    best = _cell(result, result["best"])
    caption = f"{best['label']} on {best['replicas']} replicas, one assumption moved at a time; same traffic, same luck."
    return Table("what-if", caption, columns, (Group("", tuple(rows)),))


def day(result: Result) -> Table | None:
    """What a day costs, scaled in three ways."""
    found = result["day"]
    if not found:
        return None
    words = {"fixed": "always on", "forecast": "started by forecast", "reactive": "started when needed"}
    rows = []
    for way, said in words.items():
        late = found["reactive_short_share"] if way == "reactive" else 0.0
        hours, cost = found["replica_hours"][way], found["cost_per_mtok"][way]
        rows.append((Cell(said), Cell(wording.plain(hours, 1)), Cell(money(cost)), Cell(wording.percent(late, 1, signed=False))))
    unit = f"{result['price']['currency']} per million output tokens"
    columns = (Column("fleet", words=True), Column("replica-hours"), Column("cost", unit), Column("requests that meet too few replicas"))
    caption = f"One span of the traffic ({found['span_s'] / 3600:.3g} h); a replica starts in {found['start_up_s']:g} s, paid while it starts."
    return Table("day-costs", caption, columns, (Group("", tuple(rows)),))


def gains(result: Result) -> Table | None:
    """Confidence scheduling against the best fixed length."""
    if not result["gains"]:
        return None
    rows = []
    for g in result["gains"]:
        found = estimate(g["gain"])
        said = "more than luck" if g["distinguishable"] else "not distinguishable"
        names = (_cell(result, g["scheduled"])["label"], _cell(result, g["fixed"])["label"])
        rows.append(
            (Cell(names[0]), Cell(names[1]), Cell(str(g["replicas"])), Cell(wording.gain_mean(found), wording.gain_bounds(found)), Cell(said))
        )
    words = [Column(title, words=True) for title in ("scheduled", "best fixed", "verdict")]
    columns = (words[0], words[1], Column("replicas"), Column("promised speed gained"), words[2])
    caption = "Confidence scheduling against the best fixed length beside it: same fleet, same traffic, same luck; 95 % interval."
    return Table("gains", caption, columns, (Group("", tuple(rows)),))


def break_even(result: Result) -> Table | None:
    """Best fixed length by batch, and where speculation stops paying, by acceptance."""
    if not result["break_even"]:
        return None
    sizes = result["break_even"][0]["batch"]
    columns = (Column("acceptance", "of the profile's"), *(Column(f"{n}", "requests") for n in sizes), Column("stops paying at", "requests"))
    groups = []
    for b in result["break_even"]:
        rows = []
        for c in b["curves"]:
            cells = [Cell(f"k = {k}", wording.percent(g)) for k, g in zip(c["best_length"], c["gain"], strict=True)]
            stops = wording.load(c["stops_at"]) if c["stops_at"] else "not here"
            rows.append((Cell(wording.percent(c["acceptance"], 0, signed=False)), *cells[: len(sizes)], Cell(stops)))
        groups.append(Group(f"{b['drafter']} on {b['profile']}", tuple(rows)))
    caption = "Best fixed length by requests in a batch and its gain in speed over no drafting; in the mean, without queues or prompts."
    return Table("break-even", caption, columns, tuple(groups))


def provenance(result: Result) -> Table:
    """Where every number came from."""
    columns = (Column("table", words=True), Column("provenance", words=True), Column("source", words=True), Column("note", words=True))
    groups = [
        Group(
            p["name"],
            tuple((Cell(r["table"]), Cell(r["provenance"], kind=r["provenance"]), Cell(r["source"]), Cell(r["note"])) for r in p["provenance"]),
        )
        for p in result["profiles"]
    ]
    return Table("provenance", "Where every table came from.", columns, tuple(groups))


def at_promise(result: Result, tps: float) -> Table:
    """What every cell needs at another promised speed."""
    row = next(r for r in result["by_promise"] if r["tps"] == tps)
    columns = (
        Column("policy", words=True), Column("replicas"), Column("GPUs"), Column("cost", f"{result['price']['currency']} per million output tokens"),
        Column("throughput", "tok/s/GPU"),
    )  # fmt: skip
    cells = []
    for c in row["cells"]:
        text = wording.DASH if c["replicas"] is None else ("" if c["exact"] else "≤ ") + wording.load(c["replicas"])
        label = Cell(_cell(result, c["cell"])["label"])
        cells.append((label, Cell(text), Cell(wording.load(c["gpus"])), Cell(money(c["cost_per_mtok"])), Cell(wording.plain(c["throughput"], 0))))
    caption = f"At {tps:g} tok/s, from the simulated fleets; ≤: the next smaller fleet was not simulated; a dash: none of them keeps it."
    return Table("at-promise", caption, columns, (Group("", tuple(cells)),))


def present(tables: Sequence[Table | None]) -> list[Table]:
    """Those that have anything to say."""
    return [t for t in tables if t is not None and t.length]


def _cell(result: Result, number: int) -> Mapping[str, Any]:
    return next(c for c in result["cells"] if c["cell"] == number)
