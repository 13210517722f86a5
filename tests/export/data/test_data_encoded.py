"""The whole preparation: training and serving encode alike, parts are disjoint, output is complete."""

import csv
import gzip
import itertools
import math
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.data.encode import PartWriter, encode_chunk
from export.data.encoded import EncodedLog, open_log, prepare_log
from export.data.errors import LogError
from export.data.fit import FieldCounts, fit_schema
from export.data.log_schema import load_log_schema, parse_log_schema
from export.data.readers import read_log
from export.data.spill import SpilledChunk
from service.bundle.encoder import Encoder
from service.bundle.schema import MISSING_ID, OOV_ID, Bins, Field, Hashing, Kind, Role, Schema, Vocabulary
from tests.export.memory_log import quiet

DESCRIPTION = """
name = "small"
format = "{format}"
[label]
column = "click"
[timestamp]
column = "t"
[[field]]
name = "site"
kind = "categorical"
role = "context"
min_count = 2
[[field]]
name = "bucket"
column = "site"
kind = "categorical"
role = "context"
encoding = "hashing"
buckets = 7
[[field]]
name = "price"
kind = "numeric"
role = "candidate"
min_count = 2
[[field]]
name = "age"
column = "price"
kind = "numeric"
role = "candidate"
encoding = "quantile"
bins = 4
[[field]]
name = "seen"
kind = "sequence"
role = "candidate"
max_length = 3
min_count = 1
"""
REAL = os.environ.get("BIDLIGHT_DATA")
needs_real_data = pytest.mark.skipif(
    not REAL, reason="BIDLIGHT_DATA does not name the folder of the real logs"
)


def small_log(path: Path, rows: int = 400, shuffled: bool = False) -> Path:
    """Times 1000, 1001, ... with three rows each, in that order or not."""
    generator = np.random.default_rng(3)
    times = 1000 + np.arange(rows) // 3
    frame = pl.DataFrame(
        {
            "click": generator.integers(0, 2, rows),
            "t": generator.permutation(times) if shuffled else times,
            "site": [f"s{value}" if value else None for value in generator.zipf(1.5, rows) % 50],
            "price": generator.integers(-2, 2000, rows).astype(float),
            "seen": [list("abcde"[: value % 6]) for value in generator.integers(0, 6, rows)],
        }
    )
    frame.write_parquet(path)
    return path


@pytest.fixture
def log(tmp_path: Path) -> EncodedLog:
    return prepare_log(
        small_log(tmp_path / "log.parquet"),
        parse_log_schema(DESCRIPTION.format(format="parquet")),
        tmp_path / "out",
        chunk_rows=90,
        samples=20,
        report=quiet,
    )


