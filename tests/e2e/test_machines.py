"""Two services on two ports share a Redis: what happens to events and live calibrations that either gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.raw_http import wait_until
from tests.e2e.test_feedback import events_of, send, tokens_of
from tests.e2e.test_live_calibration import REQUEST, decisions, report, results, state
from tests.redis_server import RedisServer, running_redis
from tests.running import ANY_WORKER, RunningService, running_service

KEY = f"0 {'5e' * 16}\n"


@contextmanager
def machines(
    folder: Path, redis: RedisServer, *arms: Path, options: tuple[str, ...] = ()
) -> Iterator[list[RunningService]]:
    """A service for each bundle, each with its own folder; the second one has two workers."""
    (folder / "keys").write_text(KEY, encoding="ascii")
    given = ["--feedback-keys", str(folder / "keys"), "--feedback-store", redis.url, *options]
    with ExitStack() as stack:
        found = []
        for number, bundle in enumerate(arms):
            (home := folder / f"machine-{number}").mkdir()
            arguments = ["--arm", f"only={bundle}", *given, "--workers", str(1 + number)]
            found.append(stack.enter_context(running_service(home, arguments)))
        wait_until(lambda: all(is_connected(service) for service in found))
        yield found
        assert [service.stop() for service in found] == [0] * len(found)


def is_connected(service: RunningService) -> bool:
    return service.metrics().get("bidlight_feedback_store_connected") == 1


def checks(service: RunningService, outcome: str) -> float:
    return service.metrics()[f'bidlight_feedback_checks_total{{outcome="{outcome}"}}']


def shown(tokens: list[str]) -> list[dict[str, str]]:
    return [{"token": token, "type": "impression"} for token in tokens]


@pytest.fixture(scope="module")
def shared(
    bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RedisServer, RunningService, RunningService]]:
    """A Redis, and two machines with different bundles, which are patient with it on a busy machine."""
    patient = ("--feedback-store-timeout-ms", "900")
    folder = tmp_path_factory.mktemp("machines")
    with (
        running_redis(folder) as redis,
        machines(folder, redis, bundles["control"], bundles["treatment"], options=patient) as (one, other),
    ):
        yield redis, one, other


def test_an_event_counts_once_over_machines_also_of_a_bundle_that_one_does_not_serve(
    shared: tuple[RedisServer, RunningService, RunningService],
) -> None:
    redis, one, other = shared
    counted, known = imps(one, other), checks(one, "known")
    events = shown(tokens_of(one, 300) + tokens_of(other, 300))
    assert send(other, events[:400]) == {"counted": 400, "duplicates": 0, "refused": {}}
    assert send(one, events) == {"counted": 200, "duplicates": 400, "refused": {}}
    assert send(other, events) == {"counted": 0, "duplicates": 600, "refused": {}}
    wait_until(lambda: imps(one, other) - counted == 600)
    wait_until(lambda: checks(one, "known") - known == 400)
    assert 0 < redis.call("PTTL", redis.call("RANDOMKEY")) <= 86_400_000 + 4 * 60_000


def test_without_the_redis_events_count_and_are_checked_when_it_is_back(
    shared: tuple[RedisServer, RunningService, RunningService],
) -> None:
    redis, one, other = shared

    def told(outcome: str) -> float:
        return checks(one, outcome) + checks(other, outcome)

    at_first = told("confirmed"), told("unchecked")
    before, meanwhile, alone = (shown(tokens_of(one, count)) for count in (40, 30, 20))
    assert send(one, before)["counted"] == 40
    assert send(other, before[:1])["counted"] == 0  # so it knows the source
    redis.pause()  # it accepts, and answers nothing
    assert send(one, meanwhile)["counted"] == 30
    assert send(other, meanwhile)["counted"] == 30  # which nobody can know
    redis.stop()  # SIGKILL; it has kept nothing
    wait_until(lambda: not is_connected(one) and not is_connected(other))
    assert send(one, alone + meanwhile) == {"counted": 20, "duplicates": 30, "refused": {}}
    assert one.post(REQUEST).status_code == other.post(REQUEST).status_code == 200
    redis.start()
    wait_until(lambda: told("twice") == 30)
    wait_until(lambda: told("confirmed") - at_first[0] == 50)
    assert (told("unchecked") - at_first[1], told("forgotten")) == (80, 0)
    for events in (before, meanwhile, alone):  # the machine that counted them has told the new Redis
        assert send(other, events)["counted"] == 0
    wait_until(lambda: one.metrics()["bidlight_feedback_unchecked_events"] == 0)


def imps(*services: RunningService) -> float:
    """Impressions that were counted."""
    return sum(events_of(service, "impression", "counted") for service in services)


LIVE = ("--live-calibration", "on", "--live-period-seconds", "1", "--click-window-seconds", "1")


def joined(service: RunningService) -> float:
    return service.metrics().get("bidlight_live_joined", -1)


def test_machines_correct_alike_by_the_events_of_all_and_alone_while_the_redis_is_away(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with (
        running_redis(tmp_path) as redis,
        machines(tmp_path, redis, *[bundles["control"]] * 2, options=LIVE) as (one, other),
    ):
        wait_until(lambda: joined(one) == joined(other) == 1)
        wait_until(lambda: one.metrics().get("bidlight_live_machines") == 2)
        own = results(one)["pctr"]
        share = min(0.9, 1.3 * own[0])
        for _ in range(2):  # to one machine only: for the fit, and to judge it
            fitted = fits(one) + fits(other)
            report(one, share)
            wait_until(lambda fitted=fitted: fits(one) + fits(other) > fitted or revision(one) == 1)  # type: ignore[misc]
        wait_until(lambda: revision(one) == revision(other) == 1)
        wait_until(
            lambda: all(results(one)["pctr"] == results(other)["pctr"] != own for _ in range(ANY_WORKER))
        )
        assert results(other)["pctr"][0] == pytest.approx(share, rel=0.1)
        clicks = state(other)["clicks"]
        redis.stop()
        wait_until(lambda: joined(one) == joined(other) == 0)
        assert results(other)["pctr"][0] == pytest.approx(share, rel=0.1)  # what was served stays
        report(other, share)
        wait_until(lambda: state(other)["clicks"] > clicks)  # and it learns from its own events
        assert state(one)["clicks"] < clicks + 1
        redis.start()  # empty
        wait_until(lambda: joined(one) == joined(other) == 1)
        wait_until(lambda: one.metrics().get("bidlight_live_machines") == 2)
        wait_until(lambda: clicks < state(one)["clicks"] == state(other)["clicks"])
        reported = 3 * 2 * int(share * 900)
        assert state(one)["clicks"] < reported + 1  # nothing counts twice
        wait_until(lambda: state(one)["revision"] == state(other)["revision"] >= 1)


def fits(service: RunningService) -> float:
    return decisions(service, "fitted")


def revision(service: RunningService) -> float:
    found: float = state(service)["revision"]
    return found
