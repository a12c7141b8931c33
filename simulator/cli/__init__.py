"""The `dsim` command. Commands import what is heavy when they run, so that `dsim --help` is quick; real_runner's need torch only then."""

from __future__ import annotations

import errno
import io
import sys
from itertools import pairwise
from typing import Any

import typer
import typer.core

from real_runner import commands as real_runner
from simulator.cli import acceptance, profiles, sealed, shipped, simulate, traces
from simulator.cli.estimate import estimate
from simulator.cli.exchange import export_app
from simulator.cli.figure import figure
from simulator.cli.imports import import_app
from simulator.cli.options import group
from simulator.echo import echo
from simulator.errors import DsimError


class _MeasuresByDefault(typer.core.TyperGroup):
    """`dsim profile --target …` is short for `dsim profile measure --target …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help", "-h"):
            args = ["measure", *args]
        return super().parse_args(ctx, args)


app = group("Choose speculative-decoding policies and fleets for LLM serving by simulation, from measured costs and recorded acceptance.",
            add_completion=True)  # fmt: skip
app.callback()(shipped.root)
for command in (
    shipped.init,
    simulate.run,
    simulate.validate,
    simulate.plan,
    simulate.compare,
    figure,
    simulate.schema,
    sealed.predict,
    sealed.score,
    estimate,
    profiles.fit,
    profiles.probe,
):
    app.command()(command)
app.command("train-draft")(real_runner.train_draft)
app.command("serve-bench")(real_runner.serve_bench)

profile_app = group("Measure, check, show and compare profiles. `dsim profile --target …` is short for `dsim profile measure --target …`.",
                    cls=_MeasuresByDefault)  # fmt: skip
profile_app.command("measure")(real_runner.profile_measure)
profile_app.command("list")(shipped.list_profiles)
profile_app.command()(profiles.check)
profile_app.command("show")(profiles.show_page)
profile_app.command()(profiles.diff)
draft_app = group("Check draft checkpoints.")
draft_app.callback()(lambda: None)  # a group of one command is a group all the same
draft_app.command("check")(real_runner.draft_check)

export_app.command("drafter")(real_runner.export_drafter)

app.add_typer(profile_app, name="profile")
app.add_typer(draft_app, name="draft")
app.add_typer(acceptance.app, name="acceptance")
app.add_typer(shipped.app, name="scenario")
app.add_typer(traces.app, name="traces")
app.add_typer(import_app, name="import")
app.add_typer(export_app, name="export")


def main() -> None:
    """Runs the command line; a user's mistake is one line and exit code 2."""
    sys.stdout, sys.stderr = (stream or io.StringIO() for stream in (sys.stdout, sys.stderr))  # closed by the caller
    arguments = _with_address(sys.argv[1:])
    try:
        _check_words(arguments)
        code = app(arguments, prog_name="dsim", standalone_mode=False)
    except KeyboardInterrupt:  # while typer puts the commands together
        raise SystemExit(130) from None
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click's, in typer's or its own package: the help of a group
            echo(str(error), err=True)
            raise SystemExit(2) from None
        echo(f"error: {_explained(error, arguments).line()}", err=True)
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _check_words(arguments: list[str]) -> None:
    """Arguments are not empty, and text."""
    for before, word in pairwise(["dsim", *arguments]):
        if not word and before not in ("--check", "--extra"):
            raise DsimError("an argument is empty", where=before, remedy="is a shell variable unset?")
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # what Python makes of bytes that are no text
            raise DsimError(f"got {word!a}, which is not UTF-8 text", where=before, remedy="rename it")


def _explained(error: Exception, arguments: list[str]) -> DsimError:
    """A mistake on the command line or of this machine, as one line. Whatever else it is, is ours: it goes on with its traceback."""
    if isinstance(error, DsimError):
        return error
    if hasattr(error, "format_message"):
        from simulator.cli.usage import usage_error

        return usage_error(error, arguments)
    if isinstance(error, MemoryError):
        return DsimError("out of memory", where="dsim", remedy="lower the load or the number of requests, or use fewer --workers")
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        from simulator.complaints import shown

        return DsimError(f"cannot be looked up ({error.strerror})", where=shown(str(error.filename)), remedy="check the path")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE):
        return DsimError(f"{error.strerror}", where=error.filename or "dsim", remedy="free space, or write to another folder")
    raise error


def _with_address(arguments: list[str]) -> list[str]:
    """The arguments with the address that a bare --ray stands for."""
    at = arguments.index("--ray") + 1 if "--ray" in arguments else 0
    bare = at and (at == len(arguments) or arguments[at].startswith("-") or arguments[at].endswith((".yaml", ".yml")))
    return [*arguments[:at], "auto", *arguments[at:]] if bare else arguments
