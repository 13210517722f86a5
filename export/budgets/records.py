"""What a search for a budget records: each trial, and the whole as compress.json. It runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from service.bundle.manifest import Parity

State = Literal["finished", "failed"]


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """A model as a trial has made it: the graph that would serve, how good it is and what it costs.

    `validation` and `unseen` are its changes from the dense float32 graph on the validation part, by which
    trials are judged, and on the calibration part, which no trial has seen. `microseconds` are those of a
    candidate in a request of so many: `share` of the dense graph's time, with which they are timed
    alternately, times what that took in the first trial.
    """

    variant: str
    auc: float
    validation: Parity
    unseen: Parity
    bytes: int
    share: float
    microseconds: float
    live_neurons: tuple[int, ...]
    parameters: int


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One trial, numbered from 1. `kept` are the shares that it kept; a failed one has no `form`."""

    number: int
    name: str
    kept: dict[str, float]
    seconds: float
    form: Form | None = None
    reason: str = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a form may cost."""

    microseconds: float | None = None
    bytes: int | None = None
    auc_loss: float | None = None

    def excess(self, form: Form) -> dict[str, float]:
        """By how much a form exceeds each limit, as a share of it; zero or less keeps it."""
        found = {}
        if self.microseconds is not None:
            found["microseconds"] = form.microseconds / self.microseconds - 1.0
        if self.bytes is not None:
            found["bytes"] = form.bytes / self.bytes - 1.0
        if self.auc_loss is not None:
            found["auc"] = -form.validation.auc_delta - self.auc_loss
        return found

    def hold(self, form: Form) -> bool:
        return all(over <= 0.0 for over in self.excess(form).values())


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """The dense float32 graph; `microseconds` are those of a candidate in the timing of the first trial."""

    auc: float
    bytes: int
    microseconds: float


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """The content of compress.json. `best` is the number of the trial whose bundle was written, if any."""

    model: str
    source: str
    machine: str
    candidates: int
    limits: Limits
    dense: Reference
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    best: int | None
    seconds: float


def front_of(trials: Sequence[Trial]) -> tuple[int, ...]:
    """The trials that no other beats in AUC, microseconds and bytes at once; of equal ones the first."""
    forms = [(one.number, one.form) for one in trials if one.form is not None]
    return tuple(
        number
        for number, form in forms
        if not any(
            _beats(other, form) or (_costs(other) == _costs(form) and at < number) for at, other in forms
        )
    )


def _costs(form: Form) -> tuple[float, float, int]:
    """The three figures, of which less is better."""
    return -form.auc, form.microseconds, form.bytes


def _beats(one: Form, other: Form) -> bool:
    pairs = [*zip(_costs(one), _costs(other), strict=True)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def best_of(trials: Sequence[Trial], limits: Limits) -> Trial | None:
    """The trial within the limits that has the highest AUC; where AUC alone is limited, the fastest one."""
    within = [one for one in trials if one.form is not None and limits.hold(one.form)]
    is_free = limits.microseconds is None and limits.bytes is None

    def worth(one: Trial) -> tuple[float, ...]:
        assert one.form is not None
        auc, microseconds, size = _costs(one.form)
        return (microseconds, size, auc) if is_free else (auc, microseconds, size)

    return min(within, key=worth, default=None)
