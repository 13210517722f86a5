"""What a synthetic log looks like: every knob, and presets that set several. It draws nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from export.data.errors import LogError
from export.knobs import AT_LEAST_ONE, INNER_SHARE, NOT_NEGATIVE, UsedBy, check, knob

DOMAIN: Final = "domain"
"""The field that says which domain a row is of, where a log has domains."""


def _effect(default: float, what: str) -> float:
    return knob(default, f"standard deviation in the logit of what {what} add", NOT_NEGATIVE)


@dataclass(frozen=True)
class SyntheticConfig:
    """What the log looks like. A field without a meaning is set by code alone."""

    rows: int = knob(1_000_000, "rows to write", AT_LEAST_ONE)
    seed: int = knob(0, "the same seed writes the same log", NOT_NEGATIVE)
    features: int = knob(100_000, "distinct values of all categorical fields together", AT_LEAST_ONE)
    numeric_fields: int = knob(13, None, NOT_NEGATIVE)
    categorical_fields: int = knob(26, None, AT_LEAST_ONE)
    candidate_fields: int = knob(  # the last ones
        8, "how many of the 26 (zoo: 12) categorical fields belong to the ad", NOT_NEGATIVE
    )
    # Oldest value first.
    sequence_fields: int = knob(0, "histories of values of the ad's last field", NOT_NEGATIVE)
    history_length: int = knob(
        8, "values in the longest of them", AT_LEAST_ONE, used_by=UsedBy(("sequence_fields",))
    )
    # Values of the field DOMAIN.
    domains: int = knob(
        0, "domains, each of which turns over some of the effects; 0: no such field", NOT_NEGATIVE
    )
    popularity: tuple[float, float] = (1.15, 1.5)  # from, to: exponents of the values' Zipf laws
    ctr: float = knob(0.1, "share of rows with a click", INNER_SHARE)
    drift: float = knob(1.0, "how fast effects change from day to day; 0: not at all", NOT_NEGATIVE)
    rows_per_day: int = knob(250_000, "rows that share a day", AT_LEAST_ONE)
    # Log-normal, by the context and the click probability; column MARKET_PRICE.
    price: float = knob(
        0.0,
        "about the median market price of 1000 impressions, to replay bids; 0: no such column",
        NOT_NEGATIVE,
    )
    start: int = 1_735_689_600  # unix second of the first row
    pairs: int = 8
    triples: int = 2
    products: int = 4  # pairs of a number and a categorical value that sets the number's slope
    effect_of_values: float = _effect(0.7, "single values")
    effect_of_pairs: float = _effect(0.9, "pairs of fields")
    effect_of_triples: float = _effect(0.35, "triples of fields")
    effect_of_products: float = _effect(0.0, "numbers, times slopes that categorical values set,")
    effect_of_domains: float = _effect(0.0, "domains, which turn other effects over,")
    # The latest value of a history counts most.
    effect_of_interest: float = _effect(0.0, "a history's values that resemble the ad's")

    def __post_init__(self) -> None:
        check(self, LogError)
        if self.candidate_fields > self.categorical_fields:
            raise LogError(
                f"'candidate_fields' must be at most the {self.categorical_fields} categorical fields "
                f"(got {self.candidate_fields!r})"
            )
        least = 4 * self.categorical_fields
        if not least <= self.features <= 2**31:
            raise LogError(f"'features' must be from {least} to {2**31} (got {self.features!r})")
        if self.domains == 1:
            raise LogError(f"'domains' must be at least 2, or 0 for none (got {self.domains!r})")
        if self.effect_of_domains and not self.domains:
            raise LogError("'domains' must be at least 2 where domains have an effect (got 0)")
        if self.effect_of_interest and not self.sequence_fields:
            raise LogError("'sequence_fields' must be at least 1 where interest has an effect (got 0)")
        if self.effect_of_products and not (self.numeric_fields and self.products):
            raise LogError("'numeric_fields' and 'products' must be at least 1 where products have an effect")

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

    @property
    def history_of(self) -> str:
        """The field whose values the histories hold."""
        return self.categorical_names[-1]


PRESETS: Final[Mapping[str, SyntheticConfig]] = {
    "criteo": SyntheticConfig(),
    "zoo": SyntheticConfig(
        features=4_000,
        numeric_fields=6,
        categorical_fields=12,
        candidate_fields=4,
        sequence_fields=1,
        history_length=12,
        domains=8,
        popularity=(0.5, 0.95),
        ctr=0.2,
        drift=0.0,
        pairs=6,
        triples=3,
        effect_of_values=0.7,
        effect_of_pairs=0.6,
        effect_of_triples=1.0,
        effect_of_products=0.4,
        effect_of_domains=0.6,
        effect_of_interest=0.7,
    ),
}
"""`criteo`: the fields, sizes and drift of a display log. `zoo`: 20 fields, no drift, and all effects that
tell models apart: pairs, triples, slopes, domains, interest in what a history holds."""
