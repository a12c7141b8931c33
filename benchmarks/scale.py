"""How CPU time and memory grow with requests, a day of a trace on a fleet, the workload that peers were timed on, and sweeps on more processes.

Every measurement is a process of its own, so that the peak of its memory is its own; CPU seconds count from after the imports and the loading
of the compiled code to the finished row of metrics.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measure import RESULTS, ROOT, child_s, dsim, save

from simulator.files import write_whole

SHARED = Path(os.environ.get("DSIM_SHARED", ROOT.parent / "shared"))
AZURE = SHARED / "traffic" / "azure2023" / "AzureLLMInferenceTrace_conv.csv"
PEERS = SHARED / "measured" / "peers.csv"
PARETO = ROOT / "scenarios" / "v4-flash-pareto.yaml"
SCHEDULED = {"name": "scheduled", "drafter": "dspark", "verification": {"kind": "confidence_scheduled"}}
PLAIN = {"name": "none", "verification": {"kind": "none"}}
AZURE_RPS = 5.4714  # the trace's own mean rate
GOALS = {"million": 12.0, "azure day": 180.0, "sessions": 50.0}  # CPU-seconds
SESSIONS = {
    "arrivals": {"kind": "poisson"},
    "turns": {"kind": "geometric", "mean": 8},
    "system": {"count": 10, "tokens": {"kind": "fixed", "tokens": 2000}},
    "new_tokens": {"kind": "lognormal", "mean_tokens": 200, "p50_tokens": 100},
    "output_tokens": {"kind": "fixed", "tokens": 256},
    "think_s": 10,
}  # of whom 0.75 come a second


def main() -> None:
    """Measure, show, save; with --one, a single measurement for a parent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help="a hundredth of the requests, for a look")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_one(json.loads(options.one))))
        return
    scale = 100 if options.small else 1
    rows: dict[str, Any] = {}
    for requests in (10**4, 10**5, 10**6, 10**7):
        rows[f"closed loop {requests:.0e}"] = _measured(kind="closed", requests=max(requests // scale, 1000))
    rows["closed loop 1e+04, plain"] = _measured(kind="closed", requests=max(10**4 // scale, 300), path="plain")
    rows["peers' workload"] = _measured(kind="peers", requests=10**6 // scale)
    rows["peers' workload, plain"] = _measured(kind="peers", requests=3000 // (10 if options.small else 1), path="plain")
    rows["sessions, prefix cache"] = _measured(kind="sessions", requests=10**6 // scale)
    rows["sessions, prefix cache, plain"] = _measured(kind="sessions", requests=10**4 // (10 if options.small else 1), path="plain")
    if AZURE.is_file():
        rows["azure day"] = _measured(kind="azure", repeat=max(223 // scale, 1))
    sweeps = _sweeps()
    ratio = rows["closed loop 1e+07"]["cpu_s"] / rows["closed loop 1e+06"]["cpu_s"]
    saved = save("scale", {"profile": "deepseek-v4-flash", "numba": find_spec("numba") is not None, "small": options.small, "rows": rows,
                           "ratio_1e7_1e6": ratio, "sweep_wall_s": sweeps, "peers": _peers()})  # fmt: skip
    text = table(saved)
    write_whole(RESULTS / "scale.md", text)
    print(text)


def _measured(**what: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps(what)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"OMP_NUM_THREADS": "1", **os.environ})
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return what | result


def _one(what: dict[str, Any]) -> dict[str, Any]:
    from simulator.engine import simulate
    from simulator.study.run import point as study

    observe = simulate.observe
    study.observe = lambda *given: observe(*given, what.get("path", "auto"))
    study.run_point(_scenario(what | {"requests": 300, "repeat": 1, "window_s": [0, 60]}), study.Point(0, _load(what), 0))  # load what is compiled
    scenario = _scenario(what)
    start = time.process_time()
    row = study.run_point(scenario, study.Point(0, _load(what), 0))
    cpu_s = time.process_time() - start
    tokens = row.requests * (256 if what["kind"] != "azure" else 0) or None
    return {
        "requests_done": row.requests,
        "cpu_s": cpu_s,
        "requests_per_cpu_s": row.requests / cpu_s,
        "output_tokens_per_cpu_s": tokens and tokens / cpu_s,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "ran": row.path,
    }


def _load(what: dict[str, Any]) -> float:
    return {"closed": 128.0, "peers": 6.0, "azure": 50 / AZURE_RPS, "sessions": 0.75}[what["kind"]]


def _scenario(what: dict[str, Any]) -> Any:
    from simulator.reading.yaml_files import read_yaml
    from simulator.study.run.scenario import validate_scenario

    content = {k: v for k, v in read_yaml(PARETO).items() if k not in ("baseline", "validation", "sla", "notes")}
    content |= {"policies": [SCHEDULED], "load": [_load(what)], "run": {"replications": 1, "requests": what.get("requests", 1)}}
    fixed = {"prompt_tokens": {"kind": "fixed", "tokens": 512}, "output_tokens": {"kind": "fixed", "tokens": 256}}
    if what["kind"] == "closed":
        content["workload"] = content["workload"] | fixed
    elif what["kind"] == "peers":
        content |= {"policies": [PLAIN], "workload": {"arrivals": {"kind": "poisson"}, **fixed}, "engine": {"prefill": {"kind": "chunked"}}}
        content["run"] = {"replications": 1, "warmup_s": 0, "duration_s": what["requests"] / 6.0}
    elif what["kind"] == "sessions":
        engine = {"prefill": {"kind": "chunked"}, "prefix_cache": {"kind": "vllm"}, "kv_tokens": 600_000}
        content |= {"policies": [PLAIN], "workload": {"sessions": SESSIONS}, "engine": engine}
        content["run"] = {"replications": 1, "warmup_s": 0, "duration_s": what["requests"] / 6.0}
    else:
        trace = {"path": str(AZURE), "format": "azure", "repeat": what["repeat"]}
        trace |= {"window_s": what["window_s"]} if "window_s" in what else {}
        content |= {"workload": {"trace": trace, "domains": {"chat": 1}}, "engine": {"prefill": {"kind": "chunked"}}}
        content |= {"fleet": {"replicas": 40, "routing": {"kind": "least_loaded"}}, "run": {"replications": 1, "warmup_s": 0}}
    return validate_scenario(content, PARETO)


def _sweeps() -> dict[str, float]:
    """Wall seconds of the demo's sweep with one process and with two."""
    taken = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            words = ("--out", f"{folder}/out", "--workers", str(workers), "--set", "run.requests=20000")
            taken[str(workers)] = child_s(dsim("run", str(PARETO), *words))[1]
    return taken


def _peers() -> list[dict[str, str]]:
    if not PEERS.is_file():
        return []
    with PEERS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(saved: dict[str, Any]) -> str:
    """The result file as Markdown: our rows, those of peers, and the goals."""
    rows, machine = saved["rows"], saved["machine"]
    lines = [f"`python benchmarks/scale.py` on {machine['cores']} cores of {machine['cpu']}, {machine['date'][:10]}; profile {saved['profile']}.", ""]
    lines += ["| run | requests | CPU s | requests per CPU-s | peak MB | path |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        numbers = f"{row['requests_done']:,} | {row['cpu_s']:.2f} | {row['requests_per_cpu_s']:,.0f} | {row['peak_rss_mb']:.0f}"
        lines.append(f"| {name} | {numbers} | {row['ran']} |")
    for peer in saved["peers"]:
        numbers = f"{float(peer['requests_per_cpu_s']):,.0f} | {float(peer['peak_rss_mb']):.0f} | {peer['core']} |"
        lines.append(f"| {peer['peer']} {peer['version']} ({peer['source']}) | | | {numbers}")
    sweeps = saved["sweep_wall_s"]
    lines += ["", f"Ten million requests take {saved['ratio_1e7_1e6']:.2f} times the CPU of one million."]
    lines.append(f"The demo's sweep with 20,000 requests a point: {sweeps['1']:.1f} s with one process, {sweeps['2']:.1f} s with two.")
    for name, row in (("million", rows["closed loop 1e+06"]), ("sessions", rows["sessions, prefix cache"]), ("azure day", rows.get("azure day"))):
        if row:
            lines.append(f"{name}: {row['cpu_s']:.1f} CPU-s, required {GOALS[name]:g}: {'met' if row['cpu_s'] < GOALS[name] else 'MISSED'}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
