"""Progress as lines, as bars of a terminal, and as nothing: rows, their rate, and how much is left."""

from __future__ import annotations

import re
import sys

import pytest

from export.data.progress import Bar, Progress, Shown, duration, fitting, say, shown, shown_as


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


@pytest.mark.parametrize("how", ["bars", "nothing"])
def test_in_place_of_lines_there_are_bars_or_nothing_until_the_end(
    how: Shown, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.data.progress._SECONDS_BEFORE_A_BAR", 0.0)
    lines: list[str] = []
    with shown_as(how), Progress("read", lines.append, about=4_000) as progress:
        for _ in range(3):
            progress.add(1_000)
        assert lines == []
        progress.finish(", 2 malformed rows skipped")
    assert shown() == "lines"
    (line,) = lines
    assert re.fullmatch(r"read 3,000 rows \([\d,]+ rows/s\), 2 malformed rows skipped", line)
    drawn = capsys.readouterr().err
    assert ("read:   0%" in drawn and "0.00/4.00k" in drawn) == (how == "bars")
    assert bool(drawn) == (how == "bars")


def test_a_bar_says_how_it_goes_and_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.data.progress._SECONDS_BETWEEN_NOTES", 0.0)
    with shown_as("bars"), Bar("all", 2, unit="models", whole=True, even=False) as bar:
        with Bar("training", 10, unit="steps", whole=True) as inner:
            inner.add(5, lambda: "loss 0.5")
            inner._bar.refresh()
            say("a line")
        bar.add(1)
    printed = capsys.readouterr()
    assert printed.out == "a line\n"
    assert re.search(r"training:  50%.* 5/10 steps \[.* left, .* steps/s, loss 0.5\]", printed.err)
    assert re.search(r"all: +0%.* 0/2 models \[00:\d\d\]", printed.err)
    assert printed.err.endswith("\r")  # the last bar is wiped
    with shown_as("lines"), Bar("training", 10) as bar:
        bar.add(5, lambda: pytest.fail("a note that nobody reads"))
    assert capsys.readouterr().err == ""


def test_a_failure_takes_the_bar_away(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), shown_as("bars"), Progress("read", print, about=10):
        raise ValueError("broken")
    capsys.readouterr()
    say("after")
    assert capsys.readouterr().out == "after\n"


def test_a_terminal_has_bars_unless_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting(quiet=False) == "lines"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert fitting(quiet=False) == "bars"
    assert fitting(quiet=True) == "nothing"


def test_durations_are_of_seconds_or_minutes() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.4, 61.0, 3_700.0)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "61 min 40 s",
    ]
