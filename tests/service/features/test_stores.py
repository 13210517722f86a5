"""The stores, filled by their writers and read back: LMDB files and a real redis-server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadtest.processes.ports import free_port
from service.errors import BadConfiguration
from service.features.lmdb import LmdbStore, LmdbWriter
from service.features.open import check_address, store_at, writer_at
from service.features.redis import RedisAddress, RedisAdsWriter, RedisStore
from service.features.store import LossLimit, StoreUnavailable, Values, pack
from tests.certificates import Authority
from tests.feature_stores import ads_of, fill, read
from tests.redis_server import RedisServer, running_redis


def read_from(url: str, *user_ids: str) -> Values:
    async def run() -> Values:
        store = store_at(url)
        await store.open()
        try:
            return await read(store, *user_ids)
        finally:
            await store.close()

    return asyncio.run(run())


def test_users_come_back_in_order(url: str) -> None:
    users = {name: pack({"name": name, "history": ["a", 1]}) for name in ("u1", "u2", "ü", "a b\n", "7")}
    fill(url, "users", users)
    asked = ["u2", "nobody", *users, "", "x" * 600, "u1"]
    assert read_from(url, *asked) == [users.get(name) for name in asked]


def test_ads_come_back_and_are_replaced_as_a_whole(url: str) -> None:
    assert ads_of(url) == {}
    first = {f"ad-{n}": pack({"n": n}) for n in range(700)}
    fill(url, "ads", first)
    assert ads_of(url) == first
    second = {f"ad-{n}": pack({"n": -n}) for n in range(600, 800)}
    fill(url, "ads", second)
    assert ads_of(url) == second


@pytest.mark.parametrize("kind", ["users", "ads"])
def test_a_load_that_fails_replaces_nothing(url: str, kind: str) -> None:
    fill(url, kind, {"old": b"\x80"})

    def fail() -> None:
        with writer_at(url, kind) as writer:
            writer.write([("new", b"\x80")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    if kind == "ads":
        assert ads_of(url) == {"old": b"\x80"}
    elif url.startswith("lmdb"):
        assert read_from(url, "old", "new") == [b"\x80", None]
    else:  # users are set one by one: a program may do so at any time
        assert read_from(url, "old", "new") == [b"\x80", b"\x80"]


def test_a_replaced_lmdb_file_is_seen_at_the_refresh(tmp_path: Path) -> None:
    url = f"lmdb://{tmp_path}"

    async def run() -> list[Values]:
        store = store_at(url)
        await store.open()
        found = [await read(store, "u")]  # no file yet
        for value in (b"\x81\xa1a\x01", b"\x81\xa1a\x02"):
            fill(url, "users", {"u": value})
            found.append(await read(store, "u"))
            await store.refresh(LossLimit())
            found.append(await read(store, "u"))
        (tmp_path / "users.lmdb").unlink()
        (tmp_path / "users.lmdb").write_bytes(b"not whole")
        with pytest.raises(StoreUnavailable, match="not an LMDB file"):
            await store.refresh(LossLimit())
        found.append(await read(store, "u"))
        await store.close()
        return found

    one, two = [b"\x81\xa1a\x01"], [b"\x81\xa1a\x02"]
    assert asyncio.run(run()) == [None, None, one, one, two, two]


def test_an_lmdb_file_grows_beyond_its_first_size(tmp_path: Path) -> None:
    users = {f"u{n}": bytes(3000) for n in range(200)}
    with LmdbWriter(tmp_path, "users", first_map_bytes=1 << 16) as writer:
        for row in users.items():
            writer.write([row])
    assert read_from(f"lmdb://{tmp_path}", *users) == list(users.values())
    assert [path.name for path in tmp_path.iterdir()] == ["users.lmdb"]


@pytest.mark.parametrize("name", ["", "x" * 512])
def test_an_id_that_lmdb_cannot_keep_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadConfiguration, match="1 to 511 bytes"):
        fill(f"lmdb://{tmp_path}", "users", {name: b"\x80"})
    assert not list(tmp_path.iterdir())


def test_a_swap_of_ads_that_redis_refuses_changes_nothing(redis: RedisServer) -> None:
    redis.call("FLUSHALL")
    fill(redis.url, "ads", {"old": b"\x80"})
    redis.call("ACL", "SETUSER", "loader", "on", ">pw", "~*", "+@all", "-rename")
    with pytest.raises(StoreUnavailable, match=r"the Redis refuses: .*rename"):
        fill(f"redis://loader:pw@127.0.0.1:{redis.port}", "ads", {"new": b"\x80"})
    assert ads_of(redis.url) == {"old": b"\x80"}


@pytest.mark.parametrize(
    "change",
    [
        ("DEL", "{bidlight:ads}"),
        ("HSET", "{bidlight:ads}", "newer", b"\x80"),
        ("DEL", "{bidlight:ads}:loading"),
    ],
)
def test_a_swap_of_ads_sees_what_changes_meanwhile(
    redis: RedisServer, change: tuple[str | bytes, ...]
) -> None:
    redis.call("FLUSHALL")
    fill(redis.url, "ads", {"old": b"\x80"})
    changes = [change]

    def new_version() -> str:
        if changes:  # once, between what the swap reads and its EXEC
            redis.call(*changes.pop())
        return "version"

    def replace() -> None:
        with RedisAdsWriter(RedisAddress.parse(redis.url), new_version) as writer:
            writer.write([("new", b"\x80")])

    if change[1] == "{bidlight:ads}:loading":
        with pytest.raises(StoreUnavailable, match="are gone"):
            replace()
        assert ads_of(redis.url) == {"old": b"\x80"}
    else:
        replace()
        assert ads_of(redis.url) == {"new": b"\x80"}
    assert not changes


def test_ads_that_are_replaced_while_they_are_read_are_not_mixed(redis: RedisServer) -> None:
    redis.call("FLUSHALL")
    fill(redis.url, "ads", {f"old-{n}": b"\x80" for n in range(1000)})
    ads = store_at(redis.url).ads()
    next(ads)
    fill(redis.url, "ads", {f"new-{n}": b"\x80" for n in range(1000)})
    with pytest.raises(StoreUnavailable, match="replaced while"):
        list(ads)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("mysql://localhost", "must begin with lmdb:"),
        ("lmdb://host/path", "three slashes"),
        ("lmdb:", "three slashes"),
        ("lmdb:/no/such/folder", "is there"),
        ("redis://", "a host must be named"),
        ("redis://:secret@host:port", "Port could not"),
        ("redis://:secret@a,b", "a cluster's"),
        ("redis+cluster://:secret@a,b/1", "only 0"),
        ("redis://:secret@a/x", "invalid literal"),
        ("redis://:secret@a?timeout=3", "only option is prefix"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(bad: str, reason: str) -> None:
    with pytest.raises(BadConfiguration, match=reason) as refusal:
        check_address(bad)
    assert "secret" not in str(refusal.value)


def test_addresses() -> None:
    full = RedisAddress.parse("rediss://joe:p%40ss@h1:7000/3?prefix=mine:")
    assert (full.nodes, full.tls, full.database, full.cluster) == ((("h1", 7000),), True, 3, False)
    assert full.handshake() == (("AUTH", "joe", "p@ss"), ("SELECT", "3"))
    assert (full.user_prefix(), full.ads_key()) == (b"mine:user:", b"{mine:ads}")
    assert "p@ss" not in repr(full)
    several = RedisAddress.parse("redis+cluster://:pw@h1,[::1]:7001")
    assert several.nodes == (("h1", 6379), ("::1", 7001))
    assert several.handshake() == (("AUTH", "pw"),)
    assert isinstance(store_at("lmdb:."), LmdbStore)
    assert isinstance(store_at("redis://h"), RedisStore)


def test_tls_is_spoken_with_a_server_whose_certificate_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, port = Authority(tmp_path), str(free_port())
    pair = authority.sign("redis")
    files = ("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key))
    files += ("--tls-auth-clients", "no")
    with running_redis(tmp_path, "--tls-port", port, *files):
        url = f"rediss://127.0.0.1:{port}"
        with pytest.raises(StoreUnavailable, match="certificate"):
            fill(url, "users", {"u": b"\x80"})
        assert read_from(url, "u") is None
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        fill(url, "users", {"u": b"\x80"})
        assert read_from(url, "u") == [b"\x80"]
        fill(url, "ads", {"ad": b"\x80"})
        assert ads_of(url) == {"ad": b"\x80"}


def test_a_password_is_asked_for_and_given(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        server.call("CONFIG", "SET", "requirepass", "pw")
        good = f"redis://:pw@127.0.0.1:{server.port}/2"
        fill(good, "users", {"u": b"\x80"})
        assert read_from(good, "u") == [b"\x80"]
        with pytest.raises(StoreUnavailable, match="refuses"):
            fill(f"redis://:wrong@127.0.0.1:{server.port}", "users", {"u": b"\x80"})
