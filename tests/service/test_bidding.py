"""Bids equal their definition in decimal arithmetic, for every kind of float64."""

from __future__ import annotations

import json
import math
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bidding import FEW, MAX_BID, BidPolicy, bids

Row = tuple[float, float | None, float | None]


def by_decimal(pctr: float, value: float | None, floor: float | None, policy: BidPolicy) -> float | None:
    """The definition, without any optimization."""
    if value is None:
        return None
    with localcontext(prec=1_000):
        bid = Decimal(repr(pctr)) * Decimal(repr(value)) * Decimal(repr(policy.multiplier))
        if policy.win_price is not None and bid > 0:
            price = Decimal(repr(policy.win_price))
            bid = (price * bid + price * price).sqrt() - price
        bid = min(bid, Decimal(10) ** 9).quantize(Decimal("0.000001"), ROUND_HALF_EVEN)
        if policy.cap is not None:
            bid = min(bid, Decimal(repr(policy.cap)).quantize(Decimal("0.000001"), ROUND_FLOOR))
        lowest = max(Decimal(repr(floor or 0.0)), Decimal(repr(policy.floor)))
        return None if bid <= 0 or bid < lowest else float(bid)


def computed(rows: list[Row], policy: BidPolicy) -> list[float | None]:
    pctr, value, floor = zip(*rows, strict=True)
    return bids(np.array(pctr, np.float64), value, floor, policy)


def same(found: list[float | None], expected: list[float | None]) -> bool:
    """Equal and printed alike."""
    return json.dumps(found) == json.dumps(expected)


WHOLE_RANGE = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False)
MONEY = st.decimals(min_value=0, max_value=1000, places=6).map(float)
HALF_MICROS = st.integers(0, 10**7).map(lambda n: float(Decimal(n) / 2_000_000))
PROBABILITIES = st.one_of(
    st.floats(min_value=0.0, max_value=1.0),
    st.decimals(min_value=0, max_value=1, places=3).map(float),
    st.sampled_from([5e-324, 1e-310, 1e-300, 0.25, 0.5, 1.0 - 2**-53, 1.0]),
)
VALUES = st.one_of(
    st.none(),
    WHOLE_RANGE,
    MONEY,
    HALF_MICROS,
    st.sampled_from(
        [0.0, -0.0, 5e-324, 1e-310, 1e-6, 5e-7, 1.5e-6, 2.5e-6, 1e9, 1e15, 1e280, 1e300, 1.7e308]
    ),
)
FLOORS = st.one_of(st.none(), st.just(0.0), MONEY, HALF_MICROS, WHOLE_RANGE)


def policy_of(multiplier: float, cap: float | None, floor: float, win_price: float | None) -> BidPolicy:
    """A policy with a floor of at most its cap."""
    return BidPolicy(multiplier, cap, min(floor, BidPolicy(cap=cap).cap_micros / 1e6), win_price)


POLICIES = st.builds(
    policy_of,
    multiplier=st.one_of(st.just(1.0), st.floats(1e-6, 1e6), st.sampled_from([0.5, 0.1, 1e-6, 1e6])),
    cap=st.one_of(st.none(), MONEY.filter(bool), st.floats(1e-6, 1e300)),
    floor=FLOORS.filter(lambda floor: floor is not None),
    win_price=st.one_of(
        st.none(), st.floats(1e-9, 1e9), MONEY.filter(bool), HALF_MICROS.filter(bool), st.just(1e-9)
    ),
)


