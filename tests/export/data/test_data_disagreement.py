"""A schema that does not describe its log: the error speaks of the schema's key, not of one row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from export.data.encoded import prepare_log
from export.data.errors import DisagreementError, LogError
from export.data.log_schema import LogSchema, parse_log_schema
from export.data.readers import read_log

COLUMNS = ("click", "at", "site", "price", "ad")
ROWS = [
    (i % 2, f"2024-05-{1 + i % 28:02} 10:00:00", f"s{i % 7}", f"{i % 11}.5", f"a{i % 5}") for i in range(300)
]
DESCRIPTION = """
name = "shop"
format = "csv"
{more}
[label]
column = "click"
{label}
[timestamp]
column = "at"
format = "{time}"
[[field]]
name = "site"
kind = "categorical"
role = "context"
[[field]]
name = "price"
kind = "numeric"
role = "candidate"
[[field]]
name = "ad"
kind = "{ad}"
role = "candidate"
"""


def schema(
    more: str = "", label: str = "", time: str = "%Y-%m-%d %H:%M:%S", ad: str = "categorical"
) -> LogSchema:
    return parse_log_schema(DESCRIPTION.format(more=more, label=label, time=time, ad=ad))


def named(columns: tuple[str, ...] = COLUMNS) -> str:
    return f"header = false\ncolumns = {list(columns)}"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return written(tmp_path / "log.csv")


def written(path: Path, separator: str = ",", header: bool = True, price: str = "") -> Path:
    rows = [(*row[:3], price or row[3], row[4]) for row in ROWS]
    lines = [COLUMNS, *rows] if header else rows
    path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines), encoding="utf-8")
    return path


def told(path: Path, description: LogSchema, kind: type[LogError] = DisagreementError) -> str:
    with pytest.raises(kind) as caught:
        list(read_log(path, description))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_schema_that_fits_is_read(log: Path) -> None:
    assert sum(len(chunk) for chunk in read_log(log, schema())) == len(ROWS)


@pytest.mark.parametrize("time", ["unix", "unix_ms", "%Y-%m-%d", "%d.%m.%Y %H:%M"])
def test_another_format_of_times_is_named(log: Path, time: str) -> None:
    message = told(log, schema(time=time))
    assert message.startswith("schema 'shop', [timestamp]: 'format' must be that of the column 'at'")
    assert f"(got {time!r} for cells like '2024-05-01 10:00:00'" in message
    assert 'write format = "%Y-%m-%d %H:%M:%S"' in message


def test_times_of_no_known_format_are_shown(log: Path) -> None:
    log.write_text(log.read_text().replace("2024-05", "the fifth"), encoding="utf-8")
    assert "write the pattern of these times" in told(log, schema())


def with_times(log: Path, made: Callable[[int], object]) -> Path:
    """The log with other times, by the number of the day in May."""
    text = re.sub(r"2024-05-(\d\d) 10:00:00", lambda day: str(made(int(day[1]))), log.read_text())
    log.write_text(text, encoding="utf-8")
    return log


@pytest.mark.parametrize(
    ("time", "made", "better"),
    [
        ("unix_ms", lambda day: 1_714_521_600 + 86_400 * day, "unix"),
        ("unix", lambda day: f"2405{day:02}10", "%y%m%d%H"),
        ("unix", lambda day: f"202405{day:02}", "%Y%m%d"),
    ],
)
def test_times_read_into_unlikely_years_name_the_format(
    log: Path, time: str, made: Callable[[int], object], better: str
) -> None:
    message = told(with_times(log, made), schema(time=time))
    assert message.startswith("schema 'shop', [timestamp]: 'format' must be that of the column 'at'")
    assert f"(got {time!r}, by which cells like '" in message
    assert "are of 1970, in 300 lines of log.csv)" in message
    assert message.endswith(f'write format = "{better}", or name another column')


def test_times_of_another_zero_are_read_with_a_warning(log: Path, tmp_path: Path) -> None:
    with_times(log, lambda day: 3_600 * day)
    (chunk,) = read_log(log, schema(time="unix"))
    assert len(chunk) == len(ROWS)
    assert chunk.disagreement is not None
    assert "are of 1970 by the format 'unix', in 300 lines of log.csv; write another" in chunk.disagreement
    said: list[str] = []
    prepare_log(log, schema(time="unix"), tmp_path / "out", report=said.append)
    assert f"warning: {chunk.disagreement}" in said


def test_a_warning_of_times_does_not_hide_why_rows_are_skipped(log: Path) -> None:
    with_times(log, lambda day: 3_600 * day)
    description = schema(time="unix", label='click = ["yes"]\nno_click = ["no"]')
    (chunk,) = read_log(log, description, on_malformed="skip")
    assert chunk.skipped == len(ROWS)
    assert chunk.disagreement is not None
    assert "'click' and 'no_click' must name the values" in chunk.disagreement


def test_a_few_times_of_unlikely_years_are_read(log: Path) -> None:
    with_times(log, lambda day: 0 if day % 5 == 0 else 1_714_521_600)
    (chunk,) = read_log(log, schema(time="unix"))
    assert len(chunk) == len(ROWS)
    assert chunk.disagreement is None


def test_dates_of_parquet_that_count_milliseconds_as_more_are_told(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    columns = {name: [str(row[at]) for row in ROWS] for at, name in enumerate(COLUMNS)}
    times = pl.Series(range(1_714_521_600_000, 1_714_521_600_300)).cast(pl.Datetime("us"))
    pl.DataFrame(columns).with_columns(at=times).write_parquet(path)
    description = parse_log_schema(
        DESCRIPTION.format(more="", label="", time="unix", ad="categorical").replace('"csv"', '"parquet"')
    )
    (chunk,) = read_log(path, description)
    assert chunk.disagreement is not None
    assert "are of 1970 by the format 'unix', in 300 rows of log.parquet" in chunk.disagreement


@pytest.mark.parametrize(("unit", "in_second"), [("microseconds", 10**6), ("nanoseconds", 10**9)])
@pytest.mark.parametrize("time", ["unix", "unix_ms"])
def test_times_finer_than_milliseconds_are_told(log: Path, time: str, unit: str, in_second: int) -> None:
    message = told(with_times(log, lambda day: (1_714_521_600 + day) * in_second), schema(time=time))
    assert message.endswith(
        f'turn these {unit} into milliseconds and write format = "unix_ms", or name another column'
    )


def test_columns_without_a_value_are_told(log: Path) -> None:
    text = re.sub(r"2024-05-\d\d 10:00:00", "", log.read_text())
    log.write_text(text, encoding="utf-8")
    message = told(log, schema())
    assert message.startswith("schema 'shop', [timestamp]: 'column' must be one with a time in each row")
    assert (
        "(got 'at' without a value in 300 lines of log.csv); name another, or leave the table out" in message
    )
    log.write_text(re.sub(r"^[01],", ",", text, flags=re.MULTILINE), encoding="utf-8")
    assert "'click' (got no value in 300 lines of log.csv" in told(log, schema())


def test_other_words_of_the_label_are_shown(log: Path) -> None:
    message = told(log, schema(label='click = ["yes"]\nno_click = ["no"]'))
    assert message.startswith("schema 'shop', [label]: 'click' and 'no_click' must name the values of the")
    assert "(got '0', '1' in 300 lines of log.csv, where the schema has no, yes)" in message


def test_a_number_of_text_names_the_kind(log: Path, tmp_path: Path) -> None:
    message = told(log, schema(ad="numeric"))
    assert message.startswith("schema 'shop', field 'ad': 'kind' must be one that the column 'ad' can be")
    assert "'a0', 'a1'" in message
    assert 'write kind = "categorical"' in message
    commas = told(written(tmp_path / "eu.csv", ";", price="1,5"), schema('separator = ";"'))
    assert "field 'price'" in commas
    assert "write its numbers with a decimal point" in commas


def test_one_malformed_row_stays_a_row(log: Path) -> None:
    log.write_text(log.read_text().replace("3.5", "cheap", 1), encoding="utf-8")
    message = told(log, schema(), LogError)
    assert message.startswith(
        "log.csv, line 5: column 'price' must be a finite number or empty (got 'cheap')"
    )


def test_a_column_that_fits_in_the_first_rows_is_no_disagreement(log: Path) -> None:
    text = "".join(f"1,2024-05-01 10:00:00,s,cheap,a{i}\n" for i in range(300))
    log.write_text(log.read_text() + text, encoding="utf-8")
    with pytest.raises(LogError, match=r"line 302: column 'price'") as caught:
        list(read_log(log, schema(), chunk_rows=300))
    assert not isinstance(caught.value, DisagreementError)


def test_names_in_the_first_line_ask_for_a_header(log: Path) -> None:
    message = told(log, schema(named()))
    assert message.startswith("schema 'shop': 'header' must be true")
    renamed = schema(named()).columns[:1]
    assert renamed == ("click",)
    log.write_text(log.read_text().replace("click,at,site,price,ad", "c1,c2,c3,c4,c5"), encoding="utf-8")
    hint = told(log, schema(named()), LogError)
    assert hint.startswith("log.csv, line 1: column 'click' must be one of 0, 1 (got 'c1')")
    assert "write header = true into the schema if this line names the columns" in hint


def test_a_row_for_a_header_is_told(tmp_path: Path) -> None:
    message = told(written(tmp_path / "bare.csv", header=False), schema(), LogError)
    assert "must be in the log" in message
    assert "write header = false and the columns into the schema if the first line is a row" in message


def test_another_width_names_the_separator_or_the_columns(tmp_path: Path) -> None:
    bare = written(tmp_path / "bare.csv", ";", header=False)
    assert "'columns' must have a name for each cell" in told(bare, schema(named()))
    assert told(bare, schema(named())).endswith("write separator = ';'")
    short = told(bare, schema(named((*COLUMNS, "other")) + '\nseparator = ";"'))
    assert "(got 6 names, and 5 cells between ';' in each of its first rows)" in short
    wide = schema(named((*COLUMNS, "other")) + '\nseparator = ";"')
    (skipped,) = read_log(bare, wide, on_malformed="skip")  # whatever the first rows are
    assert (len(skipped), skipped.skipped) == (0, len(ROWS))
    assert "'columns' must have a name for each cell" in str(skipped.disagreement)


def test_another_format_is_named(log: Path, tmp_path: Path) -> None:
    parquet = tmp_path / "log.parquet"
    pl.read_csv(log).write_parquet(parquet)
    message = told(parquet, schema())
    assert message.startswith("schema 'shop': 'format' must be parquet for the Parquet file log.parquet")
    as_parquet = parse_log_schema(
        DESCRIPTION.format(more="", label="", time="unix", ad="categorical").replace("csv", "parquet")
    )
    assert 'write format = "csv" or "tsv" into the schema' in told(log, as_parquet, LogError)


def test_a_column_that_is_not_there_is_told_with_its_users_and_its_like(log: Path) -> None:
    log.write_text(log.read_text().replace("click,at,site,", "Click,at,Site,"), encoding="utf-8")
    message = told(log, schema(), LogError)
    assert "column 'click', 'site' must be in the log" in message
    assert message.endswith("the schema 'shop': [label], field 'site' (is it 'Click'?)")


def test_a_log_of_which_all_rows_are_skipped_says_why(log: Path, tmp_path: Path) -> None:
    with pytest.raises(DisagreementError, match=r"'kind' must be .* --on-malformed skip leaves no row"):
        prepare_log(log, schema(ad="numeric"), tmp_path / "out", on_malformed="skip", report=lambda _: None)
    log.write_text(log.read_text().replace(",a1\n", ",1\n", 5), encoding="utf-8")
    lines: list[str] = []
    with pytest.raises(LogError):  # five rows are no log
        prepare_log(log, schema(ad="numeric"), tmp_path / "out", on_malformed="skip", report=lines.append)
    assert [line for line in lines if line.startswith("warning: schema 'shop', field 'ad': 'kind' must be")]
