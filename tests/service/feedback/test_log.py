"""Counted events are in files soon, a service that starts again knows them, and a bad disk stops nothing."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from service.errors import BadConfiguration
from service.feedback import counting, hourly_log, log, restore
from service.feedback.counting import EventCounter
from service.feedback.events import CLICK, IMPRESSION, Event, EventType, FeedbackAnswer
from service.feedback.hourly_log import PART, WHOLE
from service.feedback.log import EventLog, LoggedEvent, end_ms_of
from service.feedback.memory import EventMemory
from service.feedback.queue import EventQueue
from service.feedback.restore import restore_events
from service.feedback.signers import Signers
from service.feedback.tokens import Source, now_ms
from service.metrics.families import Metrics
from service.settings import Settings
from tests.full_disk import full_disk
from tests.running import read_metrics

SOURCE = Source("control", "tiny@1", "float32")
EVENT = LoggedEvent(now_ms(), CLICK, "control", "tiny@1", "float32", 0.25, "t" * 40)


class Process:
    """A service that counts, with its log in a folder."""

    def __init__(self, folder: Path, events: int) -> None:
        keys = folder / "keys"
        keys.write_text(f"0 {'ab' * 16}\n", encoding="ascii")
        (folder / "log").mkdir(exist_ok=True)
        settings = Settings(
            feedback_keys=str(keys), feedback_log=str(folder / "log"), max_attributed_events=events
        )
        self.metrics = Metrics()
        self.signers = Signers(settings.feedback_keys)
        self.signers.serve({SOURCE: SOURCE})
        self.counter = EventCounter(settings, self.metrics, EventMemory(events), self.signers)
        self.counter.restore()

    def tokens(self, count: int, age_ms: int = 0) -> list[str]:
        signer = self.signers.of(SOURCE)
        return signer.tokens_at(np.full(count, 0.25), now_ms() - age_ms, signer._numbers.take(count))

    def count(self, event_type: EventType, *tokens: str) -> FeedbackAnswer:
        events = [Event(token, event_type) for token in tokens]
        return asyncio.run(EventQueue(self.counter.count).count(lambda: events, 0))

    def outcome(self, name: str) -> float:
        self.counter.publish()
        found = read_metrics(self.metrics.exposition()[0].decode())
        return found.get(f'bidlight_feedback_log_events_total{{outcome="{name}"}}', 0)


@contextmanager
def process(folder: Path, events: int = 10_000, *, serves: bool = True) -> Iterator[Process]:
    """One that `serves` the source of its tokens, or another bundle by now; closed at the end."""
    one = Process(folder, events)
    if serves:
        one.counter.serve([SOURCE])
    yield one
    asyncio.run(one.counter.close())


def files_in(folder: Path, ending: str) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_counted_before_a_start_is_not_counted_again(tmp_path: Path) -> None:
    with process(tmp_path) as first:
        tokens = first.tokens(600)
        assert first.count(IMPRESSION, *tokens[:500]).counted == 500
        assert first.count(CLICK, *tokens[:10]).counted == 10
        assert first.count(CLICK, *tokens[:10]).duplicates == 10
    (file,) = files_in(tmp_path / "log", WHOLE)
    lines = file.read_bytes().splitlines()
    assert len(lines) == 510
    event = msgspec.json.decode(lines[-1], type=LoggedEvent)
    assert (event.token, event.type, event.pctr) == (tokens[9], CLICK, pytest.approx(0.25))
    assert Source(event.arm, event.bundle, event.variant) == SOURCE
    assert abs(event.at - now_ms()) < 60_000
    with process(tmp_path, serves=False) as second:  # the bundle is known from the log alone
        assert second.outcome("restored") == 510
        assert second.count(IMPRESSION, *tokens) == FeedbackAnswer(100, 500, {})
        assert second.count(CLICK, *tokens[:20]) == FeedbackAnswer(10, 10, {})
    with process(tmp_path) as third:
        assert third.outcome("restored") == 620


def test_events_are_in_the_file_within_a_second_while_the_process_goes_on(tmp_path: Path) -> None:
    with process(tmp_path) as one:
        one.count(CLICK, *one.tokens(3))
        started = time.monotonic()
        wait_until(lambda: bool(files_in(tmp_path / "log", PART)))
        (file,) = files_in(tmp_path / "log", PART)
        wait_until(lambda: file.read_bytes().count(b"\n") == 3)
        assert time.monotonic() - started < 1.0 + 1.0  # of a busy machine
        wait_until(lambda: one.outcome("written") == 3)


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with process(tmp_path) as first:
        tokens = first.tokens(3)
        first.count(CLICK, *tokens)
    (file,) = files_in(tmp_path / "log", WHOLE)
    cut = file.with_name(file.name.replace(WHOLE, PART))
    cut.write_bytes(b"\n\xff nonsense\n{}\n" + file.read_bytes()[:-20])
    file.unlink()
    with process(tmp_path) as second:
        assert (second.outcome("restored"), second.outcome("unreadable")) == (2, 4)
        assert second.count(CLICK, *tokens) == FeedbackAnswer(1, 2, {})
        assert read_metrics(second.metrics.exposition()[0].decode())["bidlight_feedback_log_cuts_total"] == 1
    assert "1 files of" in caplog.text
    with process(tmp_path) as third:
        assert read_metrics(third.metrics.exposition()[0].decode())["bidlight_feedback_log_cuts_total"] == 0
        assert third.outcome("restored") == 3


def test_of_more_events_than_are_remembered_the_newest_are(tmp_path: Path) -> None:
    with process(tmp_path, events=100_000) as first:
        old, new = first.tokens(1000, age_ms=3_600_000), first.tokens(1000, age_ms=60_000)
        first.count(CLICK, *new, *old)
    with process(tmp_path, events=1000) as second:  # a generation holds 1,024
        assert second.outcome("restored") == 1024
        assert second.count(CLICK, *new) == FeedbackAnswer(0, 1000, {})
        # Nobody knows which of these were counted.
        found = second.count(CLICK, *old)
        assert (found.counted, found.refused) == (0, {"expired": 1000 - found.duplicates})
        assert found.duplicates <= 24


def test_of_hours_that_are_not_read_no_token_is_taken(tmp_path: Path) -> None:
    """A late click in the newest file is older than what an older file has."""
    with process(tmp_path, events=100_000) as first:
        before = first.tokens(1, age_ms=3_700_000)
        first.count(CLICK, *before)
    (file,) = files_in(tmp_path / "log", WHOLE)
    hour = time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() - 3600))
    file.rename(file.with_name(f"events-{hour}{file.name[20:]}"))
    with process(tmp_path, events=100_000) as second:
        late, now = second.tokens(1, age_ms=7_400_000), second.tokens(1023)
        assert second.count(CLICK, *late, *now).counted == 1024
    with process(tmp_path, events=1000) as third:  # which remembers 1,024
        assert third.outcome("restored") == 1024
        assert third.count(CLICK, *before, *late) == FeedbackAnswer(refused={"expired": 2})
        assert third.count(CLICK, *third.tokens(1)).counted == 1


def test_a_file_is_read_as_long_as_a_token_of_it_may_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hour ended a day ago, but the token was made by a clock that was ahead."""
    end_of_hour, day = 1_800_000_000_000, 86_400_000
    now = end_of_hour - 20_000
    for module in (hourly_log, restore, counting):
        monkeypatch.setattr(module, "now_ms", lambda: now)
    with process(tmp_path) as first:
        token = first.tokens(1, age_ms=now_ms() - end_of_hour - 30_000)
        assert first.count(CLICK, *token).counted == 1
    now = end_of_hour + day + 10_000
    with process(tmp_path) as second:
        assert second.count(CLICK, *token) == FeedbackAnswer(0, 1, {})


