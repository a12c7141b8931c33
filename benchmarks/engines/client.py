"""Runs `vllm bench serve` again and again in one process: importing vLLM takes longer than many a cell. The words are those of vLLM's own command.

Run by a Python that has vLLM. Reads a JSON list of words a line, and answers each with `done` or the error; all that vLLM prints goes to
standard error.
"""

import argparse
import json
import os
import sys


def main() -> None:
    """One benchmark after the other, until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as bench

    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    print("ready", file=answers)
    for line in sys.stdin:
        try:
            bench(parser.parse_args(json.loads(line)))
            print("done", file=answers)
        except (Exception, SystemExit) as problem:
            print(f"{type(problem).__name__}: {problem}".replace("\n", " "), file=answers)


if __name__ == "__main__":
    main()
