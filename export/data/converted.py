"""Writes a converted log: Parquet and the TOML that describes it, both complete or neither."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import polars as pl

from export.data.errors import LogError

_ROW_GROUP: Final = 65_536


def check_out(out: Path) -> None:
    """Raises LogError if `out` does not end in .parquet; call it before the conversion starts."""
    if out.suffix != ".parquet":
        raise LogError(f"'out' must end in .parquet (got {out.name!r}); rename it")


def write_converted(frames: Iterator[pl.DataFrame], columns: pl.Schema, out: Path, description: str) -> Path:
    """Frames of these columns -> `out`, with `description` beside it; returns the description's path.

    Raises LogError as `check_out` does. If `frames` raises, no file is left.
    """
    check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.", suffix=".partial", dir=out.parent) as folder:
        partial = Path(folder)
        sink_parquet(frames, columns, partial / "log.parquet")
        (partial / "log.toml").write_text(description, encoding="utf-8")
        (partial / "log.parquet").rename(out)
        return (partial / "log.toml").rename(out.with_suffix(".toml"))


def sink_parquet(frames: Iterator[pl.DataFrame], columns: pl.Schema, path: Path) -> None:
    """Writes through polars' streaming sink, a few frames in memory. Raises what `frames` raises, OSError."""
    from polars.io.plugins import register_io_source

    failed: list[Exception] = []

    def source(
        with_columns: list[str] | None, predicate: Any, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        try:
            for frame in frames:
                yield frame if with_columns is None else frame.select(with_columns)
        except Exception as error:
            failed.append(error)
            raise

    try:
        register_io_source(source, schema=columns).sink_parquet(path, row_group_size=_ROW_GROUP)
    except pl.exceptions.PolarsError as error:
        if failed:  # polars wraps it in its own exception
            raise failed[0] from None
        reason = str(error).splitlines()[0]
        raise OSError(f"'{path.name}' cannot be written ({reason}); make room, or write elsewhere") from None
