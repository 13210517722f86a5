"""What each field holds, against naive counts; constants, rare values and leaks are told with figures."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from export.data.encoded import EncodedLog, prepare_log
from export.data.log_schema import parse_log_schema
from export.judge.fields import describe_fields, field_warnings, unseen_lines
from export.judge.metrics import auc
from export.report.findings import FieldSummary
from export.stages.fit_schema import fit_schema
from export.stages.plan import LogPlan
from export.stages.work import Work
from service.bundle.schema import MISSING_ID, OOV_ID
from tests.export.memory_log import quiet

ROWS = 4000
SPLIT = (0.7, 0.1, 0.1, 0.1)
KINDS = {
    "sound": 'kind = "categorical"',
    "number": 'kind = "numeric"',
    "late": 'kind = "categorical"',
    "hashed": 'kind = "categorical"\nencoding = "hashing"\nbuckets = 50000',
    "empty": 'kind = "categorical"',
    "constant": 'kind = "categorical"',
    "flag": 'kind = "categorical"',
    "squeezed": 'kind = "numeric"\nencoding = "criteo"',
    "skewed": 'kind = "categorical"',
    "request": 'kind = "categorical"',
    "clicked_at": 'kind = "categorical"',
    "price_paid": 'kind = "numeric"',
    "history": 'kind = "sequence"\nmax_length = 3',
    "ended": 'kind = "numeric"',
    "date": 'kind = "numeric"',
    "switched": 'kind = "categorical"',
    "floats": 'kind = "categorical"',
    "versions": 'kind = "categorical"',
    "unnamed": 'kind = "categorical"',
    "blank": 'kind = "categorical"',
}


def frame() -> pl.DataFrame:
    """A log whose fields are named after what is the matter with them."""
    draw = np.random.default_rng(2)
    clicks = (draw.random(ROWS) < 0.2).astype(int)
    number = np.arange(ROWS)
    return pl.DataFrame(
        {
            "click": clicks,
            "sound": [f"s{value}" for value in draw.integers(0, 9, ROWS)],
            "number": draw.random(ROWS),
            "late": [f"v{value if at < 3200 else value + 10}" for at, value in enumerate(number % 10)],
            "hashed": [f"h{value if at < 2800 else value + 40}" for at, value in enumerate(number % 40)],
            "empty": pl.Series([None] * ROWS, dtype=pl.String),
            "constant": ["same"] * ROWS,
            "flag": [value or None for value in np.where(draw.random(ROWS) < 0.3, "yes", "").tolist()],
            "squeezed": draw.random(ROWS),
            "skewed": ["rare" if at % 2000 == 7 else "often" for at in number],
            "request": [f"r{at}" for at in number],
            "clicked_at": [f"t{at}" if click else None for at, click in enumerate(clicks)],
            "price_paid": np.where(clicks == 1, draw.random(ROWS) + 1, draw.random(ROWS)),
            "history": [[f"e{at % 5}", f"e{at % 3}"][: at % 3] for at in number],
            "ended": [value if at < 3600 else None for at, value in enumerate(draw.random(ROWS))],
            "date": 20260901 + number // 200,
            "floats": [f"{at % 7}.0" if at % 5 else None for at in number],
            "versions": ["1.0", "1.1", "2.0"] * (ROWS // 3) + ["2.1"] * (ROWS % 3),
            "unnamed": ["NULL" if at % 3 else f"u{at % 4}" for at in number],
            "blank": [" " if at % 3 else f"u{at % 4}" for at in number],
            "switched": ["new" if at >= 3600 or at % 50 == 7 else f"old{at % 9}" for at in number],
        }
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[EncodedLog, Path]:
    folder = tmp_path_factory.mktemp("fields")
    frame().write_parquet(folder / "log.parquet")
    fields = [f'[[field]]\nname = "{name}"\nrole = "context"\n{keys}\n' for name, keys in KINDS.items()]
    text = 'name = "odd"\nformat = "parquet"\n[label]\ncolumn = "click"\n' + "".join(fields)
    (folder / "odd.toml").write_text(text)
    log = prepare_log(
        folder / "log.parquet",
        parse_log_schema(text),
        folder / "out",
        split=SPLIT,
        min_count=8,
        report=quiet,
    )
    return log, folder


@pytest.fixture(scope="module")
def described(prepared: tuple[EncodedLog, Path]) -> dict[str, FieldSummary]:
    return {field.name: field for field in describe_fields(prepared[0])}


def test_shares_are_those_of_naive_counts(prepared, described: dict[str, FieldSummary]) -> None:
    log, _ = prepared
    assert list(described) == list(KINDS)
    for name, found in described.items():
        for part, rows in log.parts.items():
            ids = np.array(rows.ids[:, log.schema.column_slices[name]])
            assert found.missing[part] == pytest.approx((ids == MISSING_ID).all(axis=1).mean())
            if name != "hashed":
                present = max(1, int((ids != MISSING_ID).sum()))
                assert found.unseen[part] == pytest.approx((ids == OOV_ID).sum() / present)
    assert described["late"].unseen == {"train": 0.0, "validation": 0.0, "calibration": 1.0, "test": 1.0}
    assert described["hashed"].unseen["train"] == 0.0
    assert described["hashed"].unseen["test"] > 0.9
    assert described["sound"].distinct == 9
    assert described["history"].missing["test"] == pytest.approx(1 / 3, abs=0.01)


def test_the_auc_of_a_field_is_that_of_its_click_rates(prepared, described: dict[str, FieldSummary]) -> None:
    log, _ = prepared
    train, validation = log.parts["train"], log.parts["validation"]
    for name in ("sound", "number", "flag"):
        column = log.schema.column_slices[name].start
        rate = {
            value: (train.labels[train.ids[:, column] == value].sum() + train.labels.mean())
            / ((train.ids[:, column] == value).sum() + 1)
            for value in np.unique(validation.ids[:, column]).tolist()
        }
        scores = [rate[value] for value in validation.ids[:, column].tolist()]
        assert described[name].auc == pytest.approx(auc(validation.labels, scores))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("empty", "is missing in every training row"),
        ("constant", "has one value in the training rows: it says nothing"),
        ("flag", "has one value in the training rows, and is missing in 7"),
        ("squeezed", "has one bin in the training rows: it says nothing"),
        ("skewed", "is the same in 99.93% of the training rows"),
        ("request", "has only values that are too rare for an id of their own in the training rows"),
        ("clicked_at", "alone ranks rows that follow the training part with an AUC of 1.0000"),
        ("price_paid", "alone ranks rows that follow the training part with an AUC of 0.9"),
        ("floats", "such as '0.0': a request that sends '0' sends an unseen value"),
        ("unnamed", "has the value 'NULL'; if it means a missing one, name it in the schema's 'missing'"),
        ("blank", "has the value ' '; if it means"),
        ("versions", None),
        ("sound", None),
        ("number", None),
        ("late", "has values in the test part that training does not show (100.0% of them)"),
        ("hashed", "has values in the test part that training does not show ("),
        ("ended", "is missing in 100.0% of the test rows, and in 0.0% of the training rows"),
        ("date", "has one bin in 100.0% of the test rows, and in"),
        ("switched", "has one value in 100.0% of the test rows, and in 2.0% of the training rows"),
        ("history", None),
    ],
)
def test_what_is_suspicious_is_told(described: dict[str, FieldSummary], name: str, told: str | None) -> None:
    found = field_warnings([described[name]])
    assert all(text.startswith(f"field '{name}' ") for text in found)
    assert any(told in text for text in found) if told else not found


def test_a_field_of_mostly_rare_values_is_wide(described: dict[str, FieldSummary]) -> None:
    unseen = {**described["sound"].unseen, "train": 0.98}
    (warning,) = field_warnings([msgspec.structs.replace(described["sound"], unseen=unseen)])
    assert warning.startswith("field 'sound' is wide: 98.0% of its training values are too rare")


def _small_log(folder: Path, clicks: list[int]) -> dict[str, FieldSummary]:
    """Of rows with these labels, and a field that copies them."""
    pl.DataFrame({"click": clicks, "leak": [f"l{click}" for click in clicks]}).write_csv(folder / "small.csv")
    text = (
        'name = "small"\nformat = "csv"\n[label]\ncolumn = "click"\n'
        '[[field]]\nname = "leak"\nkind = "categorical"\nrole = "context"\n'
    )
    log = prepare_log(folder / "small.csv", parse_log_schema(text), folder / "out", split=SPLIT, report=quiet)
    return {field.name: field for field in describe_fields(log)}


def test_a_leak_takes_more_than_a_few_clicks(tmp_path: Path) -> None:
    """One click among twenty rows is ranked first by luck too: nobody is accused by it."""
    found = _small_log(tmp_path, [int(at % 20 == 3) for at in range(200)])
    assert found["leak"].auc is None
    assert field_warnings(found.values()) == ()


def test_a_leak_is_told_by_all_later_rows_where_validation_has_few_clicks(tmp_path: Path) -> None:
    found = _small_log(tmp_path, [int(at % 20 == 3) for at in range(1000)])  # 5 clicks, and 15
    assert found["leak"].auc == 1.0
    assert any("'leak' alone ranks" in text for text in field_warnings(found.values()))


def test_the_worst_fields_are_a_line(described: dict[str, FieldSummary]) -> None:
    unseen, missing = unseen_lines([described[name] for name in ("sound", "late", "flag", "history")])
    assert unseen == "unseen values, of the test (calibration) part: late 100.0% (100.0%)"
    assert missing.startswith("missing values, of the test (calibration) part: flag 7")
    assert "history 33" in missing
    assert "sound" not in missing
    assert unseen_lines([described["sound"]])[0].endswith("under 10% of each field's in the test part")


def test_the_stage_prints_and_records_them(prepared, tmp_path: Path) -> None:
    _, folder = prepared
    lines: list[str] = []
    plan = LogPlan(data=folder / "log.parquet", schema=str(folder / "odd.toml"), split=SPLIT, min_count=8)
    summary = fit_schema(Work(tmp_path / "work"), plan, say=lines.append)
    assert any(line.startswith("warning: field 'clicked_at' alone ranks") for line in lines)
    assert any("late 100.0%" in line for line in lines)
    assert [field.name for field in summary.fields] == list(KINDS)
