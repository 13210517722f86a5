"""The log of examples: which requests it has, as they were sent, and what it loses when there is no room."""

from __future__ import annotations

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadConfiguration
from service.examples import sampling
from service.examples.record import Example, SentRequest, line_of, read_line
from service.examples.sampling import ExampleSampler, open_examples
from service.metrics.families import Metrics
from service.settings import Settings
from service.wire import JSON, MSGPACK
from tests.running import read_metrics

ANSWER = {
    "id": None,
    "arm": "a",
    "bundle": "b@1",
    "results": [{"id": "x", "pctr": 0.5, "bid": None, "token": "t" * 40}],
}


def opened(folder: Path, **settings: Any) -> tuple[ExampleSampler, Metrics]:
    keys = folder / "keys"
    keys.write_text(f"0 {'ab' * 16}\n", encoding="ascii")
    metrics = Metrics()
    sampler = open_examples(Settings(feedback_keys=str(keys), example_log=str(folder), **settings), metrics)
    assert sampler is not None
    return sampler, metrics


def outcomes(metrics: Metrics) -> dict[str, float]:
    found = read_metrics(metrics.exposition()[0].decode())
    return {
        name: found[f'bidlight_example_log_requests_total{{outcome="{name}"}}']
        for name in ("written", "lost")
    }


def test_the_same_ids_are_chosen_everywhere_and_more_by_a_larger_share(tmp_path: Path) -> None:
    ids = [f"request-{number}" for number in range(20_000)]
    chosen = {}
    for share in (0.02, 0.1, 0.1, 1.0):
        sampler, _ = opened(tmp_path, example_share=share)
        found = {one for one in ids if sampler.takes(one)}
        assert chosen.setdefault(share, found) == found  # as in another process
        assert abs(len(found) / len(ids) - share) < 0.01
        by_chance = sum(sampler.takes(None) for _ in ids) / len(ids)
        assert abs(by_chance - share) < 0.02
        sampler.close()
    assert chosen[0.02] < chosen[0.1] < chosen[1.0]


values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@given(
    context=st.dictionaries(st.text(), values | st.lists(values, max_size=3), max_size=5),
    user=st.none() | st.dictionaries(st.text(), values, max_size=3),
    is_json=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
)
def test_a_line_holds_what_was_sent(context: Any, user: Any, is_json: bool, indent: int | None) -> None:
    request = {"candidates": [{}], "context": context}
    if is_json:
        body, answer = json.dumps(request, indent=indent).encode(), msgspec.json.encode(ANSWER)
    else:
        body, answer = msgspec.msgpack.encode(request), msgspec.msgpack.encode(ANSWER)
    sent = SentRequest(body, (JSON if is_json else MSGPACK).name, user)
    line = line_of(Example(sent, answer, 17, 0.25))
    assert b"\n" not in line
    assert read_line(line[:-1]) is None  # cut off
    found = read_line(line)
    assert found is not None
    assert (found.line.at, found.line.share, found.line.user) == (17, 0.25, user)
    assert (msgspec.json if is_json else msgspec.msgpack).decode(found.body) == request
    assert (found.tokens, found.pctrs, found.bids) == (["t" * 40], [0.5], [None])


def test_what_has_no_room_or_no_line_is_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, answer = b'{"candidates": [{}]}', msgspec.json.encode(ANSWER)
    monkeypatch.setattr(sampling, "MAX_QUEUED_BYTES", 3 * (len(body) + len(answer) + 200))
    monkeypatch.setattr("service.feedback.hourly_log.WRITE_SECONDS", 3600.0)
    sampler, metrics = opened(tmp_path, example_share=1.0)
    sampler.add(SentRequest(body, JSON.name, {"of the store": 1j}), answer)
    for _ in range(4):
        sampler.add(SentRequest(body, JSON.name), answer)
    sampler.close()
    sampler.publish()
    assert outcomes(metrics) == {"written": 2, "lost": 3}
    (file,) = [path for path in tmp_path.iterdir() if path.suffix == ".jsonl"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = file.read_bytes().splitlines()
    assert Counter(read_line(line) is not None for line in lines) == {True: 2}


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="'example_log' must be a folder that can be written to"):
        open_examples(Settings(feedback_keys="k", example_log=str(tmp_path / "absent")), Metrics())
