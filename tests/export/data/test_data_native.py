"""The core gives any typed log the ids of the Python encoder, and leaves to it what it does not read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.data.encode import Ids, encode_chunk, write_ids_in_python
from export.data.encoded import prepare_log
from export.data.log_schema import parse_log_schema
from export.data.readers import LogChunk
from export.data.spill import Spill, numbered
from service.bundle.encoder import Encoder
from service.bundle.errors import InvalidValue
from service.bundle.native import IS_BUILT
from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Schema, Vocabulary
from tests.export.memory_log import quiet

pytestmark = pytest.mark.skipif(not IS_BUILT, reason="the native core was not built")

MANY = settings(deadline=None, max_examples=200)
WORDS = ("a", "1005", "é", "日本", "NULL", "nan", " ", "twelve bytes", "thirteen bytes", "x" * 300, "a\0b")
EDGES = (-1.5, 0.0, 0.1, 3.0, 1e300)
# An Arrow view holds up to 12 bytes itself, longer texts lie elsewhere.
texts = (
    st.none() | st.sampled_from(["", *WORDS]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
numbers = (
    st.none()
    | st.sampled_from(
        [*EDGES, -0.0, 5e-324, *(math.nextafter(edge, way) for edge in EDGES for way in (-9e9, 9e9))]
    )
    | st.floats(allow_nan=False, allow_infinity=False)
)
lists = st.none() | st.lists(texts, min_size=1, max_size=6)


def field(name: str, kind: Kind, encoding: Vocabulary | Hashing | Bins, **others: Any) -> Field:
    return Field(name, kind, others.pop("role", Role.CONTEXT), encoding, **others)


def shuffled(size: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """A renumbering of `size` values."""
    draw = np.random.default_rng(size)
    return np.array([0, 1, *draw.integers(2, size + 2, size)], np.int32)


WORD = field("word", Kind.CATEGORICAL, Vocabulary(WORDS))
SCHEMA = Schema(
    (
        WORD,
        field("price", Kind.NUMERIC, Bins(EDGES), role=Role.CANDIDATE),
        field("history", Kind.SEQUENCE, Vocabulary(WORDS), max_length=3, same_values_as="word"),
        field("hashed", Kind.CATEGORICAL, Hashing(50, seed=3), role=Role.CANDIDATE),
        field("renumbered", Kind.CATEGORICAL, Vocabulary(WORDS), renumbering=shuffled(len(WORDS))),
        field("rehashed", Kind.CATEGORICAL, Hashing(8, seed=9), renumbering=shuffled(8)),
        field("age", Kind.NUMERIC, Bins((1.0, 2.0)), renumbering=np.array([0, 1, 4, 4, 2], np.int32)),
        field("constant", Kind.NUMERIC, Bins(())),
        field("empty", Kind.CATEGORICAL, Vocabulary(()), role=Role.CANDIDATE),
        field("tags", Kind.SEQUENCE, Hashing(20), max_length=2, role=Role.CANDIDATE),
    )
)
OF_KIND = {
    Kind.CATEGORICAL: (texts, pl.String),
    Kind.NUMERIC: (numbers, pl.Float64),
    Kind.SEQUENCE: (lists, pl.List(pl.String)),
}


@dataclass(frozen=True)
class Columns:
    """Typed columns of SCHEMA's fields: those in `texts` as places in them."""

    cells: pl.DataFrame
    fields: pl.DataFrame
    texts: dict[str, pl.Series]

    def __getitem__(self, rows: slice) -> Columns:
        return Columns(self.cells[rows], self.fields[rows], self.texts)

    @staticmethod
    def of(cells: pl.DataFrame, numbered_ones: Sequence[str] = ()) -> Columns:
        found = {name: numbered(cells[name]) for name in numbered_ones}
        places = [column for column, _ in found.values()]
        return Columns(cells, cells.with_columns(places), {name: texts for name, (_, texts) in found.items()})


@st.composite
def columns_of_all_fields(draw: st.DrawFn) -> Columns:
    """As texts or as places, in one piece or in several."""
    rows = draw(st.integers(0, 30))
    series, numbered_ones = [], []
    for one in SCHEMA.fields:
        cells, dtype = OF_KIND[one.kind]
        series.append(pl.Series(one.name, draw(st.lists(cells, min_size=rows, max_size=rows)), dtype))
        if one.kind is Kind.CATEGORICAL and draw(st.booleans()):
            numbered_ones.append(one.name)
    frame, cut = pl.DataFrame(series), draw(st.integers(0, rows))
    if draw(st.booleans()):
        frame = pl.concat([frame[:cut], frame[cut:]], rechunk=False)
        return Columns.of(frame, numbered_ones)
    return Columns.of(frame, numbered_ones)[cut:]


