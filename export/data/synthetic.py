"""A synthetic click log whose true click probability is known row by row.

Values follow Zipf's law. A click depends on planted effects (`synthetic_effects`), on the day and on values
that first appear during the log. Rows come in blocks with a random stream each, so block b does not depend on
the number of rows. This module knows nothing of files.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Final

import numpy as np

from export.data.synthetic_config import DOMAIN, PRESETS, SyntheticConfig
from export.data.synthetic_effects import Effects
from export.data.synthetic_prices import market_prices
from export.data.synthetic_random import Block, Codes, Floats, geometric_sizes, zipf_ranks

__all__ = ["BLOCK_ROWS", "PRESETS", "Block", "SyntheticConfig", "SyntheticLog"]

BLOCK_ROWS: Final = 16_384
_CALIBRATION_BLOCK: Final = 2**31  # no log has so many blocks
_DAY_SECONDS: Final = 86_400
_NEW_VALUES_A_DAY: Final = 20
_DOMAIN_EXPONENT: Final = 0.4


class SyntheticLog:
    """The generator. Its constants depend on the seed and the shape of the log, not on `rows`."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        constants = np.random.Generator(np.random.Philox(np.random.SeedSequence([config.seed, 2**32])))
        sizes = geometric_sizes(config.categorical_fields, config.features)
        self._cardinality = dict(
            zip(config.categorical_names, constants.permutation(sizes).tolist(), strict=True)
        )
        self._exponent = {name: constants.uniform(*config.popularity) for name in config.categorical_names}
        self._missing = {
            name: float(constants.choice([0.0, 0.0, 0.05, 0.3]))
            for name in (*config.numeric_names, *config.categorical_names)
        }
        self._shape = {name: constants.uniform([0.5, 0.8], [3.0, 1.6]) for name in config.numeric_names}
        self.effects = Effects(config, self._cardinality, self._shape, constants)

    def blocks(self) -> Iterator[Block]:
        """The log's rows in order, BLOCK_ROWS at a time; the last block may be shorter."""
        for number in range(-(-self.config.rows // BLOCK_ROWS)):
            yield self.block(number, min(BLOCK_ROWS, self.config.rows - number * BLOCK_ROWS))

    def block(self, number: int, rows: int = BLOCK_ROWS) -> Block:
        """The first `rows` rows of block `number`."""
        block, generator = self._features(number)
        block.true_pctr = self.true_pctr(block)
        block.clicks = (generator.random(BLOCK_ROWS) < block.true_pctr).astype(np.uint8)
        if self.config.price:
            block.prices = market_prices(self.config, block, number)
        return block.head(rows)

    def true_pctr(self, block: Block) -> Floats:
        """The click probabilities of BLOCK_ROWS rows, whatever their values are."""
        logits = self._bias + self._score(block) + self._day_effect(block)
        return 1 / (1 + np.exp(-logits))

    def _features(self, number: int) -> tuple[Block, np.random.Generator]:
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
                self._add_new_values(name, ranks, day, generator)
            ranks[generator.random(BLOCK_ROWS) < self._missing[name]] = 0
            block.ranks[name] = ranks
        for name in config.sequence_names:
            source, longest = config.history_of, config.history_length
            shape = (BLOCK_ROWS, longest)
            ranks = zipf_ranks(generator.random(shape), self._cardinality[source], self._exponent[source])
            ranks[np.arange(longest) >= generator.integers(0, longest + 1, (BLOCK_ROWS, 1))] = 0
            block.histories[name] = ranks
        if config.domains:
            uniform = generator.random(BLOCK_ROWS)
            block.ranks[DOMAIN] = zipf_ranks(uniform, config.domains, _DOMAIN_EXPONENT)
        return block, generator

    def _add_new_values(self, name: str, ranks: Codes, day: Floats, generator: np.random.Generator) -> None:
        """Gives some rows a value that did not exist on the first day; newer values are more popular."""
        newest = (day * _NEW_VALUES_A_DAY).astype(np.int64)
        age = zipf_ranks(generator.random(BLOCK_ROWS), 3 * _NEW_VALUES_A_DAY, 1.1)
        share = 0.05 * self.config.drift
        new = (generator.random(BLOCK_ROWS) < share) & (age <= newest)
        ranks[new] = self._cardinality[name] + 1 + (newest - age)[new]

    def _day_effect(self, block: Block) -> Floats:
        day = (block.timestamps - self.config.start) / _DAY_SECONDS
        return self.config.drift * 0.1 * np.sin(2 * np.pi * day / 7)

    @cached_property
    def _scales(self) -> list[tuple[float, float]]:
        """Mean and factor of each kind of effect that give it the configured standard deviation."""
        return [
            (float(part.mean()), effect / max(float(part.std()), 1e-9))
            for part, effect in self.effects.parts(self._features(_CALIBRATION_BLOCK)[0])
        ]

    def _score(self, block: Block) -> Floats:
        score = np.zeros(BLOCK_ROWS)
        for (part, _), (mean, factor) in zip(self.effects.parts(block), self._scales, strict=True):
            score += (part - mean) * factor
        return score

    @cached_property
    def _bias(self) -> float:
        """The intercept that gives the calibration block the mean probability `ctr`, by bisection."""
        scores = self._score(self._features(_CALIBRATION_BLOCK)[0])
        low, high = -30.0, 30.0
        for _ in range(60):
            middle = (low + high) / 2
            if np.mean(1 / (1 + np.exp(-(scores + middle)))) < self.config.ctr:
                low = middle
            else:
                high = middle
        return (low + high) / 2
