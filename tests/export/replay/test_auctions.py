"""Logged auctions are read from every format alike, and what is wrong in them is told with its place."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from export.data.errors import LogError
from export.replay.auctions import Auctions, campaign_of, read_campaigns
from export.replay.plan import ReplayPlan
from tests.export.replay.conftest import drawn_auctions, write_auctions

DRAWN = drawn_auctions(50, seed=3, ctr=0.2)
GOOD = "click,price,pctr\n1,30,0.5\n0,0,0\n"


def read(*paths: Path, **options: Any) -> dict[str, Auctions]:
    return read_campaigns(ReplayPlan(auctions=paths, **options))[0]


def same(found: Auctions, expected: Auctions) -> bool:
    return all(
        np.array_equal(getattr(found, name), getattr(expected, name)) for name in ("clicks", "prices", "pctr")
    )


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_every_format_holds_the_same(tmp_path: Path, name: str) -> None:
    found = read(write_auctions(tmp_path / name, DRAWN))
    assert list(found) == ["a"]
    assert same(found["a"], DRAWN)


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_bare_numbers_have_a_fixed_order_and_may_be_packed(tmp_path: Path, ending: str) -> None:
    plain = write_auctions(tmp_path / f"a{ending}", DRAWN, header=False)
    packed = tmp_path / f"7.test{ending}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    found = read(plain, packed)
    assert list(found) == ["a", "7.test"]
    assert same(found["a"], DRAWN)
    assert same(found["7.test"], DRAWN)


def test_scores_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    columns = {"row": range(50), "payprice": DRAWN.prices.astype(np.int64), "label": DRAWN.clicks}
    pl.DataFrame({**columns, "logit": DRAWN.pctr, "pctr": DRAWN.pctr}).write_parquet(path)
    assert same(read(path, price="payprice")["scores"], DRAWN)


def test_a_column_parts_campaigns_over_files(tmp_path: Path) -> None:
    for number in (1, 2):
        text = f"who,click,price,pctr\nx,1,{number},0.1\ny,0,{10 * number},0.2\n"
        (tmp_path / f"{number}.csv").write_text(text)
    found = read(tmp_path / "1.csv", tmp_path / "2.csv", campaign="who")
    assert {name: one.prices.tolist() for name, one in found.items()} == {"x": [1, 2], "y": [10, 20]}


def test_malformed_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(GOOD + "2,1,0.5\n1,-1,0.5\n1,1,1.5\n1,1\n0,7,0.25\n")
    found, skipped = read_campaigns(ReplayPlan(auctions=(path,), on_malformed="skip"))
    assert found["a"].prices.tolist() == [30, 0, 7]
    assert skipped == 4


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2,1,0.5", "a.csv, line 4: column 'click' must be 1 or 0 (got '2')"),
        (",1,0.5", "a.csv, line 4: column 'click' must be 1 or 0 (got nothing)"),
        ("1,-3,0.5", "a.csv, line 4: column 'price' must be a finite number from 0 (got '-3')"),
        ("1,inf,0.5", "column 'price' must be a finite number from 0 (got 'inf')"),
        ("1,nan,0.5", "column 'price' must be a finite number from 0 (got 'nan')"),
        ("1,dear,0.5", "column 'price' must be a finite number from 0 (got 'dear')"),
        ("1,3,1.01", "column 'pctr' must be a probability from 0 to 1 (got '1.01')"),
        ("1,3,nan", "column 'pctr' must be a probability from 0 to 1 (got 'nan')"),
        ("1,3,", "column 'pctr' must be a probability from 0 to 1 (got nothing)"),
        ("1,3", "a.csv, line 4: the row must be"),
    ],
)
def test_a_malformed_row_is_told(tmp_path: Path, row: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(GOOD + row + "\n")
    with pytest.raises(LogError) as told:
        read(path)
    assert said in str(told.value)
    assert "--on-malformed skip" in str(told.value)


@pytest.mark.parametrize(
    ("name", "text", "options", "said"),
    [
        (
            "a.csv",
            "clicked,price,pctr\n1,1,1\n",
            {},
            "column 'click' must be in the file (it has clicked, price",
        ),
        ("a.csv", "clicked,price,pctr\n1,1,1\n", {}, "name the right one with --click"),
        ("a.csv", "click,cost,pctr\n1,1,1\n", {}, "with --price"),
        ("a.csv", "click,price,score\n1,1,1\n", {}, "with --pctr"),
        ("a.csv", GOOD, {"campaign": "who"}, "column 'who' must be in the file"),
        ("a.csv", GOOD, {"price": "pctr"}, "must be other columns"),
        ("a.csv", "click,price,pctr,price\n1,30,0.5,7\n", {}, "must differ (got 'price' twice)"),
        ("a.csv", "click;price;pctr\n1;30;0.5\n", {}, "separate cells by ',', or name the right one"),
        ("a.csv", "1,,0.5\n0,3,0.5\n", {}, "a.csv, line 1: column 'price' must be a finite number"),
        ("a.csv", "1,2,0.5,7\n", {}, "without a header it must have the columns click, price, pctr"),
        ("a.csv", "1,2,0.5\n", {"campaign": "who"}, "a campaign is asked for"),
        ("a.csv", "click,price,pctr\n", {}, "must hold auctions (got none"),
        ("a.csv", "", {}, "a.csv"),
        ("a.txt", GOOD, {}, "must end in .tsv, .csv (also .gz) or .parquet (got 'a.txt')"),
        ("a.parquet", GOOD, {}, "must be readable Parquet"),
    ],
)
def test_a_wrong_file_is_told(
    tmp_path: Path, name: str, text: str, options: dict[str, Any], said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(LogError) as told:
        read(path, **options)
    assert said in str(told.value)


def test_columns_of_parquet_must_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"click": [1], "price": [[1.0]], "pctr": [0.5]}).write_parquet(path)
    with pytest.raises(LogError, match=r"a.parquet, column 'price': must be numbers \(got List"):
        read(path)
    with pytest.raises(LogError, match=r"nowhere\.parquet"):
        read(tmp_path / "nowhere.parquet")


def test_two_files_of_one_name_need_a_campaign(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [tmp_path / "a.csv", tmp_path / "b" / "a.csv"]
    for path in paths:
        path.write_text(GOOD)
    with pytest.raises(LogError, match=r"names that differ.*\(got 'a' twice\)"):
        read(*paths)


def test_a_campaign_is_named_after_its_file() -> None:
    names = ["1458.validation.tsv.gz", "today.parquet", "x.csv", ".csv"]
    assert [campaign_of(Path(name)) for name in names] == ["1458.validation", "today", "x", ".csv"]
