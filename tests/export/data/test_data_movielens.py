"""MovieLens -> a click log: a history contains neither the present rating nor later ones."""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from export.data.encoded import prepare_log
from export.data.errors import LogError
from export.data.log_schema import load_log_schema
from export.data.movielens import HISTORY, convert_movielens, histories
from tests.export.memory_log import quiet

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
USER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
REAL = os.environ.get("BIDLIGHT_DATA")


def write(folder: Path, **changes: str) -> Path:
    """The three files, some of them changed."""
    folder.mkdir(exist_ok=True)
    files = {
        "inter": INTER + "1\t10\t5\t100\n2\t11\t4\t90\n1\t12\t3\t100\n1\t11\t4\t101\n1\t10\t1\t250\n",
        "user": USER + "1\t24\tM\ttechnician\t85711\n2\t\tF\tother\t94043\n",
        "item": ITEM
        + "10\tToy Story\t1995\tAnimation Children's\n11\tGoldenEye\t1995\tAction\n12\tX\tunkonwn\tunknown\n",
    }
    for ending, text in (files | changes).items():
        (folder / f"ml.{ending}").write_text(text, encoding="utf-8")
    return folder


def converted(folder: Path, out: Path, **options: Any) -> pl.DataFrame:
    described = convert_movielens(folder, out, report=quiet, **options)
    assert described == out.with_suffix(".toml")
    return pl.read_parquet(out)


def test_rows_are_ratings_by_time_with_what_is_known_then(tmp_path: Path) -> None:
    log = converted(write(tmp_path / "ml"), tmp_path / "log.parquet")
    assert log.rows(named=True)[3] == {
        "click": 1,
        "timestamp": 101,
        "user_id": "1",
        "age": 24,
        "gender": "M",
        "occupation": "technician",
        "zip_code": "85711",
        "history": ["10"],
        "item_id": "11",
        "year": 1995,
        "genres": ["Action"],
    }
    assert log["timestamp"].to_list() == [90, 100, 100, 101, 250]
    assert log["click"].to_list() == [1, 1, 0, 1, 0]
    assert log["history"].to_list() == [None, None, None, ["10"], ["10", "11"]]
    assert log["age"].to_list() == [None, 24, 24, 24, 24]
    assert log["year"].to_list() == [1995, 1995, None, 1995, 1995]


def test_users_and_films_are_written_as_of_the_end_of_the_log(tmp_path: Path) -> None:
    converted(write(tmp_path / "ml"), tmp_path / "log.parquet")
    users = pl.read_parquet(tmp_path / "log.users.parquet")
    assert users.rows(named=True) == [
        {
            "user_id": "1",
            "age": 24,
            "gender": "M",
            "occupation": "technician",
            "zip_code": "85711",
            "history": ["10", "11"],
        },
        {
            "user_id": "2",
            "age": None,
            "gender": "F",
            "occupation": "other",
            "zip_code": "94043",
            "history": ["11"],
        },
    ]
    films = pl.read_parquet(tmp_path / "log.films.parquet")
    assert films.rows() == [
        ("10", 1995, ["Animation", "Children's"]),
        ("11", 1995, ["Action"]),
        ("12", None, ["unknown"]),
    ]


def naive_history(rows: list[dict[str, Any]], row: int, length: int) -> list[str] | None:
    """The specification: films the user liked at an earlier second, in time order, the last ones."""
    here = rows[row]
    found = [
        (each["timestamp"], position, each["item_id"])
        for position, each in enumerate(rows)
        if each["user_id"] == here["user_id"] and each["click"] and each["timestamp"] < here["timestamp"]
    ]
    return [film for _, _, film in sorted(found)][-length:] or None


@pytest.mark.parametrize("seed", range(5))
def test_histories_are_those_of_a_naive_loop(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = 300
    log = pl.DataFrame(
        {
            "user_id": draw.integers(0, 6, rows).astype(str),
            "item_id": draw.integers(0, 40, rows).astype(str),
            "timestamp": np.sort(draw.integers(0, 60, rows)),  # several ratings a second
            "click": draw.integers(0, 2, rows).astype(np.uint8),
        }
    )
    table = log.rows(named=True)
    for length in (1, 4, 1000):
        expected = [naive_history(table, row, length) for row in range(rows)]
        assert histories(log, length).to_list() == expected


def test_a_history_does_not_move_when_later_ratings_do() -> None:
    draw = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": draw.integers(0, 3, 100).astype(str),
            "item_id": draw.integers(0, 40, 100).astype(str),
            "timestamp": np.arange(100),
            "click": draw.integers(0, 2, 100).astype(np.uint8),
        }
    )
    other = pl.concat([log[:60], log[60:].with_columns(click=1 - pl.col("click"), item_id=pl.lit("9"))])
    assert histories(log, HISTORY)[:61].to_list() == histories(other, HISTORY)[:61].to_list()


