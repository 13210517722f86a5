"""Writes the synthetic log as Parquet or CSV in bounded memory, with its description (TOML) beside it."""

import gzip
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from export.data.converted import sink_parquet
from export.data.errors import LogError
from export.data.progress import Progress
from export.data.synthetic import SyntheticLog
from export.data.synthetic_config import DOMAIN, SyntheticConfig
from export.data.synthetic_prices import MARKET_PRICE
from export.data.synthetic_random import Block

_HEX: Final = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)


def write_synthetic_log(
    config: SyntheticConfig, path: Path, *, report: Callable[[str], None] = print
) -> Path:
    """Writes `path` (.parquet, .csv, .csv.gz) and the TOML that describes it; returns the TOML's path.

    Each file is complete or absent.
    """
    format_, ending = _format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = SyntheticLog(config)
    with (
        Progress("generated", report, about=config.rows) as progress,
        tempfile.TemporaryDirectory(prefix=f"{path.name}.", suffix=".partial", dir=path.parent) as folder,
    ):
        partial = Path(folder) / path.name
        if format_ == "parquet":
            _write_parquet(log, partial, progress)
        else:
            _write_csv(log, partial, progress)
        description = Path(folder) / "description.toml"
        description.write_text(describe(config, format_), encoding="utf-8")
        partial.rename(path)
        described = description.rename(path.with_name(path.name.removesuffix(ending) + ".toml"))
        progress.finish()
    return described


def _format(path: Path) -> tuple[str, str]:
    for ending in (".parquet", ".csv.gz", ".csv"):
        if path.name.endswith(ending):
            return ("parquet" if ending == ".parquet" else "csv"), ending
    raise LogError(f"'out' must end in .parquet, .csv or .csv.gz (got {path.name!r}); rename it")


def _write_parquet(log: SyntheticLog, path: Path, progress: Progress) -> None:
    def frames() -> Iterator[pl.DataFrame]:
        for block in log.blocks():
            frame = block_frame(log.config, block)
            progress.add(len(frame))
            yield frame

    sink_parquet(frames(), block_frame(log.config, log.block(0, rows=1)).schema, path)


def _write_csv(log: SyntheticLog, path: Path, progress: Progress) -> None:
    # No time in the gzip header, so the same seed gives the same bytes.
    with path.open("wb") as raw:
        packed = gzip.GzipFile("", "wb", 1, raw, mtime=0) if path.suffix == ".gz" else None
        for number, block in enumerate(log.blocks()):
            frame = block_frame(log.config, block)
            frame = frame.with_columns(pl.col(name).list.join("|") for name in log.config.sequence_names)
            (packed or raw).write(frame.write_csv(include_header=number == 0).encode())
            progress.add(len(frame))
        if packed is not None:
            packed.close()


def block_frame(config: SyntheticConfig, block: Block) -> pl.DataFrame:
    """A block as the log's columns: click, timestamp, true_pctr, I.. (Int64), C.. (text), S.. (lists).

    A log with prices ends in its market_price.
    """
    columns: dict[str, pl.Series] = {
        "click": pl.Series(block.clicks),
        "timestamp": pl.Series(block.timestamps),
        "true_pctr": pl.Series(block.true_pctr.astype(np.float32)),
    }
    for name, values in block.numbers.items():
        absent = np.isnan(values)
        numbers = pl.Series(np.where(absent, 0, values).astype(np.int64))
        columns[name] = numbers if not absent.any() else _nulled(numbers, absent)
    names = list(block.ranks)
    texts = value_texts([(number, block.ranks[name]) for number, name in enumerate(names)])
    for name, text in zip(names, texts, strict=True):
        columns[name] = _nulled(text, block.ranks[name] == 0)
    for name, ranks in block.histories.items():
        # A history holds values of another field in the same form.
        columns[name] = _lists(value_texts([(names.index(config.history_of), ranks.ravel())])[0], ranks)
    if config.price:
        columns[MARKET_PRICE] = pl.Series(block.prices)
    return pl.DataFrame(columns)


def _nulled(values: pl.Series, absent: NDArray[np.bool_]) -> pl.Series:
    return pl.select(pl.when(pl.Series(~absent)).then(values)).to_series()


def _lists(texts: pl.Series, ranks: NDArray[np.int64]) -> pl.Series:
    rows, width = ranks.shape
    frame = pl.DataFrame({"row": np.repeat(np.arange(rows), width), "text": texts})
    frame = frame.filter(pl.Series(ranks.ravel() > 0)).group_by("row", maintain_order=True).agg("text")
    everything = pl.DataFrame({"row": np.arange(rows)})
    return everything.join(frame, on="row", how="left", maintain_order="left")["text"]


def value_texts(columns: list[tuple[int, NDArray[np.int64]]]) -> list[pl.Series]:
    """(field number, ranks [n]) -> eight hexadecimal digits each [n], as Criteo's values look.

    The map is one-to-one within a field. All columns are written as one CSV text that polars splits, far
    faster than making the strings one by one.
    """
    rows = len(columns[0][1])
    text = np.full((rows, 9 * len(columns)), ord(","), np.uint8)
    for position, (number, ranks) in enumerate(columns):
        codes = _scattered(ranks.astype(np.uint32), number).astype(">u4")
        digits = _HEX[codes.view(np.uint8).reshape(rows, 4)].view(np.uint8)
        text[:, 9 * position : 9 * position + 8] = digits.reshape(rows, 8)
    text[:, -1] = ord("\n")
    names = [f"column_{number}" for number in range(1, len(columns) + 1)]
    frame = pl.read_csv(
        text.tobytes(), has_header=False, schema=dict.fromkeys(names, pl.String), quote_char=None
    )
    return frame.get_columns()


def _scattered(ranks: NDArray[np.uint32], number: int) -> NDArray[np.uint32]:
    """A one-to-one map of 32-bit numbers that looks random. Reference: MurmurHash3's finalizer (Appleby)."""
    with np.errstate(over="ignore"):
        z = ranks + np.uint32(number * 0x9E3779B9 % 2**32)
        z = (z ^ (z >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        z = (z ^ (z >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return z ^ (z >> np.uint32(16))


def describe(config: SyntheticConfig, format_: str) -> str:
    """The log's TOML description."""
    about = (
        f"# `{MARKET_PRICE}` is what the best of all other bids was, CPM: to replay bids, not for training."
    )
    price = [about] if config.price else []
    lines = [
        f"# A synthetic log: seed {config.seed}, {config.rows} rows, {config.features} categorical features.",
        "# `true_pctr` is the probability of the click: for evaluation, not for training.",
        *price,
        'name = "synthetic"',
        f'format = "{format_}"',
        'true_pctr = "true_pctr"',
        "",
        "[label]",
        'column = "click"',
        "",
        "[timestamp]",
        'column = "timestamp"',
        'format = "unix"',
    ]
    kinds = dict.fromkeys(config.numeric_names, "numeric")
    kinds |= dict.fromkeys(config.categorical_names, "categorical")
    if config.domains:
        kinds[DOMAIN] = "categorical"
    kinds |= dict.fromkeys(config.sequence_names, "sequence")
    for name, kind in kinds.items():
        role = "candidate" if name in config.candidate_names else "context"
        lines += ["", "[[field]]", f'name = "{name}"', f'kind = "{kind}"', f'role = "{role}"']
        if kind == "sequence":
            lines += [f"max_length = {config.history_length}", f'same_values_as = "{config.history_of}"']
    return "\n".join(lines) + "\n"
