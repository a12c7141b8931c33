"""A page in a notebook: the answer, warnings, and the few blocks that ask for it, with styles that stay inside."""

from __future__ import annotations

from markupsafe import Markup

from simulator.report.blocks import Block, Chart, Picture
from simulator.report.page import Page, written_out
from simulator.report.render.html import blocks

_STYLE = Markup(
    "<style>.dsim table{border-collapse:collapse;font-variant-numeric:tabular-nums}.dsim :is(th,td){text-align:right;padding:3px 10px;"
    "vertical-align:top}.dsim .words{text-align:left}.dsim small{display:block}.dsim caption{text-align:left}</style>"
)


def notebook(page: Page) -> str:
    """HTML to stand in a cell's output."""
    page = written_out(page)
    parts = [Markup("<p><strong>{}</strong></p>" if not i else "<p>{}</p>").format(line) for i, line in enumerate(page.answer)]
    parts += [Markup("<p>⚠ {} → {}</p>").format(notice.text, notice.remedy) for notice in page.notices if notice.serious]
    parts += [_block(block) for section in page.shown("notebook") for block in section.shown("notebook")]
    return str(Markup('{}<div class="dsim">{}</div>').format(_STYLE, Markup("\n").join(parts)))


def _block(block: Block) -> Markup:
    """A picture stands alone and on white: a notebook knows neither the page's phone drawing nor its colours."""
    if isinstance(block, Chart):
        return _block(block.still) if block.still else Markup()
    if not isinstance(block, Picture):
        return blocks(block)
    from simulator.report import style

    drawn = style.svg(block.wide, "notebook")
    return Markup('<div style="max-width:820px;background:#fff">{}</div>').format(Markup(drawn[drawn.index("<svg") :]))
