"""Fields that are missing unlike in training are told once, whatever their bundle says of training."""

from __future__ import annotations

import numpy as np
import pytest

from service.scoring.missing_shares import REQUESTS_JUDGED, ROWS_JUDGED, MissingShares

NAMES = ("site", "hour", "ad")
TRAINED = {"site": 0.02, "hour": 0.9, "ad": 0.0}
FIRST = "fields are missing unlike in the training part: "


def serve(shares: MissingShares, *missing: float, rows: int = ROWS_JUDGED) -> None:
    """Count rows of which these shares lack the fields, in requests of two candidates."""
    for _ in range(10):
        counts = np.array([round(share * rows / 10) for share in missing], np.int64)
        shares.count(counts, rows // 10, rows // 20)


def test_shares_are_those_of_the_rows_of_late() -> None:
    shares = MissingShares("a", NAMES, TRAINED)
    assert shares.served == {}
    shares.count(np.array([1, 0, 4]), 4, 2)
    assert shares.served == {"site": 0.25, "hour": 0.0, "ad": 1.0}
    serve(shares, 0.1, 0.9, 0.0)
    serve(shares, 0.3, 0.8, 0.1)
    serve(shares, 0.3, 0.8, 0.1)
    assert shares.served == pytest.approx({"site": 0.3, "hour": 0.8, "ad": 0.1})


def test_a_field_that_went_missing_is_told_once_until_it_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    shares = MissingShares("a", NAMES, TRAINED)
    for site in (0.0, 0.4, 1.0, 0.9, 0.5, 0.9, 0.1, 0.9):
        serve(shares, site, 0.9, 0.0)
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        f"arm a: {FIRST}'site' in 100.0% of the rows (2.0%)",
        f"arm a: {FIRST}'site' in 90.0% of the rows (2.0%)",
    ]


def test_a_field_that_training_lacked_is_told_too_and_the_worst_comes_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    serve(MissingShares("a", NAMES, TRAINED), 0.7, 0.0, 1.0)
    told = caplog.records[0].getMessage().removeprefix(f"arm a: {FIRST}").partition(";")[0].split(", ")
    assert told == [
        "'ad' in 100.0% of the rows (0.0%)",
        "'hour' in 0.0% of the rows (90.0%)",
        "'site' in 70.0% of the rows (2.0%)",
    ]


def test_a_wide_schema_makes_one_line(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"C{number}" for number in range(39)]
    serve(MissingShares("a", names, dict.fromkeys(names, 0.0)), *[1.0] * 38, 0.9)
    (record,) = caplog.records
    assert "'C4' in 100.0% of the rows (0.0%) and 34 more;" in record.getMessage()


@pytest.mark.parametrize("trained", [TRAINED, {}])
def test_a_bundle_of_which_requests_bring_nothing_is_told(
    trained: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    serve(MissingShares("a", NAMES, trained), 1.0, 1.0, 1.0)
    assert "arm a: requests bring none of its 3 fields;" in caplog.text


def test_nothing_is_told_of_few_rows_of_few_requests_or_of_a_training_part_that_is_not_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    few = MissingShares("a", NAMES, TRAINED)
    few.count(np.full(3, ROWS_JUDGED - 1), ROWS_JUDGED - 1, REQUESTS_JUDGED)
    large = MissingShares("b", NAMES, TRAINED)
    large.count(np.full(3, 100 * ROWS_JUDGED), 100 * ROWS_JUDGED, REQUESTS_JUDGED - 1)
    serve(MissingShares("c", NAMES, {}), 1.0, 0.9, 0.0)
    assert not caplog.records
