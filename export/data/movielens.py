"""MovieLens in RecBole's files (NAME.inter, NAME.user, NAME.item) -> a click log with each user's history.

A row is a rating, sorted by time, with the features of the user and the film and the films that the user
liked before, without the present rating and later ones. Beside the log it writes the features of every user
and every film at the end of the log, in the form that a feature store loads. It knows nothing of ids.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.converted import check_out, write_converted
from export.data.errors import LogError, OnMalformed, Rejections
from export.data.progress import Bar
from export.data.text_rows import Dialect, lines_about, read_header, text_rows

LIKED: Final = 4.0
"""A film with at least this rating counts as liked: a click."""
HISTORY: Final = 20
_DIALECT: Final = Dialect("\t", "")
_CHUNK_ROWS: Final = 1_000_000


def convert_movielens(
    folder: Path, out: Path, *, on_malformed: OnMalformed = "error", report: Callable[[str], None] = print
) -> Path:
    """Writes `out` (.parquet); returns the path of its TOML. Raises LogError with file, line and column.

    For `ml.parquet`, users and films go to `ml.users.parquet` and `ml.films.parquet`.
    """
    check_out(out)
    inter, user, item = (_find(folder, ending) for ending in ("inter", "user", "item"))
    of_ratings, of_users, of_items = (Rejections(path.name, on_malformed) for path in (inter, user, item))
    users = _side_table(user, ("user_id", "age", "gender", "occupation", "zip_code"), "age", of_users)
    items = _side_table(item, ("item_id", "release_year", "class"), "release_year", of_items)
    ratings, lines = _table(inter, ("user_id", "item_id", "rating", "timestamp"), of_ratings)
    rows = _checked(ratings, lines, users, items, of_ratings).sort("timestamp", maintain_order=True)
    skipped = of_ratings.count + of_users.count + of_items.count
    if not len(rows):
        raise LogError(f"{inter.name}: must hold ratings (got none, {skipped:,} malformed rows skipped)")
    rows = rows.with_columns(histories(rows, HISTORY).alias("history"))
    log = _log(rows.join(users, on="user_id", how="left", maintain_order="left"), items)
    description = Path(__file__).with_name("movielens.toml").read_text(encoding="utf-8")
    described = write_converted(iter([log]), log.schema, out, description)
    users_at_the_end(rows, users).write_parquet(out.with_suffix(".users.parquet"))
    _films(items).write_parquet(out.with_suffix(".films.parquet"))
    left_out = f", {skipped:,} malformed rows skipped" if skipped else ""
    report(f"{len(log):,} ratings, {log['click'].sum() / len(log):.2%} liked{left_out}")
    return described


def histories(rows: pl.DataFrame, length: int) -> pl.Series:
    """rows (user_id, item_id, timestamp, click; by time) -> the last `length` films liked before each row.

    Before means strictly earlier: ratings of the same second do not see each other. Oldest first; null if
    there are none.
    """
    users = rows["user_id"].rank("dense").to_numpy()
    times = rows["timestamp"].to_numpy()
    order = np.lexsort((np.arange(len(rows)), times, users))  # user by user, each in time order
    liked = order[rows["click"].to_numpy()[order] == 1]
    first, last = _ranges(users[liked], times[liked], users, times)
    first = np.maximum(first, last - length)
    counts = last - first
    position = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(
        counts.sum()
    )
    films = rows["item_id"].gather(liked[position])
    flat = pl.DataFrame({"row": np.repeat(np.arange(len(rows)), counts), "film": films})
    lists = flat.group_by("row", maintain_order=True).agg("film")
    every = pl.DataFrame({"row": np.arange(len(rows))})
    return every.join(lists, on="row", how="left", maintain_order="left")["film"]


def _ranges(
    liked_users: NDArray[np.generic],
    liked_times: NDArray[np.int64],
    users: NDArray[np.generic],
    times: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row, the range of its user's earlier likes among all likes (sorted by user and time)."""
    # User and rank of the time form one number, so one binary search finds both.
    distinct, rank = np.unique(times, return_inverse=True)
    step = len(distinct) + 1
    keys = liked_users.astype(np.int64) * step + np.searchsorted(distinct, liked_times)
    base = users.astype(np.int64) * step
    return np.searchsorted(keys, base), np.searchsorted(keys, base + rank)


