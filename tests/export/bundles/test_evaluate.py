"""The command evaluate: the export's figures on its own test part, naive counts elsewhere, the page."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from export.__main__ import main
from export.bundles.evaluate import REPORT, evaluate_bundle
from export.bundles.plan import EvaluatePlan, ScorePlan
from export.bundles.records import Evaluation
from export.bundles.score import score
from export.data.errors import LogError
from export.errors import ExportError
from export.judge.metrics import auc, logloss, pcoc
from tests.browser import check_readable, needs_chromium
from tests.export.bundles.conftest import COLUMNS, START, Shop, shown_rows, write_rows
from tests.export.bundles.test_score import scored
from tests.export.conftest import silent
from tests.forged_bundle import rewrite_json

DAY = 86_400


def evaluated(shop: Shop, data: Path, **options: object) -> Evaluation:
    return evaluate_bundle(EvaluatePlan(bundle=shop.folder, data=data, **options), say=silent)


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_on_the_test_part_it_finds_what_the_export_found(shop: Shop, tmp_path: Path, variant: str) -> None:
    found = evaluated(shop, write_rows(tmp_path / "test.csv", shop.test_rows), variant=variant)
    manifest = shop.bundle.manifest
    for mine, theirs in (
        (found.calibrated.metrics, manifest.evaluation[variant]),
        (msgspec.structs.replace(found.uncalibrated.metrics, auc_interval=None, logloss_interval=None),
         manifest.uncalibrated[variant]),
    ):  # fmt: skip
        for name in theirs.__struct_fields__:
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name), abs=1e-12), name
    assert found.at_export == manifest.evaluation[variant]
    report = json.loads((shop.folder / "report" / "report.json").read_bytes())
    told = {one["name"]: one for one in report["data"]["fields"]}
    for field in found.fields:
        assert field.missing == pytest.approx(told[field.name]["missing"]["test"])
        assert field.missing_before == told[field.name]["missing"]["train"]
        assert field.unseen_before == (None if field.unseen is None else told[field.name]["unseen"]["test"])
        if field.unseen is not None:
            assert field.unseen == pytest.approx(told[field.name]["unseen"]["test"])
    assert {field.name for field in found.fields if field.unseen is None} == {"price", "ad"}


def test_a_pruned_bundle_of_a_synthetic_log_is_judged_as_its_export_did(exported, tmp_path: Path) -> None:
    """Its fields are renumbered, some values share an id, and the log knows the true pCTR."""
    bundle = exported.bundle
    with gzip.open(exported.plan.data, "rt") as file:
        head, *lines = file
    test = tmp_path / "test.csv"
    test.write_text("".join([head, *lines[-bundle.manifest.training.rows["test"] :]]))
    for variant in bundle.graphs:
        plan = EvaluatePlan(bundle=bundle.folder, data=test, variant=variant)
        found = evaluate_bundle(plan, say=silent)
        assert found.calibrated.metrics.auc_of_true_pctr is not None
        for name, value in msgspec.structs.asdict(bundle.manifest.evaluation[variant]).items():
            assert getattr(found.calibrated.metrics, name) == pytest.approx(value, abs=1e-12), name
    report = json.loads((bundle.folder / "report" / "report.json").read_bytes())
    told = {one["name"]: one for one in report["data"]["fields"]}
    for field in found.fields:
        assert field.missing == pytest.approx(told[field.name]["missing"]["test"])
        if field.unseen is not None:
            assert field.unseen == pytest.approx(told[field.name]["unseen"]["test"])


def test_days_and_values_are_those_of_their_rows_alone(shop: Shop, tmp_path: Path) -> None:
    rows = shown_rows(1_500, seed=11)
    log = write_rows(tmp_path / "week.csv", rows)
    found = evaluated(shop, log, by=("site", "price", "request"))
    pctr = scored(shop, log, tmp_path / "scores.parquet")["pctr"].to_numpy()
    labels = np.array([row.clicked for row in rows]).astype(int)
    days = np.array([row.second // DAY for row in rows])
    assert [one.name for one in found.days] == ["2025-01-01", "2025-01-02", "2025-01-03"]
    pages = np.array(["missing" if row.page is None else row.page for row in rows])
    groups = [
        *((one, days == START // DAY + number) for number, one in enumerate(found.days)),
        *((one, pages == one.name) for one in found.by["site"].shown),
    ]
    assert len(groups) == 3 + 6
    for one, chosen in groups:
        assert (one.rows, one.clicks) == (chosen.sum(), labels[chosen].sum())
        assert one.metrics.auc == pytest.approx(auc(labels[chosen], pctr[chosen]))
        assert one.metrics.logloss == pytest.approx(logloss(labels[chosen], pctr[chosen]))
        assert one.pcoc_after == pytest.approx(pcoc(labels[chosen], pctr[chosen]))
        assert one.metrics.auc_interval[0] < one.metrics.auc < one.metrics.auc_interval[1]
    by_price = found.by["price"]
    assert sum(one.rows for one in by_price.shown) == len(rows)
    assert next(one.rows for one in by_price.shown if one.name == "missing") == sum(
        r.price is None for r in rows
    )
    alone = found.by["request"]
    assert (alone.values, len(alone.shown)) == (1_500, 20)
    assert all(one.metrics is None and one.rows == 1 for one in alone.shown)


def test_values_that_training_did_not_show_are_counted_and_told(shop: Shop, tmp_path: Path) -> None:
    rows = shown_rows(800, seed=12)
    found = evaluated(shop, write_rows(tmp_path / "day.csv", rows))
    pages = Counter(row.page for row in rows)
    site = next(one for one in found.fields if one.name == "site")
    assert site.unseen == pytest.approx(pages["new 12"] / (len(rows) - pages[None]))
    assert site.missing == pytest.approx(pages[None] / len(rows))
    assert site.unseen_before == 0.0
    assert found.fields[0] == site  # the most moved comes first
    assert any(line.startswith("site moved: ") and "unseen here" in line for line in found.warnings)


def test_a_log_that_kept_fewer_non_clicks_is_judged_as_it_is(shop: Shop, tmp_path: Path) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(600, seed=13))
    whole = evaluated(shop, log)
    half = evaluated(shop, log, sampling_rate=0.5)
    assert half.calibrated.metrics.pcoc > 1.3 * whole.calibrated.metrics.pcoc
    assert half.calibrated.metrics.auc == pytest.approx(whole.calibrated.metrics.auc)
    assert half.uncalibrated == whole.uncalibrated
    assert any(line.startswith("bids are too high") for line in half.warnings)


def test_logloss_of_another_share_of_non_clicks_is_not_held_against_the_export_s(
    shop: Shop, tmp_path: Path
) -> None:
    rows = [row for number, row in enumerate(shown_rows(3_000, seed=20)) if row.clicked or number % 10 == 0]
    log = write_rows(tmp_path / "day.csv", rows)
    found = evaluated(shop, log, sampling_rate=0.1)
    assert found.calibrated.intervals["logloss"][0] > found.at_export.logloss_interval[1]
    assert not any("LogLoss" in line for line in (*found.notes, *found.warnings))
    assert any("LogLoss is worse" in line for line in evaluated(shop, log).warnings)


def test_what_the_command_prints(shop: Shop, tmp_path: Path, capsys) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(400, seed=14))
    out = tmp_path / "judged"
    arguments = ["--bundle", str(shop.folder), "--data", str(log), "--by", "site", "--out", str(out)]
    assert main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr()
    *text, line = printed.out.splitlines()
    assert printed.err == ""
    told = msgspec.json.decode(line, type=Evaluation)
    kept = msgspec.json.decode((out / "evaluate.json").read_bytes(), type=Evaluation)
    assert told == kept
    assert (told.log.rows, told.log.data) == (400, "day.csv")
    for start in ("AUC", "LogLoss", "ECE", "PCOC", "2025-01-01", "mail", "site "):
        assert any(one.startswith(start) for one in text), start
    assert f"{told.calibrated.metrics.auc:.5f}" in "\n".join(text)


@needs_chromium
def test_the_page_fits_a_window_and_its_figures_are_seen(shop: Shop, tmp_path: Path) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(1_200, seed=15))
    found = evaluated(shop, log, by=("site", "request"), out=tmp_path / "judged")
    page = (tmp_path / "judged" / "evaluate.html").read_text()
    check_readable(page, tmp_path, figures=3, text=2_000)  # the histogram, the reliability, the days
    assert f"{found.calibrated.metrics.logloss:.5f}" in page
    assert "By request: the 20 of 1,200 values with the most rows" in page


def test_a_log_without_a_label_or_without_clicks_cannot_be_judged(shop: Shop, tmp_path: Path) -> None:
    rows = shown_rows(50, seed=16)
    early = write_rows(tmp_path / "early.csv", rows, without="clicked_at")
    with pytest.raises(LogError, match=r"early.csv: the label's column 'clicked_at' must be in the log"):
        evaluated(shop, early, out=tmp_path / "judged")
    unclicked = write_rows(tmp_path / "day.csv", [row for row in rows if not row.clicked])
    with pytest.raises(LogError, match=r"day.csv: must hold clicks and non-clicks to judge by .got 0 clicks"):
        evaluated(shop, unclicked)
    assert not any((tmp_path / "judged").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ("shop",)}, "'by' must name fields of the bundle .hour, site, .* or columns of day.csv"),
        ({"by": ("tags",)}, "'by' must name a column of single values .* .got 'tags' with List"),
        ({"variant": "pruned"}, "'variant' must be one of float32, int8"),
        ({"sampling_rate": 1.5}, "'sampling_rate' must be"),
    ],
)
def test_wrong_options_are_refused(
    shop: Shop, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(50))
    with pytest.raises(ExportError, match=message):
        evaluated(shop, log, **options)


def test_a_few_rows_tell_no_change(shop: Shop, tmp_path: Path) -> None:
    """Two rows scatter by nothing when they are drawn again, so their interval holds no luck."""
    rows = shown_rows(100, seed=19)
    pair = [next(row for row in rows if row.clicked), next(row for row in rows if not row.clicked)]
    found = evaluated(shop, write_rows(tmp_path / "day.csv", pair))
    low, high = found.calibrated.intervals["logloss"]
    assert low == high
    assert found.notes == ("1 clicks and 1 non-clicks are too few to tell a change from luck",)
    assert not any("beyond noise" in line or "bids" in line for line in found.warnings)


def test_a_column_without_text_is_no_group(shop: Shop, tmp_path: Path) -> None:
    rows = shown_rows(20)
    table = pl.DataFrame(
        {
            name: [row.cells()[COLUMNS.index(name)] for row in rows]
            for name in ("clicked_at", "shown_at", "page", "price", "ad")
        }
    ).with_columns(
        tags=pl.Series([list(row.tags) for row in rows]),
        digest=pl.lit(b"\xff\x00"),
        dwell=pl.duration(seconds=pl.int_range(20)),
    )
    log = tmp_path / "day.parquet"
    table.write_parquet(log)
    for name in ("tags", "digest", "dwell"):
        with pytest.raises(ExportError, match=rf"'by' must name a column of .* \(got '{name}'"):
            evaluated(shop, log, by=(name,))


def test_another_program_s_report_tells_nothing(shop: Shop, tmp_path: Path) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(200, seed=18))
    folder = tmp_path / "other"
    shutil.copytree(shop.folder, folder)

    def other_parts(report: dict[str, dict[str, list[dict[str, object]]]]) -> None:
        for field in report["data"]["fields"]:
            field["missing"], field["unseen"] = {"all": 0.0}, {"all": 0.0}

    rewrite_json(folder, REPORT, other_parts)
    found = evaluate_bundle(EvaluatePlan(bundle=folder, data=log), say=silent)
    assert all(one.unseen_before is None for one in found.fields)


def test_scoring_and_judging_see_the_same_pctrs(shop: Shop, tmp_path: Path) -> None:
    """A log that kept all non-clicks, as the bundle's did, is judged by what a service answers."""
    log = write_rows(tmp_path / "day.csv", shown_rows(300, seed=17))
    done = score(ScorePlan(bundle=shop.folder, data=log, out=tmp_path / "s.parquet"), say=silent)
    found = evaluated(shop, log)
    assert found.calibrated.metrics.pcoc == pytest.approx(done.mean_pctr * done.rows / done.clicks)
    names = [name for name, _ in groupby(one.name for one in found.days)]
    assert names == sorted(names)
