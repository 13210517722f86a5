"""Lines of progress: rows and their rate, and how much is left where it is known of how many."""

from __future__ import annotations

import pytest

from export.data.progress import Progress, _duration


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.data.progress._SECONDS_BETWEEN", 0.0)


def test_lines_say_the_share_and_what_is_left_until_it_is_past() -> None:
    lines: list[str] = []
    progress = Progress("scored", lines.append, about=4_000)
    for rows in (1_000, 2_000, 2_000):
        progress.add(rows)
    progress.finish()
    assert [line.partition(" rows")[0] for line in lines] == [
        "scored 1,000",
        "scored 3,000",
        *["scored 5,000"] * 2,
    ]
    assert "... 25% done, about 0 s left" in lines[0]
    assert "... 75% done, about 0 s left" in lines[1]
    assert lines[2].endswith("rows/s)...")  # there were more than expected
    assert lines[3].endswith("rows/s)")


def test_without_an_expectation_nothing_is_said_of_what_is_left() -> None:
    lines: list[str] = []
    progress = Progress("read", lines.append)
    progress.add(10)
    assert lines[0].startswith("read 10 rows (")
    assert lines[0].endswith(" rows/s)...")


def test_durations_are_of_seconds_or_minutes() -> None:
    assert [_duration(seconds) for seconds in (0.4, 59.4, 61.0, 3_700.0)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "61 min 40 s",
    ]
