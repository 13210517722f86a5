"""Draws the chart of the README: how many times the requests a second of other servers Bidlight answers.

    python -m benchmarks.chart [--figures docs/measured/rivals.json] [--out docs/ratios.svg]

It measures nothing. The figures are ratios as the JSON line of `make rivals` has them. The same figures give
the same file, byte for byte. Colours are readable on white and on dark pages.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import Command

REPOSITORY = Path(__file__).parents[1]
FIGURES = REPOSITORY / "docs" / "measured" / "rivals.json"
OUT = REPOSITORY / "docs" / "ratios.svg"
OURS = "bidlight"
SERVERS = {"naive": ("a naive FastAPI service", "#d4731c"), "mosec": ("Mosec, best setting", "#2f7fe0")}
GREY = "#7a7d82"  # of equal contrast to white and to a dark page
BAR_HEIGHT = 0.36
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "bidlight",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 12,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the chart."""
    command = Command("chart", __doc__)
    command.add_argument("--figures", type=Path, default=FIGURES, metavar="FILE", help="JSON with `ratios`")
    command.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="the SVG to write")
    options = command.parse_args(arguments)
    found = json.loads(options.figures.read_text(encoding="utf-8"))
    options.out.write_bytes(draw(found["ratios"]))
    print(f"wrote {options.out}")


def draw(ratios: Sequence[Mapping[str, Any]]) -> bytes:
    """A group of bars for each size of request and number of connections, a bar for each other server."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = {
        (each["over"], each["candidates"], each["connections"]): float(each["requests_per_second"])
        for each in ratios
        if each["over"] in SERVERS and each.get("contender", OURS) == OURS
    }
    cases = sorted({(candidates, connections) for _, candidates, connections in shown})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 0.8 + 0.6 * len(cases)), layout="constrained")
        axes = figure.subplots()
        for number, (server, (label, color)) in enumerate(SERVERS.items()):
            places = [row + (number - 0.5) * BAR_HEIGHT for row in range(len(cases))]
            values = [shown.get((server, *case), 0.0) for case in cases]
            bars = axes.barh(places, values, BAR_HEIGHT, color=color, label=f"over {label}")
            axes.bar_label(
                bars, [f"{value:.3g}x" if value else "" for value in values], padding=4, color=GREY
            )
        axes.axvline(1.0, color=GREY, linewidth=1.0, linestyle=":")
        axes.set_yticks(range(len(cases)), [_named(*case) for case in cases])
        axes.invert_yaxis()
        axes.set_xlim(0.0, 1.12 * max(shown.values()))
        axes.set_xlabel("requests a second of Bidlight, as a multiple of the other server's")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside upper left", ncols=len(SERVERS))
        content = io.BytesIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _named(candidates: int, connections: int) -> str:
    """The name of a case at its bars."""
    ads = "1 ad" if candidates == 1 else f"{candidates} ads"
    return f"{ads}, {connections} connection{'s' if connections > 1 else ''}"


if __name__ == "__main__":
    main()
