"""Does a drafter, exported, draft in its engine what it drafts in dsim's own? One user, greedy, the same prompts: what both count.

    python -m benchmarks.engines.run setup --engine vllm        # and then the step models
    python -m benchmarks.engines.exported --out docs/board/exported.csv

Speed is not looked at: other programs may run. vLLM runs the same weights in float32, so its counts should be ours. GGUFs are left out: llama.cpp
runs the target in four bits, and its answers become others after a while.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.engines import models
from benchmarks.engines.measure import Machine
from benchmarks.engines.plan import SERVED, VLLM, Engine, Policy
from benchmarks.engines.processes import Failed, alone_in, end_with_this_program, local_directly
from benchmarks.engines.prompts import prompts
from simulator.errors import DsimError
from simulator.files import whole
from simulator.measurements.drafters.packaging import read_spec
from simulator.measurements.formats.scrapes import read_counters

SEED = 5
HEADS = ("engine", "drafter", "to", "drafted_tokens", "rounds", "drafted", "accepted", "our_rounds", "our_drafted", "our_accepted")
EXPORTS = {"eagle3": ("vllm", "speculators")}  # families that vLLM runs on a CPU, each in its forms


class Counts(NamedTuple):
    """Of some answers: rounds that drafted, tokens drafted, and those accepted."""

    rounds: int
    drafted: int
    accepted: int


def main() -> int:
    """All exports, a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer (default: 48)")
    parser.add_argument("--home", type=Path, default=Path(".engines"))
    parser.add_argument("--work", type=Path, default=Path("reports/engines/exported"), help="exports and logs")
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    options = parser.parse_args()
    home, work = options.home.absolute(), options.work.absolute()
    alone_in(home)
    end_with_this_program()
    local_directly()
    texts, rows = prompts("bench", options.prompts, SEED), []
    for family, forms in EXPORTS.items():
        length = read_spec(models.model_folder(home) / family).gamma
        ours = counted_here(home, work, family, length, texts, options.tokens)
        for form in forms:
            rows.append([VLLM.label, family, form, length, *counted_there(home, work, family, form, length, texts, options.tokens), *ours])
            print(*rows[-1], sep=", ", flush=True)
    with whole(options.out) as draft, draft.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADS, *rows])
    return 0


def counted_here(home: Path, work: Path, family: str, length: int, texts: list[str], tokens: int) -> Counts:
    """By dsim's own engine."""
    asked, out = work / "prompts.jsonl", anew(work / f"ours-{family}")
    asked.parent.mkdir(parents=True, exist_ok=True)
    asked.write_text("".join(json.dumps({"turns": [text]}) + "\n" for text in texts))
    words: list[object] = ["--target", models.paths(home)["target"], "--draft", models.model_folder(home) / family]
    words += ["--policy", f"{{kind: fixed, length: {length}}}", "--prompts", asked]
    models.dsim("serve-bench", *words, "--concurrency", 1, "--requests", len(texts), "--output-tokens", tokens, "--out", out)
    return counted(out / "steps.csv")


def counted(steps: Path) -> Counts:
    """Of a table of steps; those of prompts verify nothing."""
    with steps.open() as file:
        rounds = [step for step in csv.DictReader(file) if int(step["verified"])]
    return Counts(len(rounds), *(sum(int(step[key]) for step in rounds) for key in ("verified", "accepted")))


def anew(folder: Path) -> Path:
    """The folder, without what an earlier run left there."""
    if folder.is_dir():
        shutil.rmtree(folder)
    return folder


def counted_there(home: Path, work: Path, family: str, form: str, length: int, texts: list[str], tokens: int) -> Counts:
    """By vLLM, with the drafter in this form."""
    out = anew(work / f"{family}-{form}")
    models.dsim("export", "drafter", models.model_folder(home) / family, "--to", form, "--target", models.paths(home)["target"], "--out", out)
    config = json.dumps({"method": family, "model": str(out), "num_speculative_tokens": length}, separators=(",", ":"))
    policy = Policy(out.name, family, length, f"--speculative-config {config}")
    return asked_of(replace(VLLM, policies=(policy,)), home, work, texts, tokens)


def asked_of(engine: Engine, home: Path, work: Path, texts: list[str], tokens: int) -> Counts:
    """What a server of the engine's only policy counts of these prompts, one after the other."""
    server = Machine(engine, home, work / "logs").start(engine.policies[0].name, False)
    before, after = work / "before.txt", work / "after.txt"
    before.write_text(server.metrics())
    for text in texts:
        server.warm(SERVED, [text], tokens)
    after.write_text(server.metrics())
    server.stop()
    counters = read_counters(after, before)
    return Counts(round(counters.drafts), round(counters.draft_tokens or 0), round(counters.accepted_tokens))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, DsimError, OSError, subprocess.CalledProcessError) as problem:
        sys.exit(str(problem))
