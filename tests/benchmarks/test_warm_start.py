"""The benchmark of warm starts trains each contender on its rows, once, and judges all on the next day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.warm_start import Log, Race, _options, main
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.errors import ExportError

CONFIG = SyntheticConfig(
    rows=3200,
    seed=5,
    features=200,
    numeric_fields=0,
    categorical_fields=3,
    candidate_fields=1,
    ctr=0.3,
    rows_per_day=800,
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    write_synthetic_log(CONFIG, path, report=str)
    return path


def arguments(log: Path, work: Path, *more: str) -> list[str]:
    schema = log.with_suffix(".toml")
    return ["--data", str(log), "--schema", str(schema), "--work", str(work), "--model", "lr", *more]


def test_each_row_trains_a_warm_start_once_and_a_model_anew_sees_all(log: Path, tmp_path: Path) -> None:
    _, options = _options(arguments(log, tmp_path, "--window", "2", "--days", "3"))
    race = Race(Log.read(options), options)
    seconds = race.log.seconds
    cuts = [race.log.cut(day) for day in range(3)]
    trained = [race.rows("warm", day) & (seconds < cuts[day]) for day in range(3)]
    assert np.array_equal(np.sum(trained, axis=0) == 1, seconds < cuts[2])
    assert np.array_equal(race.rows("anew", 2), race.log.days <= 2)
    assert np.array_equal(race.rows("window", 2), (race.log.days == 1) | (race.log.days == 2))
    for name in ("anew", "window", "warm"):
        held = race.rows(name, 2) & (seconds >= cuts[2])
        assert held.sum() == pytest.approx(0.2 * 800, abs=2)


def test_it_judges_every_day_and_goes_on_where_it_stopped(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(days: int) -> dict[str, Any]:
        main(arguments(log, tmp_path / "work", "--days", str(days)))
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    first = figures(1)
    assert [one["contender"] for one in first["days"]] == ["anew", "window", "warm", "first"]
    assert len({one["auc"] for one in first["days"]}) == 1  # they begin as one model
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("kept.json")}
    second = figures(2)
    assert second["days"][:4] == first["days"]
    warm = second["days"][6]
    assert (warm["day"], warm["contender"]) == (2, "warm")
    assert warm["kept"]["rows"] < second["days"][4]["kept"]["rows"]
    assert warm["auc"] != second["days"][7]["auc"]
    assert set(second["warm_minus"]) == {"anew", "window", "first"}
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    with pytest.raises(ExportError, match="'work' must be a new folder"):
        main(arguments(log, tmp_path / "work", "--seed", "2"))


def test_a_log_that_is_too_short_or_no_parquet_is_refused(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'days' must be at most 3 \(got 4\)"):
        main(arguments(log, tmp_path / "a", "--days", "4"))
    text = tmp_path / "text.toml"
    text.write_text(log.with_suffix(".toml").read_text().replace('"parquet"', '"csv"'))
    with pytest.raises(ExportError, match="'schema' must describe a log in Parquet"):
        main([*arguments(log, tmp_path / "b"), "--schema", str(text)])
