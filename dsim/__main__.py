"""The command `dsim`, also as `python -m dsim`."""


def main() -> None:
    """Runs the command line. Ctrl-C ends it without a traceback, also while its modules are read."""
    try:
        from simulator.cli import main as command

        command()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
