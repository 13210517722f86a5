"""What a gate says of a canary; it knows no gate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Gate(StrEnum):
    """The gates. The first ones speak within seconds, the others need feedback."""

    ERRORS = "errors"
    NAN = "nan"
    LATENCY = "latency"
    PCTR = "pctr"
    PCOC = "pcoc"
    LOGLOSS = "logloss"
    CLICKS = "clicks"


FAST = (Gate.ERRORS, Gate.NAN, Gate.LATENCY, Gate.PCTR)
SLOW = (Gate.PCOC, Gate.LOGLOSS, Gate.CLICKS)


@dataclass(frozen=True)
class Reading:
    """What speaks against the canary, as a part of what takes it back: at 1 it does.

    None: too little is known. `words` say what was counted, for people.
    """

    gate: Gate
    level: float | None
    words: str

    @property
    def has_failed(self) -> bool:
        """Whether the canary is to be taken back."""
        return self.level is not None and self.level >= 1.0
