"""Which packages `make gpu` needs that a Python does not have, all at once, and how they get to a machine without a network.

    python3 benchmarks/gpu_needs.py                     name what this Python lacks; exit code 2 if it lacks any
    python3 benchmarks/gpu_needs.py --which VENV        print the Python that make should use: this one, or VENV/bin/python

Needs Python alone.
"""

from __future__ import annotations

import platform
import re
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = {  # what the steps import, as it is called and as it is installed
    "numpy": "numpy", "scipy": "scipy", "pandas": "pandas", "pyarrow": "pyarrow", "yaml": "pyyaml", "pydantic": "pydantic",
    "typer": "typer", "rich": "rich", "simpy": "simpy", "matplotlib": "matplotlib", "jinja2": "jinja2", "pytest": "pytest",
    "torch": "torch", "transformers": "transformers", "safetensors": "safetensors", "psutil": "psutil", "pynvml": "nvidia-ml-py",
}  # fmt: skip
GLIBC = (17, 27, 28, 34)  # of which wheels for Linux are made: manylinux_2_N


def missing() -> list[str]:
    """Packages that are not there, as constraints.txt pins them."""
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    names = [package for module, package in MODULES.items() if find_spec(module) is None]
    return [f"{name}=={pins[name]}" if name in pins else name for name in names]


def advice(packages: list[str]) -> str:
    """What to do about them."""
    version, machine, words = ".".join(map(str, sys.version_info[:2])), platform.machine(), " ".join(packages)
    platforms = " ".join(f"--platform manylinux_2_{minor}_{machine}" for minor in GLIBC) + f" --platform manylinux2014_{machine}"
    return f"""make gpu needs {len(packages)} package{"s" * (len(packages) > 1)} that {sys.executable} (Python {version}) does not have: {words}
Where there is a network:
    python3 -m pip download --dest wheels --only-binary :all: --python-version {version} --implementation cp {platforms} {words}
Then here, with the folder wheels carried over:
    {sys.executable} -m pip install --no-index --find-links wheels {words}
With a network here instead: make .venv/.ready-torch, and again."""


def which(venv: Path) -> str:
    """This Python if it has everything, or if it alone can use the GPU; else the environment that make fills."""
    own = "python3" if sys.executable is None else sys.executable
    if not missing():
        return own
    if not (venv / ".ready-torch").exists() and find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return own
    return f"{venv}/bin/python"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--which"]:
        print(which(Path(sys.argv[2])))
        sys.exit()
    if lacking := missing():
        print(advice(lacking), file=sys.stderr)
        sys.exit(2)
