"""What a synthetic log looks like: every knob once, and settings that belong together. It draws nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from export.data.errors import LogError

DOMAIN: Final = "domain"
"""The field that says which domain a row is of, where a log has domains."""


@dataclass(frozen=True)
class SyntheticConfig:
    """What the log looks like. `features` counts the distinct values of all categorical fields together.

    An effect is the standard deviation of what it adds to the logit.
    """

    rows: int = 1_000_000
    seed: int = 0
    features: int = 100_000
    numeric_fields: int = 13
    categorical_fields: int = 26
    candidate_fields: int = 8  # the last ones of the categorical fields
    sequence_fields: int = 0  # histories of values of the last candidate field, oldest first
    history_length: int = 8  # of the longest history
    domains: int = 0  # values of a field `domain`; 0: no such field
    popularity: tuple[float, float] = (1.15, 1.5)  # from, to: exponents of the values' Zipf laws
    ctr: float = 0.1
    drift: float = 1.0  # 0: every day is like the first
    rows_per_day: int = 250_000
    start: int = 1_735_689_600  # unix second of the first row
    pairs: int = 8
    triples: int = 2
    products: int = 4  # pairs of a number and a categorical value that sets the number's slope
    effect_of_values: float = 0.7
    effect_of_pairs: float = 0.9
    effect_of_triples: float = 0.35
    effect_of_products: float = 0.0
    effect_of_domains: float = 0.0  # how far a domain turns the other effects over
    effect_of_interest: float = 0.0  # how many values of a history resemble the ad's, the latest above all

    def __post_init__(self) -> None:
        for name in ("rows", "rows_per_day", "categorical_fields", "history_length"):
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
        if self.domains == 1 or self.domains < 0:
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


PRESETS: Final = {
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
