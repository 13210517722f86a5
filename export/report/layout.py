"""The elements of a page that needs no other file: its style, sections, tables and figures, as HTML text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

CSS = """
:root { color-scheme: light dark; --ink: #222; --soft: #667; --line: #ddd; --accent: #2a6f97; --ground: #fff;
  --block: #f5f6f8; --bad: #b00020; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --soft: #9aa; --line: #444; --accent: #7fbfe0; --ground: #181a1c; --block: #24272a;
    --bad: #ff7b84; }
  /* Drawings are dark on nothing: lightness is turned round, hues stay. */
  figure svg { filter: invert(1) hue-rotate(180deg); }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1.1rem; margin-top: 2.2rem; color: var(--accent); }
p.lead { color: var(--soft); margin-top: .2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; display: block;
  overflow-x: auto; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } .row figure { flex: 1 1 24rem; min-width: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .87rem; }
dt { font-weight: 600; } dd { margin: 0; color: var(--soft); }
pre { font-size: .87rem; background: var(--block); padding: .6rem .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.warning { color: var(--bad); font-weight: 600; }
details summary { cursor: pointer; color: var(--accent); margin-top: 1rem; }
/* On a phone a drawing keeps its size, so that its words stay readable, and scrolls by itself. */
@media (max-width: 40rem) {
  body { margin: 1rem auto; padding: 0 .7rem; }
  figure { overflow-x: auto; } figure svg { max-width: none; }
  .row figure { flex-basis: 100%; }
  dl { grid-template-columns: 1fr; }
}
"""


def document(title: str, sections: Sequence[str], *, css: str = CSS) -> str:
    """A whole HTML document of these sections."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(part for part in parts if part) + "</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows of text and numbers under a head; the first column is the row's name."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table>"


def _cell(cell: object) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.5f}" if abs(cell) < 10 else f"{cell:,.2f}"
    return escape(f"{cell:,}" if isinstance(cell, int) else str(cell))


def change_ends(ends: tuple[float, float]) -> str:
    """The ends of an interval of a difference, with their signs."""
    return f"{ends[0]:+.5f} … {ends[1]:+.5f}"


def value_ends(ends: tuple[float, float]) -> str:
    """The ends of an interval of a metric."""
    return f"{ends[0]:.4f} … {ends[1]:.4f}"


def figure(svg: str) -> str:
    """A drawing as an element of the page."""
    return f"<figure>{svg}</figure>"