def test_old_files_and_strange_ones_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    for name in (
        "events-2020-01-01T00-1-1-1.jsonl",
        "events-nonsense.jsonl",
        "notes.txt",
        "events-2026.part",
    ):
        (folder / name).write_text("not JSON\n", encoding="ascii")
    with process(tmp_path) as one:
        assert (one.outcome("restored"), one.outcome("unreadable")) == (0, 0)
    assert end_ms_of(folder / "events-1970-01-01T07-1-1-1.jsonl.part") == 8 * 3_600_000
    assert end_ms_of(folder / "events-nonsense-and-more.jsonl") == 0


@pytest.mark.parametrize("what", ["absent", "a file", "another service's"])
def test_a_folder_that_cannot_be_had_is_refused(tmp_path: Path, what: str) -> None:
    with process(tmp_path):
        folder = tmp_path / "log"
        if what == "absent":
            folder = tmp_path / "nowhere"
        elif what == "a file":
            folder = tmp_path / "keys"
        settings = Settings(feedback_keys=str(tmp_path / "keys"), feedback_log=str(folder))
        with pytest.raises(BadConfiguration, match="'feedback_log' must be a folder that"):
            restore_events(settings, EventMemory(1000), Metrics())


def test_a_folder_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with process(tmp_path):
        pass

    def no_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(BadConfiguration, match=r"a folder that has locks .*No locks available"):
        Process(tmp_path, 1000)


