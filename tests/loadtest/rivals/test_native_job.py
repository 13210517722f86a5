"""A rival with the native core gives the answers of one without."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from loadtest.rivals.servers.job import Job
from loadtest.rivals.servers.known_ads import Ad
from loadtest.rivals.servers.native_job import NativeJob
from service.bundle.native import IS_BUILT
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

pytestmark = pytest.mark.skipif(not IS_BUILT, reason="the native core is not built")


def bodies(candidates: int, *, has_features: bool) -> list[bytes]:
    rows = tiny_rows(candidates)
    ads = [
        {
            "id": f"ad-{number}",
            "value_per_click": 1.25,
            "bid_floor": 0.002,
            **({"features": row["candidate"]} if has_features else {}),
        }
        for number, row in enumerate(rows)
    ]
    requests = [
        {"id": "a", "context": rows[0]["context"], "candidates": ads},
        {"context": {}, "candidates": ads[:1]},
    ]
    return [json.dumps(request).encode() for request in requests]


def test_features_that_are_sent(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", name="tiny", seed=0)
    job, native, sent = Job(bundle), NativeJob(bundle), bodies(4, has_features=True)
    assert native.answer_all([native.read(body) for body in sent]) == job.answer_batch(sent)
    with pytest.raises(ValueError, match="must be a plain request"):
        native.read(b"[]")


def test_ads_that_are_known(tmp_path: Path) -> None:
    bundle, ads = write_tiny_bundle(tmp_path / "tiny", name="tiny", seed=0), tmp_path / "ads.jsonl"
    lines = [Ad(f"ad-{number}", row["candidate"]) for number, row in enumerate(tiny_rows(3))]
    ads.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    job, native, sent = Job(bundle, ads), NativeJob(bundle, ads), bodies(4, has_features=False)
    assert native.answer_all([native.read(body) for body in sent]) == job.answer_batch(sent)
