"""Requests on the direct route get the same bytes as through ASGI, however they arrive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.http.direct import DirectExchange
from service.http.heads import MAX_KNOWN_HEADS, PlainHeads
from service.settings import Settings
from tests.running import RunningApp
from tests.tiny_bundle import tiny_rows, write_tiny_bundle
from tests.wire import Wire

MAX_BODY_BYTES = 3000
CONTEXT = tiny_rows(1)[0]["context"]
WAYS = ("parser", "asgi")


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningApp]]:
    """The same service twice, by the way that its requests take."""
    folder = tmp_path_factory.mktemp("bundles")
    arms = [write_tiny_bundle(folder / name, name=name, seed=seed) for seed, name in enumerate(("a", "b"))]
    running = {
        way: RunningApp(
            Settings(
                arms=(f"control={arms[0]}:3", f"treatment={arms[1]}:1"),
                predict_through=way,
                max_body_bytes=MAX_BODY_BYTES,
                max_candidates=50,
                keep_alive_seconds=5,
            )
        )
        for way in WAYS
    }
    yield running
    for app in running.values():
        app.close()


def request_line(path: str = "/predict", method: str = "POST", version: str = "1.1") -> str:
    return f"{method} {path} HTTP/{version}\r\nHost: test\r\n"


def post(
    body: bytes, *headers: str, path: str = "/predict", version: str = "1.1", kind: str = "application/json"
) -> bytes:
    lines = [f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return (request_line(path, version=version) + "\r\n".join([*lines, "", ""])).encode() + body


def bid_request(candidates: int, identifier: str) -> dict[str, object]:
    ads = [
        {"id": str(number), "features": {"ad": f"a{number}"}, "value_per_click": 1.5}
        for number in range(candidates)
    ]
    return {"id": identifier, "context": CONTEXT, "candidates": ads}


def chunked(body: bytes) -> bytes:
    head = request_line() + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


GOOD = st.builds(bid_request, st.integers(1, 12), st.sampled_from(["req-1", "req-2", "ü"])).map(
    lambda request: json.dumps(request).encode()
)
REQUESTS = st.one_of(
    GOOD.map(post),
    GOOD.map(lambda body: post(body, "X-Arm: treatment")),
    GOOD.map(lambda body: post(body, "X-Arm: nobody")),
    GOOD.map(lambda body: post(body, "X-Split-Key: user-7")),
    GOOD.map(lambda body: post(body, kind="text/plain")),
    GOOD.map(lambda body: post(body[:-1])),
    GOOD.map(chunked),
    GOOD.map(lambda body: post(body, path="/predict?debug=1")),
    GOOD.map(lambda body: post(body, path="/nowhere")),
    GOOD.map(lambda body: post(body, "Content-Encoding: gzip")),
    GOOD.map(lambda body: post(body, "Connection: keep-alive, Upgrade", "Upgrade: h2c")),
    GOOD.map(lambda body: post(body, "Connection: Keep-Alive")),
    st.just(post(b"")),
    st.just(post(b"{}")),
    st.just(post(json.dumps(bid_request(51, "many")).encode()[:2900])),
    st.just(post(msgspec.msgpack.encode(bid_request(3, "packed")), kind="application/msgpack")),
    st.just((request_line(method="GET") + "\r\n").encode()),
    st.just((request_line("/healthz", method="GET") + "\r\n").encode()),
)


@st.composite
def packets(draw: st.DrawFn) -> tuple[list[bytes], int]:
    """Several requests in a row, cut into packets anywhere, and the number of requests."""
    requests = draw(st.lists(REQUESTS, min_size=1, max_size=5))
    data = b"".join(requests)
    cuts = sorted(draw(st.sets(st.integers(1, len(data) - 1), max_size=6)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)], len(requests)


def answers_of(app: RunningApp, sent: list[bytes], count: int) -> list[bytes]:
    async def exchange() -> list[bytes]:
        async with Wire(app.app) as wire:
            await wire.send(*sent)
            return await wire.receive(count)

    return app.runner.run(exchange())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packets())
def test_any_requests_in_any_packets_are_answered_as_through_asgi(
    apps: dict[str, RunningApp], sent: tuple[list[bytes], int]
) -> None:
    direct, through_asgi = (answers_of(apps[way], *sent) for way in WAYS)
    assert len(direct) == sent[1]
    assert direct == through_asgi


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("headers", [(), ("Connection: keep-alive",), ("Connection: close",)])
def test_plain_requests_take_the_way_of_the_setting(
    apps: dict[str, RunningApp], way: str, headers: tuple[str, ...]
) -> None:
    async def cycle() -> object:
        async with Wire(apps[way].app) as wire:
            wire.protocol.data_received(post(json.dumps(bid_request(1, "one")).encode(), *headers))
            cycle: object = wire.protocol.cycle  # the answer comes with the next turn of the loop
            assert (await wire.receive(1))[0].startswith(b"HTTP/1.1 200")
            assert wire.protocol.cycle is None
            return cycle

    assert isinstance(apps[way].runner.run(cycle()), DirectExchange) is (way == "parser")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "last",
    [
        post(json.dumps(bid_request(2, "last")).encode(), "Connection: close"),
        post(json.dumps(bid_request(2, "last")).encode(), version="1.0"),
        post(b"x" * (MAX_BODY_BYTES + 1)),
    ],
    ids=["close", "http10", "oversized"],
)
def test_the_last_request_of_a_connection_is_answered(
    apps: dict[str, RunningApp], way: str, last: bytes
) -> None:
    found = answers_of(apps[way], [post(json.dumps(bid_request(1, "first")).encode()), last], 2)
    assert [answer.split(b" ")[1] for answer in found] in ([b"200", b"200"], [b"200", b"413"])


@pytest.mark.parametrize(
    "wishes", [("Connection: close",), ("Connection: close", "Connection: keep-alive")], ids=["close", "both"]
)
def test_a_connection_closes_if_its_client_asks(apps: dict[str, RunningApp], wishes: tuple[str, ...]) -> None:
    request = post(json.dumps(bid_request(1, "last")).encode(), *wishes)
    direct, through_asgi = (answers_of(apps[way], [request], 2) for way in WAYS)
    assert direct == through_asgi
    assert len(direct) == 1
    assert b"connection: close\r\n" in direct[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_expects_100_continue_gets_it(apps: dict[str, RunningApp], way: str) -> None:
    request = post(json.dumps(bid_request(1, "polite")).encode(), "Expect: 100-continue")
    head, _, body = request.partition(b"\r\n\r\n")

    async def exchange() -> list[bytes]:
        async with Wire(apps[way].app) as wire:
            await wire.send(head + b"\r\n\r\n")
            interim = await wire.receive(1)
            await wire.send(body)
            return interim + await wire.receive(1)

    interim, answer = apps[way].runner.run(exchange())
    assert interim.startswith(b"HTTP/1.1 100")
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_leaves_is_counted_and_does_no_harm(apps: dict[str, RunningApp], way: str) -> None:
    app = apps[way]
    request = post(json.dumps(bid_request(3, "gone")).encode())

    def left() -> float:
        counts = app.metrics()
        return sum(value for name, value in counts.items() if 'outcome="client_left"' in name)

    async def leave(sent: bytes) -> None:
        async with Wire(app.app) as wire:
            wire.protocol.data_received(sent)
            wire.protocol.connection_lost(None)  # before the batch of this iteration
            await asyncio.sleep(0.01)

    before = left()
    app.runner.run(leave(request[:-20]))
    assert left() - before == 1
    if way == "parser":  # through ASGI the answer is computed and dropped
        app.runner.run(leave(request))
        assert left() - before == 2
    (answer,) = answers_of(app, [post(json.dumps(bid_request(1, "next")).encode())], 1)
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_failing_batch_is_a_500_for_its_own_requests_only(
    apps: dict[str, RunningApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = apps["parser"]
    ok = post(json.dumps(bid_request(1, "fine")).encode(), "X-Arm: treatment")
    graphs = app.app.arms[0].predictor.graphs
    run = graphs.run
    with monkeypatch.context() as patched:
        patched.setattr(graphs, "run", lambda batch: run(batch)[:0])  # it gives no logits
        found = answers_of(app, [post(json.dumps(bid_request(1, "bad")).encode(), "X-Arm: control"), ok], 2)
    assert [answer.split(b" ")[1] for answer in found] == [b"500", b"200"]


def test_a_service_that_stops_answers_requests_under_way_and_closes(apps: dict[str, RunningApp]) -> None:
    async def exchange() -> tuple[bytes, bytes]:
        async with Wire(apps["parser"].app) as wire:
            wire.protocol.data_received(post(json.dumps(bid_request(1, "late")).encode()))
            wire.protocol.shutdown()
            (answer,) = await wire.receive(1)
            return answer, await wire.reader.read()

    answer, rest = apps["parser"].runner.run(exchange())
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close\r\n" in answer
    assert rest == b""


def test_a_known_head_is_not_parsed_again_and_changes_no_answer(
    apps: dict[str, RunningApp],
) -> None:
    """Also on other connections. Data other than one whole request goes to the parser."""
    one, two = (json.dumps(bid_request(2, identifier)).encode() for identifier in ("req-1", "req-2"))
    sent = [post(one), post(two), post(one)[:-1], post(one)[-1:], post(two) + post(one), post(two)]
    for _ in range(2):
        direct, through_asgi = (answers_of(apps[way], sent, 6) for way in WAYS)
        assert len(direct) == 6
        assert direct == through_asgi
    heads = PlainHeads(MAX_BODY_BYTES)
    for sent_at_once in (post(one), post(one)[:-1], post(one) + post(two), post(two) + b"x"):
        head = heads.of(sent_at_once)
        assert head is not None
        length = len(two) if sent_at_once.startswith(post(two)) else len(one)
        assert head.headers == {**dict(HEADERS), b"content-length": b"%d" % length}
        assert (head.length, head.keep_alive) == (length, True)
        assert heads.of(sent_at_once) is head


HEADERS = ((b"host", b"test"), (b"content-type", b"application/json"))


@pytest.mark.parametrize(
    "data",
    [
        post(b"{}", version="1.0"),
        post(b"{}", path="/predict?x"),
        post(b"{}", "Transfer-Encoding: chunked"),
        post(b"{}", "Content-Encoding: gzip"),
        post(b"{}", "Expect: 100-continue"),
        post(b"{}", "Connection: Upgrade", "Upgrade: h2c"),
        post(b"{}", "Content-Length: 3"),
        post(b" " * (MAX_BODY_BYTES + 1)),
        post(b"{}", *(f"X-{number}: a" for number in range(300))),
        post(b"{}").replace(b"Length: 2", b"Length: 2, 2"),
        post(b"{}").replace(b"Length: 2", b"Length: +2"),
        post(b"{}").replace(b"Content-Length: 2\r\n", b""),
        post(b"{}").replace(b"\r\n", b"\n"),
        post(b"{}").replace(b"Host: test\r\n", b"Host: test\n\n"),
        post(b"{}")[:40],
        b"\r\n" + post(b"{}"),
        b"",
    ],
)
def test_other_heads_are_not_plain(data: bytes) -> None:
    heads = PlainHeads(MAX_BODY_BYTES)
    assert heads.of(data) is None
    assert len(heads) == 0


def test_the_number_of_known_heads_is_limited() -> None:
    heads = PlainHeads(MAX_BODY_BYTES)
    for number in range(3 * MAX_KNOWN_HEADS):
        assert heads.of(post(b"{}", f"X-Split-Key: {number}")) is not None
        assert len(heads) <= MAX_KNOWN_HEADS
    before = len(heads)
    long = heads.of(post(b"{}", f"X-Split-Key: {'k' * 2000}"))
    assert long is not None
    assert long.length == 2
    assert len(heads) == before


def test_a_closing_head_closes_also_when_it_is_known(apps: dict[str, RunningApp]) -> None:
    closing = post(json.dumps(bid_request(1, "last")).encode(), "Connection: close")
    for _ in range(2):
        (answer,) = answers_of(apps["parser"], [closing], 2)
        assert b"connection: close" in answer
