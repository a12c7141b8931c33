"""What is printed: the only place that does it, so that no name, file or server writes anything to a terminal but text."""

from __future__ import annotations

import json

import typer

from simulator.errors import visible


def echo(text: str, err: bool = False) -> None:
    """Prints text, whatever it was made of."""
    typer.echo(visible(text), err=err)


def echo_drawn(text: str) -> None:
    """Prints text with colours of our own: whoever drew it has made visible what is in it."""
    typer.echo(text)


def echo_json(text: str) -> None:
    """Prints JSON, in which it writes out the characters that a terminal acts on as JSON does."""
    typer.echo(visible(text, lambda letter: json.dumps(letter)[1:-1] if letter != "\x7f" else "\\u007f"))
