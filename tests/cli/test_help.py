"""Help: complete at 80 columns, and there without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from simulator.cli import app
from tests.conftest import ROOT

Dsim = Callable[..., Any]


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every group and command with the words that call it."""
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_is_complete_at_80_columns(words: tuple[str, ...], dsim: Dsim, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every word of every help text, every option's name and every default is shown: nothing is cut off or taken for markup."""
    monkeypatch.setenv("COLUMNS", "80")
    said = dsim(*words, "--help")
    assert (said.code, said.err) == (0, "")
    assert max(map(len, said.out.splitlines())) <= 80
    assert "..." not in said.out.partition("Commands:")[2], "the first sentence of a command is too long for the list"
    shown = " ".join(said.out.split())
    for parameter in COMMANDS[words].params:
        for text in (getattr(parameter, "help", None), getattr(parameter, "show_default", None), *parameter.opts):
            if isinstance(text, str) and (parameter.param_type_name == "option" or text != parameter.name):
                assert " ".join(text.split()) in shown.replace("- ", "-"), f"{words}: {text!r} is not shown"
    assert "shared" not in shown  # a folder that only developers have


def without_torch(*words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process where torch cannot be imported, nor what needs it."""
    code = f"""
import sys
for name in ("torch", "transformers", "safetensors"):
    sys.modules[name] = None
sys.argv = ["dsim", *{words!r}]
from simulator.cli import main
main()
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_needs_no_torch_and_measuring_says_so_in_one_line(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert "--prompts-per-domain" in without_torch("profile", "measure", "--help").stdout
    for words in (("profile", "--target", "x", "--out", out), ("serve-bench", "--target", "x", "--out", out)):
        done = without_torch(*words)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.endswith("needs torch, which is not installed; pip install 'dsim[profile]'\n")
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_with_its_drafter_inside_is_checked_without_torch() -> None:
    done = without_torch("draft", "check", "--target", str(ROOT / "tests" / "golden" / "deepseek_v4" / "released_dtypes"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "827 tensors, 241 of them the drafter's" in done.stdout
