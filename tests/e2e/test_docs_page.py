"""/docs in a browser that reaches only the service."""

from __future__ import annotations

from pathlib import Path

from tests.browser import measure, needs_chromium, render
from tests.running import RunningService


@needs_chromium
def test_a_browser_shows_the_docs_completely(service: RunningService, tmp_path: Path) -> None:
    page = render(f"{service.url}/docs", tmp_path)
    for said in ("/predict", "X-Split-Key", "value_per_click", "invalid_field", "/metrics"):
        assert said in page
    assert "<code>candidates</code>" in page
    layout = measure(page, tmp_path)["desk"]
    assert layout["page"] <= layout["window"]
    assert layout["text"] > 2000
