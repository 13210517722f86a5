"""A real cluster of redis-servers is one store: while slots move, and when a replica takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from redis.crc import key_slot

from service.features.open import store_at
from service.features.redis import RedisAddress, RedisStore
from service.features.redis_pipeline import ConnectionOptions
from service.features.store import UNREAD, FeatureStore, StoreUnavailable, Values, pack
from tests.feature_stores import ads_of, fill, read
from tests.redis_server import RedisServer, running_cluster, wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Two nodes with half of the slots each."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


def url_of(cluster: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster)


async def read_until(store: FeatureStore, expected: Values, *user_ids: str) -> None:
    async with asyncio.timeout(20.0):
        while await read(store, *user_ids) != expected:
            await asyncio.sleep(0.02)


def run_with(url: str, use: Callable[[FeatureStore], Awaitable[None]]) -> None:
    async def run() -> None:
        address = RedisAddress.parse(url)
        store = RedisStore(address, ConnectionOptions(address.handshake(), read_seconds=0.2))
        await store.open()
        try:
            await use(store)
        finally:
            await store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def read_from(url: str, *user_ids: str) -> Values:
    found: list[Values] = []

    async def use(store: FeatureStore) -> None:
        found.append(await read(store, *user_ids))

    run_with(url, use)
    return found[0]


def slot_of(user_id: str) -> int:
    return key_slot(b"bidlight:user:" + user_id.encode())


def owners_of(cluster: list[RedisServer], slot: int) -> tuple[RedisServer, RedisServer]:
    """The node that has a slot, and the other one."""
    one, two = cluster
    slots = one.call("CLUSTER", "SLOTS")
    port = next(master[1] for first, last, master, *_ in slots if first <= slot <= last)
    return (one, two) if port == one.port else (two, one)


def id_of(node: RedisServer) -> str:
    found: bytes = node.call("CLUSTER", "MYID")
    return found.decode()


def move_slot(slot: int, old: RedisServer, new: RedisServer) -> None:
    for node in (new, old):
        node.call("CLUSTER", "SETSLOT", str(slot), "NODE", id_of(new))


@pytest.fixture
def migrating(cluster: list[RedisServer]) -> Iterator[tuple[RedisServer, RedisServer]]:
    """The node that gives away the slot of the user `half-moved`, and the one that gets it."""
    slot = slot_of("half-moved")
    old, new = owners_of(cluster, slot)
    old.call("SET", "bidlight:user:half-moved", b"\x81\xa1a\x01")
    new.call("CLUSTER", "SETSLOT", str(slot), "IMPORTING", id_of(old))
    old.call("CLUSTER", "SETSLOT", str(slot), "MIGRATING", id_of(new))
    yield old, new
    move_slot(slot, old, new)


def test_a_cluster_is_one_store(cluster: list[RedisServer]) -> None:
    url = url_of(cluster)
    users = {f"u{n}": pack({"n": n}) for n in range(50)}
    # Which of the braces count is in the specification.
    users |= {
        name: pack({"name": name}) for name in ("{a}b", "b{a}", "foo{}{bar}", "foo{{bar}}zap", "{a}{b}")
    }
    fill(url, "users", users)
    assert all(node.call("DBSIZE") > 5 for node in cluster)
    asked = [*users, "nobody", "u1"]
    assert read_from(url, *asked) == [users.get(name) for name in asked]
    for count in (300, 10):
        ads = {f"ad-{n}": pack({"n": n}) for n in range(count)}
        fill(url, "ads", ads)
        assert ads_of(url) == ads


def test_slots_are_those_of_the_specification(cluster: list[RedisServer]) -> None:
    assert key_slot(b"123456789") == 0x31C3
    assert key_slot(b"{user1000}.following") == key_slot(b"{user1000}.followers") == key_slot(b"user1000")
    assert key_slot(b"foo{}{bar}") == key_slot(b"foo{}{bar}") != key_slot(b"bar")
    assert key_slot(b"foo{{bar}}zap") == key_slot(b"{bar")
    assert key_slot(b"foo{bar}{zap}") == key_slot(b"bar")
    for key in ("123456789", "{user1000}.following", "foo{}{bar}", "foo{{bar}}zap", "foo{bar}{zap}"):
        assert cluster[0].call("CLUSTER", "KEYSLOT", key) == key_slot(key.encode())


def test_a_moved_slot_is_found_at_once(cluster: list[RedisServer]) -> None:
    url, name = url_of(cluster), "moving"
    fill(url, "users", {name: b"\x81\xa1a\x01", "other": b"\x80"})
    old, new = owners_of(cluster, slot_of(name))

    async def use(store: FeatureStore) -> None:
        assert await read(store, "other", name) == [b"\x80", b"\x81\xa1a\x01"]
        old.call("DEL", f"bidlight:user:{name}")
        move_slot(slot_of(name), old, new)
        new.call("SET", f"bidlight:user:{name}", b"\x81\xa1a\x02")
        for _ in range(3):
            assert await read(store, "other", name) == [b"\x80", b"\x81\xa1a\x02"]

    run_with(url, use)
    fill(url, "users", {name: b"\x80"})  # the loader follows too
    assert read_from(url, name) == [b"\x80"]


def test_keys_of_a_slot_that_is_being_moved_are_read_where_they_are(
    cluster: list[RedisServer], migrating: tuple[RedisServer, RedisServer]
) -> None:
    url, (old, new) = url_of(cluster), migrating
    key = "bidlight:user:half-moved"

    async def use(store: FeatureStore) -> None:
        assert await read(store, *others, "half-moved") == [*expected, b"\x81\xa1a\x01"]
        old.call("MIGRATE", "127.0.0.1", str(new.port), key, "0", "5000")
        assert old.call("DBSIZE")
        for _ in range(20):
            assert await read(store, *others, "half-moved", "u3") == [
                *expected,
                b"\x81\xa1a\x01",
                expected[3],
            ]

    users = {f"u{n}": pack({"n": n}) for n in range(20)}
    fill(url, "users", users)
    others, expected = list(users), list(users.values())
    run_with(url, use)
    # The loader follows: the old node has the key no more.
    fill(url, "users", {"half-moved": b"\x81\xa1a\x03", "u1": pack({"n": 1})})
    assert read_from(url, "half-moved") == [b"\x81\xa1a\x03"]


def test_ads_of_a_slot_that_is_being_moved_are_read_whole_or_not_at_all(cluster: list[RedisServer]) -> None:
    url, key = url_of(cluster), "{bidlight:ads}"
    ads = {f"ad-{n}": pack({"n": n}) for n in range(2000)}
    fill(url, "ads", ads)
    slot = key_slot(key.encode())
    old, new = owners_of(cluster, slot)
    pieces = store_at(url).ads()
    next(pieces)
    new.call("CLUSTER", "SETSLOT", str(slot), "IMPORTING", id_of(old))
    old.call("CLUSTER", "SETSLOT", str(slot), "MIGRATING", id_of(new))
    old.call("MIGRATE", "127.0.0.1", str(new.port), "", "0", "5000", "KEYS", key, f"{key}:version")
    with pytest.raises(StoreUnavailable, match="ASK"):
        list(pieces)
    with pytest.raises(StoreUnavailable):
        fill(url, "ads", {"new": b"\x80"})
    move_slot(slot, old, new)
    assert ads_of(url) == ads
    fill(url, "ads", {"new": b"\x80"})
    assert ads_of(url) == {"new": b"\x80"}


def test_a_silent_node_costs_its_own_users_only(cluster: list[RedisServer]) -> None:
    url = url_of(cluster)
    users = {f"u{n}": pack({"n": n}) for n in range(30)}
    fill(url, "users", users)
    silent, _ = cluster
    theirs = {name for name in users if owners_of(cluster, slot_of(name))[0] is silent}
    assert 0 < len(theirs) < len(users)
    expected = [UNREAD if name in theirs else value for name, value in users.items()]

    async def use(store: FeatureStore) -> None:
        assert await read(store, *users) == list(users.values())
        silent.pause()
        try:
            assert await read(store, *users) == expected
            for _ in range(5):
                assert await read(store, *users) == expected
        finally:
            silent.resume()
        await read_until(store, list(users.values()), *users)

    run_with(url, use)


def test_a_replica_that_takes_over_is_found(tmp_path: Path) -> None:
    with running_cluster(tmp_path, replicas=1) as (master, other, replica):
        url = url_of([master, other])
        users = {f"u{n}": pack({"n": n}) for n in range(30)}
        fill(url, "users", users)
        fill(url, "ads", {"ad": b"\x80"})
        wait_until(lambda: replica.call("DBSIZE") == master.call("DBSIZE"))

        async def use(store: FeatureStore) -> None:
            assert await read(store, *users) == list(users.values())
            await asyncio.to_thread(master.stop)
            await read_until(
                store,
                [UNREAD if slot_of(name) < 8192 else value for name, value in users.items()],
                *users,
            )
            replica.call("CLUSTER", "FAILOVER", "TAKEOVER")
            await read_until(store, list(users.values()), *users)

        run_with(url, use)

        def are_read() -> bool:
            try:
                return ads_of(url) == {"ad": b"\x80"}
            except StoreUnavailable:
                return False

        wait_until(are_read)
