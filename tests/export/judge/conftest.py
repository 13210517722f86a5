"""Small models of every kind, with and without sequences, and their graphs."""

from __future__ import annotations

import pytest

from tests.export.small_models import KINDS, Exported, small_export


@pytest.fixture(scope="session", params=KINDS, ids="-".join)
def exported(request: pytest.FixtureRequest) -> Exported:
    return small_export(*request.param)
