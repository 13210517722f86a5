"""What a search for a budget records: each trial, and the whole as compress.json. It runs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from export.judge.parity import AUC_TOLERANCE
from service.bundle.manifest import Parity

# Forms whose times differ by less are as fast as each other.
AS_FAST = 0.05


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
    """One trial, numbered from 1. `values` are its point on the axes; a failed one has no `form`."""

    number: int
    name: str
    values: dict[str, float | int | str]
    seconds: float
    form: Form | None = None
    reason: str = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a form may cost, and how much AUC it may lose to the dense graph."""

    microseconds: float | None = None
    bytes: int | None = None
    auc_loss: float | None = None

    def excess(self, form: Form) -> dict[str, float]:
        """By how much a form exceeds each limit, as a share of it; zero or less keeps it.

        A limit of AUC that is below what counts as a loss is exceeded by shares of that.
        """
        found = {}
        if self.microseconds is not None:
            found["microseconds"] = form.microseconds / self.microseconds - 1.0
        if self.bytes is not None:
            found["bytes"] = form.bytes / self.bytes - 1.0
        if self.auc_loss is not None:
            over = -form.validation.auc_delta - self.auc_loss
            found["auc"] = over / max(self.auc_loss, AUC_TOLERANCE)
        return found

    def hold(self, form: Form) -> bool:
        return all(over <= 0.0 for over in self.excess(form).values())

    @property
    def are_of_auc_alone(self) -> bool:
        """Whether neither time nor bytes are limited, so that the fastest form is asked for."""
        return self.microseconds is None and self.bytes is None

    def worth(self, form: Form) -> float:
        """What the best form within the limits has most of: AUC, or speed."""
        return -form.microseconds if self.are_of_auc_alone else form.auc


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """The dense float32 graph; `microseconds` are those of a candidate in the timing of the first trial."""

    auc: float
    bytes: int
    microseconds: float


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """The content of compress.json.

    `best` is the number of the trial that keeps the limits best, if any does: its bundle is written when the
    search ends.
    """

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
    """The trial within the limits that has the highest AUC; it is on the front.

    Where AUC alone is limited, it is the one of the fastest that has the highest AUC.
    """
    within = [(one, one.form) for one in trials if one.form is not None and limits.hold(one.form)]
    if within and limits.are_of_auc_alone:
        slowest = (1.0 + AS_FAST) * min(form.microseconds for _, form in within)
        within = [(one, form) for one, form in within if form.microseconds <= slowest]
    return min(within, key=lambda pair: _costs(pair[1]), default=(None, None))[0]
