"""The logs that a replay knows by name: where they lie, how they are read, and how fast their world moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from export.data.synthetic_config import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log


@dataclass(frozen=True)
class Pace:
    """The service's settings of a log, and for how long in it requests are sent at once: seconds."""

    half_life: int = 21_600
    period: int = 300
    turn: int = 60


@dataclass(frozen=True)
class Source:
    """A log that is there: its file and its schema, and how fast it moves."""

    title: str
    data: Path
    schema: str
    pace: Pace


def synthetic(_: Path, folder: Path, rows: int, rows_per_day: int) -> Source:
    """The synthetic log, whose effects drift."""
    data = folder / "synthetic.parquet"
    config = SyntheticConfig(rows=rows, rows_per_day=rows_per_day)
    schema = str(write_synthetic_log(config, data, report=lambda _: None))
    return Source("synthetic, with drift", data, schema, Pace())


def avazu(real: Path, *_: object) -> Source:
    """30,000 rows of ten days, some twenty clicks an hour."""
    return Source("Avazu", real / "avazu_30k.csv.gz", "avazu", Pace(half_life=86_400, period=900, turn=300))


def kuairand(real: Path, folder: Path, *_: object) -> Source:
    """Two weeks of a feed of short videos."""
    categorical = ["user_id", "tab", "user_active_degree", "video_id", "author_id", "upload_type"]
    schema = _schema(
        folder / "kuairand.toml", ("is_click", "time_ms", "unix_ms"), categorical[:3], categorical[3:],
        numeric=["duration_ms", "freshness_days"],
    )  # fmt: skip
    return Source("KuaiRand-Pure", real / "kuairand/kuairand_228k.parquet", schema, Pace())


def movielens(real: Path, folder: Path, *_: object) -> Source:
    """The part of MovieLens-1M whose rows have a time, over years: a rating of 4 or 5 is a click."""
    data = folder / "movielens.parquet"
    log = pl.read_parquet(real / "ml1m/ml1m_1m.parquet")
    log.filter(pl.col("timestamp").is_not_null()).sort("timestamp", maintain_order=True).write_parquet(data)
    schema = _schema(
        folder / "movielens.toml", ("label", "timestamp", "unix"), ["user_id", "gender", "age", "occupation"],
        ["movie_id", "genres", "year"], numeric=[],
    )  # fmt: skip
    return Source("MovieLens-1M, dated", data, schema, Pace(half_life=604_800, period=21_600, turn=3_600))


SOURCES: dict[str, Callable[[Path, Path, int, int], Source]] = {
    "synthetic": synthetic,
    "kuairand": kuairand,
    "movielens": movielens,
    "avazu": avazu,
}


def _schema(
    path: Path, outcome: tuple[str, str, str], context: list[str], candidate: list[str], numeric: list[str]
) -> str:
    """Write the description of a Parquet log; the label, its time and the time's format are its outcome."""
    label, time, format_ = outcome
    lines = [f'name = "{path.stem}"', 'format = "parquet"', "[label]", f'column = "{label}"']
    lines += ["[timestamp]", f'column = "{time}"', f'format = "{format_}"']
    roles = [(name, "context") for name in context] + [(name, "candidate") for name in [*candidate, *numeric]]
    for name, role in roles:
        kind = "numeric" if name in numeric else "categorical"
        lines += ["[[field]]", f'name = "{name}"', f'kind = "{kind}"', f'role = "{role}"']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