def ids_of_core(encoder: Encoder, columns: Columns) -> Ids | None:
    """The ids, if the core encodes such columns."""
    assert encoder.native is not None
    ids = np.full((columns.fields.height, encoder.schema.columns), -1, np.int32)
    texts = [columns.texts.get(field.name) for field in encoder.schema.fields]
    return ids if encoder.native.encode_columns(columns.fields, texts, ids) else None


def ids_of_python(encoder: Encoder, columns: Columns) -> Ids:
    ids = np.full((columns.fields.height, encoder.schema.columns), -1, np.int32)
    write_ids_in_python(encoder, columns.fields, columns.texts, ids)
    return ids


def assert_same_ids(encoder: Encoder, columns: Columns) -> None:
    found = ids_of_core(encoder, columns)
    assert found is not None
    np.testing.assert_array_equal(found, ids_of_python(encoder, columns))


@MANY
@given(columns_of_all_fields())
def test_columns_of_every_encoding(columns: Columns) -> None:
    encoder = Encoder(SCHEMA)
    assert_same_ids(encoder, columns)
    found = ids_of_core(encoder, columns)
    assert found is not None
    # And each row as a request: the Python path above has its own way of finding distinct values.
    rows = [encoder.encode_row(row) for row in columns.cells.to_dicts()]
    np.testing.assert_array_equal(found, np.array(rows, np.int32).reshape(found.shape))


@MANY
@given(st.sets(st.floats(allow_nan=False, allow_infinity=False), max_size=40), st.lists(numbers, max_size=40))
def test_numbers_at_and_beside_every_edge(edges: set[float], others: Sequence[float | None]) -> None:
    ordered = tuple(sorted(edges))
    beside = [math.nextafter(edge, way) for edge in ordered for way in (-math.inf, math.inf)]
    values = [*ordered, *filter(math.isfinite, beside), *others]
    encoder = Encoder(Schema((field("f", Kind.NUMERIC, Bins(ordered)),)))
    frame = pl.DataFrame({"f": pl.Series(values, dtype=pl.Float64)})
    expected = encoder.encode_column("f", values)
    found = ids_of_core(encoder, Columns.of(frame))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("distinct", [1, 255, 256, 257, 65_535, 65_536, 65_537, 70_000])
def test_places_of_every_width(distinct: int) -> None:
    """Places among few texts take 8 bits, among more 16 or 32."""
    values = [f"v{number}" for number in range(distinct)]
    encoder = Encoder(Schema((field("f", Kind.CATEGORICAL, Vocabulary(tuple(values[1::2]))),)))
    columns = Columns.of(pl.DataFrame({"f": [*values, None, *values[::-1]]}), ["f"])
    assert_same_ids(encoder, columns)


def test_more_rows_than_a_block_keep_their_places() -> None:
    draw = np.random.default_rng(4)
    rows = 2000
    pick = draw.integers(0, len(WORDS) + 1, (3, rows))
    cells = pl.DataFrame(
        {
            "word": pl.Series([None if at == len(WORDS) else WORDS[at] for at in pick[0]], dtype=pl.String),
            "price": pl.Series(np.where(pick[1] == 0, np.nan, draw.normal(size=rows))).fill_nan(None),
            "history": pl.Series([list(WORDS[:at]) or None for at in pick[2]], dtype=pl.List(pl.String)),
        }
    )
    encoder = Encoder(Schema(SCHEMA.fields[:3]))
    assert_same_ids(encoder, Columns.of(cells))
    assert_same_ids(encoder, Columns.of(cells, ["word"]))


@MANY
@given(st.lists(texts, max_size=60), st.integers(0, 60))
def test_the_core_numbers_texts_as_python_does(values: list[str | None], cut: int) -> None:
    column = pl.Series("f", values, dtype=pl.String)
    pieces = pl.concat([column[:cut], column[cut:]], rechunk=False)
    expected, expected_texts = numbered(column, native=False)
    for each in (column, pieces):
        places, distinct = numbered(each)
        assert places.to_list() == expected.to_list()
        assert distinct.to_list() == expected_texts.to_list()
        assert places.name == expected.name == "f"


