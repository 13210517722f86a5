"""Calibrators keep ranks, treat rows independently, and must be increasing."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.calibration import Calibrator, Quality, calibrators_from_file, calibrators_to_file
from service.bundle.errors import BundleError

QUALITY = Quality(logloss=0.5, ece=0.01, pcoc=1.0)


def calibrator(**values: Any) -> Calibrator:
    """A valid calibrator, with some values replaced."""
    valid = {
        "variant": "int8",
        "graph_sha256": "ab" * 32,
        "method": "identity",
        "fit_rows": 10,
        "fit_clicks": 2,
        "before": QUALITY,
        "after": QUALITY,
    }
    return Calibrator(**{**valid, **values})


def naive_logit(fitted: Calibrator, x: float) -> float:
    """The calibrated logit of one logit, by definition."""
    if fitted.method == "platt":
        y = fitted.slope * x + fitted.intercept
    elif fitted.method == "identity":
        y = x
    elif fitted.method == "beta":
        x = float(np.float32(x))
        ln_q = -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))
        ln_rest = -math.log1p(math.exp(x)) if x < 0 else -x - math.log1p(math.exp(-x))
        y = fitted.low_slope * ln_q - fitted.slope * ln_rest + fitted.intercept
    else:
        knots = fitted.knots
        y = knots[-1][1] + (x - knots[-1][0])
        if x < knots[0][0]:
            y = knots[0][1] + (x - knots[0][0])
        for (x0, y0), (x1, y1) in pairwise(knots):
            if x0 <= x < x1:
                y = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return y + math.log(fitted.sampling_rate)


def naive_pctr(fitted: Calibrator, x: float) -> float:
    """The pCTR of one logit, by definition."""
    y = naive_logit(fitted, x)
    p = 1 / (1 + math.exp(-y)) if y > -700 else 0.0
    return min(max(p, fitted.clamp_low), fitted.clamp_high)


gaps = st.floats(1e-3, 5)


@st.composite
def calibrators(draw: st.DrawFn) -> Calibrator:
    method = draw(st.sampled_from(["identity", "platt", "beta", "isotonic"]))
    values: dict[str, Any] = {"method": method, "sampling_rate": draw(st.floats(1e-4, 1))}
    if method in ("platt", "beta"):
        values |= {"slope": draw(st.floats(1e-3, 20)), "intercept": draw(st.floats(-10, 10))}
    if method == "beta":
        values["low_slope"] = draw(st.floats(1e-3, 20))
    if method == "isotonic":
        steps = draw(st.lists(st.tuples(gaps, gaps), min_size=2, max_size=12))
        x, y = draw(st.floats(-10, 10)), draw(st.floats(-10, 10))
        knots = []
        for dx, dy in steps:
            x, y = x + dx, y + dy
            knots.append((x, y))
        values["knots"] = tuple(knots)
    if draw(st.booleans()):
        values |= {"clamp_low": 1e-9, "clamp_high": 1 - 1e-9}
    fitted = calibrator(**values)
    fitted.validate()
    return fitted


float32_logits = st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=40)


@given(calibrators(), float32_logits)
def test_it_equals_a_naive_loop(fitted: Calibrator, logits: list[float]) -> None:
    found = fitted.pctr(np.array(logits, np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [naive_pctr(fitted, x) for x in logits], rtol=1e-9)
    calibrated = fitted.calibrated_logits(np.array(logits, np.float32))
    np.testing.assert_allclose(calibrated, [naive_logit(fitted, x) for x in logits], rtol=1e-9, atol=1e-9)


@given(calibrators(), float32_logits, st.integers(0, 40))
def test_a_row_does_not_depend_on_its_batch(fitted: Calibrator, logits: list[float], cut: int) -> None:
    array = np.array(logits, np.float32)
    together = fitted.pctr(array)
    alone = np.concatenate([fitted.pctr(array[row : row + 1]) for row in range(len(array))])
    assert together.tobytes() == alone.tobytes()
    assert together[::-1].tobytes() == fitted.pctr(array[::-1]).tobytes()
    assert together[cut:].tobytes() == fitted.pctr(array[cut:]).tobytes()
    strided = np.repeat(array, 3)[::3]
    assert together.tobytes() == fitted.pctr(strided).tobytes()


@given(calibrators(), float32_logits)
def test_ranks_are_kept(fitted: Calibrator, logits: list[float]) -> None:
    knots = [x for x, _ in fitted.knots]
    near = [np.nextafter(np.float32(x), np.float32(side)) for x in knots for side in (-99, 99)]
    array = np.unique(np.array([*logits, *knots, *near], np.float32))
    assert (np.diff(fitted.pctr(array)) >= 0).all()
    assert (np.diff(fitted.calibrated_logits(array)) >= 0).all()
    # Between logits that differ by more than rounding, the map is strictly increasing.
    apart = array[np.r_[True, np.diff(array) > 1e-6]]
    assert (np.diff(fitted.calibrated_logits(apart)) > 0).all()


@given(calibrators(), st.floats(-60, 60))
def test_neighbouring_floats_keep_their_order(fitted: Calibrator, x: float) -> None:
    around = [x, *(knot for knot, _ in fitted.knots)]
    values = np.unique([np.nextafter(each, side) for each in around for side in (-99.0, each, 99.0)])
    assert (np.diff(fitted.calibrated_logits(values)) >= 0).all()


def test_negative_sampling_is_corrected() -> None:
    # 100 of 1000 impressions are clicks; with a tenth of the others kept, 100 of 190 rows are clicks.
    logit = np.array([math.log(100 / 90)])
    assert calibrator(sampling_rate=0.1).pctr(logit)[0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({"fit_rows": 10, "fit_clicks": 2}, 0.2),
        ({"fit_rows": 1000, "fit_clicks": 200, "sampling_rate": 0.8}, 1 / 6),
        ({"fit_rows": 10**9, "fit_clicks": 1}, 1e-6),
        ({"fit_rows": 0, "fit_clicks": 0}, None),
        ({"fit_rows": 10, "fit_clicks": 0}, None),
        ({"fit_rows": 10, "fit_clicks": 10}, None),
    ],
)
def test_the_base_rate_is_that_of_the_log_before_its_non_clicks_were_sampled(
    values: dict[str, Any], rate: float | None
) -> None:
    found = calibrator(**values).base_rate
    assert found is None if rate is None else math.isclose(found or 0.0, rate)


def test_clamps_and_extreme_logits() -> None:
    fitted = calibrator(clamp_low=1e-4, clamp_high=0.9)
    found = fitted.pctr(np.array([-np.inf, -1e30, -1000, 0, 1000, 1e30, np.inf, np.nan]))
    np.testing.assert_array_equal(found, [1e-4, 1e-4, 1e-4, 0.5, 0.9, 0.9, 0.9, np.nan])
    assert fitted.pctr(np.empty(0, np.float32)).shape == (0,)


def test_beta_with_equal_slopes_is_a_line() -> None:
    x = np.linspace(-30, 30, 500).astype(np.float32)
    line = calibrator(method="platt", slope=0.7, intercept=-0.4).calibrated_logits(x)
    bent = calibrator(method="beta", slope=0.7, low_slope=0.7, intercept=-0.4).calibrated_logits(x)
    np.testing.assert_allclose(bent, line, atol=1e-9)


def test_a_calibrator_from_before_there_was_beta_is_read() -> None:
    data = calibrators_to_file([calibrator()])
    assert b'"low_slope": 1.0' in data
    older = re.sub(rb'\s*"low_slope": 1.0,', b"", data)
    assert calibrators_from_file(older) == {"int8": calibrator()}


@given(st.lists(calibrators(), max_size=3))
def test_the_file_gives_back_the_calibrators(fitted: list[Calibrator]) -> None:
    named = [msgspec.structs.replace(each, variant=f"v{n}") for n, each in enumerate(fitted)]
    assert list(calibrators_from_file(calibrators_to_file(named)).values()) == named


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"slope": 0.0}, "slope"),
        ({"method": "beta", "low_slope": 0.0}, "low_slope"),
        ({"method": "beta", "low_slope": math.nan}, "low_slope"),
        ({"method": "platt", "low_slope": 2.0}, "1 but for beta"),
        ({"method": "platt", "slope": -1.0}, "'slope' of 'int8' is above 0"),
        ({"method": "platt", "slope": math.inf}, "slope"),
        ({"method": "platt", "intercept": math.nan}, "'intercept' of 'int8' is a finite number .*got nan"),
        ({"clamp_low": 0.0}, "clamp_low"),
        ({"clamp_high": 1.0}, "clamp_high"),
        ({"clamp_low": 0.6, "clamp_high": 0.5}, "clamp_low"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": 1.1}, "sampling_rate"),
        ({"graph_sha256": "abc"}, "64 hexadecimal digits"),
        ({"graph_sha256": "AB" * 32}, "64 hexadecimal digits"),
        ({"fit_clicks": 11}, "fit_clicks"),
        ({"fit_clicks": -1}, "fit_clicks"),
        ({"before": Quality(math.nan, 0.1, 1.0)}, "before.logloss"),
        ({"after": Quality(0.1, 0.1, math.inf)}, "after.pcoc"),
        ({"method": "isotonic"}, "at least 2"),
        ({"method": "isotonic", "knots": ((0.0, 0.0),)}, "at least 2"),
        ({"method": "isotonic", "knots": ((0.0, 0.0), (0.0, 1.0))}, r"knots\[1\]"),
        ({"method": "isotonic", "knots": ((0.0, 0.0), (1.0, 0.0))}, r"knots\[1\]"),
        ({"method": "isotonic", "knots": ((0.0, 0.0), (1.0, 1.0), (2.0, 0.5))}, r"knots\[2\]"),
        ({"method": "isotonic", "knots": ((0.0, 0.0), (1.0, math.nan))}, r"knots\[1\]"),
        ({"method": "isotonic", "knots": ((0.0, 0.0), (5e-324, 1e300))}, "finite slope"),
        ({"method": "isotonic", "knots": ((0.0, 0.0), (1e300, 5e-324))}, "finite slope"),
        ({"method": "platt", "knots": ((0.0, 0.0), (1.0, 1.0))}, "empty for platt"),
    ],
)
def test_a_map_that_is_not_increasing_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        calibrators_to_file([calibrator(**values)])
    assert caught.value.file == "calibration.json"


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"calibrators": [{}]}',
        calibrators_to_file([calibrator()]).replace(b'"slope": 1.0', b'"slope": NaN'),
        calibrators_to_file([calibrator()]).replace(b'"slope": 1.0', b'"slope": null'),
        calibrators_to_file([calibrator()]).replace(b'"slope": 1.0', b'"slope": 1e999'),
        calibrators_to_file([calibrator()]).replace(b'"slope": 1.0', b'"slope": "1"'),
        calibrators_to_file([calibrator()]).replace(b'"slope"', b'"slop"'),
        calibrators_to_file([calibrator()]).replace(b'"identity"', b'"spline"'),
        calibrators_to_file([calibrator(), calibrator()]),
    ],
)
def test_an_invalid_file_of_calibrators_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        calibrators_from_file(data)
    assert caught.value.file == "calibration.json"
    assert "\n" not in str(caught.value)


@given(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(1e-6, 1e6),
    st.floats(1e-6, 1e6),
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=4),
)
def test_a_finite_logit_has_a_finite_pctr_with_any_numbers_within_the_bounds(
    logit: float, slope: float, low: float, intercept: float, knots: list[tuple[float, float]]
) -> None:
    xs, ys = (sorted(values) for values in zip(*knots, strict=True))
    for fitted in (
        calibrator(method="platt", slope=slope, intercept=intercept),
        calibrator(method="beta", slope=slope, low_slope=low, intercept=intercept),
        calibrator(method="isotonic", knots=tuple(zip(xs, ys, strict=True))),
    ):
        try:
            read = calibrators_from_file(calibrators_to_file([fitted]))["int8"]
        except BundleError:  # knots that do not rise
            continue
        assert read.clamp_low <= read.pctr(np.array([logit], np.float32))[0] <= read.clamp_high


def test_an_offset_of_an_id_that_no_array_reaches_is_refused() -> None:
    """An array by id for the last id of a hashed field would take 16 GB."""
    fitted = calibrator(segment_field="campaign", segment_offsets=((2**31 - 4, 0.5),))
    with pytest.raises(BundleError, match="segment_offsets"):
        calibrators_from_file(calibrators_to_file([fitted]))
