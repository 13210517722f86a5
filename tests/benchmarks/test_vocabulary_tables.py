"""The benchmark of wide vocabularies loads both ways, and finds the table smaller than the dictionary."""

from __future__ import annotations

import json

import pytest

from benchmarks.vocabulary_tables import main
from service.bundle.native import IS_BUILT

pytestmark = pytest.mark.skipif(not IS_BUILT, reason="the native core was not built")


def test_a_table_takes_less_memory_than_a_dictionary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--values", "30000", "--lookups", "2000", "--rounds", "1"]) == 0
    head, *_, last = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["way", "load,"]
    table, dictionary = (json.loads(last)["ways"][way] for way in ("table", "dictionary"))
    assert table["own_bytes_a_value"] + table["file_bytes_a_value"] < 80 < dictionary["own_bytes_a_value"]
    for cost in (table, dictionary):
        assert min(cost["load_seconds"], cost["python_lookups"]) > 0.0
    assert table["core_lookups"] > 0.0
    assert dictionary["core_lookups"] is None
