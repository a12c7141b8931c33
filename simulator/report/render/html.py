"""A page as one HTML file that needs nothing else, and that runs nothing but its own scripts: a policy in it names them by their digests."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from simulator.reading.opening import read_text
from simulator.report.blocks import Block, Picture
from simulator.report.page import NOTICES, Page, written_out
from simulator.report.wording import UNIT_SPACE

TEMPLATES = Path(__file__).parents[1] / "templates"
_NAME = re.compile(r"(?<!\S)(?=\S{1,22}(?!\S))[^\s-]+(?:-[^\s-]+)+")  # such as MTP-1: no line ends at its hyphens, unless it is long


def html(page: Page) -> str:
    """The whole file, its pictures, styles and scripts inside."""
    scripts = [_own("page.js"), *((_plotly(), _own(f"{page.script}.js")) if page.script else ())]
    style = _own("page.css") + (_own(f"{page.script}.css") if page.script else "")
    own = {"scripts": scripts, "style": style, "unused": _unused_styles() if page.script else []}
    policy = _policy(scripts, [style, *([""] if page.script else [])])  # plotly makes an empty style and fills it
    return templates().get_template("page.html.j2").render(page=written_out(page), notices_title=NOTICES, policy=policy, **own)


def _policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """The content security policy: nothing is loaded, sent or run but these. Attributes of style stay (matplotlib's pictures are full of them; they
    can load nothing), also where a browser does not know the two kinds of style."""
    ran, drawn = (" ".join(f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts) for texts in (scripts, styles))
    return (
        f"default-src 'none'; script-src {ran}; style-src 'unsafe-inline'; style-src-elem {drawn}; style-src-attr 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def blocks(*shown: Block) -> Markup:
    """Blocks as HTML, each by the macro of blocks.html.j2 that has its name."""
    macros = templates().get_template("blocks.html.j2").module
    return Markup("\n").join(getattr(macros, type(block).__name__.lower())(block) for block in shown)


@cache
def templates() -> Environment:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"blocks": blocks}
    environment.filters |= {"svg": _svg, "data": _data, "prose": _prose}
    return environment


def _svg(picture: Picture, narrow: bool) -> Markup:
    from simulator.report import style

    name = f"{picture.stem}-phone" if narrow else picture.stem
    return Markup(style.inline(style.svg(picture.draw(style.PHONE), name) if narrow else picture.svg, name))


def _prose(text: str) -> Markup:
    """Text whose names and numbers with units are not broken."""
    return Markup(_NAME.sub(lambda name: f'<span class="nb">{name[0]}</span>', UNIT_SPACE.sub("\N{NO-BREAK SPACE}", str(escape(text)))))


@cache
def _own(name: str) -> Markup:
    """A script or style of ours."""
    return Markup(read_text(TEMPLATES / name))


@cache
def _plotly() -> Markup:
    """The plotting library."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs().replace("</script", "<\\/script").replace("\r\n", "\n").replace("\r", "\n"))


@cache
def _unused_styles() -> list[str]:
    """The ids of styles that plotly adds for its maps, which we do not draw and the policy would stop; it adds none where an element has the id."""
    return re.findall(r'getElementById\("([0-9a-f]{64})"\)', _plotly())


def _data(raw: Any) -> Markup:
    """JSON that can stand inside a script element."""
    return Markup(json.dumps(raw, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))
