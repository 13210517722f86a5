"""A synthetic click log, Criteo-like, whose true click probability is known row by row.

Values follow Zipf's law. A click depends on single values, on planted pairs and triples of fields, on the day
and on values that appear while the log runs. Effects are hashed from the value, so any number of features
costs no memory, and frequent values carry most of what can be learnt. Rows come in blocks, each from its own
random stream: block b is the same however many rows are asked for. It knows nothing of files.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.data.errors import LogError

BLOCK_ROWS: Final = 16_384
_CALIBRATION_BLOCK: Final = 2**31  # no log reaches it
_DAY_SECONDS: Final = 86_400
_HEAD: Final = 20.0  # effects halve at this rank: what a model cannot learn from few rows weighs little
_HISTORY: Final = 8  # longest sequence
_NEW_VALUES_A_DAY: Final = 20

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class SyntheticConfig:
    """What the log looks like. `features` counts the distinct values of all categorical fields together."""

    rows: int = 1_000_000
    seed: int = 0
    features: int = 100_000
    numeric_fields: int = 13
    categorical_fields: int = 26
    candidate_fields: int = 8  # the last ones of the categorical fields
    sequence_fields: int = 0  # histories of values of the last candidate field
    ctr: float = 0.1
    drift: float = 1.0  # 0: every day is like the first
    rows_per_day: int = 250_000
    start: int = 1_735_689_600  # unix second of the first row
    pairs: int = 8
    triples: int = 2
    effect_of_values: float = 0.7  # standard deviations in the logit
    effect_of_pairs: float = 0.9
    effect_of_triples: float = 0.35

    def __post_init__(self) -> None:
        for name in ("rows", "rows_per_day", "categorical_fields"):
            if getattr(self, name) < 1:
                raise LogError(f"'{name}' must be at least 1 (got {getattr(self, name)!r})")
        if not 0 <= self.candidate_fields <= self.categorical_fields:
            raise LogError(
                f"'candidate_fields' must be at most the {self.categorical_fields} categorical fields "
                f"(got {self.candidate_fields!r})"
            )
        least = 4 * self.categorical_fields
        if not least <= self.features <= 2**31:
            raise LogError(f"'features' must be from {least} to {2**31} (got {self.features!r})")
        if not 0 < self.ctr < 1:
            raise LogError(f"'ctr' must be between 0 and 1 (got {self.ctr!r})")

    @property
    def numeric_names(self) -> tuple[str, ...]:
        return tuple(f"I{number}" for number in range(1, self.numeric_fields + 1))

    @property
    def categorical_names(self) -> tuple[str, ...]:
        return tuple(f"C{number}" for number in range(1, self.categorical_fields + 1))

    @property
    def candidate_names(self) -> tuple[str, ...]:
        return self.categorical_names[self.categorical_fields - self.candidate_fields :]

    @property
    def sequence_names(self) -> tuple[str, ...]:
        return tuple(f"S{number}" for number in range(1, self.sequence_fields + 1))


@dataclass(eq=False)
class Block:
    """Rows as codes. A categorical value is its rank by frequency, from 1; missing is 0, in numbers NaN."""

    timestamps: NDArray[np.int64]  # [n]
    numbers: dict[str, Floats] = field(default_factory=dict)  # [n]
    ranks: dict[str, Codes] = field(default_factory=dict)  # [n]
    histories: dict[str, Codes] = field(default_factory=dict)  # [n, _HISTORY], 0 where shorter
    true_pctr: Floats = field(default_factory=lambda: np.empty(0))
    clicks: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))


class SyntheticLog:
    """The generator: its constants follow from the seed and the shape of the log alone, never from `rows`."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        constants = np.random.Generator(np.random.Philox(np.random.SeedSequence([config.seed, 2**32])))
        sizes = geometric_sizes(config.categorical_fields, config.features)
        self._cardinality = dict(
            zip(config.categorical_names, constants.permutation(sizes).tolist(), strict=True)
        )
        self._exponent = {name: constants.uniform(1.15, 1.5) for name in config.categorical_names}
        self._missing = {
            name: float(constants.choice([0.0, 0.0, 0.05, 0.3]))
            for name in (*config.numeric_names, *config.categorical_names)
        }
        self._shape = {name: constants.uniform([0.5, 0.8], [3.0, 1.6]) for name in config.numeric_names}
        self._names = (*config.numeric_names, *config.categorical_names)
        salts = constants.integers(0, 2**31, len(self._names)).tolist()
        self._salt = dict(zip(self._names, salts, strict=True))
        self._weight = dict(
            zip(self._names, constants.uniform(0.3, 1.0, len(self._names)).tolist(), strict=True)
        )
        self.pairs = self._choose(constants, 2, config.pairs)
        self.triples = self._choose(constants, 3, config.triples)

    def _choose(self, constants: np.random.Generator, size: int, number: int) -> tuple[tuple[str, ...], ...]:
        """Sets of `size` fields that interact; each field comes once before any comes twice.

        Triples keep to fields of few values: those of rare values could not be learnt.
        """
        most = 100 if size > 2 else self.config.features
        names = [name for name in self._names if self._cardinality.get(name, 1) <= most]
        if len(names) < size:
            return ()
        order: list[str] = []
        chosen: list[tuple[str, ...]] = []
        while len(chosen) < number:
            if len(order) < size:
                order = constants.permutation(names).tolist()
            chosen.append(tuple(order.pop() for _ in range(size)))
        return tuple(chosen)

    def blocks(self) -> Iterator[Block]:
        """The log's rows in order, BLOCK_ROWS at a time, the last block cut to `rows`."""
        for number in range(-(-self.config.rows // BLOCK_ROWS)):
            yield self.block(number, min(BLOCK_ROWS, self.config.rows - number * BLOCK_ROWS))

    def block(self, number: int, rows: int = BLOCK_ROWS) -> Block:
        """Block `number`, its first `rows` rows."""
        block, generator = self._drawn(number)
        logits = self._bias + self._score(block) + self._day_effect(block)
        block.true_pctr = 1 / (1 + np.exp(-logits))
        block.clicks = (generator.random(BLOCK_ROWS) < block.true_pctr).astype(np.uint8)
        return _cut(block, rows)

    def _drawn(self, number: int) -> tuple[Block, np.random.Generator]:
        config = self.config
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([config.seed, number])))
        is_calibration = number == _CALIBRATION_BLOCK
        index = np.arange(BLOCK_ROWS) + (0 if is_calibration else number * BLOCK_ROWS)
        block = Block(config.start + index * _DAY_SECONDS // config.rows_per_day)
        for name in config.numeric_names:
            location, scale = self._shape[name]
            values = np.floor(np.exp(location + scale * generator.standard_normal(BLOCK_ROWS))) - 1.0
            values[generator.random(BLOCK_ROWS) < self._missing[name]] = np.nan
            block.numbers[name] = values
        day = index / config.rows_per_day
        for name in config.categorical_names:
            ranks = zipf_ranks(generator.random(BLOCK_ROWS), self._cardinality[name], self._exponent[name])
            if name in config.candidate_names:
                self._renew(name, ranks, day, generator)
            ranks[generator.random(BLOCK_ROWS) < self._missing[name]] = 0
            block.ranks[name] = ranks
        for name in config.sequence_names:
            source = config.categorical_names[-1]
            shape = (BLOCK_ROWS, _HISTORY)
            ranks = zipf_ranks(generator.random(shape), self._cardinality[source], self._exponent[source])
            ranks[np.arange(_HISTORY) >= generator.integers(0, _HISTORY + 1, (BLOCK_ROWS, 1))] = 0
            block.histories[name] = ranks
        return block, generator

    def _renew(self, name: str, ranks: Codes, day: Floats, generator: np.random.Generator) -> None:
        """Gives some rows a value that did not exist on the first day; the youngest are the most popular."""
        born = (day * _NEW_VALUES_A_DAY).astype(np.int64)
        age = zipf_ranks(generator.random(BLOCK_ROWS), 3 * _NEW_VALUES_A_DAY, 1.1)
        share = 0.05 * self.config.drift
        new = (generator.random(BLOCK_ROWS) < share) & (age <= born)
        ranks[new] = self._cardinality[name] + 1 + (born - age)[new]

    def _day_effect(self, block: Block) -> Floats:
        day = (block.timestamps - self.config.start) / _DAY_SECONDS
        return self.config.drift * 0.1 * np.sin(2 * np.pi * day / 7)

    def _latent(self, name: str, block: Block, purpose: int) -> Floats:
        """A number of about unit variance for each row's value of a field, another one for each purpose."""
        if name in block.numbers:
            speed, phase, absent = _uniform(_mixed(np.arange(3) + 7 * purpose, self._salt[name], 0))
            values = block.numbers[name]
            waves = np.sqrt(2) * np.sin((0.9 + 0.4 * speed) * np.log1p(np.maximum(values, -0.5)) + 3 * phase)
            found: Floats = np.where(np.isnan(values), absent, waves)
            return found
        return self._value_effect(name, block.ranks[name], purpose)

    def _value_effect(self, name: str, ranks: Codes, purpose: int) -> Floats:
        effective = np.where(ranks > self._cardinality[name], _HEAD, ranks)
        effects: Floats = _uniform(_mixed(ranks, self._salt[name], purpose)) / (1 + effective / _HEAD)
        return effects

    def _parts(self, block: Block) -> tuple[Floats, Floats, Floats]:
        """What single values, pairs and triples add to the logit, before scaling; [n] each."""
        config = self.config
        latents = {name: [self._latent(name, block, purpose) for purpose in range(2)] for name in self._names}
        singles = np.zeros(BLOCK_ROWS)
        for name in self._names:
            singles += self._weight[name] * latents[name][0]
        pairs = np.zeros(BLOCK_ROWS)
        for left, right in self.pairs:
            pairs += latents[left][0] * latents[right][0] + 0.5 * latents[left][1] * latents[right][1]
        for name in config.sequence_names:
            source = config.categorical_names[-1]
            known = block.histories[name] > 0
            liked = np.where(known, self._value_effect(source, block.histories[name], 0), 0.0)
            mean = liked.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
            singles += mean
            pairs += 3 * mean * latents[source][0]
        triples = np.zeros(BLOCK_ROWS)
        for first, second, third in self.triples:
            triples += latents[first][0] * latents[second][0] * latents[third][0]
        return singles, pairs, triples

    @cached_property
    def _scales(self) -> list[tuple[float, float]]:
        """Mean and factor of the three parts, so that each has the standard deviation that was asked for."""
        config = self.config
        wanted = (config.effect_of_values, config.effect_of_pairs, config.effect_of_triples)
        parts = self._parts(self._drawn(_CALIBRATION_BLOCK)[0])
        return [
            (float(part.mean()), effect / max(float(part.std()), 1e-9))
            for part, effect in zip(parts, wanted, strict=True)
        ]

    def _score(self, block: Block) -> Floats:
        parts = zip(self._parts(block), self._scales, strict=True)
        score = np.zeros(BLOCK_ROWS)
        for part, (mean, factor) in parts:
            score += (part - mean) * factor
        return score

    @cached_property
    def _bias(self) -> float:
        """The intercept at which the mean probability of the calibration block is `ctr`; by bisection."""
        scores = self._score(self._drawn(_CALIBRATION_BLOCK)[0])
        low, high = -30.0, 30.0
        for _ in range(60):
            middle = (low + high) / 2
            if np.mean(1 / (1 + np.exp(-(scores + middle)))) < self.config.ctr:
                low = middle
            else:
                high = middle
        return (low + high) / 2


def geometric_sizes(fields: int, total: int) -> list[int]:
    """Cardinalities from 4 up in geometric steps that sum to `total`."""
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


def _mixed(codes: Codes, salt: int, purpose: int) -> NDArray[np.uint64]:
    """A 64-bit hash of each code. Reference: splitmix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = codes.astype(np.uint64) + np.uint64((salt * 1_000_003 + purpose) % 2**31 << 32)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _uniform(hashes: NDArray[np.uint64]) -> Floats:
    """Hashes -> numbers of mean 0 and variance 1."""
    numbers: Floats = ((hashes >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0) * np.sqrt(3.0)
    return numbers


def _cut(block: Block, rows: int) -> Block:
    if rows == BLOCK_ROWS:
        return block
    return Block(
        timestamps=block.timestamps[:rows],
        numbers={name: values[:rows] for name, values in block.numbers.items()},
        ranks={name: values[:rows] for name, values in block.ranks.items()},
        histories={name: values[:rows] for name, values in block.histories.items()},
        true_pctr=block.true_pctr[:rows],
        clicks=block.clicks[:rows],
    )