def test_a_log_needs_keys() -> None:
    with pytest.raises(ValueError, match="'feedback_keys' must be given with feedback_log"):
        Settings(feedback_log="somewhere")


class Told:
    """A log in a folder, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.outcomes: Counter[str] = Counter()
        self.log = EventLog(str(folder), lambda name, number: self.outcomes.update({name: number}))

    def add(self, count: int, outcome: str, total: int) -> None:
        """Wait until so many in all have come to this."""
        self.log.add([EVENT] * count)
        wait_until(lambda: self.of(outcome) == total)

    def of(self, outcome: str) -> int:
        self.log.publish()
        return self.outcomes[outcome]


def test_a_folder_that_goes_away_costs_events_and_they_are_counted(tmp_path: Path) -> None:
    (folder := tmp_path / "log").mkdir()
    told = Told(folder)
    shutil.rmtree(folder)
    told.add(5, "lost", 5)
    folder.mkdir()
    told.add(7, "written", 7)
    shutil.rmtree(folder)  # with the file that is written to
    told.add(3, "lost", 8)
    folder.mkdir()
    told.add(2, "written", 9)
    told.log.close()
    (file,) = files_in(folder, WHOLE)
    assert file.read_bytes() == (msgspec.json.encode(EVENT) + b"\n") * 2
    assert told.outcomes == {"lost": 8, "written": 9}


def test_a_full_disk_costs_events_and_leaves_no_empty_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path)
    told.add(1, "written", 1)
    line = len(msgspec.json.encode(EVENT)) + 1
    with full_disk(line + 5):  # half a line more
        told.add(3, "lost", 3)
        with full_disk(0):
            told.add(3, "lost", 6)
            told.add(3, "lost", 9)
    assert caplog.text.count("events of feedback are lost") == 1
    told.add(2, "written", 3)
    told.log.close()
    assert sorted(path.stat().st_size for path in files_in(tmp_path, "")) == [line + 5, 2 * line]


@pytest.mark.parametrize("is_slow", [False, True])
def test_what_the_disk_does_not_take_in_time_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    """Also while it has what came before, and has not kept it yet."""
    monkeypatch.setattr(log, "MAX_QUEUED", 10)
    begun, go_on = threading.Event(), threading.Event()

    def keep(_: object) -> None:
        begun.set()
        go_on.wait()

    if is_slow:
        monkeypatch.setattr(hourly_log._LogFile, "keep", keep)
    outcomes: dict[str, int] = {}
    written = EventLog(str(tmp_path), lambda name, number: outcomes.update({name: number}))
    written.add([EVENT] * 8)
    assert not is_slow or begun.wait(60.0)
    written.add([EVENT] * 8)
    go_on.set()
    written.close()
    written.publish()
    assert outcomes == {"written": 10, "lost": 6}


def test_each_hour_has_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000_000  # 2027-01-15T08:00:00Z
    monkeypatch.setattr(hourly_log, "now_ms", lambda: now)
    written = EventLog(str(tmp_path), lambda _, __: None)
    for hour in range(3):
        now = 1_800_000_000_000 + 3_600_000 * hour
        written.add([EVENT] * (hour + 1))
        wait_until(lambda: any(f"T{8 + hour:02}" in path.name for path in tmp_path.iterdir()))  # noqa: B023
        wait_until(lambda: not written._queue)
    written.close()
    files = files_in(tmp_path, WHOLE)
    assert [path.name[:20] for path in files] == [f"events-2027-01-15T{8 + hour:02}" for hour in range(3)]
    assert [path.read_bytes().count(b"\n") for path in files] == [1, 2, 3]
