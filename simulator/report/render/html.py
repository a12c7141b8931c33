"""A page as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from simulator.report.blocks import Block, Picture
from simulator.report.page import NOTICES, Page
from simulator.report.wording import UNIT_SPACE

_NAME = re.compile(r"(?<!\S)(?=\S{1,22}(?!\S))[^\s-]+(?:-[^\s-]+)+")  # such as MTP-1: no line ends at its hyphens, unless it is long


def html(page: Page) -> str:
    """The whole file, its pictures, styles and scripts inside."""
    return templates().get_template("page.html.j2").render(page=page, notices_title=NOTICES)


def blocks(*shown: Block) -> Markup:
    """Blocks as HTML, each by the macro of blocks.html.j2 that has its name."""
    macros = templates().get_template("blocks.html.j2").module
    return Markup("\n").join(getattr(macros, type(block).__name__.lower())(block) for block in shown)


@cache
def templates() -> Environment:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parents[1] / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"blocks": blocks, "plotly": _plotly}
    environment.filters |= {"svg": _svg, "data": _data, "prose": _prose}
    return environment


def _svg(picture: Picture, narrow: bool) -> Markup:
    from simulator.report import style

    name = f"{picture.stem}-phone" if narrow else picture.stem
    return Markup(style.inline(style.svg(picture.draw(style.PHONE), name) if narrow else picture.svg, name))


def _prose(text: str) -> Markup:
    """Text whose names and numbers with units are not broken."""
    return Markup(_NAME.sub(lambda name: f'<span class="nb">{name[0]}</span>', UNIT_SPACE.sub("\N{NO-BREAK SPACE}", str(escape(text)))))


def _plotly() -> Markup:
    """The plotting library."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs().replace("</script", "<\\/script"))


def _data(raw: Any) -> Markup:
    """JSON that can stand inside a script element."""
    return Markup(json.dumps(raw, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))
