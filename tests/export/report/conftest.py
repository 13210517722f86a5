"""The findings of the tiny export."""

from __future__ import annotations

import msgspec
import pytest

from export.report.findings import Findings


@pytest.fixture(scope="module")
def findings(exported) -> Findings:
    path = exported.plan.out / "report" / "report.json"
    return msgspec.json.decode(path.read_bytes(), type=Findings)