@given(st.lists(st.tuples(PROBABILITIES, VALUES, FLOORS), min_size=1, max_size=2 * FEW), POLICIES)
def test_a_bid_is_its_definition_in_decimals_rounded_half_to_even(rows: list[Row], policy: BidPolicy) -> None:
    expected = [by_decimal(*row, policy) for row in rows]
    assert same(computed(rows, policy), expected)
    # Many candidates are computed with numpy and few in a loop, with the same result.
    many = rows * (FEW // len(rows) + 1)
    assert same(computed(many, policy), expected * (FEW // len(rows) + 1))


@given(PROBABILITIES, VALUES, POLICIES)
def test_a_bid_prints_with_at_most_six_decimals(
    probability: float, value: float | None, policy: BidPolicy
) -> None:
    for bid in computed([(probability, value, 0.0)], policy):
        if bid is not None:
            exponent = Decimal(json.dumps(bid)).as_tuple().exponent
            assert isinstance(exponent, int)
            assert exponent >= -6


@pytest.mark.parametrize("repeats", [1, FEW])
@pytest.mark.parametrize(
    ("probability", "value", "expected"),
    [
        (0.0123, 1.25, 0.015375),
        (0.5, 0.000001, None),  # half a micro: to the even 0, which is no bid
        (0.5, 0.000003, 0.000002),  # one and a half: to the even 2
        (0.5, 0.000005, 0.000002),  # two and a half: to the even 2
        (0.35, 1.00001, 0.350004),  # exactly .3500035, below the tie in binary floats
        (1.0, 1.7e308, MAX_BID),
        (1e-300, 1e308, 100_000_000.0),
        (0.25, 5e-324, None),
        (0.0, 1.0, None),
        (0.25, 0.0, None),
        (0.25, -0.0, None),
        (0.25, -1.0, None),
        (0.25, -1e-300, None),
        (0.25, math.nan, None),
    ],
)
def test_known_bids(probability: float, value: float, expected: float | None, repeats: int) -> None:
    assert same(computed([(probability, value, 0.0)] * repeats, BidPolicy()), [expected] * repeats)


@pytest.mark.parametrize("repeats", [1, FEW])
@pytest.mark.parametrize(
    ("probability", "value", "price", "expected"),
    [
        (0.5, 6.0, 1.0, 1.0),  # sqrt(1 x 3 + 1) - 1
        (0.5, 0.3, 0.05, 0.05),  # sqrt(0.05 x 0.15 + 0.0025) - 0.05
        # c v = t^2 + 2 c t for t of half a micro, one and a half, two and a half: to the even neighbour
        (1.0, 0.00000125, 0.000001, None),
        (1.0, 0.00000525, 0.000001, 0.000002),
        (1.0, 0.00001125, 0.000001, 0.000002),
        (1.0, 0.0000112500000000001, 0.000001, 0.000003),
        (1.0, 1.7e308, 0.01, MAX_BID),
        (0.0, 1.0, 0.01, None),
        (0.25, -1.0, 0.01, None),
        (0.25, math.nan, 0.01, None),
        (0.01, 1.0, 1e9, 0.005),  # far below the win price it is half of the value
    ],
)
def test_known_shaded_bids(
    probability: float, value: float, price: float, expected: float | None, repeats: int
) -> None:
    policy = BidPolicy(win_price=price)
    assert same(computed([(probability, value, 0.0)] * repeats, policy), [expected] * repeats)


@given(st.integers(0, 99_999), st.integers(-9, 2), st.sampled_from([1, FEW]))
def test_a_shaded_bid_on_a_tie_goes_to_the_even_neighbour(below: int, power: int, repeats: int) -> None:
    price, tie = Decimal(10) ** power, (Decimal(below) + Decimal("0.5")) / 1_000_000
    value = float(tie * tie / price + 2 * tie)  # at most 17 digits, so it prints as the tie's own
    policy = BidPolicy(win_price=float(price))
    even = below + below % 2
    assert by_decimal(1.0, value, 0.0, policy) == (even / 1_000_000 or None)
    assert same(computed([(1.0, value, 0.0)] * repeats, policy), [even / 1_000_000 or None] * repeats)


@pytest.mark.parametrize("repeats", [1, FEW])
def test_cap_floor_and_multiplier(repeats: int) -> None:
    policy = BidPolicy(multiplier=2.0, cap=0.5000019, floor=0.1)
    rows = [
        (0.1, 1.0, 0.0),  # 0.2
        (0.9, 1.0, 0.0),  # 1.8, capped; the cap is rounded down to whole micros, so it is never exceeded
        (0.05, 1.0, 0.0),  # 0.1: equal to the floor
        (0.0499997, 1.0, 0.0),  # 0.099999: below the policy's floor
        (0.1, 1.0, 0.2),  # 0.2: equal to the candidate's floor
        (0.1, 1.0, 0.2000000001),
        (0.9, 1.0, 0.6),  # the cap is below the candidate's floor
    ]
    assert same(computed(rows * repeats, policy), [0.2, 0.500001, 0.1, None, 0.2, None, None] * repeats)


def test_no_candidates_no_bids() -> None:
    empty = np.empty(0, dtype=np.float64)
    assert bids(empty, [], [], BidPolicy()) == []


@pytest.mark.parametrize("rows", [1, FEW])
def test_absent_columns(rows: int) -> None:
    pctr, values = np.full(rows, 0.1), [2.0] * rows
    assert bids(pctr, None, [0.1] * rows, BidPolicy()) == [None] * rows
    assert bids(pctr, [None] * rows, None, BidPolicy()) == [None] * rows
    assert bids(pctr, values, None, BidPolicy()) == [0.2] * rows
    assert bids(pctr, values, [None, 0.3] * (rows // 2) or [None], BidPolicy(floor=0.1)) == (
        [0.2, None] * (rows // 2) or [0.2]
    )
    assert bids(pctr, values, None, BidPolicy(floor=0.3)) == [None] * rows


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"multiplier": 0.0}, "multiplier"),
        ({"multiplier": -1.0}, "multiplier"),
        ({"multiplier": math.nan}, "multiplier"),
        ({"multiplier": math.inf}, "multiplier"),
        ({"win_price": 0.0}, "win_price"),
        ({"win_price": 1e10}, "win_price"),
        ({"win_price": math.nan}, "win_price"),
        ({"cap": 0.0}, "cap"),
        ({"cap": math.inf}, "cap"),
        ({"cap": math.nan}, "cap"),
        ({"floor": -0.01}, "floor"),
        ({"floor": math.inf}, "floor"),
        ({"floor": math.nan}, "floor"),
        ({"floor": 0.5, "cap": 0.25}, "floor"),
        ({"floor": 2.0 * MAX_BID}, "floor"),
        # The highest bid is the cap in whole micros.
        ({"floor": 0.2500001, "cap": 0.2500001}, "floor"),
    ],
)
def test_a_contradictory_policy_is_refused(options: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' must be .* \\(got {options[name]}\\)"):
        BidPolicy(**options)