def test_the_core_numbers_many_texts() -> None:
    values = [f"{number % 70_001:x}" for number in range(200_000)]
    places, distinct = numbered(pl.Series(values))
    assert places.dtype == pl.UInt32
    assert distinct.gather(places).to_list() == values
    assert len(distinct) == 70_001


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_no_field_may_have_is_refused_by_python(number: float) -> None:
    encoder = Encoder(Schema((field("f", Kind.NUMERIC, Bins(EDGES)),)))
    frame = pl.DataFrame({"f": [1.0, None, number]})
    assert ids_of_core(encoder, Columns.of(frame)) is None
    with pytest.raises(InvalidValue, match="'f' must be a finite number") as refused:
        encode_chunk(encoder, frame)
    with pytest.raises(InvalidValue) as of_python:
        ids_of_python(encoder, Columns.of(frame))
    assert str(refused.value) == str(of_python.value)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("f", ["a", "b"], dtype=pl.Categorical),
        pl.Series("f", ["a", "b"], dtype=pl.Enum(["a", "b"])),
        pl.Series("f", [["a"], None], dtype=pl.List(pl.Enum(["a"]))),
        pl.Series("f", [1, 2]),
        pl.Series("other", ["a", "b"]),
        pl.Series("f", [None, None]),
    ],
    ids=["global codes", "codes", "lists of codes", "integers", "another name", "no type"],
)
def test_columns_that_the_core_does_not_read_are_left_alone(column: pl.Series) -> None:
    for kind in (Kind.CATEGORICAL, Kind.SEQUENCE):
        encoder = Encoder(Schema((field("f", kind, Vocabulary(("a", "b"))),)))
        assert ids_of_core(encoder, Columns.of(column.to_frame())) is None


def test_ids_must_have_the_rows_of_the_table() -> None:
    encoder = Encoder(Schema((WORD,)))
    frame = pl.DataFrame({"word": ["a", "b"]})
    assert encoder.native is not None
    for shape in ((1, 1), (3, 1)):
        with pytest.raises(ValueError, match="'ids' must have a row for each of the table"):
            encoder.native.encode_columns(frame, [None], np.zeros(shape, np.int32))
    with pytest.raises(ValueError, match="ids must be written to an int32 array of their size"):
        encoder.native.encode_columns(frame, [None], np.zeros((2, 2), np.int32))


@pytest.mark.parametrize("place", [1, 255])
def test_a_place_beyond_the_texts_is_left_to_python(place: int) -> None:
    encoder = Encoder(Schema((WORD,)))
    fields = pl.DataFrame({"word": pl.Series([0, place], dtype=pl.UInt8)})
    assert ids_of_core(encoder, Columns(fields, fields, {"word": pl.Series(["a"])})) is None


@MANY
@given(columns_of_all_fields(), st.booleans())
def test_what_was_spilled_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, columns: Columns, is_native: bool
) -> None:
    spill, rows = Spill(tmp_path_factory.mktemp("spill"), native=is_native), columns.cells.height
    lines = np.arange(rows)
    spill.write(LogChunk(columns.cells, np.zeros(rows, np.uint8), None, None, lines, 0, pl.DataFrame()))
    (chunk,) = spill.read()
    assert chunk.rows(np.arange(rows)).equals(columns.cells)
    found = ids_of_core(Encoder(SCHEMA), Columns(columns.cells, chunk.fields, chunk.texts))
    np.testing.assert_array_equal(found, ids_of_python(Encoder(SCHEMA), columns))


LOG = """
name = "small"
format = "csv"
missing = ["NA"]
[label]
column = "click"
[timestamp]
column = "t"
"""
COLUMNS = {
    "word": 'kind = "categorical"',
    "hashed": 'kind = "categorical"\nencoding = "hashing"\nbuckets = 7',
    "price": 'kind = "numeric"',
    "history": 'kind = "sequence"\nmax_length = 2',
}


@pytest.mark.parametrize("is_sorted", [True, False], ids=["sorted", "shuffled"])
def test_a_whole_log_has_the_same_bytes_with_and_without_the_core(tmp_path: Path, *, is_sorted: bool) -> None:
    draw = np.random.default_rng(7)
    lines = ["click,t,word,hashed,price,history"]
    for row in range(900):
        time = row // 3 if is_sorted else int(draw.integers(0, 300))
        word, hashed = (
            draw.choice(["a", "NA", "", "é", '"b,c"', str(draw.integers(0, 40))]) for _ in range(2)
        )
        price = draw.choice(["", "NA", "1", "2.5", "-0.0", "1e3", f"{draw.normal():.3f}"])
        history = "|".join(draw.choice(["a", "b", "NA", "é"], int(draw.integers(0, 5))))
        lines.append(f"{draw.integers(0, 2)},{time},{word},{hashed},{price},{history}")
    lines[100] = "maybe,33,a,a,1,a"
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    fields = [f'[[field]]\nname = "{name}"\nrole = "context"\n{keys}\n' for name, keys in COLUMNS.items()]
    log_schema = parse_log_schema(LOG + "".join(fields))
    written = []
    for native in (True, False):
        out = tmp_path / f"native-{native}"
        prepare_log(
            tmp_path / "log.csv",
            log_schema,
            out,
            on_malformed="skip",
            chunk_rows=200,
            native=native,
            report=quiet,
        )
        files = sorted(path for path in out.rglob("*") if path.is_file())
        written.append({path.relative_to(out): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert len(written[0]) > 10
