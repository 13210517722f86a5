"""iPinYou's featurised log (train.yzx.txt, featindex.txt) -> a click log with the values behind the features.

A line is `click price 0:1 3:1 ...`: the label, the winning price of the auction, and the numbers of the
active features. `featindex.txt` maps a number to a column of the joined log and a value. Reference:
github.com/wnzhang/make-ipinyou-data, python/mkyzx.py. It knows nothing of ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from export.data.converted import check_out, write_converted
from export.data.errors import LogError, OnMalformed, Rejections
from export.data.progress import Progress
from export.data.text_rows import lines_about, open_log_file

COLUMNS: Final = (
    *("click", "weekday", "hour", "bidid", "timestamp", "logtype", "ipinyouid", "useragent", "IP", "region"),
    *("city", "adexchange", "domain", "url", "urlid", "slotid", "slotwidth", "slotheight", "slotvisibility"),
    *("slotformat", "slotprice", "creative", "bidprice", "payprice", "keypage", "advertiser", "usertag"),
)
"""The joined log's columns: a feature `8:...` is a value of the column at position 8."""
FIELDS: Final = (
    *("weekday", "hour", "useragent", "IP", "region", "city", "adexchange", "domain", "slotid", "slotwidth"),
    *("slotheight", "slotvisibility", "slotformat", "slotprice", "usertag", "creative", "advertiser"),
)
"""The columns that became features."""
_TAGS: Final = "usertag"  # the only column with several values a row
_ALWAYS: Final = "truncate"  # the intercept, a feature of every row
_CHUNK_ROWS: Final = 50_000
_SCHEMA: Final = pl.Schema(
    {"click": pl.UInt8(), "payprice": pl.Int64()}
    | {name: pl.List(pl.String()) if name == _TAGS else pl.String() for name in FIELDS}
)


def convert_ipinyou(
    folder: Path, out: Path, *, on_malformed: OnMalformed = "error", report: Callable[[str], None] = print
) -> Path:
    """Writes train.yzx.txt, and test.yzx.txt if present, to `out` (.parquet); returns the path of its TOML.

    Raises LogError that names the file, line and column.
    """
    check_out(out)
    index = _feature_index(_find(folder, "featindex.txt"))
    files = [_find(folder, "train.yzx.txt"), *_optional(folder, "test.yzx.txt")]
    rejections = [Rejections(path.name, on_malformed) for path in files]
    description = Path(__file__).with_name("ipinyou_features.toml").read_text(encoding="utf-8")
    with Progress("converted", report, about=sum(map(lines_about, files))) as progress:

        def frames() -> Iterator[pl.DataFrame]:
            for path, rejected in zip(files, rejections, strict=True):
                for frame in _frames(path, index, rejected):
                    progress.add(len(frame))
                    yield frame

        described = write_converted(frames(), _SCHEMA, out, description)
        skipped = sum(rejected.count for rejected in rejections)
        progress.finish(f", {skipped:,} malformed rows skipped" if skipped else "")
    return described


def _find(folder: Path, name: str) -> Path:
    found = _optional(folder, name)
    if not found:
        raise LogError(
            f"'data' must be a folder with {name} (got {str(folder)!r}); name the folder of a campaign"
        )
    return found[0]


def _optional(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()][:1]


def _feature_index(path: Path) -> pl.DataFrame:
    """featindex.txt -> feature (number), name (column, or `truncate`), value. Raises LogError."""
    found: dict[int, tuple[str, str]] = {}
    with open_log_file(path) as file:
        for line, content in enumerate(file, 1):
            feature, _, number = content.decode("utf-8", "replace").rstrip("\r\n").rpartition("\t")
            position, colon, value = feature.partition(":")
            known = feature == _ALWAYS or (
                colon and position.isdecimal() and 0 < int(position) < len(COLUMNS)
            )
            if not known or not number.isdecimal() or int(number) in found:
                expected = (
                    f"like '8:115.45.195.*', a tab, and a unique number (columns 1 to {len(COLUMNS) - 1})"
                )
                raise LogError(
                    f"{path.name}, line {line}: the row must be {expected} (got {content[:80]!r}); "
                    "use the file that belongs to the log"
                )
            found[int(number)] = (_ALWAYS, "") if feature == _ALWAYS else (COLUMNS[int(position)], value)
    return pl.DataFrame(
        {
            "feature": pl.Series(list(found), dtype=pl.Int64),
            "name": pl.Series([name for name, _ in found.values()], dtype=pl.String),
            "value": pl.Series([value for _, value in found.values()], dtype=pl.String),
        }
    )


