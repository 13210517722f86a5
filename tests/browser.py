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
# Widths in pixels: a page wider than the window scrolls sideways, a figure of width 0 is invisible.
MEASURE = """<script>addEventListener("load", () => {
  const root = document.documentElement, figures = [...document.querySelectorAll("svg")];
  document.title = JSON.stringify({window: innerWidth, page: root.scrollWidth, text: root.innerText.length,
    figures: figures.map(figure => figure.getBoundingClientRect().width)});
})</script>"""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")


def render(url: str, folder: Path) -> str:
    """The page's document once it has loaded."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *OPTIONS, profile, "--virtual-time-budget=5000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def measure(page: str, folder: Path) -> dict[str, Any]:
    """Measures of a page in a window 1200 pixels wide: see MEASURE."""
    copy = folder / "measured.html"
    copy.write_text(page + MEASURE, encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", render(copy.as_uri(), folder), flags=re.DOTALL)
    assert title is not None
    found: dict[str, Any] = json.loads(html.unescape(title[1]))
    return found
