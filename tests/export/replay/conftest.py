"""Auctions of a world whose click probabilities and prices are known, for all tests of the replay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from export.replay.auctions import Auctions


def drawn_auctions(rows: int, *, seed: int = 0, ctr: float = 0.02, correlation: float = 0.3) -> Auctions:
    """Log-normal prices that depend on pCTR a little, and clicks by pCTR; prices are whole numbers."""
    draw = np.random.default_rng(seed)
    z, noise = draw.standard_normal(rows), draw.standard_normal(rows)
    pctr = np.clip(ctr * np.exp(z - 0.5), 0.0, 1.0)
    mixed = correlation * z + np.sqrt(1 - correlation**2) * noise
    prices = np.floor(60.0 * np.exp(0.8 * mixed))
    return Auctions(draw.random(rows) < pctr, prices, pctr)


def write_auctions(path: Path, auctions: Auctions, *, header: bool = True) -> Path:
    """Text or Parquet, as the file's ending says."""
    frame = pl.DataFrame(
        {"click": auctions.clicks.astype(np.int8), "price": auctions.prices, "pctr": auctions.pctr}
    )
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, include_header=header, separator="\t" if path.suffix == ".tsv" else ",")
    return path
