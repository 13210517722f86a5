"""Tokens of answers over HTTP, with several workers."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.feedback.keys import read_keys
from service.feedback.tokens import ReadTokens, Reason, Source, TokenReader, now_ms
from tests.e2e.raw_http import wait_until
from tests.running import JSON, MSGPACK, RunningService, running_service
from tests.tiny_bundle import tiny_rows

KEYS = [f"{number} {number:032x}" for number in range(3)]
CONTEXT = tiny_rows(1)[0]["context"]
ROWS = [{"id": f"ad-{number}", "features": {"ad": f"a{number}"}} for number in range(3)]
COLUMNS = {"id": [row["id"] for row in ROWS], "features": {"ad": ["a0", "a1", "a2"]}}


def write_keys(folder: Path, *lines: str) -> Path:
    file = folder / "feedback.keys"
    file.write_text("\n".join(lines), encoding="ascii")
    return file


@pytest.fixture(scope="module", params=["parser", "asgi"])
def tracked(
    request: pytest.FixtureRequest, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Two workers that sign with the first of two keys, by the way that requests take."""
    folder = tmp_path_factory.mktemp("tracked")
    keys = write_keys(folder, *KEYS[:2])
    arguments = ["--arm", f"only={bundles['control']}", "--workers", "2", "--feedback-keys", str(keys)]
    with running_service(folder, [*arguments, "--predict-through", request.param]) as service:
        yield service


def answer_to(service: RunningService, candidates: Any, kind: dict[str, str], **more: Any) -> dict[str, Any]:
    request = {"context": CONTEXT, "candidates": candidates, "tracking": True, **more}
    body = json.dumps(request).encode() if kind is JSON else msgspec.msgpack.encode(request)
    with service.client(headers=kind) as client:
        response = client.post("/predict", content=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json() if kind is JSON else msgspec.msgpack.decode(response.content)
    return answer


def read(tokens: list[str], answer: dict[str, Any], *keys: str, folder: Path) -> ReadTokens:
    source = Source(answer["arm"], answer["bundle"], "float32")
    reader = TokenReader(read_keys(str(write_keys(folder, *keys))))
    return reader.read(tokens, {source.number}, now_ms(), 60_000)


@pytest.mark.parametrize("kind", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("odd", [{}, {"context": {"a": 1, "b": {}}}], ids=["plain", "odd"])
def test_each_result_has_a_token_that_says_what_was_answered(
    tracked: RunningService, kind: dict[str, str], odd: dict[str, Any], tmp_path: Path
) -> None:
    seen = set()
    for _ in range(4):  # any worker answers
        rows = answer_to(tracked, ROWS, kind, **odd)
        columns = answer_to(tracked, COLUMNS, kind, **odd)
        assert [list(row) for row in rows["results"]] == [["id", "pctr", "bid", "token"]] * 3
        assert list(columns["results"]) == ["id", "pctr", "bid", "token"]
        for answer, tokens, pctrs in (
            (rows, [row["token"] for row in rows["results"]], [row["pctr"] for row in rows["results"]]),
            (columns, columns["results"]["token"], columns["results"]["pctr"]),
        ):
            found = read(tokens, answer, KEYS[0], folder=tmp_path)
            assert set(found.reasons.tolist()) == {Reason.OK}
            assert found.pctrs == pytest.approx(pctrs, rel=1e-5)
            seen.update(tokens)
    assert len(seen) == 24


def test_without_tracking_an_answer_is_as_before(tracked: RunningService) -> None:
    answer = answer_to(tracked, ROWS, JSON, tracking=False)
    assert [list(row) for row in answer["results"]] == [["id", "pctr", "bid"]] * 3


@pytest.mark.parametrize("value", [1, "true", None])
def test_tracking_is_true_or_false(tracked: RunningService, value: Any) -> None:
    refused = tracked.post({"candidates": [{}], "tracking": value})
    assert (refused.status_code, refused.json()["error"]["path"]) == (422, "$.tracking")


def test_without_keys_tracking_is_refused(service: RunningService) -> None:
    refused = service.post({"candidates": [{}], "tracking": True})
    assert refused.status_code == 422
    assert refused.json()["error"] == {
        "code": "invalid_field",
        "message": "'tracking' must be false here (got true); start the service with --feedback-keys",
        "path": "$.tracking",
    }


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_reads_the_keys_again(bundles: dict[str, Path], tmp_path: Path, workers: str) -> None:
    keys = write_keys(tmp_path, KEYS[0])
    arguments = ["--arm", f"only={bundles['control']}", "--feedback-keys", str(keys), "--workers", workers]
    with running_service(tmp_path, arguments) as service:
        (folder := tmp_path / "reader").mkdir()

        def is_signed_by(key: str) -> bool:
            answer = answer_to(service, [{}], JSON)
            found = read([answer["results"][0]["token"]], answer, key, folder=folder)
            return bool(found.reasons[0] == Reason.OK)

        def reloads(outcome: str) -> float:
            return service.metrics().get(f'bidlight_reloads_total{{outcome="{outcome}"}}', 0)

        assert is_signed_by(KEYS[0])
        write_keys(tmp_path, "nonsense")
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads("refused") == 1)
        assert is_signed_by(KEYS[0])
        assert "'feedback_keys' must be a file of keys" in service.errors.read_text()
        write_keys(tmp_path, *reversed(KEYS))
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads("ok") == 1)
        wait_until(lambda: is_signed_by(KEYS[2]))
        assert service.stop() == 0
