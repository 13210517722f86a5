"""Reading text: values, errors for malformed files and rows, and skipped rows."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from export.data.errors import LogError
from export.data.log_schema import LogSchema, parse_log_schema
from export.data.readers import LogChunk, read_log
from tests.export.data.descriptions import DESCRIPTION, described

HEADER = "click,t,extra,site,age,seen\n"
ROW = "1,1414000000,x,abc,12.5,a|b|c\n"
OTHER = "0,1414003600,y,,,\n"


def read(path: Path, content: str | bytes, schema: LogSchema | None = None, **options) -> list[LogChunk]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_log(path, schema or described(), **options))


def told(path: Path, content: str | bytes, schema: LogSchema | None = None) -> str:
    """The one-line error that reading this content ends with."""
    with pytest.raises(LogError) as caught:
        read(path, content, schema)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.csv"


def test_values_are_typed_and_empty_cells_are_missing(log: Path) -> None:
    (chunk,) = read(log, HEADER + ROW + OTHER)
    assert chunk.fields.rows() == [("17", "3", "abc", 12.5, ["a", "b", "c"]), ("18", "3", None, None, None)]
    assert chunk.labels.tolist() == [1, 0]
    assert chunk.timestamps is not None
    assert chunk.timestamps.tolist() == [1414000000, 1414003600]
    assert chunk.lines.tolist() == [2, 3]
    assert chunk.true_pctr is None


@pytest.mark.parametrize(
    "content",
    [
        (HEADER + ROW + OTHER).replace("\n", "\r\n"),
        "\ufeff" + HEADER + ROW + OTHER,
        HEADER + ROW + OTHER.rstrip("\n"),
        (HEADER + ROW + OTHER).replace("\n", "\r\n").rstrip("\n"),
        HEADER + "\n" + ROW + "\n\n" + OTHER + "\n",
        HEADER + '"1","1414000000",x,"abc","12.5","a|b|c"\n' + OTHER,
        HEADER + ROW + '0,1414003600,"y, ""quoted""\nover lines",,,""\n',
    ],
    ids=[
        "crlf",
        "bom",
        "no last newline",
        "crlf, no last newline",
        "empty lines",
        "quoted",
        "newline in quotes",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 1000])
def test_harmless_differences_make_none(log: Path, content: str, packed: bool, chunk_rows: int) -> None:
    data = gzip.compress(content.encode()) if packed else content.encode()
    chunks = read(log, data, chunk_rows=chunk_rows)
    rows = [row for chunk in chunks for row in chunk.fields.rows()]
    assert rows == [("17", "3", "abc", 12.5, ["a", "b", "c"]), ("18", "3", None, None, None)]
    assert np.concatenate([chunk.labels for chunk in chunks]).tolist() == [1, 0]


@pytest.mark.parametrize("name", ["log.csv", "log.tsv"])
@pytest.mark.parametrize("header", ["click,a", '"click",a', "a,click"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, name: str, header: str) -> None:
    separator = "\t" if name.endswith("tsv") else ","
    schema = parse_log_schema(
        f"name = 'm'\nformat = 'csv'\nseparator = '{separator}'\n[label]\ncolumn = 'click'\n"
        "[[field]]\nname = 'a'\nkind = 'categorical'\nrole = 'context'\n"
    )
    content = f"\ufeff{header}\n1,1\n".replace(",", separator).encode()
    for data in (content, gzip.compress(content)):
        (chunk,) = read(tmp_path / name, data, schema, chunk_rows=1)
        assert chunk.fields["a"].to_list() == ["1"]


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("length", [131_073, 1_000_000])
def test_a_long_cell_may_be_quoted(log: Path, quote: str, length: int) -> None:
    long = "|".join(["ab"] * (length // 3))
    (chunk,) = read(log, HEADER + ROW.replace("a|b|c", f"{quote}{long}{quote}"))
    assert chunk.fields["seen"].list.len().to_list() == [length // 3]


@pytest.mark.parametrize("cell", ["nan", "NaN", "-nan", "NAN"])
def test_nan_can_be_declared_missing(log: Path, cell: str) -> None:
    content = HEADER + ROW.replace("12.5", cell)
    assert "must be a finite number or empty" in told(log, content)
    declared = described(options='missing = ["nan"]')
    (chunk,) = read(log, content, declared)
    assert chunk.fields["age"].to_list() == [None]
    assert "must be a finite number or empty" in told(log, content.replace(cell, "inf"), declared)


def test_columns_are_found_by_name(log: Path) -> None:
    (chunk,) = read(log, "seen,age,site,t,click\na,1,s,0,1\n")
    assert chunk.fields.rows() == [("0", "4", "s", 1.0, ["a"])]


@pytest.mark.parametrize(
    ("time", "cell", "seconds"),
    [
        ("unix", "1414000000.75", 1414000000),
        ("unix_ms", "1414000000750", 1414000000),
        ("%y%m%d%H", "14102100", 1413849600),
        ("%Y-%m-%d", "2014-10-21", 1413849600),
        ("%Y-%m-%d %H:%M:%S", "2014-10-21 00:00:07", 1413849607),
        ("%Y-%m-%dT%H:%M:%S%z", "2014-10-21T02:00:07+02:00", 1413849607),
        ("%Y-%m-%d %H:%M:%S.%f", "2014-10-21 00:00:07.500000", 1413849607),
        ("%Y%m%d%H%M%S%f", "20141021000007500", 1413849607),
        ("%Y%m%d%H%M%S%f", "20141021000007500000", 1413849607),
    ],
)
def test_times(log: Path, time: str, cell: str, seconds: int) -> None:
    (chunk,) = read(log, HEADER + ROW.replace("1414000000", cell), described(time=time))
    assert chunk.timestamps is not None
    assert chunk.timestamps.tolist() == [seconds]


def test_the_schemas_words_mean_missing_and_other_labels_count(log: Path) -> None:
    schema = parse_log_schema(
        'name = "m"\nformat = "tsv"\nheader = false\ncolumns = ["rating", "n"]\nmissing = ["NULL", "\\\\N"]\n'
        '[label]\ncolumn = "rating"\nclick = ["4", "5"]\nno_click = ["1", "2", "3"]\n'
        '[[field]]\nname = "n"\nkind = "numeric"\nrole = "context"\n'
    )
    (chunk,) = read(log, "5\tNULL\n3\t\\N\n4\t-7\n1\t1e3\n", schema)
    assert chunk.labels.tolist() == [1, 0, 1, 0]
    assert chunk.fields["n"].to_list() == [None, None, -7.0, 1000.0]


@pytest.mark.parametrize("cell", ["1414000000", "0", "anything"])
def test_a_label_that_is_present_is_a_click(log: Path, cell: str) -> None:
    text = DESCRIPTION.format(format="csv", time="unix", options="").replace(
        'column = "click"', 'column = "click"\npresent = true'
    )
    rows = ROW.replace("1,", f"{cell},", 1) + OTHER.replace("0,", ",", 1)
    (chunk,) = read(log, HEADER + rows, parse_log_schema(text))
    assert chunk.labels.tolist() == [1, 0]


def test_quotes_are_ordinary_characters_in_tsv(log: Path) -> None:
    schema = described("tsv")
    (chunk,) = read(log, (HEADER + ROW.replace("abc", '5" phone')).replace(",", "\t"), schema)
    assert chunk.fields["site"].to_list() == ['5" phone']


BAD_ROWS = {
    "too few columns": ("1,1414000000,x,abc,12.5\n", "the row must be 6 columns wide (got '5 columns')"),
    "too many columns": ("1,1414000000,x,abc,12.5,a,b\n", "the row must be 6 columns wide (got '7 columns')"),
    "text in a number": (
        "1,1414000000,x,abc,twelve,\n",
        "column 'age' must be a finite number or empty (got 'twelve')",
    ),
    "infinite": ("1,1414000000,x,abc,inf,\n", "column 'age' must be a finite number or empty (got 'inf')"),
    "not a number": (
        "1,1414000000,x,abc,nan,\n",
        "column 'age' must be a finite number or empty (got 'nan')",
    ),
    "overflow": ("1,1414000000,x,abc,1e999,\n", "column 'age' must be a finite number"),
    "label": ("2,1414000000,x,abc,1,\n", "column 'click' must be one of 0, 1 (got '2')"),
    "no label": (",1414000000,x,abc,1,\n", "column 'click' must be one of 0, 1 (got nothing)"),
    "time": ("1,yesterday,x,abc,1,\n", "column 't' must be seconds since 1970 (got 'yesterday')"),
    "no time": ("1,,x,abc,1,\n", "column 't' must be seconds since 1970 (got nothing)"),
    "milliseconds": ("1,1414000000000,x,abc,1,\n", "column 't' must be seconds since 1970"),
    "encoding": (b"1,1414000000,x,a\xffc,1,\n", "column 'site' must be valid UTF-8 (got b'\\xff')"),
    "quote left open": ('1,1414000000,x,"abc,1,\n', "the row must be well quoted"),
    "text after a quote": ('1,1414000000,x,"abc"d,1,\n', "the row must be well quoted"),
}


@pytest.mark.parametrize("bad", BAD_ROWS)
@pytest.mark.parametrize("quoted", [False, True])
def test_a_malformed_row_is_reported_by_line_and_column(log: Path, bad: str, quoted: bool) -> None:
    row, expected = BAD_ROWS[bad]
    row = row if isinstance(row, bytes) else row.encode()
    first = ROW.replace("abc", '"abc"') if quoted else ROW
    message = told(log, HEADER.encode() + first.encode() + OTHER.encode() + row + OTHER.encode())
    assert message.startswith(f"log.csv, line 4: {expected}")
    assert "--on-malformed skip" in message


def test_what_the_schema_can_say_of_a_cell_is_told(log: Path) -> None:
    """A log of true and false, or with a word for missing values, has no line to correct."""
    label = told(log, HEADER + ROW.replace("1,", "true,", 1))
    assert "(got 'true'); name the value under 'click' or 'no_click' of [label], correct the" in label
    number = told(log, HEADER + "1,1414000000,x,abc,NULL,\n")
    assert "(got 'NULL'); name the text in the schema's 'missing' if it means that, correct" in number
    time = told(log, HEADER + "1,2014-10-22,x,abc,1,\n")
    assert "(got '2014-10-22'); name the format of the times in [timestamp], correct the line" in time
    semicolons = told(log, (HEADER + ROW).replace(",", ";"))
    assert "(it has click;" in semicolons
    assert "name the schema's 'separator', correct the header" in semicolons


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 3, 1000])
def test_malformed_rows_are_skipped_and_counted(log: Path, quoted: bool, chunk_rows: int) -> None:
    first = ROW.replace("abc", '"abc"') if quoted else ROW
    content = (HEADER + first).encode()
    for row, _ in BAD_ROWS.values():
        content += (row if isinstance(row, bytes) else row.encode()) + OTHER.encode()
    chunks = read(log, content, on_malformed="skip", chunk_rows=chunk_rows)
    assert sum(chunk.skipped for chunk in chunks) == len(BAD_ROWS)
    assert sum(len(chunk) for chunk in chunks) == 1 + len(BAD_ROWS)
    lines = np.concatenate([chunk.lines for chunk in chunks]).tolist()
    assert lines == [2, *range(4, 4 + 2 * len(BAD_ROWS), 2)]


def test_what_a_row_is_does_not_depend_on_quotes_in_others(log: Path) -> None:
    odd = "1,1414000000,x,a\rb,1,\r\n"
    ((plain,), (quoted,)) = (read(log, HEADER + odd + ROW.replace("abc", site)) for site in ("abc", '"abc"'))
    assert plain.fields.rows() == quoted.fields.rows()
    assert quoted.fields["site"].to_list() == ["a\rb", "abc"]


def test_the_error_names_the_first_bad_line(log: Path) -> None:
    message = told(log, HEADER + ROW + "1,1414000000,x,abc,1x,\n" + "7,1414000000,x,abc,1,\n")
    assert "line 3: column 'age'" in message


def test_a_missing_column_lists_what_the_file_has(log: Path) -> None:
    message = told(log, HEADER.replace("site", "Site") + ROW)
    assert "column 'site' must be in the log (it has click, t, extra, Site, age, seen)" in message
    assert "column 'click', 'seen'" in told(log, "t,site,age\n")


def test_unreadable_files(log: Path, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"'data' must be a readable file .*nowhere\.csv.*No such file"):
        list(read_log(tmp_path / "nowhere.csv", described()))
    assert "column names must differ (got 'site' twice)" in told(log, HEADER.replace("extra", "site") + ROW)
    assert "must hold rows" in told(log, "")
    assert "must hold rows" in told(log, "\n\n")
    packed = gzip.compress((HEADER + ROW * 5000).encode(), mtime=0)
    assert "must be a whole gzip file" in told(log, packed[: len(packed) // 2])
    assert "must be a whole gzip file" in told(log, packed[:40] + b"\0\0\0\0" + packed[44:])
    assert "save the file as UTF-8" in told(log, b"\xff\xfe" + HEADER.encode("utf-16-le"))
    assert "end lines with LF or CRLF" in told(log, (HEADER + ROW).replace("\n", "\r"))


def test_a_headerless_log_of_another_width(log: Path) -> None:
    schema = parse_log_schema(
        'name = "m"\nformat = "tsv"\nheader = false\ncolumns = ["click", "a"]\n[label]\ncolumn = "click"\n'
        '[[field]]\nname = "a"\nkind = "categorical"\nrole = "context"\n'
    )
    assert "line 1: the row must be 2 columns wide (got '3 columns')" in told(log, "1\ta\tb\n", schema)


def test_a_file_without_newlines_ends_within_memory(log: Path) -> None:
    assert "lines must end with a newline" in told(log, b"x" * (1 << 24))