def test_the_log_prepares_with_ids_that_agree(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    people, films, stars = (draw.integers(*ends, 400) for ends in ((1, 3), (10, 13), (1, 6)))
    ratings = zip(people, films, stars, strict=True)
    rows = "".join(
        f"{user}\t{film}\t{rating}\t{9 * 10**8 + 3600 * hour}\n"
        for hour, (user, film, rating) in enumerate(ratings)
    )
    folder = write(tmp_path / "ml", inter=INTER + rows)
    out = tmp_path / "log.parquet"
    converted(folder, out)
    log = prepare_log(out, load_log_schema(out.with_suffix(".toml")), tmp_path / "encoded", report=quiet)
    assert log.split == "time"
    history, item = log.schema.field("history"), log.schema.field("item_id")
    assert history.same_values_as == "item_id"
    assert history.encoding is item.encoding
    assert history.max_length == HISTORY
    assert log.schema.field("genres").max_length == 6


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"inter": INTER + "1\t10\t5\t100\n1\t10\tgood\t100\n"},
            "ml.inter, line 3: column 'rating' must be a rating from 0 to 5 (got 'good')",
        ),
        ({"inter": INTER + "1\t10\t5\tnow\n"}, "line 2: column 'timestamp' must be seconds since 1970"),
        ({"inter": INTER + "9\t10\t5\t100\n"}, "line 2: column 'user_id' must be a user of the .user file"),
        ({"inter": INTER + "1\t99\t5\t100\n"}, "line 2: column 'item_id' must be a film of the .item file"),
        (
            {"inter": INTER + "1\t10\t5\n"},
            "ml.inter, line 2: the row must be 4 columns wide (got '3 columns')",
        ),
        ({"inter": INTER}, "ml.inter: must hold ratings"),
        (
            {"inter": INTER.replace("rating", "stars")},
            "column 'rating' must be in the header (it has user_id,",
        ),
        (
            {"user": USER + "1\t24\tM\tx\t1\n1\t24\tM\tx\t1\n"},
            "ml.user, line 3: column 'user_id' must be an id that occurs once (got '1')",
        ),
        ({"item": ITEM + "\tX\t1995\tDrama\n"}, "ml.item, line 2: column 'item_id' must be an id"),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    with pytest.raises(LogError) as caught:
        convert_movielens(write(tmp_path / "ml", **changes), tmp_path / "log.parquet", report=quiet)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["ml"]


def test_malformed_rows_are_skipped_and_counted_where_asked(tmp_path: Path) -> None:
    said: list[str] = []
    folder = write(tmp_path / "ml", inter=INTER + "1\t10\t5\t100\n1\t10\tgood\t1\n9\t10\t5\t7\n1\t11\n")
    convert_movielens(folder, tmp_path / "log.parquet", on_malformed="skip", report=said.append)
    assert len(pl.read_parquet(tmp_path / "log.parquet")) == 1
    assert said == ["1 ratings, 100.00% liked, 3 malformed rows skipped"]


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.inter").touch()
    with pytest.raises(
        LogError, match=r"must be a folder with one file NAME.user or NAME.user.gz \(got none"
    ):
        convert_movielens(tmp_path, tmp_path / "log.parquet")
    (tmp_path / "b.inter.gz").write_bytes(gzip.compress(INTER.encode()))
    with pytest.raises(LogError, match=r"got a.inter, b.inter.gz"):
        convert_movielens(tmp_path, tmp_path / "log.parquet")


def test_another_ending_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"'out' must end in .parquet \(got 'log.csv'\)"):
        convert_movielens(tmp_path / "nowhere", tmp_path / "log.csv", report=quiet)


@pytest.mark.skipif(not REAL, reason="BIDLIGHT_DATA does not name the folder of the real logs")
def test_the_real_one(tmp_path: Path) -> None:
    log = converted(Path(str(REAL)) / "ml100k", tmp_path / "log.parquet")
    assert len(log) == 100_000
    assert log["click"].mean() == pytest.approx(0.55375)
    table = log.filter(pl.col("user_id") == "405").rows(named=True)
    for row in (0, 1, 50, len(table) // 2, len(table) - 1):
        assert table[row]["history"] == naive_history(table, row, HISTORY)
