"""The command `dsim`, also as `python -m dsim`."""

from simulator.cli import main

if __name__ == "__main__":
    main()
