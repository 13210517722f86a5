"""Logged auctions by campaign: files of clicks, market prices and pCTRs -> arrays in the order of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.bundles.score import LABEL
from export.data.errors import LogError, Rejections, shortened
from export.data.text_rows import Dialect, read_header, text_rows
from export.replay.plan import ReplayPlan

CLICK: Final = "click"
_CHUNK_ROWS: Final = 200_000
_DIALECTS: Final = {".csv": Dialect(",", '"'), ".tsv": Dialect("\t", "")}

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Auctions:
    """Auctions of one campaign in the order of time, [n] each; prices are in the log's own unit."""

    clicks: NDArray[np.bool_]
    prices: Floats
    pctr: Floats

    def __len__(self) -> int:
        return len(self.prices)

    def __getitem__(self, rows: slice) -> Auctions:
        return Auctions(self.clicks[rows], self.prices[rows], self.pctr[rows])

    @property
    def cost(self) -> float:
        """The market prices of all of them together."""
        return float(self.prices.sum())


def read_campaigns(plan: ReplayPlan) -> tuple[dict[str, Auctions], int]:
    """The auctions of all files by campaign, and how many malformed rows were skipped. Raises LogError."""
    frames, skipped = [], 0
    _check_names(plan)
    for path in plan.auctions:
        rejections = Rejections(path.name, plan.on_malformed, "row" if path.suffix == ".parquet" else "line")
        frames.append(pl.concat(_frames(plan, path, rejections)))
        skipped += rejections.count
    rows = pl.concat(frames)
    if not len(rows):
        raise LogError(
            f"{plan.auctions[0].name}: must hold auctions (got none, {skipped:,} malformed rows skipped)"
        )
    by_campaign = rows.partition_by("campaign", maintain_order=True, as_dict=True)
    return {str(name): _as_auctions(own) for (name,), own in by_campaign.items()}, skipped


def campaign_of(path: Path) -> str:
    """The name of a file without the endings of its format: `1458.validation` of 1458.validation.tsv.gz."""
    name = path.name.removesuffix(".gz")
    return name.removesuffix(Path(name).suffix) or name


def _check_names(plan: ReplayPlan) -> None:
    names = [campaign_of(path) for path in plan.auctions]
    twice = [name for name in names if names.count(name) > 1]
    if twice and plan.campaign is None:
        raise LogError(
            f"'auctions' must have names that differ, being those of the campaigns (got {twice[0]!r} twice); "
            "rename one, or name the column of the campaigns with --campaign"
        )


def _as_auctions(rows: pl.DataFrame) -> Auctions:
    return Auctions(
        rows["click"].to_numpy() > 0, rows["price"].to_numpy().copy(), rows["pctr"].to_numpy().copy()
    )


def _frames(plan: ReplayPlan, path: Path, rejections: Rejections) -> Iterator[pl.DataFrame]:
    """Frames of campaign, click, price, pctr: checked, and one at least."""
    yield _typed(pl.DataFrame(schema=dict.fromkeys(["campaign", "click", "price", "pctr"], pl.String)))
    read = _parquet if path.suffix == ".parquet" else _text
    for cells, used, lines in read(plan, path, rejections):
        yield _checked(cells, used, lines, campaign_of(path), rejections)


@dataclass(frozen=True)
class _Used:
    """The columns of a file that are read, by what they are."""

    click: str
    price: str
    pctr: str
    campaign: str | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.click, self.price, self.pctr, self.campaign) if name is not None)


_Rows = Iterator[tuple[pl.DataFrame, _Used, NDArray[np.int64]]]


def _text(plan: ReplayPlan, path: Path, rejections: Rejections) -> _Rows:
    ending = Path(path.name.removesuffix(".gz")).suffix
    dialect = _DIALECTS.get(ending)
    if dialect is None:
        raise LogError(
            f"'auctions' must end in .tsv, .csv (also .gz) or .parquet (got {path.name!r}); rename it"
        )
    first = read_header(path, dialect)
    # A row with a cell that is empty or no number is a row all the same, and malformed.
    has_header = not any(map(_is_number, first))
    columns = first if has_header else _without_header(plan, path, first)
    used = _used(plan, path, columns, dialect)
    for cells, lines in text_rows(
        path, columns, used.names, dialect, rejections, skip_header=has_header, chunk_rows=_CHUNK_ROWS
    ):
        yield cells, used, lines


