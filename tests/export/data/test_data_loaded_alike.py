"""The same cells have the same ids in a log that is exported and in a file of users or ads that is loaded."""

from __future__ import annotations

import csv
import gzip
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from export.data.encode import encode_chunk
from export.data.errors import LogError
from export.data.fit import FieldCounts, fit_schema
from export.data.log_schema import LogSchema, parse_log_schema
from export.data.readers import LogChunk, read_log
from service.bundle.encoder import Encoder
from service.bundle.schema import Schema
from service.bundle.schema_files import schema_from_files, schema_to_files
from service.features.files import FileProblem, rows_of
from service.features.load import checked
from service.features.shape import Shape, with_schema

SCHEMA = """
name = "log"
format = "{format}"
missing = {missing}
{dialect}
[label]
column = "click"
[[field]]
name = "site"
kind = "categorical"
role = "context"
[[field]]
name = "page"
column = "page_url"
kind = "categorical"
role = "context"
encoding = "hashing"
buckets = 1000000
[[field]]
name = "age"
kind = "numeric"
role = "context"
encoding = "quantile"
[[field]]
name = "seen"
kind = "sequence"
role = "context"
max_length = 3
separator = {separator}
same_values_as = "site"
[[field]]
name = "site_bucket"
column = "site"
kind = "categorical"
role = "context"
encoding = "hashing"
"""
NAMES = ("site", "page", "age", "seen")
IN_LOG = ("site", "page_url", "age", "seen")
Cells = tuple[str, str, str, str]


