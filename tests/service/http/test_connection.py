"""What a connection does with bytes, however they come: one request at a time, nothing kept or mixed up."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import Overloaded
from service.http.framing import RequestFrame
from service.http.heads import MAX_HEAD_BYTES, MAX_HEADERS
from service.http.prediction import Prediction
from service.settings import Settings
from service.wire import Asked
from tests.running import RunningApp
from tests.tiny_bundle import tiny_rows
from tests.wire import Wire

CONTEXT = tiny_rows(1)[0]["context"]
HELD_BYTES = 300_000


@pytest.fixture(scope="module")
def apps(bundles: dict[str, Path]) -> Iterator[dict[str, RunningApp]]:
    """The same service by the way that its requests take."""
    running = {
        way: RunningApp(
            Settings(
                arms=(f"control={bundles['alpha']}",),
                predict_through=way,
                max_body_bytes=100_000,
                max_held_bytes=HELD_BYTES,
                keep_alive_seconds=5,
            )
        )
        for way in ("parser", "asgi")
    }
    yield running
    for app in running.values():
        app.close()


def post(body: bytes, *headers: str, path: str = "/predict") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join([*lines, *headers, "", ""])).encode() + body


def chunked(body: bytes, size: int, *trailers: str) -> bytes:
    head = "POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts)
    return head.encode() + chunks + b"0\r\n" + "".join(f"{each}\r\n" for each in trailers).encode() + b"\r\n"


def body_of(identifier: str, candidates: int = 1, padding: int = 0) -> bytes:
    ads = [{"id": str(number), "features": {"ad": f"a{number}"}} for number in range(candidates)]
    context = {**CONTEXT, "padding": "\r\n" * padding}
    return json.dumps({"id": identifier, "context": context, "candidates": ads}).encode()


# Heads of several clients that differ in little, bodies that are refused, and heads within bodies.
INNER = post(b"{}").decode()
BODIES = [body_of("a"), body_of("b", 3), b"", b"{}", b"nonsense", json.dumps({"id": INNER}).encode()]
ONE_REQUEST = st.one_of(
    st.sampled_from(BODIES).map(post),
    st.sampled_from(BODIES).map(lambda body: post(body, "X-Split-Key: k")),
    st.sampled_from(BODIES).map(lambda body: post(body, "X-Arm: nobody")),
    st.sampled_from(BODIES).map(lambda body: post(body, "Connection: keep-alive, Upgrade", "Upgrade: h2c")),
    st.sampled_from(BODIES).map(lambda body: post(body, path="/nowhere")),
    st.sampled_from(BODIES[:2]).map(lambda body: chunked(body, 40)),
    st.sampled_from(BODIES[:2]).map(lambda body: chunked(body, 7, "X-Trailer: 1")),
    st.sampled_from([b"GET /healthz HTTP/1.1\r\n\r\n", b"\r\n\r\n" + post(body_of("c"))]),
)


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[list[bytes]], list[tuple[int, bytes]]]:
    """The requests of each client, and packets in the order in which they come: whose, and which bytes."""
    clients = draw(st.lists(st.lists(ONE_REQUEST, min_size=1, max_size=4), min_size=1, max_size=3))
    waiting = []
    for requests in clients:
        data = b"".join(requests)
        cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=4)))
        pieces = zip([0, *cuts], [*cuts, len(data)], strict=True)
        waiting.append([data[start:end] for start, end in pieces])
    order = []
    while any(waiting):
        client = draw(st.sampled_from([number for number, packets in enumerate(waiting) if packets]))
        order.append((client, waiting[client].pop(0)))
    return clients, order


def answers_of(
    app: RunningApp, clients: list[list[bytes]], order: list[tuple[int, bytes]]
) -> list[list[bytes]]:
    async def exchange() -> list[list[bytes]]:
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(Wire(app.app)) for _ in clients]
            for client, packet in order:
                await wires[client].send(packet)
            return [await wire.receive(len(requests)) for wire, requests in zip(wires, clients, strict=True)]

    return app.runner.run(exchange())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(traffic())
def test_clients_get_the_answers_to_their_requests_however_the_bytes_come(
    apps: dict[str, RunningApp], sent: tuple[list[list[bytes]], list[tuple[int, bytes]]]
) -> None:
    """The reference is a new connection for each request, and another way through the service."""

    @cache
    def alone(request: bytes) -> bytes:
        ((answer,),) = answers_of(apps["asgi"], [[request]], [(0, request)])
        return answer

    clients, order = sent
    found = answers_of(apps["parser"], clients, order)
    assert found == [[alone(request) for request in requests] for requests in clients]


def test_a_refused_body_and_a_head_in_one_packet_spoil_no_other_client(apps: dict[str, RunningApp]) -> None:
    """The length that the second head declares makes the packet look like one request with the first head."""
    good = body_of("good")
    refused = post(b" " * len(good))
    another = post(good, f"X-Padding: {'p' * 40}")  # sent behind the good one by the other client
    length = len(good) + len(another)
    second = post(b"", "X-Padding: ").replace(b"Length: 0", b"Length: %d" % length)
    second = second.replace(b"Padding: ", b"Padding: " + b"p" * (len(another) - len(second)))
    assert len(refused + second) - refused.index(b"\r\n\r\n") - 4 == length
    for _ in range(2):
        found = answers_of(
            apps["parser"],
            [[refused, second], [post(good), another]],
            [(0, refused + second), (0, b" " * length), (1, post(good) + another)],
        )
        statuses = [[answer.split()[1] for answer in answers] for answers in found]
        assert statuses == [[b"400", b"400"], [b"200", b"200"]]


@pytest.mark.parametrize("request_line", [post(body_of("x")), b"GET /healthz HTTP/1.1\r\n\r\n"])
def test_one_request_is_taken_at_a_time_and_the_others_wait_in_the_socket(
    apps: dict[str, RunningApp], request_line: bytes
) -> None:
    async def exchange() -> tuple[int, list[bytes]]:
        async with Wire(apps["parser"].app) as wire:
            most = 0
            wire.protocol.data_received(request_line * 300)
            assert not wire.transport.is_reading()
            while wire.protocol._waiting:
                most = max(most, len(wire.state.tasks))
                await asyncio.sleep(0)
            answers = await wire.receive(300)
            assert wire.transport.is_reading()
            return most, answers

    most, answers = apps["parser"].runner.run(exchange())
    assert most <= 1
    assert len(answers) == 300
    assert {answer.split()[1] for answer in answers} == {b"200"}


def test_a_client_that_does_not_read_is_not_read_from(apps: dict[str, RunningApp]) -> None:
    request = post(json.dumps({"candidates": [{"id": "ad"}] * 100}).encode())

    async def exchange() -> int:
        async with Wire(apps["parser"].app) as wire:
            wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
            wire.protocol.data_received(request * 150)
            for _ in range(4000):
                await asyncio.sleep(0)
            assert not wire.transport.is_reading()
            assert wire.protocol._waiting
            return wire.transport.get_write_buffer_size()

    assert apps["parser"].runner.run(exchange()) < 200_000


@pytest.mark.parametrize(
    "request_line",
    [post(body_of("x", 20)), post(b"{}"), chunked(body_of("x", 20), 100), b"GET /arms HTTP/1.1\r\n\r\n"],
    ids=["predict", "refused", "chunked", "arms"],
)
def test_nothing_of_a_request_is_kept_after_its_answer(
    apps: dict[str, RunningApp], request_line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[object]] = []

    class Watched(Prediction):
        __slots__ = ("__weakref__",)

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(weakref.ref(self))

    monkeypatch.setattr("service.http.direct.Prediction", Watched)
    monkeypatch.setattr("service.http.endpoint.Prediction", Watched)

    async def exchange() -> None:
        async with Wire(apps["parser"].app) as wire:
            for _ in range(2):
                await wire.send(request_line)
                await wire.receive(1)
            protocol = wire.protocol
            assert (protocol.cycle, protocol.scope or None) == (None, None)
            assert (protocol.url, protocol.headers, protocol._waiting) == (b"", [], b"")
            await asyncio.sleep(0.01)
            gc.collect()
            assert [each() for each in made] == [None] * len(made)

    apps["parser"].runner.run(exchange())


def test_features_are_not_kept_while_rows_wait(apps: dict[str, RunningApp]) -> None:
    service = apps["parser"].app.predict_service

    async def submit() -> Prediction:
        prediction = Prediction(service, 0.0)
        prediction.read_headers({b"content-type": b"application/json"})
        await prediction.submit(body_of("x", 5))
        asked = prediction._asked
        # What the answer needs has no features in the Python code; the native core frees them.
        assert isinstance(asked, Asked) or asked.context == {}
        assert service.intake.held_bytes == len(body_of("x", 5))
        prediction.end("ok")
        return prediction

    apps["parser"].runner.run(submit())
    assert service.intake.held_bytes == 0


def test_the_slowest_yield_when_bytes_are_short(apps: dict[str, RunningApp]) -> None:
    """Four clients stop within their bodies: with the fourth, the first must go. Others are not disturbed."""
    app = apps["parser"]
    requests = [post(b" " * 90_000)[:-10], chunked(b" " * 90_000, 1000)[:-20]]

    async def exchange() -> list[list[bytes]]:
        async with AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(Wire(app.app)) for _ in range(5)]
            for number, wire in enumerate(wires[:4]):
                await wire.send(requests[number % 2])
                for _ in range(200):
                    await asyncio.sleep(0)
                assert app.app.predict_service.intake.held_bytes <= HELD_BYTES
            await wires[4].send(post(body_of("x")))
            return [await wire.receive(1) for wire in (wires[0], wires[4])]

    for _ in range(2):
        stopped, served = app.runner.run(exchange())
        assert stopped[0].startswith(b"HTTP/1.1 429")
        assert b"connection: close" in stopped[0]
        assert b"retry-after: 1" in stopped[0]
        assert served[0].startswith(b"HTTP/1.1 200")
        assert app.app.predict_service.intake.held_bytes == 0
        requests.reverse()


def test_a_request_is_refused_when_those_under_way_leave_no_room(apps: dict[str, RunningApp]) -> None:
    service = apps["parser"].app.predict_service
    service.intake.take(HELD_BYTES)
    try:
        with pytest.raises(Overloaded, match=f"{HELD_BYTES} bytes at most"):
            service.intake.take(1)
        found = answers_of(apps["parser"], [[post(body_of("x"))]], [(0, post(body_of("x")))])
        assert found[0][0].startswith(b"HTTP/1.1 429")
    finally:
        service.intake.give_back(HELD_BYTES)
    assert (
        answers_of(apps["parser"], [[post(body_of("x"))]], [(0, post(body_of("x")))])[0][0].split()[1]
        == b"200"
    )


def test_what_waits_behind_a_request_yields_too_and_its_connection_closes(
    apps: dict[str, RunningApp],
) -> None:
    app = apps["parser"]

    async def exchange() -> tuple[bytes, bytes]:
        async with Wire(app.app) as wire:
            one = post(body_of("first"))
            wire.protocol.data_received(one + one)
            app.app.predict_service.intake.make_room(HELD_BYTES)
            (answer,) = await wire.receive(1)
            return answer, await wire.reader.read()

    answer, rest = app.runner.run(exchange())
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert rest == b""


def test_a_client_that_does_not_read_yields_what_it_was_sent(apps: dict[str, RunningApp]) -> None:
    app = apps["parser"]
    intake = app.app.predict_service.intake
    request = post(json.dumps({"id": "\x01" * 9000, "candidates": [{}]}).encode())

    async def exchange() -> None:
        async with Wire(app.app) as wire:
            wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(100):
                wire.protocol.data_received(request)
                await asyncio.sleep(0)
                if wire.protocol.flow.write_paused:
                    break
            unread = wire.transport.get_write_buffer_size()
            assert 0 < unread <= intake.held_bytes
            intake.make_room(HELD_BYTES)
            assert wire.transport.is_closing()
            assert intake.held_bytes == 0

    app.runner.run(exchange())


def test_a_connection_is_freed_without_the_collector(apps: dict[str, RunningApp]) -> None:
    async def exchange() -> weakref.ref[object]:
        wire = Wire(apps["parser"].app)
        async with wire:
            await wire.send(post(body_of("x")))
            await wire.receive(1)
        await asyncio.sleep(0.01)
        connection = weakref.ref(wire.protocol)
        assert wire.protocol not in wire.state.connections
        del wire.protocol, wire.transport
        return connection

    gc.disable()
    try:
        connection = apps["parser"].runner.run(exchange())
        assert connection() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "endless",
    [
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
        (b"POST /predict HTTP/1.1\r\n", b"a: b\r\n"),
        (b"GET /", b"x" * 1000),
        (chunked(b"{}", 2)[:-2], b"Trailer: x\r\n"),
        (chunked(b"{}", 2)[:-5], b"1;" + b"x" * 3000 + b"\r\na\r\n"),
        (chunked(b"{}", 2)[:-5], b"1\r\na\r\n"),
    ],
    ids=["headers", "predict", "path", "trailers", "extensions", "chunks"],
)
def test_what_frames_a_request_is_limited(apps: dict[str, RunningApp], endless: tuple[bytes, bytes]) -> None:
    begin, more = endless

    async def exchange() -> tuple[int, list[bytes]]:
        async with Wire(apps["parser"].app) as wire:
            wire.protocol.data_received(begin)
            sent = 0
            while not wire.transport.is_closing() and sent < 5 * MAX_HEAD_BYTES:
                wire.protocol.data_received(more * 10)
                sent += 10 * len(more)
                await asyncio.sleep(0)
            return sent, await wire.receive(1)

    sent, answers = apps["parser"].runner.run(exchange())
    assert sent < 4 * MAX_HEAD_BYTES
    assert answers[0].startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "early",
    [
        chunked(b" " * 90_000, 30_000).replace(b"application/json", b"text/plain"),
        post(b" " * 90_000, path="/nowhere"),
        post(b" " * 90_000, "Content-Encoding: gzip"),
    ],
    ids=["type", "path", "encoding"],
)
def test_a_body_that_nobody_reads_does_not_stop_the_connection(
    apps: dict[str, RunningApp], early: bytes
) -> None:
    good = post(body_of("x"))
    cuts = [early[:70_000], early[70_000:80_000], early[80_000:], good]
    found = answers_of(apps["parser"], [[early, good]], [(0, packet) for packet in cuts])
    statuses = [answer.split()[1] for answer in found[0]]
    assert statuses in ([b"415", b"200"], [b"404", b"200"])


def test_empty_lines_before_a_request_are_skipped_but_not_for_ever(apps: dict[str, RunningApp]) -> None:
    good = post(body_of("x"))
    for lines, status in ((b"\r\n" * 10, b"200"), (b"\n\n", b"200"), (b"\r\n" * 50, b"400")):
        in_two = [[lines, good]] if status == b"200" else []  # the connection is closed before the second
        for packets in ([lines + good], [good + lines + good], *in_two):
            sent = [(0, packet) for packet in packets]
            count = sum(packet.count(b"POST /predict") for packet in packets)
            (answers,) = answers_of(apps["parser"], [[good] * count], sent)
            assert answers[-1].split()[1] == status


@pytest.mark.parametrize("path", ["/predict", "/nowhere"])
def test_the_number_of_headers_is_limited(apps: dict[str, RunningApp], path: str) -> None:
    for count, status in ((MAX_HEADERS - 10, {b"200", b"404"}), (MAX_HEADERS + 1, {b"431"})):
        request = post(body_of("x"), *("a: b" for _ in range(count)), path=path)
        ((answer,),) = answers_of(apps["parser"], [[request]], [(0, request)])
        assert answer.split()[1] in status


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60).map(lambda body: post(b"x" + body)),
            st.tuples(st.binary(min_size=1, max_size=60), st.integers(1, 20)).map(
                lambda each: chunked(*each)
            ),
            st.just(b"GET / HTTP/1.1\r\n\r\n"),
        ),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_a_frame_ends_where_the_request_ends(requests: list[bytes], data: st.DataObject) -> None:
    """Whatever the packets: parts join to the bytes, and none reaches into the next request."""
    everything = b"".join(requests)
    ends = {sum(map(len, requests[: number + 1])) for number in range(len(requests))}
    cuts = sorted(data.draw(st.sets(st.integers(1, len(everything) - 1), max_size=8)))
    at, frame, head, found = 0, RequestFrame(), b"", b""
    for cut in [*cuts, len(everything)]:
        while at < cut:
            end = frame.end_of_part(everything[:cut], at)
            found += everything[at:end]
            head += everything[at:end]
            assert not any(at < each < end for each in ends)
            at = end
            if head.endswith(b"\r\n\r\n") and b"\r\n\r\n" not in head[:-4]:
                lines = [line.split(b": ") for line in head.lower().split(b"\r\n")[1:-2]]
                frame.end_head([(name, value) for name, value in lines])
            if at in ends:
                frame, head = RequestFrame(), b""
    assert found == everything