def test_parts_follow_time_and_hold_every_row_once(log: EncodedLog) -> None:
    assert list(log.parts) == ["train", "validation", "calibration", "test"]
    assert log.split == "time"
    assert sum(len(part) for part in log.parts.values()) == 400
    times = [part.timestamps for part in log.parts.values() if part.timestamps is not None]
    assert np.concatenate(times).tolist() == sorted(1000 + np.arange(400) // 3)
    assert all(max(earlier) < min(later) for earlier, later in itertools.pairwise(times))
    assert log.window == (int(times[0].min()), int(times[0].max()))
    assert log.source == "log.parquet"


def test_fields_with_the_same_values_are_fitted_on_one_of_them(tmp_path: Path) -> None:
    text = DESCRIPTION.format(format="parquet").replace(
        "max_length = 3\nmin_count = 1\n", 'max_length = 3\nsame_values_as = "site"\n'
    )
    path = small_log(tmp_path / "log.parquet")
    frame = pl.read_parquet(path)
    frame = frame.with_columns(pl.concat_list("site", pl.lit("only in lists")).alias("seen"))
    frame.write_parquet(path)
    log = prepare_log(path, parse_log_schema(text), tmp_path / "out", report=quiet)
    reopened = open_log(tmp_path / "out")
    for schema in (log.schema, reopened.schema):
        site, seen = schema.field("site"), schema.field("seen")
        assert seen.same_values_as == "site"
        assert seen.encoding is site.encoding
        assert "only in lists" not in site.encoding.values
    slices = log.schema.column_slices
    for part in log.parts.values():
        assert np.array_equal(part.ids[:, slices["site"]][:, 0], part.ids[:, slices["seen"]][:, 0])
        assert (part.ids[:, slices["seen"]][:, 1] == OOV_ID).all()


def test_an_unsorted_log_splits_by_time_too(tmp_path: Path) -> None:
    schema = parse_log_schema(DESCRIPTION.format(format="parquet"))
    path = small_log(tmp_path / "log.parquet", shuffled=True)
    log = prepare_log(path, schema, tmp_path / "out", chunk_rows=90, report=quiet)
    times = [set(part.timestamps.tolist()) for part in log.parts.values() if part.timestamps is not None]
    assert all(max(earlier) < min(later) for earlier, later in itertools.pairwise(times))


def test_arrays_have_the_contract_s_types(log: EncodedLog) -> None:
    for part in log.parts.values():
        assert part.ids.dtype == np.int32
        assert part.ids.shape == (len(part), log.schema.columns)
        assert part.labels.dtype == np.uint8
        assert part.true_pctr is None
        assert not part.ids.flags.writeable
        for field in log.schema.fields:
            ids = part.ids[:, log.schema.column_slices[field.name]]
            assert ids.min() >= 0
            assert ids.max() < field.cardinality


def test_the_schema_comes_from_the_training_part_alone(log: EncodedLog, tmp_path: Path) -> None:
    frame = pl.read_parquet(tmp_path / "log.parquet")
    rows = len(log.parts["train"])
    counts = Counter(frame["site"][:rows].drop_nulls().to_list())
    frequent = sorted(
        (value for value in counts if counts[value] >= 2), key=lambda value: (-counts[value], value)
    )
    assert log.schema.field("site").encoding == Vocabulary(tuple(frequent))
    assert log.schema.field("bucket").encoding == Hashing(7)
    quantile = log.schema.field("age").encoding
    assert isinstance(quantile, Bins)
    assert set(quantile.edges) <= set(frame["price"][:rows])


def test_every_row_is_encoded_as_a_request_would_be(log: EncodedLog, tmp_path: Path) -> None:
    encoder = Encoder(log.schema)
    ids = np.concatenate([part.ids for part in log.parts.values()])
    for number, row in enumerate(pl.read_parquet(tmp_path / "log.parquet").iter_rows(named=True)):
        values = {"site": row["site"], "bucket": row["site"], "price": row["price"], "age": row["price"]}
        assert encoder.encode_row({**values, "seen": row["seen"] or None}).tolist() == ids[number].tolist()


def test_sample_rows_are_json_by_role_and_encode_to_the_stored_ids(log: EncodedLog) -> None:
    assert len(log.sample_rows) == 20
    encoder = Encoder(log.schema)
    stored = log.parts["test"].ids.tolist()
    for row in log.sample_rows:
        assert set(row) == {"context", "candidate"}
        assert set(row["context"]) <= {"site", "bucket"}
        assert isinstance(row["candidate"]["price"], int)
        assert row["candidate"].get("seen") != []
        assert None not in row["context"].values()
        assert encoder.encode_request(row["context"], [row["candidate"]])[0].tolist() in stored
    assert log.sample_rows[0]["candidate"] != log.sample_rows[-1]["candidate"]


def test_opening_gives_what_preparing_gave(log: EncodedLog, tmp_path: Path) -> None:
    again = open_log(tmp_path / "out")
    assert again.sample_rows == log.sample_rows
    assert again.window == log.window
    assert np.array_equal(again.parts["test"].ids, log.parts["test"].ids)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda out: (out / "log.json").unlink(), "it has no log.json"),
        (lambda out: (out / "test.ids.npy").unlink(), "it has no test.ids.npy"),
        (lambda out: (out / "test.ids.npy").write_bytes(b"x"), "whole prepared log"),
        (lambda out: (out / "log.json").write_text("{"), "whole prepared log"),
        (lambda out: np.save(out / "train.labels.npy", np.zeros(3, np.uint8)), "must have the shape"),
        (lambda out: (out / "schema" / "schema.json").write_text("{}"), "schema.json"),
    ],
)
def test_a_damaged_folder_is_reported(log: EncodedLog, tmp_path: Path, damage, told: str) -> None:
    damage(tmp_path / "out")
    with pytest.raises(LogError, match=told) as caught:
        open_log(tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_the_room_of_an_array_is_taken_before_it_is_written(tmp_path: Path) -> None:
    """Where the disk has none, that is an error; a write to the map of a file with gaps would be a SIGBUS."""
    field = Field("hour", Kind.NUMERIC, Role.CONTEXT, Bins((6.0, 12.0)))
    writer = PartWriter(Encoder(Schema((field,))), tmp_path, np.array([300_000, 0, 0, 0]), samples=0)
    chunk = SpilledChunk(0, pl.DataFrame({"hour": [1.0, 7.0]}), {}, np.zeros(2, np.uint8), None, None)
    writer.write(chunk, np.zeros(2, np.int64))
    (ids,) = tmp_path.glob("train.ids.npy")
    assert 512 * ids.stat().st_blocks >= ids.stat().st_size > 1_000_000


def test_a_failure_leaves_what_was_there(log: EncodedLog, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("click,t,site,price,seen\n1,1,a,x,\n")
    schema = parse_log_schema(DESCRIPTION.format(format="csv"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LogError, match=r"bad\.csv, line 2: column 'price'"):
        prepare_log(bad, schema, tmp_path / "out", report=quiet)
    assert sorted(tmp_path.iterdir()) == before
    assert len(open_log(tmp_path / "out").parts["train"]) == len(log.parts["train"])
    (tmp_path / "mine").mkdir()
    with pytest.raises(LogError, match="'out' must be a new folder or a prepared log"):
        prepare_log(
            tmp_path / "not even looked for",
            parse_log_schema(DESCRIPTION.format(format="parquet")),
            tmp_path / "mine",
            report=quiet,
        )


def test_preparing_again_replaces_and_skipped_rows_are_counted(log: EncodedLog, tmp_path: Path) -> None:
    text = tmp_path / "log.csv"
    frame = pl.read_parquet(tmp_path / "log.parquet").with_columns(pl.col("seen").list.join("|"))
    text.write_text(frame.write_csv() + "torn\n1,2,3\n")
    lines: list[str] = []
    again = prepare_log(
        text,
        parse_log_schema(DESCRIPTION.format(format="csv")),
        tmp_path / "out",
        on_malformed="skip",
        report=lines.append,
    )
    assert again.skipped_rows == open_log(tmp_path / "out").skipped_rows == 2
    assert again.source == "log.csv"
    for name, part in again.parts.items():
        assert np.array_equal(part.ids, log.parts[name].ids)
    assert any("rows/s" in line and "2 malformed rows skipped" in line for line in lines)


def test_a_chosen_min_count_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    path = small_log(tmp_path / "log.parquet")
    chosen = DESCRIPTION.format(format="parquet").replace("min_count = 2\n[[field]]", "[[field]]", 1)
    prepare_log(path, parse_log_schema(chosen), tmp_path / "out", report=lines.append)
    assert any(
        line.startswith("min_count, below 8 where that would leave too many rows out") for line in lines
    )
    assert any(re.search(": site [2-7]$", line) for line in lines)
    lines.clear()
    prepare_log(path, parse_log_schema(chosen), tmp_path / "out", min_count=8, report=lines.append)
    assert not any(line.startswith("min_count") for line in lines)


def test_more_values_than_can_be_counted_are_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    schema = parse_log_schema(DESCRIPTION.format(format="parquet"))
    log = small_log(tmp_path / "log.parquet")
    prepare_log(log, schema, tmp_path / "out", max_texts=20, report=lines.append)
    assert any(line.startswith("note: site: too many values to count exactly") for line in lines)


def test_too_few_clicks_or_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    schema = parse_log_schema(DESCRIPTION.format(format="csv"))
    path.write_text("click,t,site,price,seen\n" + "".join(f"0,{time},a,1,\n" for time in range(50)))
    with pytest.raises(
        LogError, match=r"the train part must hold clicks and non-clicks \(got 0 clicks in 35 rows\)"
    ):
        prepare_log(path, schema, tmp_path / "out", report=quiet)
    path.write_text("click,t,site,price,seen\n")
    with pytest.raises(LogError, match=r"log\.csv: must hold rows"):
        prepare_log(path, schema, tmp_path / "out", report=quiet)


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=6) | st.none()
rows_of_logs = st.lists(
    st.tuples(
        st.integers(0, 1),
        cells,
        st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        st.lists(st.text("abc", max_size=2) | st.none(), max_size=5),
    ),
    min_size=1,
    max_size=20,
)


@given(rows_of_logs, st.sampled_from(["csv", "csv.gz", "parquet"]), st.sampled_from([4, 1000]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_encoded_column_by_column_as_row_by_row(
    tmp_path: Path, rows: list, ending: str, chunk_rows: int
) -> None:
    if ending != "parquet":  # text cannot represent an empty element
        rows = [(*row[:3], [element for element in row[3] if element]) for row in rows]
    path = tmp_path / f"log.{ending}"
    write_table(path, rows)
    log_schema = parse_log_schema(DESCRIPTION.format(format="parquet" if ending == "parquet" else "csv"))
    chunks = list(read_log(path, log_schema, chunk_rows=chunk_rows))
    counts = FieldCounts(log_schema)
    for chunk in chunks[: len(chunks) // 2 + 1]:
        counts.add(chunk.fields)
    schema = fit_schema(log_schema, counts)
    encoder = Encoder(schema)
    ids = np.concatenate([encode_chunk(encoder, chunk.fields) for chunk in chunks])
    assert np.concatenate([chunk.labels for chunk in chunks]).tolist() == [row[0] for row in rows]
    for (_, site, price, seen), found in zip(rows, ids, strict=True):
        values = {"site": site, "bucket": site, "price": price, "age": price, "seen": seen or None}
        assert encoder.encode_row(values).tolist() == found.tolist()


def write_table(path: Path, rows: list) -> None:
    if path.suffix == ".parquet":
        types = {
            "click": pl.Int64,
            "t": pl.Int64,
            "site": pl.String,
            "price": pl.Float64,
            "seen": pl.List(pl.String),
        }
        table = [
            (click, 7, site, None if price is None else float(price), seen)
            for click, site, price, seen in rows
        ]
        pl.DataFrame(table, schema=types, orient="row").write_parquet(path, row_group_size=9)
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["click", "t", "site", "price", "seen"])
        writer.writerows((click, 7, site, price, "|".join(seen)) for click, site, price, seen in rows)


@needs_real_data
@pytest.mark.parametrize(
    ("name", "file", "rows", "fields"),
    [("criteo", "criteo_20k.tsv.gz", 20_001, 39), ("avazu", "avazu_30k.csv.gz", 29_991, 23)],
)
def test_real_logs(tmp_path: Path, name: str, file: str, rows: int, fields: int) -> None:
    schema = load_log_schema(name)
    path = Path(str(REAL)) / file
    log = prepare_log(path, schema, tmp_path / "out", chunk_rows=7000, report=quiet)
    assert sum(len(part) for part in log.parts.values()) == rows
    assert len(log.schema.fields) == fields
    assert log.split == ("time" if name == "avazu" else "row order")
    assert len(log.sample_rows) == 512
    assert 0.1 < log.parts["test"].clicks / len(log.parts["test"]) < 0.3
    assert [len(part) for part in log.parts.values()] == pytest.approx(
        [0.7 * rows, 0.1 * rows, 0.1 * rows, 0.1 * rows], rel=0.1
    )


@needs_real_data
def test_criteo_against_a_naive_reader(tmp_path: Path) -> None:
    """Sampled rows, parsed line by line with split(), have the ids of the memory maps."""
    path = Path(str(REAL)) / "criteo_20k.tsv.gz"
    log_schema = load_log_schema("criteo")
    log = prepare_log(path, log_schema, tmp_path / "out", report=quiet)
    ids = np.concatenate([part.ids for part in log.parts.values()])
    encoder = Encoder(log.schema)
    with gzip.open(path, "rt") as file:
        for number, line in enumerate(file):
            if number % 97:
                continue
            cells = dict(zip(log_schema.columns, line.rstrip("\n").split("\t"), strict=True))
            row = {
                name: None if cell == "" else int(cell) if name.startswith("I") else cell
                for name, cell in cells.items()
                if name != "label"
            }
            assert encoder.encode_row(row).tolist() == ids[number].tolist()
    bins = log.schema.field("I5").encoding
    assert isinstance(bins, Bins)
    large = [edge for edge in bins.edges if edge > math.e * 2]
    assert all(math.log(edge) ** 2 == pytest.approx(round(math.log(edge) ** 2)) for edge in large)
    missing = (ids[:, 0] == MISSING_ID).mean()
    assert 0.3 < missing < 0.6
    assert (ids[:, 15] == OOV_ID).any()
