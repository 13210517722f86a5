"""/console in a browser that reaches only the service, while the service bids and gets feedback."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.calibration.hours import HOUR_MS
from service.feedback.keys import Key
from service.feedback.tokens import Numbers, Source, TokenSigner, now_ms
from tests.browser import needs_chromium
from tests.devtools import Tab, open_tab
from tests.running import JSON, RunningService, running_service
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

HOSTILE = "<img src=x onerror=alert(1)>&amp;'\"${1}</script><script>alert(2)</script>"
REQUEST = {"context": tiny_rows(1)[0]["context"], "candidates": [{"features": {"ad": "a1"}}] * 20}
WIDTHS = (390, 1200)
KEY = Key(0, b"\x5e" * 16)
# Puts `wrong` before each text and the names of counts that the page gets from the service.
RENAME = """
const ask = fetch;
const prefix = (key, value) => typeof value === "string" ? wrong + value : value;
const rename = counts => Object.fromEntries(Object.entries(counts).map(([name, n]) => [wrong + name, n]));
fetch = async (...given) => {
  const sample = JSON.parse(JSON.stringify(await (await ask(...given)).json(), prefix));
  for (const arm of sample.arms) {
    arm.outcomes = rename(arm.outcomes);
    arm.qualities = rename(arm.qualities);
  }
  sample.refusals = {[wrong]: 1};
  return new Response(JSON.stringify(sample));
};
"""


def bid(service: RunningService, *, clicks: int = 0, **more: Any) -> None:
    """A request, all of whose ads are shown, and some clicked."""
    with service.client(headers=JSON) as client:
        answer = client.post("/predict", json={**REQUEST, "tracking": clicks > 0, **more})
        assert answer.status_code == 200, answer.text
        tokens = [row["token"] for row in answer.json()["results"]] if clicks else []
        events = [{"token": token, "type": "impression"} for token in tokens]
        events += [{"token": token, "type": "click"} for token in tokens[:clicks]]
        if events:
            assert client.post("/feedback", content=json.dumps({"events": events})).json()["counted"] > 0


def come_back(service: RunningService, arm: str, hour: int, factor: float) -> None:
    """Events of ads that an arm answered so many hours ago, of which `factor` times as many were clicked."""
    with service.client(base_url=service.admin_url) as operator:
        (found,) = (each for each in operator.get("/arms").json()["arms"] if each["name"] == arm)
    pctrs = np.repeat([0.05, 0.1, 0.2, 0.4], 200)
    signer = TokenSigner(KEY, Source(arm, found["bundle"], found["variant"]), Numbers())
    tokens = signer.tokens_at(pctrs, now_ms() - hour * HOUR_MS, 1000 * hour)
    clicked = np.concatenate([np.arange(200) < round(200 * factor * pctr) for pctr in pctrs[::200]])
    events = [{"token": token, "type": "impression"} for token in tokens]
    events += [{"token": token, "type": "click"} for token in np.array(tokens)[clicked]]
    with service.client(headers=JSON) as client:  # over a connection of its own: any worker counts them
        answer = client.post("/feedback", content=json.dumps({"events": events}))
    assert answer.json()["counted"] == len(events), answer.text


@contextmanager
def some_load(service: RunningService) -> Iterator[None]:
    """About 50 requests a second, of which each tenth gets feedback."""
    done = threading.Event()

    def run() -> None:
        number = 0
        while not done.wait(0.02):
            number += 1
            bid(service, clicks=5 * (number % 10 == 0))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture(scope="module")
def running(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Two workers and an admin port; the model of one arm has a name that would be markup."""
    folder = tmp_path_factory.mktemp("console")
    (folder / "keys").write_text(f"0 {KEY.secret.hex()}\n", encoding="ascii")
    hostile = write_tiny_bundle(folder / "hostile")
    manifest = json.loads((hostile / "manifest.json").read_bytes())
    manifest["model"]["name"] = HOSTILE
    (hostile / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    arms = ["--arm", f"control={bundles['control']}:3", "--arm", f"treatment={hostile}:1"]
    options = ["--workers", "2", "--admin-port", "0", "--feedback-keys", str(folder / "keys")]
    with running_service(folder, [*arms, *options, "--live-calibration", "observe"]) as service:
        yield service


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with open_tab(tmp_path) as opened:
        yield opened


def rate_shown(tab: Tab) -> float:
    return float(
        tab.value("document.querySelector('#tiles dd').firstChild.data.replace(/[^0-9.]/g, '') || '0'")
    )


def total_shown(tab: Tab) -> int:
    """The sum of the last column of the table of outcomes."""
    cells = "[...document.querySelectorAll('#outcomes td:last-child')]"
    return int(
        tab.value(f"{cells}.reduce((sum, cell) => sum + Number(cell.textContent.replace(/,/g, '')), 0)")
    )


@needs_chromium
def test_numbers_move_while_the_service_bids(running: RunningService, tab: Tab) -> None:
    bid(running, clicks=5)
    with some_load(running):
        tab.open(f"{running.admin_url}/console")
        tab.wait_for("document.body.dataset.samples >= 1")
        first = total_shown(tab)
        assert first > 0
        tab.wait_for("document.body.dataset.samples >= 3")
        assert total_shown(tab) > first
        assert 2 < rate_shown(tab) < 500
    text = tab.value("document.body.innerText")
    for said in ("live", "control", "treatment", "2 of 2", "95 %", "observe, revision 0", "full 100 %", "ok"):
        assert said in text, said
    assert HOSTILE in text  # as it is written
    assert tab.value("document.images.length") == 0
    assert tab.value("document.querySelectorAll('#arms svg .bar').length") > 10
    for width in WIDTHS:
        for dark in (False, True):
            tab.open(f"{running.admin_url}/console", width=width, dark=dark)
            tab.wait_for("document.body.dataset.samples >= 1")
            assert tab.value("document.documentElement.scrollWidth") <= width
            assert tab.value("innerWidth") == width
            ground = tab.value("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
            assert (max(ground) < 80) == dark
            assert (
                tab.value("Math.min(...[...document.querySelectorAll('svg')].map(one => one.clientWidth))")
                > 200
            )
    assert tab.complaints() == []
    assert {url for url in tab.requested() if not url.startswith("data:")} == {
        f"{running.admin_url}/console",
        f"{running.admin_url}/console.json",
    }


@needs_chromium
def test_what_comes_back_is_drawn_by_arm(running: RunningService, tab: Tab) -> None:
    for hour in range(1, 13):
        come_back(running, "control", hour, 1.0)
        come_back(running, "treatment", hour, 0.5)
    with some_load(running):
        for width in WIDTHS:
            tab.open(f"{running.admin_url}/console", width=width)
            tab.wait_for("document.querySelectorAll('#feedback .hour').length >= 24")
            cards = tab.value(
                "[...document.querySelectorAll('.feedback')].map(card => [card.firstChild.textContent,"
                " card.querySelectorAll('.hour').length, card.querySelectorAll('.point').length])"
            )
            assert [name for name, *_ in cards] == ["control", "treatment"]
            assert all(hours >= 12 and points >= 4 for _, hours, points in cards)
            assert tab.value("document.documentElement.scrollWidth") <= width
            # No word is cut by the edge of its chart.
            cut = (
                "[...document.querySelectorAll('#feedback text')].filter(text => {"
                "const box = text.getBBox(), chart = text.ownerSVGElement.viewBox.baseVal;"
                "const right = box.x + box.width, low = box.y + box.height;"
                "return box.x < 0 || right > chart.width + 1 || box.y < 0 || low > chart.height;"
                "}).map(text => text.textContent)"
            )
            assert tab.value(cut) == []
    assert tab.complaints() == []
    with running.client(base_url=running.admin_url) as operator:
        for arm, pcoc in zip(operator.get("/console.json").json()["arms"], (1.0, 2.0), strict=True):
            each = [hour for hour in arm["hours"]["each"] if hour["impressions"] == 800]
            assert len(each) >= 10
            for hour in each:
                assert hour["pcoc"]["value"] == pytest.approx(pcoc, rel=1e-4)
                assert hour["pcoc"]["low"] < pcoc < hour["pcoc"]["high"]
            highest = arm["reliability"]["points"][-1]  # which nothing else of these tests has
            assert highest["pctr"] == pytest.approx(0.4, rel=1e-4)
            assert highest["low"] < 0.4 / pcoc < highest["high"]


@needs_chromium
def test_no_text_of_the_numbers_becomes_markup(running: RunningService, tab: Tab) -> None:
    """The service takes no such names of arms and bundles; the page would show them as they are written."""
    bid(running)
    tab.call("Page.addScriptToEvaluateOnNewDocument", source=f"const wrong = {json.dumps(HOSTILE)}; {RENAME}")
    for width in WIDTHS:
        tab.open(f"{running.admin_url}/console", width=width)
        tab.wait_for("document.body.dataset.samples >= 1")
        text = tab.value("document.body.innerText")
        for said in (f"{HOSTILE}control", f"{HOSTILE}tiny-control", f"{HOSTILE}full", f"{HOSTILE}ok"):
            assert said in text, said
        assert tab.value("document.images.length + document.scripts.length") == 1
        assert tab.value("document.documentElement.scrollWidth") <= width
    assert tab.complaints() == []


@needs_chromium
def test_the_page_says_when_the_service_hangs_or_is_gone(
    bundles: dict[str, Path], tmp_path: Path, tab: Tab
) -> None:
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}"]) as service:
        bid(service)
        tab.open(f"{service.url}/console")
        tab.wait_for("document.getElementById('state').textContent === 'live'")
        shown = total_shown(tab)
        assert tab.value("document.getElementById('trouble').hidden")
        assert "no --feedback-keys" in tab.value("document.getElementById('feedback').innerText")
        service.send_signal(signal.SIGSTOP)
        tab.wait_for("document.getElementById('state').textContent === 'stale'")
        assert re.search(
            r"not answered.* \d+ s old", tab.value("document.getElementById('trouble').innerText")
        )
        service.send_signal(signal.SIGCONT)
        tab.wait_for("document.getElementById('state').textContent === 'live'")
        assert service.stop() == 0
    tab.wait_for("document.getElementById('state').textContent === 'unreachable'")
    assert "cannot be reached" in tab.value("document.getElementById('trouble').innerText")
    assert total_shown(tab) == shown  # the last numbers stay


@needs_chromium
def test_what_the_page_does_not_need_its_policy_refuses(running: RunningService, tab: Tab) -> None:
    tab.open(f"{running.admin_url}/console")
    tab.wait_for("document.body.dataset.samples >= 1")
    tab.value(
        "document.body.append(Object.assign(document.createElement('a'), {id: 'link', textContent: 'x'}))"
    )
    refused = (
        "(() => { try { document.getElementById('link').innerHTML = '<b>x</b>' } catch { return true } })()"
    )
    assert tab.value(refused) is True
    leave = "fetch('http://127.0.0.2:1/').then(() => 'sent', error => error.message)"
    found = tab.call("Runtime.evaluate", expression=leave, awaitPromise=True, returnByValue=True)
    assert "fetch" in found["result"]["value"].lower()
    assert any("Content Security Policy" in json.dumps(event) for event in tab.complaints())
