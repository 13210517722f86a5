"""Processes that share a real Redis count each event once, and each others' tokens; without it they go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop

from service.calibration.counts import CLICKS, IMPRESSIONS
from service.calibration.hours import HourMemory
from service.calibration.memory import LiveMemory
from service.feedback.counting import EventCounter
from service.feedback.events import CLICK, IMPRESSION, Event
from service.feedback.memory import EventMemory
from service.feedback.queue import EventQueue
from service.feedback.shared import SharedCounter, shared_counter
from service.feedback.signers import Signers
from service.feedback.tokens import Source, now_ms
from service.metrics.families import Metrics
from service.settings import Settings
from tests.redis_server import RedisServer, running_cluster, running_redis
from tests.running import read_metrics

OLD, NEW = Source("only", "a@1", "int8"), Source("only", "b@2", "int8")


class Machine:
    """A service of one process that serves a source."""

    def __init__(self, folder: Path, url: str, source: Source) -> None:
        keys = folder / "keys"
        keys.write_text(f"0 {'ab' * 16}\n", encoding="ascii")
        self.settings = Settings(
            feedback_keys=str(keys),
            max_attributed_events=2_000,
            feedback_store=url,
            feedback_store_timeout_ms=2_000,
            explore_share=0.5,
            live_calibration="observe",
            live_learn_from="explored",
        )
        self.source = source
        self.signers = Signers(str(keys))
        self.signers.serve({source: source})
        self.metrics = Metrics()
        self.live, self.hours = LiveMemory(1, 2, self.settings.click_window_seconds), HourMemory(1, ["only"])
        self.live.keep({OLD.number, NEW.number})
        memory = EventMemory(self.settings.max_attributed_events, self.live, self.hours)
        counter = EventCounter(self.settings, self.metrics, memory, self.signers)
        counter.serve([source])
        shared = shared_counter(self.settings, self.metrics, memory, counter)
        assert isinstance(shared, SharedCounter)
        self.shared = shared
        self.queue = EventQueue(shared.count)

    async def open(self) -> None:
        self.shared.serve([self.source])
        self.shared.start()
        await until(lambda: self.metric("bidlight_feedback_store_connected") == 1)

    def tokens(self, count: int, *, explored: bool = False) -> list[str]:
        signer = self.signers.of(self.source)
        assert signer is not None
        signer = signer.explored if explored else signer
        return signer.tokens_at(np.full(count, 0.1), now_ms(), hash(self.source) % 2**40)

    async def count(self, *tokens: str) -> tuple[int, int, dict[str, int]]:
        events = [Event(token, kind) for token in tokens for kind in (IMPRESSION, CLICK)]
        found = await self.queue.count(lambda: events, 10)
        return found.counted, found.duplicates, found.refused

    def metric(self, name: str) -> float:
        self.shared.publish()
        return read_metrics(self.metrics.exposition()[0].decode())[name]

    def checks(self, outcome: str) -> float:
        return self.metric(f'bidlight_feedback_checks_total{{outcome="{outcome}"}}')


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20.0):
        while not condition():
            await asyncio.sleep(0.02)


def run(folder: Path, url: str, use: Callable[[Machine, Machine], Awaitable[None]]) -> None:
    async def opened() -> None:
        old, new = Machine(folder, url, OLD), Machine(folder, url, NEW)
        await old.open()
        await new.open()
        try:
            await use(old, new)
        finally:
            await old.shared.close()
            await new.shared.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(opened())


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


async def each_counts_once(old: Machine, new: Machine) -> None:
    # Of a bundle that the other machine does not serve.
    tokens = [*new.tokens(200), *new.tokens(100, explored=True)]
    counts = await asyncio.gather(
        *(machine.count(*tokens[at : at + 200]) for at in (0, 50, 100) for machine in (old, new))
    )
    assert sum(counted for counted, _, _ in counts) == 600
    assert all(not refused for _, _, refused in counts)
    assert old.checks("first") + new.checks("first") == 600
    assert old.checks("unchecked") + new.checks("unchecked") == 0
    assert await old.count(*tokens) == await new.count(*tokens) == (0, 600, {})
    by_hour = [counts for each in (old, new) for counts in each.hours.hours("only", now_ms()).values()]
    assert np.sum(by_hour, axis=(0, 1))[[IMPRESSIONS, CLICKS]].tolist() == [300, 300]
    learned = old.live.counts.sum(axis=(0, 1, 2, 3)) + new.live.counts.sum(axis=(0, 1, 2, 3))
    assert learned[[IMPRESSIONS, CLICKS]].tolist() == [100, 100]  # of explored requests alone


def test_each_event_counts_once_whichever_machines_get_it_at_once(tmp_path: Path, redis: RedisServer) -> None:
    run(tmp_path, redis.url, each_counts_once)


def test_in_a_cluster_too(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as nodes:
        run(tmp_path, f"redis+cluster://127.0.0.1:{nodes[1].port}", each_counts_once)


def test_only_tokens_with_a_right_hash_ask_the_store(tmp_path: Path, redis: RedisServer) -> None:
    async def use(old: Machine, new: Machine) -> None:
        tokens = [token[:-1] + ("A" if token[-1] != "A" else "B") for token in new.tokens(20)]
        await asyncio.sleep(0.05)
        before = redis.call("INFO", "commandstats")
        assert await old.count(*tokens, "nonsense") == (0, 0, {"forged": 40, "malformed": 2})
        after = redis.call("INFO", "commandstats")
        assert [before.get(name, {}).get("calls") for name in ("cmdstat_set", "cmdstat_get")] == [
            after.get(name, {}).get("calls") for name in ("cmdstat_set", "cmdstat_get")
        ]
        unknown = Signers(old.settings.feedback_keys)
        unknown.serve({0: Source("only", "nobody@3", "int8")})
        assert await old.count(*unknown.of(0).tokens(np.full(2, 0.1))) == (0, 0, {"unknown_bundle": 4})

    run(tmp_path, redis.url, use)


def test_a_store_that_hangs_delays_events_by_the_limit_and_learns_of_them_later(tmp_path: Path) -> None:
    with running_redis(tmp_path) as redis:

        async def use(old: Machine, new: Machine) -> None:
            for machine in (old, new):
                machine.shared._claims._seconds = 0.05
            tokens = old.tokens(700)
            assert await new.count(tokens[0]) == (2, 0, {})  # so it knows the source
            redis.pause()
            assert await old.count(*tokens[1:]) == (1_398, 0, {})
            assert await new.count(*tokens[1:101]) == (200, 0, {})
            redis.resume()
            await until(lambda: old.metric("bidlight_feedback_unchecked_events") == 0)
            await until(lambda: sum(m.checks("confirmed") + m.checks("twice") for m in (old, new)) == 1_598)
            assert old.checks("twice") + new.checks("twice") == 200
            assert await new.count(*tokens) == (0, 1_400, {})
            by_hour = [*old.hours.hours("only", now_ms()).values()]
            assert np.sum(by_hour, axis=(0, 1))[CLICKS] == 699  # what was checked later is not counted again

        run(tmp_path, redis.url, use)
