"""The random parts of a synthetic log: rows as codes, sizes and ranks by power laws, hashed numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(eq=False)
class Block:
    """Rows as codes. A categorical value is its rank by frequency, from 1; missing is 0, a number's NaN."""

    timestamps: NDArray[np.int64]  # [n]
    numbers: dict[str, Floats] = field(default_factory=dict)  # [n]
    ranks: dict[str, Codes] = field(default_factory=dict)  # [n]
    histories: dict[str, Codes] = field(default_factory=dict)  # [n, history_length], 0 where shorter
    true_pctr: Floats = field(default_factory=lambda: np.empty(0))
    clicks: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    prices: Floats = field(default_factory=lambda: np.empty(0))  # [n], where the log has prices

    def __len__(self) -> int:
        return len(self.timestamps)

    def head(self, rows: int) -> Block:
        """The first `rows` rows."""
        if rows == len(self):
            return self
        return Block(
            timestamps=self.timestamps[:rows],
            numbers={name: values[:rows] for name, values in self.numbers.items()},
            ranks={name: values[:rows] for name, values in self.ranks.items()},
            histories={name: values[:rows] for name, values in self.histories.items()},
            true_pctr=self.true_pctr[:rows],
            clicks=self.clicks[:rows],
            prices=self.prices[:rows],
        )


def geometric_sizes(fields: int, total: int) -> list[int]:
    """Cardinalities in geometric steps from 4 that sum to `total`."""
    low, high = 1.0, float(total)
    steps = np.arange(fields)
    for _ in range(200):
        ratio = (low + high) / 2
        with np.errstate(over="ignore"):
            too_many = bool(np.sum(4.0 * ratio**steps) > total)
        low, high = (low, ratio) if too_many else (ratio, high)
    sizes = np.floor(4.0 * low**steps).astype(np.int64)
    sizes[-1] += total - sizes.sum()
    return [int(size) for size in sizes]


def zipf_ranks(uniform: Floats, cardinality: int, exponent: float) -> Codes:
    """Uniform [0, 1) -> ranks 1..cardinality with density rank^-exponent (which is not 1)."""
    power = 1.0 - exponent
    top = (cardinality + 1.0) ** power
    ranks = (1.0 + uniform * (top - 1.0)) ** (1.0 / power)
    whole: Codes = np.minimum(ranks.astype(np.int64), cardinality)
    return whole


def hashed(codes: Codes, salt: int, purpose: int) -> NDArray[np.uint64]:
    """A 64-bit hash of each code. Reference: splitmix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = codes.astype(np.uint64) + np.uint64((salt * 1_000_003 + purpose) % 2**31 << 32)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def unit_variance(hashes: NDArray[np.uint64]) -> Floats:
    """Hashes -> numbers of mean 0 and variance 1."""
    numbers: Floats = ((hashes >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0) * np.sqrt(3.0)
    return numbers
