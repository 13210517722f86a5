"""pCTR and value per click -> bid, as pure functions that know no request, arm or model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.bundle.native import _native

MICROS = 1_000_000
# Up to a billion, micros have at most 15 digits, and float64 distinguishes all decimals of 15 digits. So
# dividing by a million gives the float that prints as exactly those digits, and comparing floats compares
# decimals.
MAX_BID = 1e9
# Within these bounds, a product that underflows is far below a micro, so its bid is 0 anyway.
MIN_MULTIPLIER, MAX_MULTIPLIER = 1e-6, 1e6
MIN_WIN_PRICE, MAX_WIN_PRICE = 1e-9, MAX_BID
# Three inputs and three products, each with a relative error of at most 2**-53, stay within 2**-50 together.
RELATIVE_ERROR = 2.0**-50
# A shaded bid has a fourth input, and five operations more, with a square root among them.
SHADED_ERROR = 2.0**-48
# Above this, value x multiplier may overflow although the bid does not.
LARGEST_SAFE_VALUE = 1e280
# Up to this, nothing overflows, and near ties are rare.
USUAL_VALUE = 1e5
# Below this many candidates, a loop over floats is faster than a dozen numpy calls.
FEW = 24

# A float64 prints as at most 17 digits, so a product of three is exact here; only the bid is rounded.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
# The same with a fourth factor, and for sums of products whose digits lie far apart.
_EXACT_SHADED = Context(prec=120, rounding=ROUND_HALF_EVEN)
_ONE_MICRO = Decimal("0.000001")


@dataclass(frozen=True)
class BidPolicy:
    """How the expected value of an impression becomes a bid.

    `multiplier` scales every bid (pacing, margin). `cap` is the highest bid, rounded down to whole micros;
    None leaves `MAX_BID`. `floor` is the lowest bid; below it there is none. `win_price` is the price at
    which half of the auctions are won, and shades bids; None leaves them linear. These are in the currency of
    value_per_click, per impression. Raises ValueError for a contradictory policy.

    Where a bid b wins with the chance b / (b + c), the bid that gains most for an impression worth v is
    sqrt(c v + c^2) - c: ORTB1 of Zhang, Yuan & Wang, "Optimal Real-Time Bidding for Display Advertising", KDD
    2014, where c is the win price, v is pCTR / lambda, and 1 / lambda is value_per_click x multiplier.
    """

    multiplier: float = 1.0
    cap: float | None = None
    floor: float = 0.0
    win_price: float | None = None

    def __post_init__(self) -> None:
        if not MIN_MULTIPLIER <= self.multiplier <= MAX_MULTIPLIER:
            raise ValueError(
                f"'multiplier' must be between {MIN_MULTIPLIER:g} and {MAX_MULTIPLIER:g} "
                f"(got {self.multiplier!r}); 1 bids the expected value"
            )
        if self.win_price is not None and not MIN_WIN_PRICE <= self.win_price <= MAX_WIN_PRICE:
            raise ValueError(
                f"'win_price' must be between {MIN_WIN_PRICE:g} and {MAX_WIN_PRICE:g} "
                f"(got {self.win_price!r}); leave it out for bids that grow linearly"
            )
        if self.cap is not None and not 1 / MICROS <= self.cap < math.inf:
            raise ValueError(
                f"'cap' must be a finite number from 0.000001 (got {self.cap!r}); leave it out for no cap"
            )
        if not 0.0 <= self.floor < math.inf:
            raise ValueError(f"'floor' must be a finite number from 0 (got {self.floor!r}); 0 means none")
        if self.floor > self.cap_micros / MICROS:
            raise ValueError(
                f"'floor' must be at most the highest bid, {self.cap_micros / MICROS:g} "
                f"(got {self.floor!r}); above it there would be no bids at all"
            )

    @property
    def relative_error(self) -> float:
        """How far a bid in float64 is off the exact one at most, as a share of it."""
        return RELATIVE_ERROR if self.win_price is None else SHADED_ERROR

    @cached_property
    def cap_micros(self) -> int:
        """The highest bid in whole micros, rounded down so that no bid exceeds the cap."""
        cap = MAX_BID if self.cap is None else min(self.cap, MAX_BID)
        return int((Decimal(repr(cap)) * MICROS).to_integral_value(ROUND_FLOOR))


def bids(
    pctr: NDArray[np.float64],
    value_per_click: Sequence[float | None] | None,
    bid_floor: Sequence[float | None] | None,
    policy: BidPolicy,
) -> list[float | None]:
    """Bid per candidate: pCTR x value per click x multiplier, shaded, capped, in micros; None is no bid.

    `pctr` [n] in [0, 1]; `value_per_click` [n] finite, with None for candidates without one (no bid),
    or None for all; `bid_floor` [n], with None for no floor. The product is exact, of the decimals that the
    three numbers print as (1.1 is 1.1, not the nearest binary number), and rounded half to even. Below the
    policy's or the candidate's floor there is no bid, nor where it rounds to zero micros. A shaded bid is
    that of the exact product, rounded as exactly. A product beyond float64 is capped like any other, at
    `MAX_BID` without a cap. A value of zero or less gives no bid.
    """
    rows = pctr.shape[0]
    if not value_per_click or _is_absent(value_per_click):
        return [None] * rows
    compute = _bids_one_by_one if rows < FEW else _bids_at_once
    return compute(pctr, value_per_click, bid_floor or [None] * rows, policy)


def _bids_one_by_one(
    pctr: NDArray[np.float64],
    value_per_click: Sequence[float | None],
    bid_floor: Sequence[float | None],
    policy: BidPolicy,
) -> list[float | None]:
    """`bids` of few candidates, one after the other."""
    multiplier, cap, policy_floor = policy.multiplier, policy.cap_micros, policy.floor
    price, error = policy.win_price, policy.relative_error
    found: list[float | None] = []
    for probability, given, floor in zip(pctr.tolist(), value_per_click, bid_floor, strict=True):
        if given is None or not given > 0.0:  # zero, negative, or nan
            found.append(None)
            continue
        worth = probability * (given * multiplier)
        if price is not None:
            worth = price * worth / (math.sqrt(price * worth + price * price) + price)
        micros = worth * MICROS
        if micros < cap + 2:
            rounded = round(micros)
            if 0.5 - abs(micros - rounded) <= micros * error:
                rounded = exact_micros(probability, given, policy)
            bid = min(rounded, cap) / MICROS
        elif given * multiplier > LARGEST_SAFE_VALUE:
            bid = exact_micros(probability, given, policy) / MICROS
        else:
            bid = cap / MICROS
        found.append(bid if bid and bid >= policy_floor and (floor is None or bid >= floor) else None)
    return found


def _bids_at_once(
    pctr: NDArray[np.float64],
    value_per_click: Sequence[float | None],
    bid_floor: Sequence[float | None],
    policy: BidPolicy,
) -> list[float | None]:
    """`bids` of many candidates, with numpy."""
    given = np.fromiter(value_per_click, np.float64, len(value_per_click))  # None is nan
    largest = float(np.fmax.reduce(np.abs(given))) * policy.multiplier
    if largest <= USUAL_VALUE:
        rounded = _rounded_micros(pctr, given, largest, policy)
    else:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            rounded = _rounded_micros(pctr, given, largest, policy)
    bid = np.minimum(rounded, float(policy.cap_micros)) / MICROS
    is_none = ~(bid > 0.0)  # of a value that is negative or nan too
    if not _is_absent(bid_floor):
        is_none |= bid < np.fromiter(bid_floor, np.float64, len(bid_floor))
    if policy.floor:
        is_none |= bid < policy.floor
    found: list[float | None] = bid.tolist()
    for i in is_none.nonzero()[0].tolist():
        found[i] = None
    return found


def _rounded_micros(
    pctr: NDArray[np.float64], given: NDArray[np.float64], largest: float, policy: BidPolicy
) -> NDArray[np.float64]:
    """Whole micros [n] before cap and floors; `largest` is the largest of `given` x multiplier, or nan."""
    value = given if policy.multiplier == 1.0 else given * policy.multiplier
    worth = pctr * value
    if policy.win_price is not None:
        worth = _shaded(worth, policy.win_price)
    micros = worth * MICROS
    rounded = np.rint(micros)
    from_whole = np.abs(micros - rounded)  # half a micro is a tie
    # One comparison decides for all, except for rare near ties and very large values.
    error = policy.relative_error
    if not np.fmax.reduce(from_whole) < 0.5 - largest * MICROS * error:
        is_close = (0.5 - from_whole <= micros * error) & (micros < policy.cap_micros + 2.0)
        for i in np.flatnonzero(is_close | (value > LARGEST_SAFE_VALUE)).tolist():
            rounded[i] = exact_micros(float(pctr[i]), float(given[i]), policy)
    return rounded


def _shaded(worth: NDArray[np.float64], price: float) -> NDArray[np.float64]:
    """sqrt(c v + c^2) - c of v [n], in a form that does not cancel; 0 for a negative v."""
    scaled = price * np.maximum(worth, 0.0)
    shaded: NDArray[np.float64] = scaled / (np.sqrt(scaled + price * price) + price)
    return shaded


def _is_absent(column: Sequence[float | None]) -> bool:
    """Whether all values are None. The first check is fast and usually decides."""
    return column[0] is None and column.count(None) == len(column)


def native_policy(policy: BidPolicy) -> _native.BidPolicy:
    """The same policy to the native core, which must be built and gives the same bids."""

    def exact(pctr: float, value_per_click: float) -> int:
        return exact_micros(pctr, value_per_click, policy)

    return _native.BidPolicy(
        policy.multiplier, policy.cap_micros, policy.floor, policy.win_price or 0.0, exact
    )


def exact_micros(pctr: float, value_per_click: float, policy: BidPolicy) -> int:
    """The bid before any floor, in whole micros, by decimal arithmetic: the definition, but slow."""
    product = _EXACT.multiply(
        _EXACT.multiply(Decimal(repr(pctr)), Decimal(repr(value_per_click))), Decimal(repr(policy.multiplier))
    )
    if policy.win_price is not None:
        return min(_shaded_micros(product, Decimal(repr(policy.win_price))), policy.cap_micros)
    if product >= MAX_BID:
        return policy.cap_micros
    micros = int(product.quantize(_ONE_MICRO, context=_EXACT).scaleb(6, context=_EXACT))
    return min(micros, policy.cap_micros)


def _shaded_micros(worth: Decimal, price: Decimal) -> int:
    """sqrt(c v + c^2) - c in whole micros, rounded half to even, at most MAX_BID.

    A root has no last digit, so it only finds the two neighbours. A bid is above t where c v is above
    t^2 + 2 c t, which is exact: that compares it with the tie between them.
    """
    exact = _EXACT_SHADED
    scaled = exact.multiply(price, worth)

    def is_above(bid: Decimal) -> int:
        """1, 0 or -1: whether the exact bid is above this one, is it, or is below."""
        products = exact.multiply(bid, bid), exact.multiply(exact.multiply(price, 2), bid)
        return int(exact.compare(scaled, exact.add(*products)))

    if is_above(Decimal(MAX_BID)) >= 0:
        return int(MAX_BID) * MICROS
    root = exact.sqrt(exact.add(scaled, exact.multiply(price, price)))
    bid = exact.divide(scaled, exact.add(root, price))
    below = int(exact.multiply(bid, MICROS))
    side = is_above(exact.divide(Decimal(2 * below + 1), 2 * MICROS))
    return below + (below % 2 if side == 0 else side > 0)
