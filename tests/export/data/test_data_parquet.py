"""Reading Parquet: supported types, converted values, and errors."""

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from export.data.errors import LogError
from export.data.readers import read_log
from tests.export.data.descriptions import described


def parquet(path: Path, **columns) -> Path:
    rows = {"click": [1, 0], "t": [1414000000, 1414003600], "site": ["abc", None], "age": [12.5, None]}
    pl.DataFrame({**rows, "seen": [["a", "b", "c"], []], **columns}).write_parquet(path)
    return path


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    (chunk,) = read_log(parquet(tmp_path / "log.parquet"), described("parquet"))
    assert chunk.fields.rows() == [("17", "3", "abc", 12.5, ["a", "b", "c"]), ("18", "3", None, None, None)]
    assert chunk.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("columns", "field", "values"),
    [
        ({"site": [7, None]}, "site", ["7", None]),
        ({"site": ["", "x"]}, "site", [None, "x"]),
        ({"site": pl.Series(["u", None], dtype=pl.Categorical)}, "site", ["u", None]),
        ({"site": pl.Series(["u", ""], dtype=pl.Categorical)}, "site", ["u", None]),
        ({"site": pl.Series(["", "u"], dtype=pl.Enum(["", "u"]))}, "site", [None, "u"]),
        ({"age": [3, None]}, "age", [3.0, None]),
        ({"age": ["3", ""]}, "age", [3.0, None]),
        ({"seen": [[1, 2], None]}, "seen", [["1", "2"], None]),
        ({"seen": ["p|q", ""]}, "seen", [["p", "q"], None]),
        ({"seen": ["p||q|", "|"]}, "seen", [["p", "q"], None]),
        ({"seen": [["p", None, "", "q"], [None]]}, "seen", [["p", None, "", "q"], [None]]),
        ({"seen": pl.Series([[None], []], dtype=pl.List(pl.Null))}, "seen", [[None], None]),
        ({"click": [True, False]}, "site", ["abc", None]),
        ({"click": [1.0, 0.0]}, "site", ["abc", None]),
        ({"t": pl.Series([1414000000000, 1414003600000]).cast(pl.Datetime("ms"))}, "hour", ["17", "18"]),
    ],
)
def test_parquet_types_that_do(tmp_path: Path, columns: dict, field: str, values: list) -> None:
    (chunk,) = read_log(parquet(tmp_path / "log.parquet", **columns), described("parquet"))
    assert chunk.fields[field].to_list() == values
    assert chunk.labels.tolist() == [1, 0]


def test_a_path_is_no_pattern(tmp_path: Path) -> None:
    parquet(tmp_path / "clicks1.parquet", site=["wrong", "wrong"])
    parquet(tmp_path / "clicks[1].parquet", site=["right", "right"])
    (chunk,) = read_log(tmp_path / "clicks[1].parquet", described("parquet"))
    assert chunk.fields["site"].to_list() == ["right", "right"]
    with pytest.raises(LogError, match="'data' must be a readable Parquet file"):
        list(read_log(tmp_path / "*.parquet", described("parquet")))


def test_nan_can_be_declared_missing(tmp_path: Path) -> None:
    path = parquet(tmp_path / "log.parquet", age=[float("nan"), 1.0])
    (chunk,) = read_log(path, described("parquet", options='missing = ["NaN"]'))
    assert chunk.fields["age"].to_list() == [None, 1.0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"site": [1.5, None]},
            "column 'site': must be text or integers for a categorical field (got Float64)",
        ),
        (
            {"site": [True, None]},
            "column 'site': must be text or integers for a categorical field (got Boolean)",
        ),
        ({"age": [True, None]}, "column 'age': must be numbers for a numeric field (got Boolean)"),
        ({"seen": [[1.5], []]}, "column 'seen': must be lists of text or of integers"),
        (
            {"click": [[1], [0]]},
            "column 'click': must be text, numbers or true and false for the label (got List(Int64))",
        ),
        ({"t": [[1], [2]]}, "column 't': must be times, numbers or text for the timestamp (got List(Int64))"),
        ({"t": [dt.timedelta(1)] * 2}, "column 't': must be times, numbers or text for the timestamp"),
        ({"age": [1.0, float("nan")]}, "row 2: column 'age' must be a finite number or empty (got nan)"),
        ({"click": [1, None]}, "row 2: column 'click' must be one of 0, 1 (got nothing)"),
        ({"click": [1.0, 0.5]}, "row 2: column 'click' must be one of 0, 1 (got 0.5)"),
    ],
)
def test_parquet_types_that_do_not(tmp_path: Path, columns: dict, message: str) -> None:
    with pytest.raises(LogError) as caught:
        list(read_log(parquet(tmp_path / "log.parquet", **columns), described("parquet")))
    assert message in str(caught.value)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(b"click,t\n")
    with pytest.raises(LogError, match="'data' must be a readable Parquet file"):
        list(read_log(path, described("parquet")))


def test_parquet_streams_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    rows = 5000
    frame = pl.DataFrame(
        {"click": [i % 2 for i in range(rows)], "t": range(rows), "site": ["s"] * rows, "age": range(rows)}
    )
    frame.with_columns(seen=pl.lit("a|b")).write_parquet(path, row_group_size=1000)
    chunks = list(read_log(path, described("parquet"), chunk_rows=700))
    assert max(len(chunk) for chunk in chunks) == 700
    assert [age for chunk in chunks for age in chunk.fields["age"].to_list()] == list(range(rows))
    assert np.concatenate([chunk.lines for chunk in chunks]).tolist() == list(range(1, rows + 1))


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical])
def test_words_for_missing_do_not_apply_to_labels_and_times(tmp_path: Path, dtype: type[pl.DataType]) -> None:
    columns = {"click": ["1", "0"], "t": ["0", "1414003600"], "site": pl.Series(["0", "x"], dtype=dtype)}
    schema = described("parquet", options='missing = ["0"]')
    (chunk,) = read_log(parquet(tmp_path / "log.parquet", **columns), schema)
    assert chunk.labels.tolist() == [1, 0]
    assert chunk.timestamps is not None
    assert chunk.timestamps.tolist() == [0, 1414003600]
    assert chunk.fields["site"].to_list() == [None, "x"]
