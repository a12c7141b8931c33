"""What only a GPU can answer of real_runner, asked in two minutes before anything is measured: a line for each doubt, `ok` or `wrong`, with numbers.

    python -m benchmarks.gpu_checks                            all, on the GPU
    python -m benchmarks.gpu_checks --only attention draws     some
    python -m benchmarks.gpu_checks --device cpu --small       the rehearsal: what has no meaning there is skipped
    python -m benchmarks.gpu_checks --format json

Exit code 1 if one is wrong. A later doubt is one more function in gpu_doubts.py and a name below: in CHECKS, in TIMED (what a CPU rehearses and does
not judge) or in CUDA.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import gpu_doubts as doubts
from benchmarks.gpu_doubts import Lab

SECONDS = 120.0  # for all of them
CUDA = (doubts.driver, doubts.captures, doubts.collecting, doubts.shipping, doubts.memory)
CHECKS = (doubts.draws, doubts.training)
TIMED = (doubts.attention, doubts.launch_share, doubts.drafting_apart, doubts.prefill_together, doubts.clock_ramp, doubts.sustained)
LAST = (doubts.fewer_kernels,)  # needs CUDA too, and compiles
NAMES = [check.__name__ for check in (*CUDA, *CHECKS, *TIMED, *LAST)]


def ask(lab: Lab, say: Callable[[str], None], names: Sequence[str] = NAMES, seconds: float = SECONDS) -> dict[str, dict[str, Any]]:
    """The answers by name, each said as it comes; what raises is wrong, what the time is over for is skipped."""
    answers: dict[str, dict[str, Any]] = {}
    end, cpu = time.monotonic() + seconds, lab.device == "cpu"
    for check in (*CUDA, *CHECKS, *TIMED, *LAST):
        begun, verdict, numbers = time.monotonic(), "skipped", {}
        if check.__name__ not in names:
            continue
        if cpu and check in (*CUDA, *LAST):
            seen = "needs CUDA"
        elif begun > end:
            seen = f"{seconds:.0f} s are over"
        else:
            try:
                answer = check(lab)
                verdict, seen, numbers = "ok" if answer.ok else "wrong", answer.seen, answer.numbers
                if cpu and check in TIMED:
                    verdict, seen = "skipped", f"needs CUDA (rehearsed: {seen})"
            except Exception as error:  # a broken check must not hide the others
                verdict, seen = "wrong", f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
        answers[check.__name__] = {"verdict": verdict, "seen": seen, "numbers": numbers, "seconds": round(time.monotonic() - begun, 2)}
        say(f"{check.__name__:<18}{verdict}: {seen}")
    return answers


def main() -> int:
    """Ask, and say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny dimensions (always on a CPU)")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="CHECK", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="then no other check is begun (default: 120)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("no CUDA device is visible; rehearse with --device cpu --small", file=sys.stderr)
        return 2
    lab = Lab(options.device, options.small or options.device == "cpu")
    answers = ask(lab, (lambda line: None) if options.format == "json" else print, options.only, options.seconds)
    if options.format == "json":
        print(json.dumps(answers, indent=2))
    return int(any(answer["verdict"] == "wrong" for answer in answers.values()))


if __name__ == "__main__":
    sys.exit(main())
