"""The market prices of a synthetic log: what the best of all other bids for each impression was.

The logarithm of a price is normal about a mean that depends on the context and on the click probability,
since others bid for what is often clicked too. Prices have a random stream of their own, so a log with prices
has otherwise the rows of one without.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from export.data.synthetic_config import SyntheticConfig
from export.data.synthetic_random import Block, Floats, hashed, unit_variance

MARKET_PRICE: Final = "market_price"
"""The column of the prices, where a log has them."""

_FIELDS: Final = 3  # of the context, the first ones, that prices depend on
_STREAM, _PURPOSE = 1, 4  # other ones than those of rows and of effects
# Deviations of a price's logarithm by context and by chance, and its growth with that of the probability.
_BY_CONTEXT, _BY_CHANCE, _BY_PCTR = 0.5, 0.6, 0.2


def market_prices(config: SyntheticConfig, block: Block, number: int) -> Floats:
    """The prices of block `number`, [n], for 1000 impressions; `config.price` is about their median."""
    seed = np.random.SeedSequence([config.seed, number, _STREAM])
    chance = np.random.Generator(np.random.Philox(seed)).standard_normal(len(block))
    context = [name for name in config.categorical_names if name not in config.candidate_names][:_FIELDS]
    effects = [unit_variance(hashed(block.ranks[name], salt, _PURPOSE)) for salt, name in enumerate(context)]
    by_context = np.sum(effects, axis=0) / np.sqrt(len(effects)) if effects else np.zeros(len(block))
    by_pctr = np.log(block.true_pctr / config.ctr)
    logs = _BY_CONTEXT * by_context + _BY_CHANCE * chance + _BY_PCTR * by_pctr
    return np.round(config.price * np.exp(logs), 2)
