"""The command `dsim`, also as `python -m dsim`."""

import signal


def main() -> None:
    """Runs the command line. Ctrl-C ends it without a traceback, also while its modules are read: a library may make an error of its own of it
    then, as pydantic does where it builds validators."""
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs stay deaf to it
        signal.signal(signal.SIGINT, interrupt)
    try:
        from simulator.cli import main as command

        command()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception:
        if interrupted:
            raise SystemExit(130) from None
        raise


if __name__ == "__main__":
    main()
