"""One read for an event-loop iteration, with a deadline of its own, and nobody told twice."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
import uvloop

from service.features.store import (
    INVALID,
    LATE,
    UNAVAILABLE,
    UNKNOWN_USER,
    UNREAD,
    LossLimit,
    Values,
    pack,
)
from service.features.users import UserFeatures


class HeldStore:
    """A store whose answers the test gives."""

    def __init__(self) -> None:
        self.reads: list[tuple[list[str], Callable[[Values], None]]] = []

    needs_refresh = False

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def refresh(self, limit: LossLimit) -> bool:
        return False

    def read_users(self, user_ids: Sequence[str], then: Callable[[Values], None]) -> None:
        self.reads.append((list(user_ids), then))

    def ads(self) -> Iterator[list[tuple[str, bytes]]]:
        return iter(())


class Told(list[tuple[dict[str, Any], str | None]]):
    """Keeps what it is told."""

    def __call__(self, features: dict[str, Any], reason: str | None) -> None:
        self.append((features, reason))


def run(
    use: Callable[[HeldStore, UserFeatures], Awaitable[None]], timeout_seconds: float = 5.0
) -> list[float]:
    """Runs `use`; the seconds of each read."""
    seconds: list[float] = []

    async def main() -> None:
        store = HeldStore()
        users = UserFeatures(store, timeout_seconds, seconds.append)
        await use(store, users)
        await asyncio.wait_for(users.drain(), 5.0)

    # The service's own loop, whose timers come before the sockets.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    return seconds


async def iterations(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("values", [[], [b"\x80"], [b"\x80"] * 3])
def test_values_for_others_answer_everybody_who_waits(values: list[bytes | None]) -> None:
    told = [Told(), Told()]

    async def use(store: HeldStore, users: UserFeatures) -> None:
        for n in range(2):
            users.find(f"u{n}", told[n])
        await iterations()
        store.reads[0][1](values)

    run(use)
    assert told == [[({}, UNAVAILABLE)]] * 2


def test_the_requests_of_an_iteration_share_a_read() -> None:
    told = [Told() for _ in range(5)]

    async def use(store: HeldStore, users: UserFeatures) -> None:
        for n in range(3):
            users.find(f"u{n}", told[n])
        await iterations()
        for n in (3, 4):
            users.find(f"u{n}", told[n])
        await iterations()
        assert [ids for ids, _ in store.reads] == [["u0", "u1", "u2"], ["u3", "u4"]]
        store.reads[1][1]([pack({"n": 3}), None])  # the second answers first
        store.reads[0][1]([pack({"n": 0}), b"\xc1", UNREAD])

    seconds = run(use)
    assert told == [
        [({"n": 0}, None)],
        [({}, INVALID)],
        [({}, UNAVAILABLE)],
        [({"n": 3}, None)],
        [({}, UNKNOWN_USER)],
    ]
    assert len(seconds) == 2


def test_a_late_answer_is_thrown_away() -> None:
    told, later = Told(), Told()

    async def use(store: HeldStore, users: UserFeatures) -> None:
        users.find("u", told)
        await asyncio.wait_for(users.drain(), 5.0)
        assert told == [({}, LATE)]
        patient = UserFeatures(store, 5.0)
        patient.find("v", later)
        await iterations()
        store.reads[0][1]([pack({"late": 1})])
        assert later == []
        store.reads[1][1]([pack({"v": 1})])

    run(use, timeout_seconds=0.01)
    assert told == [({}, LATE)]
    assert later == [({"v": 1}, None)]


def test_a_request_in_a_hurry_goes_on_without_the_others() -> None:
    hurried, patient, in_time = Told(), Told(), Told()

    async def use(store: HeldStore, users: UserFeatures) -> None:
        users.find("u", hurried, 0.01)
        users.find("v", patient)
        users.find("w", in_time, 60.0)
        async with asyncio.timeout(5):
            while not hurried:
                await asyncio.sleep(0.001)
        assert patient == []
        store.reads[0][1]([pack({"u": 1}), pack({"v": 1}), pack({"w": 1})])

    run(use)
    assert hurried == [({}, LATE)]
    assert patient == [({"v": 1}, None)]
    assert in_time == [({"w": 1}, None)]


def test_an_answer_that_waits_in_the_socket_while_the_loop_is_busy_is_not_late() -> None:
    told = Told()

    async def use(store: HeldStore, users: UserFeatures) -> None:
        loop = asyncio.get_running_loop()

        class Socket(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                store.reads[0][1]([pack({"u": 1})])

        left, right = socket.socketpair()
        transport, _ = await loop.create_connection(Socket, sock=left)
        users.find("u", told)
        await iterations()
        assert store.reads
        right.send(b"x")  # the answer has come in time
        time.sleep(0.6)  # and the loop is busy until long after the deadline
        await asyncio.wait_for(users.drain(), 5.0)
        transport.close()
        right.close()

    run(use, timeout_seconds=0.4)
    assert told == [({"u": 1}, None)]


def test_a_store_that_fails_is_a_store_that_cannot_say(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()

    async def use(store: HeldStore, users: UserFeatures) -> None:
        def fail(*_: object) -> None:
            raise OSError("broken")

        store.read_users = fail  # type: ignore[method-assign]
        users.find("u", told)
        users.find("v", told)
        await iterations()

    run(use)
    assert told == [({}, UNAVAILABLE)] * 2
    assert "a read of users failed" in caplog.text


def test_one_request_that_fails_keeps_no_other_from_its_features(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()

    async def use(store: HeldStore, users: UserFeatures) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("broken")

        users.find("u", fail)
        users.find("v", told)
        await iterations()
        store.reads[0][1]([None, pack({"v": 1})])

    run(use)
    assert told == [({"v": 1}, None)]
    assert "could not go on" in caplog.text
