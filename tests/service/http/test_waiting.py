"""Requests that wait unread on real connections are answered in order, or refused, and never mixed up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from service.http.admission import Admission
from tests.running import RunningApp
from tests.tiny_bundle import tiny_rows
from tests.wire import Wire

RunApp = Callable[..., RunningApp]
CONTEXT = tiny_rows(1)[0]["context"]
MAX_QUEUE_MS = 40.0
TOO_LONG_SECONDS = 2 * MAX_QUEUE_MS / 1000
PATIENT_MS = 60_000.0
MUCH_WORK = 1_000_000_000
HELD_BYTES = 1_000_000


@pytest.fixture(params=["parser", "asgi"])
def way(request: pytest.FixtureRequest) -> str:
    """How requests reach the endpoint."""
    return str(request.param)


@pytest.fixture
def app(run_app: RunApp, way: str) -> RunningApp:
    """A service whose requests do not wait for long."""
    return run_app(
        predict_through=way, max_queue_ms=MAX_QUEUE_MS, max_body_bytes=HELD_BYTES, max_held_bytes=HELD_BYTES
    )


@pytest.fixture
def patient(run_app: RunApp, way: str) -> RunningApp:
    """One whose requests may wait for a minute."""
    return run_app(
        predict_through=way, max_queue_ms=PATIENT_MS, max_body_bytes=HELD_BYTES, max_held_bytes=HELD_BYTES
    )


def body_of(identifier: str) -> bytes:
    return json.dumps({"id": identifier, "context": CONTEXT, "candidates": [{}]}).encode()


def post(body: bytes, *headers: str, size: int | None = None) -> bytes:
    length = f"Content-Length: {len(body) if size is None else size}"
    lines = ["POST /predict HTTP/1.1", "Content-Type: application/json", length, *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ids_of(answers: list[bytes]) -> list[str]:
    """The id of each 200, or the status of another answer."""
    found = []
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split()[1].decode()
        found.append(json.loads(body)["id"] if status == "200" else status)
    return found


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():
            await asyncio.sleep(0)


def admission_of(app: RunningApp) -> Admission:
    return app.app.predict_service.admission


def test_requests_that_wait_are_answered_when_there_is_time(patient: RunningApp) -> None:
    app, admission = patient, admission_of(patient)

    async def exchange() -> list[list[bytes]]:
        async with Wire(app.app) as one, Wire(app.app) as other:
            work = admission.start(MUCH_WORK)
            await one.send(post(body_of("a")), post(body_of("b")))
            await other.send(post(body_of("c")))
            await until(lambda: admission.waiting == 2)  # of each connection one
            admission.stop(work)
            return [await one.receive(2), await other.receive(1)]

    first, second = app.runner.run(exchange())
    assert [ids_of(first), ids_of(second)] == [["a", "b"], ["c"]]
    assert app.app.predict_service.intake.held_bytes == 0
    assert app.metrics()["bidlight_wait_seconds_count"] >= 2


def test_a_request_that_waits_for_too_long_is_refused_unread_and_its_connection_lives(
    app: RunningApp,
) -> None:
    admission = admission_of(app)

    async def exchange() -> list[bytes]:
        async with Wire(app.app) as wire:
            work = admission.start(MUCH_WORK)
            await wire.send(post(b"no JSON at all"), post(body_of("next")))
            await until(lambda: admission.waiting == 1)
            await asyncio.sleep(TOO_LONG_SECONDS)
            admission.stop(work)
            return await wire.receive(2)

    refused, answered = app.runner.run(exchange())
    assert ids_of([refused, answered]) == ["429", "next"]
    head, _, body = refused.partition(b"\r\n\r\n")
    assert b"\r\nretry-after: 1" in head
    assert b"connection: close" not in head
    assert json.loads(body)["error"]["code"] == "overloaded"
    found = app.metrics()
    assert found['bidlight_refusals_total{reason="time"}'] == 1
    assert found['bidlight_requests_total{arm="",outcome="overloaded"}'] == 1
    assert found["bidlight_waiting_requests"] == 0


@pytest.mark.parametrize("size", [0, 1, 70_000, 600_000])
def test_bodies_of_any_size_are_read_over(app: RunningApp, size: int) -> None:
    admission = admission_of(app)

    async def exchange() -> list[bytes]:
        async with Wire(app.app) as wire:
            work = admission.start(MUCH_WORK)
            message = post(b" " * size)
            await wire.send(message[:60], message[60:1000], message[1000:], post(body_of("next")))
            await until(lambda: admission.waiting == 1)
            await asyncio.sleep(TOO_LONG_SECONDS)
            assert app.app.predict_service.intake.held_bytes >= size
            admission.stop(work)
            return await wire.receive(2)

    assert ids_of(app.runner.run(exchange())) == ["429", "next"]
    assert app.app.predict_service.intake.held_bytes == 0


def test_a_refusal_closes_a_connection_that_asks_for_it(app: RunningApp) -> None:
    admission = admission_of(app)

    async def exchange() -> tuple[list[bytes], bytes]:
        async with Wire(app.app) as wire:
            work = admission.start(MUCH_WORK)
            await wire.send(post(body_of("a"), "Connection: close"))
            await until(lambda: admission.waiting == 1)
            await asyncio.sleep(TOO_LONG_SECONDS)
            admission.stop(work)
            return await wire.receive(1), await asyncio.wait_for(wire.reader.read(), 10)

    (refused,), rest = app.runner.run(exchange())
    assert ids_of([refused]) == ["429"]
    assert b"\r\nconnection: close\r\n" in refused
    assert rest == b""


def test_the_time_of_a_client_counts_from_its_first_byte(patient: RunningApp) -> None:
    body = json.dumps({"id": "a", "context": CONTEXT, "candidates": [{}], "tmax_ms": 20}).encode()
    message = post(body)

    async def exchange(cut: int, seconds: float) -> list[bytes]:
        async with Wire(patient.app) as wire:
            await wire.send(message[:cut])
            await asyncio.sleep(seconds)
            await wire.send(message[cut:])
            return await wire.receive(1)

    for cut in (1, 30, len(message) - 3):  # within the first line, the head and the body
        assert ids_of(patient.runner.run(exchange(cut, 0.03))) == ["429"]
    found = patient.metrics()
    assert found['bidlight_refusals_total{reason="deadline"}'] == 3
    assert found['bidlight_request_seconds_count{arm="control"}'] == 0


def test_a_client_that_leaves_while_it_waits_costs_nothing(patient: RunningApp) -> None:
    app, admission = patient, admission_of(patient)

    async def exchange() -> list[bytes]:
        work = admission.start(MUCH_WORK)
        async with Wire(app.app) as wire:
            await wire.send(post(body_of("a")))
            await until(lambda: admission.waiting == 1)
        async with Wire(app.app) as other:
            await other.send(post(body_of("b")))
            await until(lambda: admission.waiting == 2)
            admission.stop(work)
            return await other.receive(1)

    assert ids_of(app.runner.run(exchange())) == ["b"]
    found = app.metrics()
    assert found['bidlight_requests_total{arm="",outcome="client_left"}'] == 1
    assert found['bidlight_requests_total{arm="control",outcome="ok"}'] == 1
    assert app.app.predict_service.intake.held_bytes == 0


def test_if_bytes_are_short_the_oldest_that_waits_is_refused_and_its_connection_lives(
    patient: RunningApp,
) -> None:
    app, admission, intake = patient, admission_of(patient), patient.app.predict_service.intake

    async def exchange() -> list[list[bytes]]:
        async with Wire(app.app) as one, Wire(app.app) as other:
            work = admission.start(MUCH_WORK)
            await one.send(post(b" " * 600_000), post(body_of("next")))
            await until(lambda: intake.held_bytes >= 600_000 and admission.waiting == 1)
            await other.send(post(body_of("b") + b" " * 600_000))
            await until(lambda: admission.waiting == 2)
            assert intake.held_bytes < HELD_BYTES
            admission.stop(work)
            return [await one.receive(2), await other.receive(1)]

    first, second = app.runner.run(exchange())
    assert [ids_of(first), ids_of(second)] == [["429", "next"], ["b"]]
    assert intake.held_bytes == 0


def test_work_under_way_ends_however_a_request_ends(app: RunningApp) -> None:
    """Else the service would once be closed for ever."""
    bodies = [
        body_of("a"),
        b"nonsense",
        b'{"candidates": [{}], "context": {"hour": "noon"}}',
        b'{"candidates": [{}], "tmax_ms": 0.000001}',
    ]
    for body in bodies:
        app.post(body)
    app.post(bodies[0], {"content-type": "text/plain"})

    async def exchange() -> None:
        async with Wire(app.app) as wire:
            for body in bodies:
                await wire.send(post(body))
            await wire.receive(len(bodies))
            await wire.send(post(body_of("last"))[:-3])

    app.runner.run(exchange())
    admission = admission_of(app)
    work = admission.start(0)
    admission.stop(work)
    admission.turn()
    assert admission.open_work == 0
