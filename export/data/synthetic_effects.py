"""The effects on a click of the synthetic log: values, pairs and triples, slopes, domains, histories.

Effects are hashed from the value, so any number of features costs no memory. Frequent values have the largest
effects. This module samples no rows and no clicks.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from export.data.synthetic_config import DOMAIN, SyntheticConfig
from export.data.synthetic_random import Block, Codes, Floats, hashed, unit_variance

_HEAD: Final = 20.0  # effects halve at this rank: rare values, which cannot be learnt, have small effects
_FEW_VALUES: Final = 100
_TOPICS: Final = 16  # values of one topic are similar
_MEMORY: Final = 0.75  # weight of a history's value relative to the next one
_SLOPE, _TOPIC = 2, 3  # purposes of a value's hash; 0 and 1 are its own effects


class Effects:
    """The planted effects. Their constants depend on the seed and the shape of the log only."""

    def __init__(
        self,
        config: SyntheticConfig,
        cardinality: dict[str, int],
        shape: dict[str, Floats],
        constants: np.random.Generator,
    ) -> None:
        self.config = config
        self._cardinality = cardinality
        self._shape = shape
        self._names = (*config.numeric_names, *config.categorical_names)
        salts = constants.integers(0, 2**31, len(self._names)).tolist()
        self._salt = dict(zip(self._names, salts, strict=True))
        self._weight = dict(
            zip(self._names, constants.uniform(0.3, 1.0, len(self._names)).tolist(), strict=True)
        )
        self.pairs = self._choose(constants, 2, config.pairs)
        self.triples = self._choose(constants, 3, config.triples)
        self.products = tuple(
            (str(constants.choice(config.numeric_names)), str(constants.choice(config.categorical_names)))
            for _ in range(config.products if config.numeric_fields else 0)
        )
        # What each domain adds to each single effect and pair: nothing, its negative, or the effect itself.
        factors_shape = (config.domains + 1, len(self._names) + len(self.pairs))
        self._domain_factors = constants.choice([0.0, -1.0, 1.0], factors_shape)

    def _choose(self, constants: np.random.Generator, size: int, number: int) -> tuple[tuple[str, ...], ...]:
        """Sets of `size` fields that interact; every field is used once before any is used twice.

        Triples use fields with few values only: effects of rare triples could not be learnt.
        """
        most = _FEW_VALUES if size > 2 else self.config.features
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

    def parts(self, block: Block) -> list[tuple[Floats, float]]:
        """Each kind of effect's addition to the logit before scaling [n], and its configured deviation."""
        config = self.config
        latents = {name: [self._latent(name, block, purpose) for purpose in range(2)] for name in self._names}
        terms: list[Floats] = []  # separately, because domains change each
        singles = np.zeros(len(block))
        for name in self._names:
            terms.append(self._weight[name] * latents[name][0])
            singles += terms[-1]
        pairs = np.zeros(len(block))
        for left, right in self.pairs:
            terms.append(latents[left][0] * latents[right][0] + 0.5 * latents[left][1] * latents[right][1])
            pairs += terms[-1]
        for name in config.sequence_names:
            mean = self._mean_effect(block.histories[name])
            singles += mean
            pairs += 3 * mean * latents[config.history_of][0]
        triples = np.zeros(len(block))
        for first, second, third in self.triples:
            triples += latents[first][0] * latents[second][0] * latents[third][0]
        found = [
            (singles, config.effect_of_values),
            (pairs, config.effect_of_pairs),
            (triples, config.effect_of_triples),
        ]
        if config.effect_of_products:
            found.append((self._slopes(block), config.effect_of_products))
        if config.effect_of_domains:
            found.append((self._domain_effects(block, terms), config.effect_of_domains))
        if config.effect_of_interest:
            found.append((self._interest(block), config.effect_of_interest))
        return found

    def _latent(self, name: str, block: Block, purpose: int) -> Floats:
        """A number of about unit variance for each row's value of a field, independent for each purpose."""
        if name in block.numbers:
            speed, phase, absent = unit_variance(hashed(np.arange(3) + 7 * purpose, self._salt[name], 0))
            values = block.numbers[name]
            waves = np.sqrt(2) * np.sin((0.9 + 0.4 * speed) * np.log1p(np.maximum(values, -0.5)) + 3 * phase)
            found: Floats = np.where(np.isnan(values), absent, waves)
            return found
        return self._value_effect(name, block.ranks[name], purpose)

    def _value_effect(self, name: str, ranks: Codes, purpose: int) -> Floats:
        effective = np.where(ranks > self._cardinality[name], _HEAD, ranks)
        effects: Floats = unit_variance(hashed(ranks, self._salt[name], purpose)) / (1 + effective / _HEAD)
        return effects

    def _mean_effect(self, history: Codes) -> Floats:
        """history [n, length] -> the mean of its values' effects [n], whatever their order and number."""
        known = history > 0
        effects = np.where(known, self._value_effect(self.config.history_of, history, 0), 0.0)
        mean: Floats = effects.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        return mean

    def _slopes(self, block: Block) -> Floats:
        """A number times a slope that a categorical value sets."""
        total = np.zeros(len(block))
        for number, category in self.products:
            location, scale = self._shape[number]
            standard = (np.log1p(np.maximum(block.numbers[number], -0.5)) - location) / scale
            standard = np.where(np.isnan(standard), 0.0, np.clip(standard, -2.0, 2.0))
            total += standard * self._value_effect(category, block.ranks[category], _SLOPE)
        return total

    def _domain_effects(self, block: Block, terms: list[Floats]) -> Floats:
        """The change that each row's domain makes to the effects of single values and pairs."""
        factors = self._domain_factors[block.ranks[DOMAIN]]
        total = np.zeros(len(block))
        for position, term in enumerate(terms):
            total += factors[:, position] * term
        return total

    def _interest(self, block: Block) -> Floats:
        """The log of the weighted number of history values with the ad's topic; recent ones weigh most."""
        ads = block.ranks[self.config.history_of]
        total = np.zeros(len(block))
        for name in self.config.sequence_names:
            history = block.histories[name]
            length = (history > 0).sum(axis=1, keepdims=True)
            age = length - 1 - np.arange(history.shape[1])
            same = (self._topics(history) == self._topics(ads)[:, None]) & (history > 0) & (ads > 0)[:, None]
            total += np.log1p(np.where(same, _MEMORY ** np.maximum(age, 0), 0.0).sum(axis=1))
        return total

    def _topics(self, ranks: Codes) -> Codes:
        source = self.config.history_of
        return (hashed(ranks, self._salt[source], _TOPIC) % np.uint64(_TOPICS)).astype(np.int64)
