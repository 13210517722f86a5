"""Tokens of answers, and the events that bring them back, over HTTP with several workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service.feedback.keys import read_keys
from service.feedback.tokens import ReadTokens, Reason, Source, TokenReader, now_ms
from tests.e2e.raw_http import wait_until
from tests.running import JSON, MSGPACK, RunningService, running_service, start_service
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


def tokens_of(service: RunningService, count: int) -> list[str]:
    answer = answer_to(service, {"id": [None] * count, "features": {"ad": ["a1"] * count}}, JSON)
    return list(answer["results"]["token"])


def send(
    service: RunningService, events: list[dict[str, Any]], kind: dict[str, str] = JSON
) -> dict[str, Any]:
    body = (
        json.dumps({"events": events}).encode()
        if kind is JSON
        else msgspec.msgpack.encode({"events": events})
    )
    with service.client(headers=kind) as client:
        response = client.post("/feedback", content=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json() if kind is JSON else msgspec.msgpack.decode(response.content)
    return found


def events_of(service: RunningService, event_type: str, outcome: str, arm: str = "only") -> float:
    name = f'bidlight_feedback_events_total{{arm="{arm}",outcome="{outcome}",type="{event_type}"}}'
    return service.metrics().get(name, 0)


@pytest.mark.parametrize("kind", [JSON, MSGPACK], ids=["json", "msgpack"])
def test_an_event_counts_once_whichever_worker_gets_it(tracked: RunningService, kind: dict[str, str]) -> None:
    before = {name: events_of(tracked, "impression", name) for name in ("counted", "duplicate")}
    shown = [{"token": token, "type": "impression"} for token in tokens_of(tracked, 300)]
    assert send(tracked, shown, kind) == {"counted": 300, "duplicates": 0, "refused": {}}
    for _ in range(6):  # each over a new connection, to any worker
        assert send(tracked, shown, kind) == {"counted": 0, "duplicates": 300, "refused": {}}
    assert events_of(tracked, "impression", "counted") - before["counted"] == 300
    assert events_of(tracked, "impression", "duplicate") - before["duplicate"] == 1800


def test_a_bad_event_loses_no_other(tracked: RunningService) -> None:
    good, late = tokens_of(tracked, 2)
    events = [
        {"token": good, "type": "click"},
        {"token": good, "type": "view"},
        {"token": "nonsense", "type": "click"},
        {"token": good[:-1] + ("A" if good[-1] != "A" else "B"), "type": "click"},
        {"type": "click"},
        {"token": late, "type": "click", "at": now_ms() + 3_600_000},
        {"token": late, "type": "click", "at": 0},
        {"token": good, "type": "impression", "at": now_ms()},
        5,
    ]
    refused = {"invalid": 4, "malformed": 1, "forged": 1, "future": 1}
    assert send(tracked, events) == {"counted": 2, "duplicates": 0, "refused": refused}


def test_clicks_and_what_was_expected_make_pcoc(tracked: RunningService) -> None:
    def sums() -> list[float]:
        found = tracked.metrics()
        return [
            found.get('bidlight_shown_pctr_total{arm="only"}', 0),
            found.get('bidlight_click_delay_seconds_count{arm="only"}', 0),
            found.get('bidlight_late_clicks_total{arm="only"}', 0),
        ]

    before = sums()
    answer = answer_to(tracked, [{"features": {"ad": f"a{number}"}} for number in range(10)], JSON)
    results = answer["results"]
    send(tracked, [{"token": row["token"], "type": "impression"} for row in results])
    clicked_ms = now_ms() + 30_000  # the clock of a client that is ahead
    send(tracked, [{"token": row["token"], "type": "click", "at": clicked_ms} for row in results[:3]])
    pctr, clicks, late = (after - first for first, after in zip(before, sums(), strict=True))
    assert pctr == pytest.approx(sum(row["pctr"] for row in results), rel=1e-5)
    assert (clicks, late) == (3, 0)
    assert tracked.metrics()["bidlight_feedback_window_seconds"] == pytest.approx(86_400, abs=1)


def test_pixels_count_and_are_not_kept(tracked: RunningService) -> None:
    shown, clicked = (events_of(tracked, kind, "counted") for kind in ("impression", "click"))
    (token,) = tokens_of(tracked, 1)
    with tracked.client() as client:
        for _ in range(3):
            pixel = client.get(f"/i/{token}")
            assert (pixel.status_code, pixel.headers["content-type"]) == (200, "image/gif")
            assert pixel.headers["cache-control"] == "no-store"
            assert pixel.content.startswith(b"GIF89a")
            assert len(pixel.content) == int(pixel.headers["content-length"])
            click = client.get(f"/c/{token}?to=https://example.org")
            assert (click.status_code, click.content) == (204, b"")
            assert "location" not in click.headers
        assert client.head(f"/i/{tokens_of(tracked, 1)[0]}").status_code == 200
        for bad in ("", "x", "a/b", "%00", token + "A"):
            assert client.get(f"/i/{bad}").status_code == 200
            assert client.get(f"/c/{bad}").status_code == 204
        assert client.post(f"/c/{token}", content=b"x" * 100_000).status_code == 405
        assert client.get("/feedback").status_code == 405
    assert events_of(tracked, "impression", "counted") - shown == 1
    assert events_of(tracked, "click", "counted") - clicked == 1


def test_what_is_no_list_of_events_is_refused(tracked: RunningService) -> None:
    bodies: list[tuple[bytes, dict[str, str], int]] = [
        (b"{", JSON, 400),
        (b"\xc1", MSGPACK, 400),
        (b"[]", JSON, 422),
        (b'{"events": {}}', JSON, 422),
        (b'{"events": [], "more": 1}', JSON, 422),
        (b'{"events": [' + b"5," * 5000 + b"5]}", JSON, 422),
        (b"", {"content-type": "text/plain"}, 415),
        (b'{"events": [' + b" " * 2_000_000 + b"]}", JSON, 413),
    ]
    for body, kind, status in bodies:
        with tracked.client(headers=kind) as client:
            answer = client.post("/feedback", content=body)
        assert answer.status_code == status, (body[:40], answer.text)
        assert set(answer.json()["error"]) == {"code", "message", "path"}
    assert send(tracked, []) == {"counted": 0, "duplicates": 0, "refused": {}}


def test_a_body_in_chunks_is_read(tracked: RunningService) -> None:
    (token,) = tokens_of(tracked, 1)
    body = json.dumps({"events": [{"token": token, "type": "click"}]}).encode()
    with tracked.client(headers=JSON) as client:
        answer = client.post("/feedback", content=(body[at : at + 7] for at in range(0, len(body), 7)))
    assert answer.json() == {"counted": 1, "duplicates": 0, "refused": {}}


def test_without_keys_there_is_no_feedback(service: RunningService) -> None:
    with service.client(headers=JSON) as client:
        for answer in (client.post("/feedback", content=b"{}"), client.get("/i/x"), client.get("/c/x")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_lists_need_the_token_of_bids_and_pixels_none(bundles: dict[str, Path], tmp_path: Path) -> None:
    keys = write_keys(tmp_path, KEYS[0])
    (tmp_path / "tokens").write_text("a-secret-of-the-exchange", encoding="ascii")
    options = ["--feedback-keys", str(keys), "--token-file", str(tmp_path / "tokens"), "--admin-port", "0"]
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}", *options]) as service:
        with service.client(headers=JSON) as client:
            assert client.post("/feedback", content=b'{"events": []}').status_code == 401
            client.headers["authorization"] = "Bearer a-secret-of-the-exchange"
            assert client.post("/feedback", content=b'{"events": []}').status_code == 200
            del client.headers["authorization"]
            assert client.get("/i/x").status_code == 200
        with service.client(base_url=service.admin_url, headers=JSON) as admin:
            for path in ("/feedback", "/i/x", "/c/x"):
                assert admin.post(path, content=b'{"events": []}').status_code == 404
        assert service.stop() == 0
    assert service.errors.read_text() == ""


def test_tokens_of_before_a_reload_and_of_a_worker_that_was_killed_still_count(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(bundles["control"], tmp_path / "bundle")
    keys = write_keys(tmp_path, KEYS[0])
    arguments = ["--arm", f"only={folder}", "--workers", "2", "--feedback-keys", str(keys)]
    with running_service(tmp_path, arguments) as service:
        shown = [{"token": token, "type": "impression"} for token in tokens_of(service, 100)]
        assert send(service, shown[:50])["counted"] == 50
        shutil.rmtree(folder)
        shutil.copytree(bundles["treatment"], folder)
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: service.metrics().get('bidlight_reloads_total{outcome="ok"}') == 1)
        old = service.workers()
        for worker in old:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: len(service.workers() - old) == 2)
        wait_until(service.accepts)
        assert answer_to(service, [{}], JSON)["bundle"].startswith("tiny-treatment")
        assert send(service, shown) == {"counted": 50, "duplicates": 50, "refused": {}}
        assert events_of(service, "impression", "counted") == 100
        assert service.stop() == 0


def kill(service: RunningService) -> None:
    """Kill the supervisor and its workers at once, as a machine does that runs out of memory."""
    workers = service.workers()
    service.send_signal(signal.SIGSTOP)  # it starts no other ones
    for process in (*workers, service.process.pid):
        os.kill(process, signal.SIGKILL)
    service.wait()


def test_what_is_sent_until_it_is_answered_counts_once_while_workers_are_killed(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    keys = write_keys(tmp_path, KEYS[0])
    arguments = ["--arm", f"only={bundles['control']}", "--workers", "2", "--feedback-keys", str(keys)]
    with running_service(tmp_path, arguments) as service, ThreadPoolExecutor() as pool:
        tokens = [token for _ in range(8) for token in tokens_of(service, 1000)]
        lists = [
            [{"token": token, "type": event_type} for token in tokens[start : start + 500]]
            for start in range(0, len(tokens), 500)
            for event_type in ("impression", "click")
        ]

        def send_until_answered(events: list[dict[str, Any]]) -> int:
            while True:
                with suppress(httpx.TransportError, AssertionError):  # killed within the request, or a 429
                    return int(send(service, events)["counted"])
                time.sleep(0.05)

        answers = [pool.submit(send_until_answered, events) for events in lists]
        killed = 0
        while not all(answer.done() for answer in answers):
            if killed < 3 and (workers := service.workers()):
                os.kill(min(workers), signal.SIGKILL)
                killed += 1
            time.sleep(0.3)
        assert killed > 0
        # A slice of 256 that was being counted may be lost with each of them; nothing counts twice.
        counted = sum(answer.result() for answer in answers)
        wait_until(lambda: found(service) >= max(counted, len(tokens) * 2 - 256 * killed))
        assert found(service) <= len(tokens) * 2
        for events in lists:
            assert send(service, events) == {"counted": 0, "duplicates": 500, "refused": {}}
        assert service.stop() == 0


def found(service: RunningService) -> float:
    """Events that were counted, of either type."""
    return sum(events_of(service, event_type, "counted") for event_type in ("impression", "click"))


def lines_in(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("events-*"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_that_starts_again_knows_what_it_counted(
    bundles: dict[str, Path], tmp_path: Path, workers: str
) -> None:
    keys = write_keys(tmp_path, KEYS[0])
    (log := tmp_path / "log").mkdir()
    arguments = ["--arm", f"only={bundles['control']}", "--workers", workers]
    arguments += ["--feedback-keys", str(keys), "--feedback-log", str(log)]
    with running_service(tmp_path, arguments) as service:
        shown = [{"token": token, "type": "impression"} for token in tokens_of(service, 400)]
        for start in range(0, 200, 50):
            assert send(service, shown[start : start + 50])["counted"] == 50
        assert service.stop() == 0  # nothing is lost
    assert lines_in(log) == 200
    assert "were not closed" not in service.errors.read_text()
    with running_service(tmp_path, arguments) as service:
        assert "200 events of before count no more" in service.errors.read_text()
        assert send(service, shown[:300]) == {"counted": 100, "duplicates": 200, "refused": {}}
        wait_until(lambda: lines_in(log) == 300)
        if workers == "2":
            kill(service)
        else:
            service.send_signal(signal.SIGKILL)
            service.wait()
    with running_service(tmp_path, arguments) as service:
        assert "1 files of" in service.errors.read_text()
        assert service.metrics()["bidlight_feedback_log_cuts_total"] == 1
        assert service.metrics()['bidlight_feedback_log_events_total{outcome="restored"}'] == 300
        assert send(service, shown) == {"counted": 100, "duplicates": 300, "refused": {}}
        refused = start_service(tmp_path, arguments)
        assert refused.wait() == 3
        assert "no other service writes to" in refused.errors.read_text()
        assert service.stop() == 0
