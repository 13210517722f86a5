"""pCTR and value per click -> bid: pure functions that know nothing of requests, arms or models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MICROS = 1_000_000
# Up to a billion, micros have at most 15 digits, and decimals of 15 digits are all different as float64:
# dividing by a million gives the float that prints as exactly those digits, and comparing floats compares
# the decimals.
MAX_BID = 1e9
# A multiplier within these keeps what underflows far below a micro, and so worth 0.
MIN_MULTIPLIER, MAX_MULTIPLIER = 1e-6, 1e6
# Three inputs and three products, each off by at most 2**-53 of itself, stay within 2**-50 together.
RELATIVE_ERROR = 2.0**-50
# Above this, value x multiplier may overflow although the bid does not.
LARGEST_SAFE_VALUE = 1e280
# Under this many candidates a loop over floats costs less than a dozen numpy calls.
FEW = 32

# A float64 prints as at most 17 digits, so a product of three is exact here, and only the bid is rounded.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_ONE_MICRO = Decimal("0.000001")


@dataclass(frozen=True)
class BidPolicy:
    """What stands between the expected value of an impression and the bid for it.

    `multiplier` scales every bid (pacing, margin); `cap` is the highest bid, taken down to whole micros,
    None for none but `MAX_BID`; `floor` is the lowest: what would be below it is not bid at all. Both in
    the currency of value_per_click, per impression. Raises ValueError for a policy that makes no sense.
    """

    multiplier: float = 1.0
    cap: float | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not MIN_MULTIPLIER <= self.multiplier <= MAX_MULTIPLIER:
            raise ValueError(
                f"'multiplier' must be between {MIN_MULTIPLIER:g} and {MAX_MULTIPLIER:g} "
                f"(got {self.multiplier!r}); 1 bids the expected value"
            )
        if self.cap is not None and not 1 / MICROS <= self.cap < math.inf:
            raise ValueError(
                f"'cap' must be a finite number from 0.000001 (got {self.cap!r}); leave it out for no cap"
            )
        if not 0.0 <= self.floor < math.inf:
            raise ValueError(f"'floor' must be a finite number from 0 (got {self.floor!r}); 0 means none")

    @cached_property
    def cap_micros(self) -> int:
        """The highest bid in whole micros, rounded down so that no bid exceeds the cap."""
        cap = MAX_BID if self.cap is None else min(self.cap, MAX_BID)
        return int((Decimal(repr(cap)) * MICROS).to_integral_value(ROUND_FLOOR))


def bids(
    pctr: NDArray[np.float64],
    value_per_click: NDArray[np.float64],
    bid_floor: NDArray[np.float64],
    policy: BidPolicy,
) -> list[float | None]:
    """Bid per candidate: pCTR x value per click x multiplier, capped, rounded to micros; None is no bid.

    `pctr` [n] in [0, 1]; `value_per_click` [n] finite, nan where the client gave none (no bid then);
    `bid_floor` [n], 0 for none. The product is the exact one of the decimals that the three numbers print
    as (1.1 is 1.1, not the binary number nearest to it), rounded half to even; if that is below the
    policy's or the candidate's floor, there is no bid. A product beyond float64 is capped like any other,
    at `MAX_BID` if there is no cap. A negative value gives no bid.
    """
    if pctr.shape[0] < FEW:
        return _bids_one_by_one(pctr.tolist(), value_per_click.tolist(), bid_floor.tolist(), policy)
    cap = float(policy.cap_micros)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        value = value_per_click * policy.multiplier
        micros = pctr * value * MICROS
        rounded = np.rint(micros)
        # How far from a tie (half a micro): what is closer than the error of `micros` is undecided.
        to_tie = np.abs(np.abs(micros - rounded) - 0.5)
        undecided = ((to_tie <= micros * RELATIVE_ERROR) & (micros < cap + 2.0)) | (
            value > LARGEST_SAFE_VALUE
        )
    for i in np.flatnonzero(undecided).tolist():
        rounded[i] = exact_micros(float(pctr[i]), float(value_per_click[i]), policy)
    bid = np.minimum(rounded, cap) / MICROS + 0.0  # -0.0 + 0.0 is 0.0
    lowest = np.maximum(bid_floor, policy.floor)
    found: list[float | None] = bid.tolist()
    # Not `bid < lowest` and `value < 0`: nan has no bid either.
    for i in np.flatnonzero(~((bid >= lowest) & (value_per_click >= 0.0))).tolist():
        found[i] = None
    return found


def _bids_one_by_one(
    pctr: Iterable[float], value_per_click: Iterable[float], bid_floor: Iterable[float], policy: BidPolicy
) -> list[float | None]:
    """The same as `bids`, step by step, for a handful of candidates."""
    multiplier, cap, policy_floor = policy.multiplier, policy.cap_micros, policy.floor
    found: list[float | None] = []
    for probability, given_value, floor in zip(pctr, value_per_click, bid_floor, strict=True):
        if not given_value >= 0.0:  # nan, or negative
            found.append(None)
            continue
        value = given_value * multiplier
        micros = probability * value * MICROS
        if value > LARGEST_SAFE_VALUE:
            rounded = exact_micros(probability, given_value, policy)
        elif micros >= cap + 2:
            rounded = cap
        else:
            rounded = round(micros)
            if abs(abs(micros - rounded) - 0.5) <= micros * RELATIVE_ERROR:
                rounded = exact_micros(probability, given_value, policy)
        bid = min(rounded, cap) / MICROS
        found.append(bid if bid >= floor and bid >= policy_floor else None)
    return found


def exact_micros(pctr: float, value_per_click: float, policy: BidPolicy) -> int:
    """The bid before any floor, in whole micros, by decimal arithmetic: the definition, at 2 us each."""
    product = _EXACT.multiply(
        _EXACT.multiply(Decimal(repr(pctr)), Decimal(repr(value_per_click))), Decimal(repr(policy.multiplier))
    )
    if product >= MAX_BID:
        return policy.cap_micros
    micros = int(product.quantize(_ONE_MICRO, context=_EXACT).scaleb(6, context=_EXACT))
    return min(micros, policy.cap_micros)