@dataclass(frozen=True)
class Form:
    """How the cells of a log and of a file of users are written."""

    format: str = "csv"
    delimiter: str = ","
    quote: str = '"'
    separator: str = "|"
    missing: tuple[str, ...] = ("NA",)
    mark: str = ""
    packed: bool = False

    def schema(self) -> LogSchema:
        """The log's description."""
        dialect = f"separator = {self.delimiter!r}\nquote = {self.quote!r}".replace("'\\t'", '"\\t"')
        missing = "[" + ", ".join(f"'{word}'" for word in self.missing) + "]"
        separator = f'"{self.separator}"'
        return parse_log_schema(
            SCHEMA.format(
                format=self.format,
                missing=missing,
                separator=separator,
                dialect="" if self.format == "parquet" else dialect,
            )
        )

    def write(self, path: Path, names: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """A text file of these cells."""
        text = io.StringIO(newline="")
        if self.quote:
            writer = csv.writer(text, delimiter=self.delimiter, quotechar=self.quote, lineterminator="\n")
            writer.writerows([names, *rows])
        else:
            text.writelines(self.delimiter.join(cells) + "\n" for cells in (names, *rows))
        content = (self.mark + text.getvalue()).encode()
        path.write_bytes(gzip.compress(content, 1) if self.packed else content)


FORMS = st.builds(
    Form,
    format=st.sampled_from(["csv", "tsv"]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    quote=st.sampled_from(['"', "'", ""]),
    separator=st.sampled_from(["|", " ", "~~", ","]),
    missing=st.lists(st.sampled_from(["NA", "-", "0", "nan", "a|b"]), unique=True).map(tuple),
    mark=st.sampled_from(["", "\ufeff"]),
    packed=st.booleans(),
)
WORDS = st.one_of(
    st.sampled_from(["", "NA", "na", "-", "0", "1", "1.0", "01", "é", "日本", "nan", "a|b", ' "a"', "it's"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=6),
)
NUMBERS = st.one_of(
    st.sampled_from(["", "1", "1.0", "01", "+1", "-0", ".5", "5.", "1e3", "1E-2"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Form, list[Cells]]:
    form = draw(FORMS)
    sequences = st.lists(WORDS, max_size=5).map(form.separator.join)
    numbers = st.one_of(NUMBERS, st.sampled_from(["", *(word for word in form.missing if word != "a|b")]))
    rows = draw(st.lists(st.tuples(WORDS, WORDS, numbers, sequences), min_size=1, max_size=8))
    if not form.quote:
        held = "".join(cell for row in rows for cell in row)
        assume(form.delimiter not in held and "\n" not in held)
    return form, rows


def fitted(log_schema: LogSchema, chunk: LogChunk) -> Schema:
    """The schema of a log's rows, as a bundle gives it back."""
    counts = FieldCounts(log_schema)
    counts.add(chunk.fields)
    files = schema_to_files(fit_schema(log_schema, counts, min_count=1))
    return schema_from_files(files.__getitem__)


def loaded_ids(path: Path, schema: Schema) -> list[list[int]]:
    """The ids of the rows that a load of `path` with the schema stores."""
    encoder, shape = Encoder(schema), with_schema(Shape(), schema, "user")
    batches = checked(path, shape, "user", encoder)
    return [encoder.encode_row(row.values).tolist() for batch in batches for _, row in batch]


@given(tables())
@example((Form(mark="\ufeff"), [("NA", "01", "NA", "a|NA|b"), ("a", "1", "1.0", "NA"), ("", "", "", "")]))
@example((Form(quote="'", delimiter=";"), [("it's", 'a "b"', "1", "a|b;c"), ("x\ny", "é", "01", "|")]))
@pytest.mark.parametrize("names", [NAMES, IN_LOG])
def test_cells_of_a_file_of_users_have_the_ids_of_the_log(
    tmp_path_factory: pytest.TempPathFactory, names: tuple[str, ...], table: tuple[Form, list[Cells]]
) -> None:
    form, rows = table
    folder = tmp_path_factory.getbasetemp()
    log, users = folder / f"log.{form.format}", folder / f"users.{form.format}{'.gz' * form.packed}"
    form.write(log, ("click", *IN_LOG), [("0", *cells) for cells in rows])
    form.write(users, (*names, "user"), [(*cells, f"u{row}") for row, cells in enumerate(rows)])
    log_schema = form.schema()
    (chunk,) = read_log(log, log_schema)
    schema = fitted(log_schema, chunk)
    assert loaded_ids(users, schema) == encode_chunk(Encoder(schema), chunk.fields).tolist()


PLAIN = st.characters(exclude_categories=["Cs"], exclude_characters='\0\r\n,"')


@given(cell=st.one_of(NUMBERS, st.text(PLAIN)))
@example(cell="nan")
@example(cell="NaN")
@example(cell="-nan")
@example(cell="inf")
@example(cell="+Infinity")
@example(cell=" 1")
@example(cell="1_000")
@example(cell="\uff11")
@example(cell="1e400")
@example(cell="0x10")
@example(cell="1" * 400)
@pytest.mark.parametrize("missing", [(), ("NaN",)])
def test_a_number_that_the_export_refuses_is_refused_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, cell: str, missing: tuple[str, ...]
) -> None:
    form = Form(missing=missing)
    folder = tmp_path_factory.getbasetemp()
    log, users = folder / "number.csv", folder / "numbers.csv"
    form.write(log, ("click", *IN_LOG), [("0", "a", "b", number, "c") for number in ("1", cell)])
    form.write(users, (*NAMES, "user"), [("a", "b", cell, "c", "u")])
    log_schema = form.schema()
    (chunk,) = read_log(log, log_schema, on_malformed="skip")
    schema = fitted(log_schema, chunk)
    if len(chunk) == 1:
        with pytest.raises(FileProblem, match=r"numbers\.csv, line 2: 'age' must be a finite number"):
            loaded_ids(users, schema)
    else:
        assert loaded_ids(users, schema) == encode_chunk(Encoder(schema), chunk.fields).tolist()[1:]


COLUMNS = {
    "text": pl.Series(["1", "NA", None, "", "a|b"]),
    "category": pl.Series(["1", "NA", None, "", "a|b"], dtype=pl.Categorical),
    "numbers as text": pl.Series(["1", "01", "NA", "1.5", ""]),
    "integers": pl.Series([1, 2, None, -3, 2**60]),
    "small": pl.Series([1, 2, None, 3, 255], dtype=pl.UInt8),
    "floats": pl.Series([1.0, 0.1, None, float("nan"), 2.0]),
    "infinite": pl.Series([1.0, 0.1, None, float("inf"), 2.0]),
    "short floats": pl.Series([1.0, 0.1, None, 3.0, 2.0], dtype=pl.Float32),
    "booleans": pl.Series([True, False, None, True, True]),
    "decimals": pl.Series(["1.10", "2", None, "3", "0.01"]).cast(pl.Decimal(10, 2)),
    "dates": pl.Series([1, 2, 3, 4, 5]).cast(pl.Date),
    "times": pl.Series([1, 2, 3, 4, 5]).cast(pl.Datetime("us")),
    "spans": pl.Series([1, 2, 3, 4, 5]).cast(pl.Duration("us")),
    "bytes": pl.Series([b"a", b"b", None, b"", b"c"]),
    "nothing": pl.Series([None] * 5, dtype=pl.Null),
    "lists": pl.Series([["a", "", None], [], None, ["NA"], ["b", "c", "d", "e"]]),
    "lists of integers": pl.Series([[1, 2], [], None, [3], [4]]),
    "lists of floats": pl.Series([[1.0], [], None, [3.5], [4.0]]),
    "lists of booleans": pl.Series([[True], [], None, [False], [True]]),
    "lists of lists": pl.Series([[["a"]], [], None, [["b"]], [["c"]]]),
    "structs": pl.Series([{"a": 1}] * 5),
}


@pytest.mark.parametrize("field", IN_LOG)
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("missing", [("NA",), ("NA", "nan")])
def test_typed_columns_have_the_ids_of_the_log_or_are_refused_in_both(
    tmp_path: Path, field: str, column: str, missing: tuple[str, ...]
) -> None:
    cells: dict[str, object] = {
        "site": ["a"] * 5,
        "page_url": ["b"] * 5,
        "age": [1.0] * 5,
        "seen": [["c"]] * 5,
    }
    frame = pl.DataFrame({"click": [0] * 5, "user": range(5), **cells, field: COLUMNS[column]})
    log, users = tmp_path / "log.parquet", tmp_path / "users.parquet"
    frame.write_parquet(log)
    frame.drop("click").write_parquet(users)
    log_schema = Form("parquet", missing=missing).schema()
    frame.with_columns(pl.Series(field, cells[field])).write_parquet(tmp_path / "valid.parquet")
    (valid,) = read_log(tmp_path / "valid.parquet", log_schema)
    try:
        (chunk,) = read_log(log, log_schema)
    except LogError:
        with pytest.raises(FileProblem, match=rf"users\.parquet(: column|, row [45]:) '{field}' must be"):
            loaded_ids(users, fitted(log_schema, valid))
        return
    schema = fitted(log_schema, chunk)
    expected = encode_chunk(Encoder(schema), chunk.fields)
    np.testing.assert_array_equal(loaded_ids(users, schema), expected)


def test_a_bundle_that_does_not_say_how_its_log_was_written_is_loaded_by_options(tmp_path: Path) -> None:
    log_schema = Form().schema()
    Form().write(tmp_path / "log.csv", ("click", *IN_LOG), [("0", "NA", "b", "1", "a|b")])
    (chunk,) = read_log(tmp_path / "log.csv", log_schema)
    schema = Schema(fitted(log_schema, chunk).fields)
    Form().write(tmp_path / "users.csv", (*NAMES, "user"), [("NA", "b", "1", "a b", "u")])
    (row,) = rows_of(tmp_path / "users.csv", with_schema(Shape(), schema, "user"), "user")
    assert row.values == {"site": "NA", "page": "b", "age": 1, "seen": ["a", "b"], "user": "u"}
    (row,) = rows_of(tmp_path / "users.csv", with_schema(Shape(separator="b"), schema, "user"), "user")
    assert row.values["seen"] == ["a "]


SWAPPED = """
name = "log"
format = "csv"
[label]
column = "click"
[[field]]
name = "shown"
column = "clicked"
kind = "categorical"
role = "context"
[[field]]
name = "clicked"
column = "bought"
kind = "categorical"
role = "context"
[[field]]
name = "age"
column = "years"
kind = "numeric"
role = "context"
"""


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (["age", "years"], "users.csv, line 1: 'age' must be in one column (got 'age' and 'years', of which"),
        (["years", "age"], "users.csv, line 1: 'age' must be in one column (got 'years' and 'age', of which"),
        (["clicked"], "users.csv, line 1: column 'clicked' must be one field (got the name of one, and the"),
        (["shown", "clicked"], "'shown' must be in one column (got 'shown' and 'clicked'"),
        (["clicked", "bought"], "column 'clicked' must be one field"),
    ],
)
@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_columns_that_could_be_one_field_or_another_are_refused(
    tmp_path: Path, format_: str, columns: list[str], reason: str
) -> None:
    log_schema = parse_log_schema(SWAPPED)
    path, cells = tmp_path / f"users.{format_}", ["1"] * len(columns)
    (tmp_path / "log.csv").write_text("click,clicked,bought,years\n0,a,b,1\n")
    (chunk,) = read_log(tmp_path / "log.csv", log_schema)
    schema = fitted(log_schema, chunk)
    if format_ == "csv":
        Form().write(path, (*columns, "user"), [(*cells, "u")])
    else:
        pl.DataFrame({**dict(zip(columns, cells, strict=True)), "user": "u"}).write_parquet(path)
        reason = reason.replace("users.csv, line 1", "users.parquet")
    with pytest.raises(FileProblem, match=re.escape(reason)):
        loaded_ids(path, schema)


def test_the_column_of_ids_may_be_a_field_of_another_name(tmp_path: Path) -> None:
    log_schema = parse_log_schema(SWAPPED)
    (tmp_path / "log.csv").write_text("click,clicked,bought,years\n0,a,b,1\n")
    (chunk,) = read_log(tmp_path / "log.csv", log_schema)
    shape = with_schema(Shape(lists=frozenset({"bought"})), fitted(log_schema, chunk), "bought")
    (tmp_path / "users.csv").write_text("years,bought,colour\n3,b d,red\n")
    (row,) = rows_of(tmp_path / "users.csv", shape, "bought")
    assert (row.key, row.values) == ("b d", {"age": 3, "clicked": ["b", "d"]})
