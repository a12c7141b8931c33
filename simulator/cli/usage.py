"""What a mistake on the command line says: one line with the command, what was expected and what to type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.misspelt import likeness, nearest, places

_COMMANDS = {"simulate": "run", "sim": "run", "start": "run", "diff": "compare", "check": "validate", "optimize": "plan", "download": "traces get"}
_OPTIONS = {"--json": "--format json", "-o": "--out", "-j": "--workers", "-f": "--format", "--output-dir": "--out", "--jobs": "--workers"}


def usage_error(error: Any, arguments: Sequence[str]) -> DsimError:
    """A complaint of click's (its `format_message`, `ctx` and `param`) about `arguments`."""
    context = error.ctx
    command = context.command_path if context is not None else "dsim"
    message = str(error.format_message()).partition(" (Possible options")[0].partition(" Did you mean")[0].rstrip(".")
    remedy = f"see {command} --help"
    if (option := getattr(error, "option_name", None)) is not None and message.startswith("No such option"):
        message, remedy = f"no such option: {option}", _option_meant(option, context)
    elif (word := re.match(r"No such command '(.*)'", message)) is not None:
        message, remedy = f"no such command: {word[1]}", _command_meant(word[1], context, command)
    elif (more := re.match(r"Got unexpected extra arguments?(?:\(s\)| )?\s*\(?(.*?)\)?$", message)) is not None:
        brackets = any(text.count("[") + text.count("{") > text.count("]") + text.count("}") for text in arguments)
        message, remedy = f"unexpected argument: {more[1]}", "quote a value with spaces: --set 'load=[1, 2]'" if brackets else remedy
    elif (param := getattr(error, "param", None)) is not None and message.startswith("Invalid value"):
        name, value = max(param.opts, key=len), _given(param.opts, arguments)
        kind = re.sub(r"^.*Input should be a valid (\w+).*$", r"expected a \1", str(error.message))
        kind = re.sub(r"Input should be greater than or equal to (\S+)", r"expected a number of at least \1", kind)
        kind = re.sub(r"Input should be less than or equal to (\S+)", r"expected a number of at most \1", kind)
        expected = kind.replace("a integer", "a whole number").removeprefix("Value error, ").rstrip(".")
        message = f"{name}: {expected}{'' if value is None or repr(value) in expected else f', got {value!r}'}"
    return DsimError(message[0].lower() + message[1:], where=command, remedy=remedy)


def _given(names: Sequence[str], arguments: Sequence[str]) -> str | None:
    """The value of an option as it was typed."""
    for at, word in enumerate(arguments):
        name, sign, value = word.partition("=")
        if name in names and (sign or at + 1 < len(arguments)):
            return value if sign else arguments[at + 1]
    return None


def _option_meant(option: str, context: Any) -> str:
    valid = [name for param in context.command.get_params(context) for name in param.opts if name.startswith("--")]
    if option in _OPTIONS:
        return f"use {_OPTIONS[option]}"
    if "--set" in valid and max(likeness(option.strip("-"), name.strip("-")) for name in valid) < 0.75:
        from simulator.study.run.scenario import Scenario

        word = option.strip("-").replace("-", "_")
        keys = [place.path for place in places(Scenario) if likeness(word, place.path[-1]) == 1 and "N" not in place.path]
        if keys:
            key = min((".".join(path) for path in keys), key=lambda one: one.count("."))
            return f"set a key of the file with --set {key}=VALUE"
    return nearest(option, valid, "options")


def _command_meant(word: str, context: Any, command: str) -> str:
    valid = sorted(context.command.commands)
    if word in _COMMANDS and command == "dsim":
        return f"use dsim {_COMMANDS[word]}"
    if word.endswith((".yaml", ".yml")) and "run" in valid:
        return f"use dsim run {word}"
    if "show" in valid and Path(word).exists():
        return f"use {command} show {word}"
    return f"see {command} --help" if word in ("help", "version") else nearest(word, valid, "commands")