def _without_header(plan: ReplayPlan, path: Path, first: Sequence[str]) -> tuple[str, ...]:
    """The columns of a file of bare numbers, whose order is fixed."""
    for name in ("click", "price", "pctr"):
        if (value := getattr(plan, name)) != getattr(ReplayPlan, name):
            raise LogError(
                f"{path.name}: '{name}' must be left out without a header, where nothing has a name (got "
                f"{value!r}); add a header"
            )
    names = (CLICK, plan.price, plan.pctr)
    if len(first) != len(names) or plan.campaign is not None:
        raise LogError(
            f"{path.name}: without a header it must have the columns {', '.join(names)} in this order (got "
            f"{len(first)} columns{'' if plan.campaign is None else ', and a campaign is asked for'}); "
            "add a header"
        )
    return names


def _parquet(plan: ReplayPlan, path: Path, rejections: Rejections) -> _Rows:
    try:
        rows = pl.scan_parquet(path, glob=False)
        used = _used(plan, path, tuple(rows.collect_schema()))
        cells = rows.select(used.names).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise LogError(f"'auctions' must be readable Parquet (got {str(path)!r}); {reason}") from None
    for name, dtype in cells.schema.items():
        if name != used.campaign and not (dtype.is_numeric() or dtype in (pl.Boolean, pl.String, pl.Null)):
            raise LogError(f"{path.name}, column '{name}': must be numbers (got {dtype}); cast it")
    yield cells, used, np.arange(1, len(cells) + 1, dtype=np.int64)


def _used(plan: ReplayPlan, path: Path, columns: Sequence[str], dialect: Dialect | None = None) -> _Used:
    """The columns of a file by what they are; `dialect` is that of a text file."""
    click = plan.click or (LABEL if CLICK not in columns and LABEL in columns else CLICK)
    used = _Used(click, plan.price, plan.pctr, plan.campaign)
    for flag, name in zip(("click", "price", "pctr", "campaign"), used.names, strict=False):
        if name not in columns:
            separated = (
                f"separate cells by {dialect.separator!r}, or " if dialect and len(columns) == 1 else ""
            )
            raise LogError(
                f"{path.name}: column '{name}' must be in the file (it has {', '.join(columns)}); "
                f"{separated}name the right one with --{flag}"
            )
        if columns.count(name) > 1:
            raise LogError(f"{path.name}: column names must differ (got {shortened(name)} twice); rename one")
    if len(set(used.names)) < len(used.names):
        raise LogError(
            f"'click', 'price', 'pctr' and 'campaign' must be other columns (got {', '.join(used.names)}); "
            "name each its own"
        )
    return used


def _checked(
    cells: pl.DataFrame, used: _Used, lines: NDArray[np.int64], file: str, rejections: Rejections
) -> pl.DataFrame:
    """Cells as numbers, without malformed rows: the first of them is told, or all are counted."""
    campaign = pl.lit(file) if used.campaign is None else pl.col(used.campaign).cast(pl.String)
    rows = _typed(
        cells.select(
            campaign.alias("campaign"),
            *(pl.col(name).alias(kind) for kind, name in _numbers_of(used)),
        )
    )
    bad = {
        used.click: ~rows["click"].is_in([0.0, 1.0]),
        used.price: ~(rows["price"].is_finite() & (rows["price"] >= 0)),
        used.pctr: ~rows["pctr"].is_between(0, 1),
        **({} if used.campaign is None else {used.campaign: rows["campaign"].is_null()}),
    }
    expected = ("1 or 0", "a finite number from 0", "a probability from 0 to 1", "a name")
    good = np.ones(len(rows), np.bool_)
    for (name, wrong), words in zip(bad.items(), expected, strict=False):
        fresh = wrong.fill_null(True).to_numpy() & good
        if fresh.any():
            at = int(fresh.argmax())
            rejections.add(int(lines[at]), name, words, cells[name][at], int(fresh.sum()))
            good &= ~fresh
    return rows.filter(pl.Series(good))


def _numbers_of(used: _Used) -> tuple[tuple[str, str], ...]:
    return (("click", used.click), ("price", used.price), ("pctr", used.pctr))


def _typed(rows: pl.DataFrame) -> pl.DataFrame:
    """Numbers as Float64, null where they are none."""
    return rows.with_columns(
        pl.col("campaign").cast(pl.String),
        pl.col("click", "price", "pctr").cast(pl.Float64, strict=False),
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
