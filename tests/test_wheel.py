"""The wheel: one package with everything that dsim needs away from its repository, and nobody else's names."""

from __future__ import annotations

import ast
import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its files, as pip puts them into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (file,) = (folder / "dist").glob("dsim-*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_all_of_the_repository_s_packages_and_data_are_in_one(wheel: Path) -> None:
    assert {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"} == {"dsim"}
    there = {path.relative_to(wheel / "dsim") for path in (wheel / "dsim").rglob("*")}
    for folder in ("simulator", "real_runner", "profiles", "scenarios"):
        files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert len(files) > 10
        assert {file for file in files if not (folder == "profiles" and file.suffix == ".py")} <= there
    assert not [path for path in there if path.suffix == ".pyc"]
    assert (wheel / "dsim" / "py.typed").is_file()


def test_no_module_imports_a_name_of_the_repository(wheel: Path) -> None:
    """`simulator` may be anybody's."""
    for file in (wheel / "dsim").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"simulator", "real_runner"}, file


def test_pip_install_pulls_no_torch_and_no_numba(wheel: Path) -> None:
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    needed = [line for line in email.message_from_string(metadata.read_text()).get_all("Requires-Dist", []) if "extra ==" not in line]
    assert any(line.startswith("numpy") for line in needed)
    assert not [line for line in needed if line.startswith(("torch", "transformers", "numba", "ray"))]
    assert "dsim = dsim.__main__:main" in metadata.with_name("entry_points.txt").read_text()


def away(wheel: Path, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Python with the wheel and its dependencies alone, in a folder with a simulator.py of somebody else."""
    (folder / "simulator.py").write_text("raise SystemExit('not this one')\n")
    hidden = "import sys\nsys.modules |= dict.fromkeys(('numba', 'real_runner'))\n"
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    return subprocess.run([sys.executable, "-c", hidden + code], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_command_away_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    """From an empty folder to a report; nothing is written beside the package."""

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in wheel.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    before = files()
    run = (
        "run",
        "mine/scenario.yaml",
        "--format",
        "json",
        "--report",
        "--workers",
        "1",
        "--set",
        "load=[16]",
        "--set",
        "run.replications=1",
        "--set",
        "run.requests=8",
    )
    for words in (("--version",), ("init", "mine"), run, ("profile", "list"), ("scenario", "list")):
        code = f"sys.argv = ['dsim', *{words!r}]\nimport runpy\nrunpy.run_module('dsim', run_name='__main__')"
        done = away(wheel, tmp_path, code)
        assert (done.returncode, done.stderr) == (0, ""), words
        assert done.stdout
    assert (tmp_path / "reports" / "mine-scenario" / "report.html").is_file()
    assert files() == before


def test_the_python_interface_away_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    code = """
import dsim
heavy = [name for name in ("numpy", "pandas", "pydantic", "matplotlib") if name in sys.modules]
scenario = dsim.load_scenario("quickstart", ["load=[8]", "run.replications=1", "run.requests=8"])
print(heavy, dsim.profile("deepseek-v4-pro").name, len(dsim.evaluate(scenario).points), dsim.plan.__name__, dsim.__version__)
"""
    done = away(wheel, tmp_path, code)
    assert done.stderr == ""
    assert done.stdout.startswith("[] deepseek-v4-pro 3 plan ")