def users_at_the_end(rows: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Every user with the history that a rating after all of `rows` would have (`rows` as in `histories`)."""
    after = users.select(
        "user_id",
        pl.lit(None, pl.String).alias("item_id"),
        pl.lit(rows["timestamp"].max(), pl.Int64).alias("timestamp") + 1,
        pl.lit(0, pl.UInt8).alias("click"),
    )
    history = histories(pl.concat([rows.select(after.columns), after]), HISTORY)[len(rows) :]
    return users.with_columns(history.alias("history"))


def _films(items: pl.DataFrame) -> pl.DataFrame:
    """Films with the log's column names and types."""
    genres = pl.col("class").str.split(" ").alias("genres")
    return items.select("item_id", pl.col("release_year").alias("year"), genres)


def _find(folder: Path, ending: str) -> Path:
    found = sorted({*folder.glob(f"*.{ending}"), *folder.glob(f"*.{ending}.gz")})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise LogError(
            f"'data' must be a folder with one file NAME.{ending} or NAME.{ending}.gz "
            f"(got {names} in {str(folder)!r}); name the folder of one MovieLens set"
        )
    return found[0]


def _table(
    path: Path, names: tuple[str, ...], rejections: Rejections
) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """The named columns as text, and the line of each row. The header has the form `name:type`."""
    header = tuple(name.partition(":")[0] for name in read_header(path, _DIALECT))
    absent = [name for name in names if name not in header]
    if absent:
        raise LogError(
            f"{path.name}, line 1: column '{absent[0]}' must be in the header (it has {', '.join(header)}); "
            "use the file as RecBole publishes it"
        )
    chunks = []
    with Bar(f"read {path.name}", lines_about(path)) as bar:
        for cells, lines in text_rows(
            path, header, names, _DIALECT, rejections, skip_header=True, chunk_rows=_CHUNK_ROWS
        ):
            chunks.append((cells, lines))
            bar.add(len(cells))
    return pl.concat([cells for cells, _ in chunks]), np.concatenate([lines for _, lines in chunks])


def _side_table(path: Path, names: tuple[str, ...], number: str, rejections: Rejections) -> pl.DataFrame:
    """A table with one row for each id, its first column. Text in column `number` becomes missing.

    The published file has "unkonwn" for an unknown year of a film.
    """
    table, lines = _table(path, names, rejections)
    table = table.with_columns(pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in names)
    key = table[names[0]]
    good = key.is_not_null() & key.is_first_distinct()
    if not good.all():
        row = int((~good).arg_max() or 0)
        rejections.add(int(lines[row]), names[0], "an id that occurs once", key[row], int((~good).sum()))
    return table.with_columns(pl.col(number).cast(pl.Int64, strict=False)).filter(good)


def _checked(
    ratings: pl.DataFrame,
    lines: NDArray[np.int64],
    users: pl.DataFrame,
    items: pl.DataFrame,
    rejections: Rejections,
) -> pl.DataFrame:
    """Ratings as user_id, item_id, timestamp (whole seconds), click; malformed ones go to `rejections`."""
    rating = ratings["rating"].cast(pl.Float64, strict=False)
    seconds = ratings["timestamp"].cast(pl.Float64, strict=False).floor()
    checks = (
        ("user_id", ratings["user_id"].is_in(users["user_id"].implode()), "a user of the .user file"),
        ("item_id", ratings["item_id"].is_in(items["item_id"].implode()), "a film of the .item file"),
        ("rating", rating.is_between(0, 5), "a rating from 0 to 5"),
        ("timestamp", seconds.is_between(0, 1e11), "seconds since 1970"),
    )
    good = np.ones(len(ratings), bool)
    for column, holds, expected in checks:
        wrong = ~holds.fill_null(False).to_numpy() & good
        if wrong.any():
            row = int(np.argmax(wrong))
            rejections.add(int(lines[row]), column, expected, ratings[column][row], int(wrong.sum()))
            good &= ~wrong
    rows = ratings.select("user_id", "item_id").with_columns(
        seconds.cast(pl.Int64, strict=False).alias("timestamp"),
        (rating >= LIKED).cast(pl.UInt8).alias("click"),
    )
    return rows.filter(pl.Series(good))


def _log(rows: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    return rows.join(_films(items), on="item_id", how="left", maintain_order="left").select(
        "click",
        "timestamp",
        "user_id",
        "age",
        "gender",
        "occupation",
        "zip_code",
        "history",
        "item_id",
        "year",
        "genres",
    )
