"""How much of a log is expected, what columns it has, and who hears how far its reading is."""

from __future__ import annotations

import gzip
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from export.bundles.plan import ReadPlan
from export.bundles.reading import log_schema_for, read_chunks, tell
from export.data.errors import LogError
from export.data.log_schema import load_log_schema
from export.data.readers import columns_of, rows_about
from tests.export.bundles.conftest import COLUMNS, Shop, shown_rows, write_rows


def test_the_rows_of_a_log_are_known_before_it_is_read(shop: Shop, tmp_path: Path) -> None:
    schema = load_log_schema(shop.plan.schema)
    plain = write_rows(tmp_path / "day.csv", shown_rows(20_000, seconds=1))
    packed = tmp_path / "day.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert rows_about(plain, schema) == pytest.approx(20_000, rel=0.02)
    assert rows_about(packed, schema) == pytest.approx(20_000, rel=0.15)
    pl.DataFrame({"ad": range(777)}).write_parquet(tmp_path / "day.parquet")
    assert rows_about(tmp_path / "day.parquet", load_log_schema_as_parquet(shop, tmp_path)) == 777
    with pytest.raises(LogError, match="'data' must be a readable file"):
        rows_about(tmp_path / "none.csv", schema)


def load_log_schema_as_parquet(shop: Shop, tmp_path: Path):  # type: ignore[no-untyped-def]
    plan = ReadPlan(data=tmp_path / "columns.parquet")
    pl.DataFrame({name: ["1"] for name in COLUMNS}).write_parquet(plan.data)
    return log_schema_for(shop.bundle, plan)


def test_a_file_without_a_header_may_lack_the_label_alone(shop: Shop, tmp_path: Path) -> None:
    schema = load_log_schema(shop.plan.schema)
    rows = shown_rows(5)
    assert columns_of(write_rows(tmp_path / "day.csv", rows), schema) == COLUMNS
    early = write_rows(tmp_path / "early.csv", rows, without="clicked_at")
    assert columns_of(early, schema) == tuple(name for name in COLUMNS if name != "clicked_at")
    found = log_schema_for(shop.bundle, ReadPlan(data=early))
    assert found.label is None
    assert found.timestamp is not None  # `hour` is derived from it
    timeless = ReadPlan(data=tmp_path / "timeless.parquet")
    pl.DataFrame({"page": ["a"], "price": [1.0], "ad": ["x"], "tags": ["t"]}).write_parquet(timeless.data)
    without_time = log_schema_for(shop.bundle, timeless)
    with pytest.raises(LogError, match="column 'shown_at' must be in the log"):
        list(read_chunks(timeless, without_time, "read"))


@pytest.mark.parametrize(
    ("is_terminal", "quiet", "told"), [(True, False, 2), (True, True, 0), (False, False, 0)]
)
def test_progress_is_for_a_terminal_that_wants_it(
    shop: Shop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_terminal: bool,
    quiet: bool,
    told: int,
) -> None:
    monkeypatch.setattr("export.data.progress._SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    plan = ReadPlan(data=write_rows(tmp_path / "day.csv", shown_rows(200)), quiet=quiet)
    schema = log_schema_for(shop.bundle, replace(plan))
    assert sum(len(chunk) for chunk in read_chunks(plan, schema, "scored")) == 200
    tell(plan, "judging 200 rows")
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == told
    if told:
        assert lines[0].startswith("scored 200 rows (")
        assert lines[1] == "judging 200 rows"
