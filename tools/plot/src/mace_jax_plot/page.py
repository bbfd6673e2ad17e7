"""The parts that a page is made of: tables, figures, and the page around them."""

import base64
from html import escape
from typing import Any

from matplotlib.figure import Figure

from mace_jax_plot.style import svg

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--dim:#656b73;--line:#dfe2e6;--page:#fff;--ok:#137a3d}
@media(prefers-color-scheme:dark){:root{--ink:#e6e7e9;--dim:#9aa1a9;--line:#3a3e44;--page:#17191c;
--ok:#5bc98a}}
*{box-sizing:border-box}body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:62rem;
background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.6rem 0 .6rem;
padding-bottom:.3rem;border-bottom:1px solid var(--line)}h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{color:var(--dim);margin:.3rem 0}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .9rem .28rem 0;text-align:left;white-space:nowrap;vertical-align:top}
th{color:var(--dim);font-weight:500;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right}td{border-bottom:1px solid var(--line)}
img{display:block;width:100%;height:auto;background:#fff;border-radius:6px;
padding:.5rem;margin:.8rem 0}.ok{color:var(--ok)}code{font:.85em ui-monospace,monospace}
details>summary{cursor:pointer;color:var(--dim)}pre{overflow-x:auto;font-size:.8rem}
"""


class Number(str):
    """Text of a number, to be aligned on its decimals."""


class Html(str):
    """Text that is HTML already."""


def page(title: str, body: str) -> bytes:
    """Return a page that needs no other file."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    ).encode()


def fixed(value: float | None, factor: float, digits: int) -> Number:
    """Return ``factor * value`` with so many decimals; a dash for None."""
    return Number("–" if value is None else f"{value * factor:z.{digits}f}")


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Return a table; numbers, which have been formatted with one width, stand right."""
    numeric = [all(isinstance(row[i], Number) for row in rows) for i in range(len(head))]
    mark = [' class="n"' if number else "" for number in numeric]
    top = "".join(f"<th{m}>{escape(h)}</th>" for h, m in zip(head, mark, strict=True))
    lines = [
        "".join(
            f"<td{m}>{cell if isinstance(cell, Html) else escape(str(cell))}</td>"
            for cell, m in zip(row, mark, strict=True)
        )
        for row in rows
    ]
    rest = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{top}</tr>{rest}</table></div>'


def image(figure: Figure, alt: str) -> str:
    """Return a figure as part of the page; on a narrow screen it is moved sideways."""
    data = base64.b64encode(svg(figure).encode()).decode()
    width = figure.get_figwidth()
    return (
        f'<div class="scroll"><img alt="{escape(alt)}" style="min-width:{4.4 * width:.1f}rem;'
        f'max-width:{5.2 * width:.1f}rem" src="data:image/svg+xml;base64,{data}"></div>'
    )


def folded(title: str, content: str) -> str:
    """Return what shows when its title is clicked."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"
