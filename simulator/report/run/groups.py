"""What the groups of a fleet did whose replicas differ, as a table."""

from __future__ import annotations

from simulator.report import wording
from simulator.report.blocks import Column, Row, Table, grouped
from simulator.report.tables import estimated, without_empty
from simulator.report.wording import DASH, MEASURES
from simulator.study.run.metrics import OF_GROUPS
from simulator.study.run.result import GroupResult, RunResult


def by_group(result: RunResult) -> Table:
    """A row for each group of every point."""
    metrics = [MEASURES[name] for name in OF_GROUPS]

    def row(load: float, group: GroupResult, requests: int) -> Row:
        known = ((metric, group.metrics.get(metric.name)) for metric in metrics)
        cells = (estimated(estimate.scaled(metric.factor) if estimate else None, metric.decimals) for metric, estimate in known)
        share = wording.plain(100 * group.requests / requests, 1) if requests else DASH
        return (wording.load(load), group.name, share, *cells)

    groups = {
        policy: [row(p.load, group, sum(one.requests for one in p.groups)) for p in points for group in p.groups]
        for policy, points in result.points.items()
    }
    columns = (Column("load"), Column("group", words=True), Column("requests", "%"), *(Column(metric.title, metric.unit) for metric in metrics))
    title = "Each group of replicas by itself: its share of the requests, throughput of its own GPUs, what its users saw."
    return without_empty(grouped("groups", title, columns, groups.items()), ("", DASH))
