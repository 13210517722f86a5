"""The benchmark of searches scores points as it says, and prints what a reader compares."""

from __future__ import annotations

import json

import pytest

from benchmarks.search import a_space, distance, main, place
from export.tune.space import BATCH, OPTIMIZER, RATE


def test_a_point_is_as_far_as_its_places_are() -> None:
    assert [place(RATE, value) for value in (RATE.low, 1.0, RATE.high)] == pytest.approx([0.0, 0.5, 1.0])
    assert [place(BATCH, value) for value in (-1, 2)] == [0.0, 1.0]
    assert [place(OPTIMIZER, value) for value in OPTIMIZER.choices] == [0.0, 1.0]
    space = a_space()
    values = {RATE.name: 1.0, BATCH.name: 2}
    best = {axis.name: 0.5 for axis in space.axes}
    assert distance(space, values, best) == pytest.approx(0.25)


def test_a_search_comes_nearer_than_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--random", "2", "--trials", "3", "8", "--repeats", "2"])
    table = capsys.readouterr().out.splitlines()
    cells = table[1].split()
    assert float(cells[1]) >= float(cells[2]) >= float(cells[3])
    found = json.loads(table[-1])
    assert found["benchmark"] == "search"
    assert found["distances"]["2"] == pytest.approx([float(cell) for cell in cells[2:]], abs=0.001)
