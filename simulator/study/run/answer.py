"""A run's answer in sentences: a promise that nobody keeps, the most throughput at one that is kept, the most speed at matched throughput."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from simulator.study.run.pareto import evidence
from simulator.study.run.result import Estimate, PointResult, Range, RunResult
from simulator.study.run.scenario import Scenario
from simulator.study.run.shape import Shape
from simulator.study.run.span import shape_at_one
from simulator.study.run.wording import gain_bounds, gain_mean, gain_predicted, intervals, of_draws, plain, predicted


@dataclass(frozen=True)
class Answer:
    """Says it of the policies that an engine can run losslessly; bounds are never an answer."""

    scenario: Scenario
    result: RunResult

    def lines(self) -> list[str]:
        """Two; before them, what no policy keeps; after them, what serves most requests within limits, and where requests queue."""
        missed, lines = list(self._missed()), [*self._at_promise(), *self._at_match()]
        if len(lines) < 2:
            usable = [p for p in evidence(self._points) if p.mean("throughput_tok_s_gpu")]
            if usable:
                lines += self._at_highest_load(usable)
            elif not lines:
                lines = ["Every point is overloaded: no policy can carry these loads.", "Lower the load or add replicas (fleet.replicas)."]
        return [*missed, *lines[:2], *self._at_goodput(), *self._queued()]

    @cached_property
    def _points(self) -> list[PointResult]:
        return [p for p in self.result.frontier if p.policy in self.result.choosable]

    @cached_property
    def _shape(self) -> Shape | None:
        """Of traffic that has a rate."""
        return None if self.scenario.workload.load_kind == "concurrency" else shape_at_one(self.scenario)

    def _missed(self) -> Iterator[str]:
        """Promises that no policy keeps, and what comes nearest."""
        kept = self.result.best_at_sla()
        missed = [f"{tps:g}" for tps in self.scenario.sla.tps_per_user if tps not in kept]
        if not missed:
            return
        promise = f"{' or '.join(missed)} tok/s"
        speeds = [(tps, p) for p in evidence(self._points) if (tps := p.mean(self.result.speed_metric))]
        if not speeds:
            yield f"No policy meets the SLA of {promise} for each user: no speed is known at these loads."
            return
        tps, nearest = max(speeds, key=lambda pair: pair[0])
        yield f"No policy meets the SLA of {promise} for each user: {nearest.policy} at load {nearest.load:g} comes nearest, with {tps:.3g} tok/s."

    def _at_promise(self) -> Iterator[str]:
        """Who delivers most at the first promise; a policy that keeps it at every simulated load delivers at least what it does at the highest."""
        result, best = self.result, next(iter(self.result.best_at_sla().values()), None)
        if best is None:
            return
        reached = [row for row in result.gains.at_sla if row.sla_tps == best.sla_tps and row.policy in result.choosable and row.delivered]
        names = [row.policy for row in reached]
        keep = all((p.mean(result.speed_metric) or 0.0) > best.sla_tps for p in result.frontier if p.policy in names)
        if len(reached) > 1 and keep and all(p.verdict == "stable" for p in result.frontier) and all(row.at_least for row in reached):
            yield f"All of {', '.join(names)} deliver {best.sla_tps:g} tok/s to each user at every simulated load: raise load to tell them apart."
            return
        delivered = best.delivered
        assert delivered is not None
        gained = f", {_gained(best.gain, best.prediction)} over {result.baseline}" if best.gain else ""
        most, around = ("", _within(best.delivers, 0)) if best.throughput else ("at least ", _or_more(best.delivers))
        yield (
            f"At {best.sla_tps:g} tok/s for each user, {best.policy} delivers the most: {most}{delivered.mean:,.0f} tok/s per GPU"
            f"{self._requests(delivered.mean)}{around}{gained}{self._surely(best.better_in, best.best_in)}."
        )

    def _surely(self, better: float | None, best: float | None = None) -> str:
        """In how many draws of all that is not known the ranking holds."""
        told = self.result.prediction
        if told is None or (better is None and best is None):
            return ""
        words = [] if better is None else [f"better {of_draws(better, told.draws)}"]
        words += [] if best is None or len(self.result.choosable) < 3 or best == better else [f"best of all {of_draws(best, told.draws)}"]
        return f"; {', '.join(words)}" if words else ""

    def _requests(self, throughput: float) -> str:
        """A throughput (tok/s per GPU) in requests per second of the fleet, where they have a rate."""
        if self._shape is None:
            return ""
        rps = throughput * self.scenario.gpus / self._shape.mean_output
        speed = f", {rps / self._shape.unit_rps:.3g} times the trace's speed" if self._shape.trace_rps else ""
        return f" ({rps:.3g} requests per second{speed})"

    def _at_match(self) -> Iterator[str]:
        for best in self.result.best_at_match()[:1]:
            assert best.tps is not None  # there is a gain
            yield (
                f"At the throughput of {best.because} ({best.throughput:,.0f} tok/s per GPU), {best.policy} gives each user "
                f"{best.tps.mean:.0f} tok/s, {_gained(best.gain, best.prediction)}{self._surely(best.better_in)}."
            )

    def _at_goodput(self) -> Iterator[str]:
        """Who serves most requests of which each is within all limits, TTFT among them, and what the baseline serves at its best load."""
        known = [(goodput, p) for p in self._points if p.verdict != "overloaded" and (goodput := p.mean("goodput_rps_gpu"))]
        limits = self.scenario.sla.goodput
        if not known or not (limits or self.scenario.workload.classes):
            return
        words = f"with {limits.words}" if limits else "within the SLA of their class"
        most, best = max(known, key=lambda pair: pair[0])
        others = [pair for pair in known if pair[1].policy == self.scenario.base != best.policy]
        over = ""
        if others:
            least, other = max(others, key=lambda pair: pair[0])
            over = f"; {other.policy} {least:.3g} at load {other.load:g}"
        share = 100 * (best.mean("goodput_share") or 0.0)
        around = _within(best.prediction.get("goodput_rps_gpu"), 2)
        yield (
            f"Of requests {words}, {best.policy} serves the most: {most:.3g} per second and GPU{around} "
            f"at load {best.load:g}, {share:.0f} % of all{over}."
        )

    def _queued(self) -> Iterator[str]:
        """From which loads on the sentences before are not taken, and whose they are taken from all the same: there is no other load."""
        left, always = dict[str, float](), []
        for policy in dict.fromkeys(p.policy for p in self._points):
            mine = [p for p in self._points if p.policy == policy]
            queued = [p.load for p in mine if p.verdict == "backlogged"]
            if any(p.verdict == "stable" for p in mine):
                left |= {policy: min(queued)} if queued else {}
            elif queued:
                always.append(policy)
        if left:
            named = ", ".join(f"{policy} from load {load:g}" for policy, load in sorted(left.items(), key=lambda pair: pair[1]))
            yield f"Requests queue in front of the replicas under {named}: no speed or gain here is taken from there."
        if always:
            yield f"Under {', '.join(always)} requests queue at every load: speeds are of those that are served, and say nothing of those that wait."

    def _at_highest_load(self, usable: Sequence[PointResult]) -> Iterator[str]:
        """Without promises: who is fastest at the highest load that some policy carries without a queue; by TTFT where answers have no speed."""
        speed, top, base = self.result.speed_metric, max(p.load for p in usable), self.scenario.base
        here = {p.policy: p for p in usable if p.load == top}
        load = f"At load {top:g} ({self.result.load_unit}{self._rate(top)})"
        fastest = max(here.values(), key=lambda p: p.mean(speed) or 0.0)
        tps, throughput = fastest.mean(speed), fastest.mean("throughput_tok_s_gpu")
        if tps is None:
            yield f"{load} {self._by_ttft(here)}"
            return
        around = _within(fastest.prediction.get(speed), 0)
        yield f"{load} {fastest.policy} is the fastest: {tps:.0f} tok/s per user{around} at {throughput:,.0f} tok/s per GPU."
        if base not in here and not any((p.policy, p.load) == (base, top) for p in self.result.frontier):
            yield f"{base} was not simulated at that load."
        elif base not in here:
            yield f"{base} does not carry that load{self._but_queues(base, top)}."
        elif base == fastest.policy and len(self.result.policies) > 1:
            yield "No other policy is faster there."
        elif base != fastest.policy and (slower := here[base].mean(speed)):
            told, relative = fastest.over_baseline, Estimate(tps / slower - 1)
            around = f" (prediction interval {gain_predicted(relative, told).strip('[]')})" if told else ""
            sure = self._surely(fastest.better_in).replace("; better", ", faster")
            yield f"That is {gain_mean(relative)}{around} over {base} ({slower:.0f} tok/s per user) on the same requests{sure}."

    def _but_queues(self, policy: str, load: float) -> str:
        """Where it is slow because requests queue, not overloaded."""
        at = [p for p in self._points if (p.policy, p.load, p.verdict) == (policy, load, "backlogged")]
        return " without a queue" if at else ""

    def _by_ttft(self, here: dict[str, PointResult]) -> str:
        known = [(ttft, p) for p in here.values() if (ttft := p.mean("ttft_p90_s")) is not None]
        if not known:
            policy, point = next(iter(here.items()))
            return f"{policy} delivers {point.mean('throughput_tok_s_gpu'):,.3g} tok/s per GPU; nobody's speed is known."
        ttft, first = min(known, key=lambda pair: pair[0])
        reached = f"{first.policy} gives nine of ten users their first token within {1000 * ttft:,.0f} ms"
        return f"{reached}, at {first.mean('throughput_tok_s_gpu'):,.3g} tok/s per GPU; answers of one token have no speed."

    def _rate(self, load: float) -> str:
        """A multiple of a trace's speed in requests per second."""
        return "" if self._shape is None or not self._shape.trace_rps else f", {load * self._shape.trace_rps:.3g} requests per second"


def _within(prediction: Range | None, decimals: int) -> str:
    """` (prediction interval 5,119…16,793)`; empty where there is none."""
    told = predicted(prediction, decimals).strip("[]")
    return f" (prediction interval {told})" if told else ""


def _or_more(prediction: Range | None) -> str:
    """The same where the highest simulated load bounds every draw: its upper end is none."""
    return f" (prediction interval: {plain(prediction.low, 0)} or more)" if predicted(prediction) and prediction else ""


def _gained(gain: Estimate | None, prediction: Range | None) -> str:
    """`+51 % (simulation noise 49…53, prediction interval 38…66)`."""
    around = intervals(gain_bounds(gain), gain_predicted(gain, prediction)) if gain else ""
    return gain_mean(gain) + (f" ({around})" if around else "")
