"""Folders of Parquet files as one log, and the schema of a service's examples."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from export.bundles.reading import in_format_of
from export.data.encoded import prepare_log
from export.data.errors import LogError, LogSchemaError
from export.data.log_schema import LOG_FILE, Label, Timestamp, load_log_schema, of_examples, parse_log_schema
from export.data.readers import check_weights, read_log, rows_about, stamp_of

PAGE = Path(__file__).parents[3] / "docs/feedback-loop.md"
SHOP = """
name = "shop"
format = "csv"
missing = ["-"]
label = {column = "bought", click = ["yes"], no_click = ["no"]}
timestamp = {column = "ts"}
[[field]]
name = "hour"
kind = "categorical"
role = "context"
derive = "hour_of_day"
[[field]]
name = "site"
column = "page"
kind = "categorical"
role = "context"
min_count = 3
[[field]]
name = "history"
kind = "sequence"
role = "context"
max_length = 4
same_values_as = "site"
"""


def write_hour(folder: Path, number: int, **columns: list[object]) -> None:
    rows = len(next(iter(columns.values())))
    given = {"_clicked": [0, 1] * (rows // 2), "_time_ms": [3_600_000 * number + row for row in range(rows)]}
    types = {"_clicked": pl.Int8, "site": pl.String, "hour": pl.String, "history": pl.List(pl.String)}
    frame = pl.DataFrame(given | columns, schema_overrides=types, strict=False)
    frame.write_parquet(folder / f"examples-2026-11-30T{number:02}.parquet")


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_a_folder_is_one_log_with_the_columns_of_its_last_file(tmp_path: Path, chunk_rows: int) -> None:
    schema = of_examples(parse_log_schema(SHOP))
    write_hour(tmp_path, 1, site=["a", None], hour=["1", "1"], gone=[1.5, 2.5])  # before there were histories
    write_hour(tmp_path, 2, site=[], hour=[], history=[])
    write_hour(tmp_path, 3, site=["-", "b"], hour=["3", None], history=[["x", ""], []])
    (tmp_path / ".examples-2026-11-30T04.parquet").write_bytes(b"still written to")
    (tmp_path / "notes.txt").write_text("not of the log")
    chunks = [*read_log(tmp_path, schema, chunk_rows=chunk_rows)]
    fields = pl.concat([chunk.fields for chunk in chunks])
    assert fields.to_dict(as_series=False) == {
        "hour": ["1", "1", "3", None],
        "site": ["a", None, "-", "b"],  # what a service takes for a value is one
        "history": [None, None, ["x", ""], None],
    }
    assert [label for chunk in chunks for label in chunk.labels.tolist()] == [0, 1, 0, 1]  # type: ignore[union-attr]
    assert [time for chunk in chunks for time in chunk.timestamps.tolist()] == [3600, 3600, 10_800, 10_800]  # type: ignore[union-attr]
    assert rows_about(tmp_path, schema) == 4


def test_a_folder_without_files_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"'data' must be a file, or a folder with files .parquet"):
        next(iter(read_log(tmp_path, of_examples(parse_log_schema(SHOP)))))


def test_a_bundle_names_its_fields_as_they_are_sent(tmp_path: Path) -> None:
    described = parse_log_schema(SHOP)
    (tmp_path / LOG_FILE).parent.mkdir()
    (tmp_path / LOG_FILE).write_bytes(msgspec.json.encode(described))
    found = load_log_schema(tmp_path)
    assert (found.format, found.label, found.missing) == ("parquet", Label("_clicked"), ())
    assert found.timestamp == Timestamp("_time_ms", "unix_ms")
    assert [(one.column, one.derive) for one in found.fields] == [
        (one.name, None) for one in described.fields
    ]
    assert (found.fields[1].min_count, found.fields[2].max_length) == (3, 4)
    (tmp_path / LOG_FILE).unlink()
    with pytest.raises(LogSchemaError, match=r"'schema' must be a bundle that says how its log was read"):
        load_log_schema(tmp_path)


def test_a_name_of_ours_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "criteo").mkdir()  # where its log may lie
    assert load_log_schema("criteo").name == "criteo"


def test_a_folder_has_the_columns_of_a_text_log_as_parquet(tmp_path: Path) -> None:
    described = parse_log_schema(SHOP)
    assert in_format_of(tmp_path, msgspec.structs.replace(described, format="csv")).format == "parquet"
    assert in_format_of(tmp_path, of_examples(described)) == of_examples(described)


def test_a_folder_that_changes_is_another_log(tmp_path: Path) -> None:
    write_hour(tmp_path, 1, site=["a", None], hour=["1", "1"])
    first = stamp_of(tmp_path)
    write_hour(tmp_path, 1, site=["a", "abc"], hour=["1", "1"])  # the folder itself stays as it was
    assert stamp_of(tmp_path) != first


def test_files_of_other_types_are_told(tmp_path: Path) -> None:
    write_hour(tmp_path, 1, site=["a", None], hour=["1", "1"], history=[[], []])
    pl.DataFrame({"_clicked": ["yes"], "_time_ms": [0]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(LogError, match="must be whole Parquet files with the last one's types"):
        list(read_log(tmp_path, of_examples(parse_log_schema(SHOP))))


def test_an_hour_that_is_half_copied_is_told_before_a_row_is_read(tmp_path: Path) -> None:
    log, schema = joined(tmp_path, {"a": 1.0, "b": 1.0}, requests=5), of_examples(parse_log_schema(SHOP))
    (log / "0.parquet").write_bytes((log / "1.parquet").read_bytes()[:100])
    for read in (check_weights, rows_about):
        with pytest.raises(LogError, match="joined: must be whole Parquet files"):
            read(log, schema)


def joined(folder: Path, shares: dict[str, float], requests: int = 4_000) -> Path:
    """Examples of two candidates a request, of hours in which other shares were logged."""
    (folder / "joined").mkdir()
    draw = np.random.default_rng(5)
    for hour, (name, share) in enumerate(shares.items()):
        ids = [f"{name}-{number}" for number in np.flatnonzero(draw.random(requests) < share)]
        rows = {
            "_request_id": [None if one.endswith("7") else one for one in ids for _ in range(2)],
            "_time_ms": [3_600_000 * hour + number for number in range(len(ids)) for _ in range(2)],
            "_clicked": [0, 1] * len(ids),
            "_weight": [1 / share] * (2 * len(ids)),
            "site": ["a"] * (2 * len(ids)),
        }
        pl.DataFrame(rows).write_parquet(folder / "joined" / f"{hour}.parquet")
    return folder / "joined"


def test_rows_of_several_weights_are_refused_and_of_one_are_not(tmp_path: Path) -> None:
    schema = of_examples(parse_log_schema(SHOP))
    log = joined(tmp_path, {"a": 0.5, "b": 0.1})
    with pytest.raises(LogError, match=r"'_weight' must be the same in all rows \(got 2 to 10\)"):
        check_weights(log, schema)
    check_weights(log / "1.parquet", schema)
    other = parse_log_schema(SHOP.replace('"csv"', '"parquet"'))
    check_weights(log, other)  # where it is a column of somebody's own
    write_hour(tmp_path, 1, site=["a", None], hour=["1", "1"])
    check_weights(tmp_path / "examples-2026-11-30T01.parquet", schema)
    with pytest.raises(LogError, match="'_weight'"):
        prepare_log(log, schema, tmp_path / "out", report=lambda _: None)


def test_the_page_thins_rows_to_one_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many requests are left of each hour as the smaller share would have logged, and each is whole."""
    (block,) = re.findall(r"```python\n(import polars.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    joined(tmp_path, {"a": 0.5, "b": 0.1})
    monkeypatch.chdir(tmp_path)
    exec(block, {})  # what a reader would run
    thinned = pl.read_parquet("thinned.parquet")
    assert thinned["_weight"].unique().to_list() == [10.0]
    sizes = thinned.group_by("_time_ms").len()["len"]
    assert sizes.unique().to_list() == [2]
    hours = thinned.group_by(pl.col("_time_ms") // 3_600_000).len().sort("_time_ms")["len"].to_list()
    assert hours == pytest.approx([800, 800], abs=130)
