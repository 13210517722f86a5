"""The service with the native core, with it turned off, and where it was not built: the same answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.bundle.native import IS_BUILT
from tests.running import MSGPACK, running_service
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

CANDIDATES = [
    {"id": f"ad-{number}", "features": row["candidate"], "value_per_click": 1.25, "bid_floor": 0.0001}
    for number, row in enumerate(tiny_rows(30))
]
REQUEST = {"id": "r", "user_id": "u1", "context": tiny_rows(1)[0]["context"], "candidates": CANDIDATES}


def replies(folder: Path, bundle: Path, *options: str) -> tuple[list[bytes], dict[str, Any], str, float]:
    """The answers to a request in both encodings, /arms, what was printed, and how many were plain."""
    with running_service(folder, ["--arm", f"control={bundle}", *options]) as service:
        bodies = [service.post(REQUEST).content]
        with service.client(headers=MSGPACK) as client:
            bodies.append(client.post("/predict", content=msgspec.msgpack.encode(REQUEST)).content)
            arms = client.get("/arms").json()
        time.sleep(0.3)  # workers publish what they have counted from time to time
        plain = service.metrics()['bidlight_plain_requests_total{arm="control"}']
        return bodies, arms, service.output.read_text(), plain


def test_every_way_answers_alike_and_says_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    bodies, arms, printed, plain = replies(tmp_path, bundle)
    assert len(json.loads(bodies[0])["results"]) == len(CANDIDATES)
    assert arms["core"] == ("native" if IS_BUILT else "python")
    assert ("was not built" in printed) is not IS_BUILT
    assert plain == (2 if IS_BUILT else 0)

    with_two = replies(tmp_path, bundle, "--workers", "2")
    assert (with_two[0], with_two[1]["core"], with_two[3]) == (bodies, arms["core"], plain)

    off, arms, printed, plain = replies(tmp_path, bundle, "--native", "off")
    assert (off, arms["core"], plain) == (bodies, "python", 0)
    assert "was not built" not in printed

    # As after a set-up without a compiler: the module is not there.
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['service.bundle._native'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    absent, arms, printed, plain = replies(tmp_path, bundle)
    assert (absent, arms["core"], plain) == (bodies, "python", 0)
    assert "was not built" in printed
