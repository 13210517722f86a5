"""Draws the chart of the README: how many times the requests a second of other servers Bidlight answers.

    python -m benchmarks.chart [--figures docs/measured/rivals.json] [--out docs/ratios.svg]

It measures nothing. The figures are ratios as the JSON line of `make rivals` has them. The same figures give
the same file, byte for byte. Colours are readable on white and on dark pages.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import Command, ended
from loadtest.arguments import a_file, a_file_to_write

REPOSITORY = Path(__file__).parents[1]
FIGURES = REPOSITORY / "docs" / "measured" / "rivals.json"
OUT = REPOSITORY / "docs" / "ratios.svg"
OURS = "bidlight"
SERVERS = {"naive": ("a plain FastAPI service", "#d4731c"), "mosec": ("Mosec", "#2f7fe0")}
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
    command.add_argument("--figures", type=a_file, default=FIGURES, metavar="FILE", help="JSON with `ratios`")
    command.add_argument("--out", type=a_file_to_write, default=OUT, metavar="FILE", help="the SVG to write")
    options = command.parse_args(arguments)
    try:
        ratios = json.loads(options.figures.read_text(encoding="utf-8"))["ratios"]
    except (ValueError, KeyError, TypeError):
        command.error(f"'--figures' must be JSON with `ratios` (got {options.figures}); measure them first")
    options.out.write_bytes(draw(ratios))
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
        figure = Figure(figsize=(8.4, 1.5 + 0.5 * len(cases)), layout="constrained")
        axes = figure.subplots()
        for number, (server, (name, color)) in enumerate(SERVERS.items()):
            places = [row + (number - 0.5) * BAR_HEIGHT for row in range(len(cases))]
            bars = [
                (place, shown[server, *case])
                for place, case in zip(places, cases, strict=True)
                if (server, *case) in shown
            ]
            if not bars:
                continue
            values = [value for _, value in bars]
            axes.barh(
                [place for place, _ in bars], values, BAR_HEIGHT, color=color, label=_label(name, values)
            )
            for place, value in bars:
                # Right of the line at 1, which would cross the text.
                at = max(value, 1.0) + 0.07
                axes.text(at, place, f"{value:.3g}x", verticalalignment="center")
        axes.axvline(1.0, color=GREY, linewidth=1.5, linestyle="--")
        axes.text(1.0, 1.02, "1x: equal", horizontalalignment="center", transform=axes.get_xaxis_transform())
        axes.set_yticks(range(len(cases)), [_named(*case) for case in cases])
        axes.invert_yaxis()
        axes.set_xlim(0.0, 1.12 * max(shown.values()))
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(
            title="Requests per second of Bidlight",
            title_fontproperties={"weight": "bold", "size": 14},
            alignment="left",
            frameon=False,
            loc="outside upper left",
            ncols=len(SERVERS),
        )
        content = io.BytesIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _label(server: str, values: Sequence[float]) -> str:
    """The message of a server's bars: the range of the ratios."""
    return f"{min(values):.1f} to {max(values):.1f} times those of {server}"


def _named(candidates: int, connections: int) -> str:
    """The name of a case at its bars."""
    ads = "1 ad" if candidates == 1 else f"{candidates} ads"
    return f"{ads}, {connections} connection{'s' if connections > 1 else ''}"


if __name__ == "__main__":
    sys.exit(ended(main))
