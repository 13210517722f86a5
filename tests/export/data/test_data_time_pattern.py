"""Patterns of timestamps mean to polars what they mean to Python's strptime, or are refused."""

from __future__ import annotations

import datetime as dt
import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from export.data.errors import LogSchemaError
from export.data.log_schema import parse_log_schema
from export.data.readers import read_log
from export.data.time_pattern import ALLOWED, fault_of

SCHEMA = """
name = "times"
format = "tsv"
header = false
columns = ["click", "time", "a"]
[label]
column = "click"
[timestamp]
column = "time"
format = "{format}"
[[field]]
name = "a"
kind = "categorical"
role = "context"
"""
# Each allowed directive is in one of them.
PATTERNS = (
    "%Y-%m-%d %H:%M:%S",
    "%y%m%d%H",
    "%d/%b/%Y:%H:%M:%S %z",
    "%A, %d %B %Y %I:%M %p",
    "%a %d %b %Y",
    "%Y%j",
    "%Y-%jT%H:%M",
    "%Y-%m-%dT%H:%M:%S.%f%z",
    "%Y-%m-%d %H:%M:%S,%f",
    "%Y-%m-%d %I%p",
    "%y-%m-%d 100%% %H UTC",
)
OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))


def seconds_of(folder: Path, pattern: str, texts: list[str]) -> list[int | None]:
    """The instant that the export reads in each text; None where the row is malformed."""
    log_schema = parse_log_schema(SCHEMA.format(format=pattern))
    path = folder / "times.tsv"
    path.write_text("".join(f"0\t{text}\ta\n" for text in texts))
    found: list[int | None] = [None] * len(texts)
    for chunk in read_log(path, log_schema, on_malformed="skip"):
        assert chunk.timestamps is not None
        for line, second in zip(chunk.lines.tolist(), chunk.timestamps.tolist(), strict=True):
            found[line - 1] = second
    return found


def by_python(pattern: str, text: str) -> int | None:
    """The definition: strptime, as UTC unless the text tells an offset."""
    try:
        time = dt.datetime.strptime(text, pattern)
    except ValueError:
        return None
    return int((time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp() // 1)


def test_every_allowed_directive_is_tried() -> None:
    assert all(any(directive in pattern for pattern in PATTERNS) for directive in ALLOWED)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(
    times=st.lists(
        st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2068, 12, 30), timezones=OFFSETS), min_size=1
    )
)
@example(times=[dt.datetime(2024, 2, 29, hour, tzinfo=dt.UTC) for hour in range(24)])
@example(times=[dt.datetime(year, 2, 28, 12, tzinfo=dt.UTC) for year in range(1970, 2069)])
def test_an_allowed_pattern_reads_the_instants_that_python_reads(
    tmp_path_factory: pytest.TempPathFactory, pattern: str, times: list[dt.datetime]
) -> None:
    texts = [time.strftime(pattern.replace("%Y", f"{time.year:04}")) for time in times]
    expected = [by_python(pattern, text) for text in texts]
    assert None not in expected
    assert seconds_of(tmp_path_factory.getbasetemp(), pattern, texts) == expected


@pytest.mark.parametrize("pattern", PATTERNS)
@given(
    texts=st.lists(
        st.text(alphabet=string.digits + "-:/ .,+TZampJanFebMonWed", min_size=1, max_size=30), min_size=1
    )
)
@example(texts=["69-01-02 100% 03 UTC", "68-01-02 100% 03 UTC", "99-1-2 100% 3 UTC", "69010203"])
@example(texts=["0099-01-02 03:04:05", "99-01-02 03:04:05", "1969-12-31 23:59:59", "2024-01-02 03:04:60"])
def test_whatever_stands_in_a_cell_is_that_instant_or_malformed(
    tmp_path_factory: pytest.TempPathFactory, pattern: str, texts: list[str]
) -> None:
    found = seconds_of(tmp_path_factory.getbasetemp(), pattern, texts)
    for text, second in zip(texts, found, strict=True):
        expected = by_python(pattern, text)
        assert second is None or expected is None or second == expected, text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-02T03:04:05Z", 1704164645),
        ("2024-01-02T03:04:05+0900", 1704132245),
        ("2024-01-02T03:04:05+09:00", 1704132245),
        ("2024-01-02T03:04:05-00:30", 1704166445),
        ("2024-01-02T03:04:05", None),
    ],
)
def test_an_offset_is_z_or_hours_and_minutes(tmp_path: Path, text: str, expected: int | None) -> None:
    assert seconds_of(tmp_path, "%Y-%m-%dT%H:%M:%S%z", [text]) == [expected]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("hours", "'unix', 'unix_ms'"),
        ("", "'unix', 'unix_ms'"),
        ("%%Y", "'unix', 'unix_ms'"),
        ("%Y-%m-%d %H:%M:%S %Z", "without %Z"),
        ("%s", "%s is none of them"),
        ("%Y-%m-%d %T", "%T is none of them"),
        ("%Y-%U-%w", "%U is none of them"),
        ("%G-W%V-%u", "%G is none of them"),
        ("%c", "%c is none of them"),
        ("%Y-%m-%e", "%e is none of them"),
        ("%Y-%m-%d%", "(% is none of them)"),
        ("%Y-%m-%d %Y", "one year"),
        ("%Y %y-%m-%d", "one year"),
        ("%H:%M", "a whole date"),
        ("%Y-%m", "the day beside the month"),
        ("%Y", "a whole date"),
        ("%Y-%m-%d %j", "either the day of the year or the month"),
        ("%Y-%m-%d %I:%M", "the half of the day beside the hour of twelve"),
        ("%Y-%m-%d %H:%M %p", "the hour of twelve beside the half of the day"),
        ("%Y-%m-%d %M", "the hour beside the minute"),
        ("%Y-%m-%d %H:%S", "the minute beside the second"),
        ("%Y-%m-%d %H:%M.%f", "the second beside the fraction"),
        ("%Y-%m-%d%z", "the hour beside the offset"),
    ],
)
def test_a_pattern_that_could_be_read_in_two_ways_is_refused(pattern: str, reason: str) -> None:
    assert reason in fault_of(pattern)
    with pytest.raises(LogSchemaError) as error:
        parse_log_schema(SCHEMA.format(format=pattern))
    assert reason in str(error.value)
    assert str(error.value).startswith("schema.toml: [timestamp]: 'format' must be ")
