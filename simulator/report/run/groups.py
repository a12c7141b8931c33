"""What the groups of a fleet did whose replicas differ, and its prefill workers, as a table."""

from __future__ import annotations

from simulator.report import wording
from simulator.report.blocks import Column, Row, Table, grouped
from simulator.report.tables import estimated, without_empty
from simulator.report.wording import DASH, MEASURES
from simulator.study.run.metrics import OF_GROUPS, OF_POOL
from simulator.study.run.result import GroupResult, RunResult
from simulator.study.run.settings import POOL


def by_group(result: RunResult) -> Table:
    """A row for each group of every point."""
    metrics = [*(MEASURES[name] for name in OF_GROUPS), *(metric for metric in OF_POOL if metric.name not in OF_GROUPS)]

    def row(load: float, group: GroupResult, requests: int) -> Row:
        known = ((metric, group.metrics.get(metric.name)) for metric in metrics)
        cells = (estimated(estimate.scaled(metric.factor) if estimate else None, metric.decimals) for metric, estimate in known)
        share = wording.plain(100 * group.requests / requests, 1) if requests and group.name != POOL else DASH
        return (wording.load(load), group.name, share, *cells)

    groups = {
        policy: [row(p.load, group, sum(one.requests for one in p.groups if one.name != POOL)) for p in points for group in p.groups]
        for policy, points in result.points.items()
    }
    columns = (Column("load"), Column("group", words=True), Column("requests", "%"), *(Column(metric.title, metric.unit) for metric in metrics))
    title = "Each group of machines by itself: its share of the requests, throughput of its own GPUs, what its users saw; requests waiting for each."
    return without_empty(grouped("groups", title, columns, groups.items()), ("", DASH))