def _frames(path: Path, index: pl.DataFrame, rejections: Rejections) -> Iterator[pl.DataFrame]:
    """The file in frames of _SCHEMA."""
    first_line = 1
    with open_log_file(path) as file:
        while lines := list(islice(file, _CHUNK_ROWS)):
            texts = pl.Series("text", [line.decode("utf-8", "replace").rstrip("\r\n") for line in lines])
            rows = pl.DataFrame({"row": np.arange(len(lines)), "cell": texts.str.split(" ")})
            yield _frame(rows.filter(texts != ""), index, rejections, first_line)
            first_line += len(lines)


def _frame(rows: pl.DataFrame, index: pl.DataFrame, rejections: Rejections, first_line: int) -> pl.DataFrame:
    """rows (row, cells as a list) -> the valid ones in the columns of _SCHEMA."""
    table = rows.select(
        "row",
        pl.col("cell").list.get(0, null_on_oob=True).alias("click"),
        pl.col("cell").list.get(1, null_on_oob=True).alias("payprice"),
    )
    cells = rows.select("row", pl.col("cell").list.slice(2)).explode("cell").filter(pl.col("cell") != "")
    number = pl.when(pl.col("cell").str.ends_with(":1")).then(pl.col("cell").str.strip_suffix(":1"))
    cells = cells.with_columns(number.cast(pl.Int64, strict=False).alias("feature"))
    cells = cells.join(index, on="feature", how="left", maintain_order="left")
    cells = cells.filter(pl.col("name").is_null() | (pl.col("name") != _ALWAYS))
    repeated = ~pl.struct("row", "name").is_first_distinct() & (pl.col("name") != _TAGS)
    unknown = ~pl.col("name").is_in(FIELDS).fill_null(False)
    price = table["payprice"].cast(pl.Int64, strict=False)
    checks = (
        ("click", table.filter(~table["click"].is_in(["0", "1"])), "0 or 1"),
        ("payprice", table.filter((price.is_null()) | (price < 0)), "a whole number of 0 or more"),
        ("features", cells.filter(unknown), "of featindex.txt, with ':1' after each number"),
        ("features", cells.filter(repeated & ~unknown), "one for each column but usertag"),
    )
    bad: set[int] = set()
    for column, wrong, expected in checks:
        wrong = wrong.filter(~pl.col("row").is_in(list(bad)))
        if len(wrong):
            found = wrong["cell" if column == "features" else column][0]
            wrong_rows = set(wrong["row"].to_list())
            rejections.add(first_line + int(wrong["row"][0]), column, expected, found, len(wrong_rows))
            bad |= wrong_rows
    good = ~pl.col("row").is_in(list(bad))
    table = table.with_columns(price).filter(good).with_columns(pl.col("click").cast(pl.UInt8))
    return _with_values(table, cells.filter(good)).select(_SCHEMA.names())


def _with_values(table: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Adds a column for each field to `table` (row, ...). "null" is the joined log's missing value."""
    cells = cells.filter(~pl.col("value").str.to_lowercase().is_in(["null", ""]))
    for name in FIELDS:
        values = cells.filter(pl.col("name") == name).select("row", pl.col("value").alias(name))
        if name == _TAGS:
            values = values.group_by("row", maintain_order=True).agg(name)
        table = table.join(values, on="row", how="left", maintain_order="left")
    return table
