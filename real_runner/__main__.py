"""`python -m real_runner`: this package's commands on their own."""

from __future__ import annotations

import sys

import typer

from real_runner.commands import draft_check, profile_measure, serve_bench, train_draft
from simulator.errors import DsimError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("draft-check")(draft_check)
app.command("serve-bench")(serve_bench)
app.command("profile")(profile_measure)
app.command("train-draft")(train_draft)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit code: 0, 1 where a check does not hold, 2 for the user's mistakes."""
    try:
        app(arguments)
    except DsimError as error:
        print(f"error: {error.line()}", file=sys.stderr)  # noqa: T201
        return 2
    except SystemExit as left:
        return int(left.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
