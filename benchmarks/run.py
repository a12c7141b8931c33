"""All benchmarks that need no GPU, one after the other; arguments go to none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = ("steps.py", "scale.py", "reading.py", "startup.py", "engine_cpu.py")


def main() -> int:
    """Exit code 1 where a script failed; the others are run all the same."""
    folder, failed = Path(__file__).resolve().parent, []
    for script in SCRIPTS:
        print(f"== benchmarks/{script}", flush=True)
        if subprocess.run([sys.executable, folder / script], env={"OMP_NUM_THREADS": "1", **os.environ}, check=False).returncode:
            failed.append(script)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
