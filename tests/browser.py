"""Headless Chromium, for tests of how a page is rendered."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1200,900",
)
# Measures of a page in windows of these widths. A page wider than its window scrolls sideways; a drawing that
# is wider may scroll by itself. Of its parts (`axes` of matplotlib) those without a mark are empty: marks are
# all but the background, the two spines, the axes and the legend.
WIDTHS = {"desk": 1200, "phone": 390}
MEASURE = """<script>addEventListener("load", () => {
  const marks = axes => {
    const drawn = [...axes.children].filter(one => !/^(matplotlib.axis|legend|text|patch)/.test(one.id));
    const patches = [...axes.children].filter(one => /^patch/.test(one.id)).slice(1, -2);
    return [...drawn, ...patches].filter(one => {
      const {width, height} = one.getBoundingClientRect();
      return width + height > 1;
    }).length;
  };
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const drawings = [...page.querySelectorAll("svg")];
    found[frame.id] = {
      window: frame.contentWindow.innerWidth, page: root.scrollWidth, text: root.innerText.length,
      ground: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
      figures: drawings.map(one => one.getBoundingClientRect().width),
      words: drawings.flatMap(one => [...one.querySelectorAll("text")].map(text =>
        parseFloat(getComputedStyle(text).fontSize)
          * one.getBoundingClientRect().width / one.viewBox.baseVal.width)),
      marks: drawings.map(one => [...one.querySelectorAll("g[id^=axes_]")].map(marks)),
    };
  }
  document.title = JSON.stringify(found);
})</script>"""

SMALLEST_WORDS = 5
"""Pixels of a word in a drawing: ticks of wide matrices are small, and names of axes are twice as large."""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")


def render(url: str, folder: Path, *options: str) -> str:
    """The page's document once it has loaded."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *OPTIONS, *options, profile, "--virtual-time-budget=5000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def measure(page: str, folder: Path, *, dark: bool = False) -> dict[str, dict[str, Any]]:
    """Measures of a page by the names of WIDTHS: see MEASURE."""
    frames = "".join(
        f'<iframe id="{name}" style="width: {width}px; height: 900px; border: 0" '
        f'srcdoc="{html.escape(page)}"></iframe>'
        for name, width in WIDTHS.items()
    )
    copy = folder / "measured.html"
    copy.write_text(f"<!doctype html><title></title>{frames}{MEASURE}", encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    title = re.search(r"<title>(.*?)</title>", render(copy.as_uri(), folder, scheme), flags=re.DOTALL)
    assert title is not None
    found: dict[str, dict[str, Any]] = json.loads(html.unescape(title[1]))
    return found


def check_readable(page: str, folder: Path, *, figures: int, text: int = 1_000) -> None:
    """The page fits its window on a desk and on a phone, and each of its figures shows something legible."""
    for name, layout in measure(page, folder).items():
        assert layout["window"] == WIDTHS[name]
        assert layout["page"] <= layout["window"], name
        assert layout["text"] > text
        assert len(layout["figures"]) == figures
        assert all(width > 200 for width in layout["figures"]), layout["figures"]
        assert all(parts and min(parts) > 0 for parts in layout["marks"]), layout["marks"]
        assert min(layout["words"], default=8) > SMALLEST_WORDS, name
