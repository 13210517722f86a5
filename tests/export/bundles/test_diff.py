"""The command diff: paired on the same rows, against naive loops; what makes two bundles not comparable."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from export.__main__ import main
from export.bundles.diff import diff_bundles
from export.bundles.plan import DiffPlan
from export.bundles.records import Diff
from export.data.log_schema import LOG_FILE
from export.errors import ExportError
from export.judge.bootstrap import paired_bootstrap
from export.judge.metrics import ece, evaluate, rank_correlation
from tests.browser import check_readable, needs_chromium
from tests.export.bundles.conftest import START, Shop, shown_rows, with_sampling_rate, write_rows
from tests.export.bundles.test_score import scored
from tests.export.conftest import silent
from tests.forged_bundle import rewrite_json


def differ(shop: Shop, second: Path, data: Path, **options: object) -> Diff:
    return diff_bundles(DiffPlan(bundles=(shop.folder, second), data=data, **options), say=silent)


def test_every_figure_is_that_of_the_same_rows(shop: Shop, rival: Path, tmp_path: Path) -> None:
    rows = shown_rows(1_400, seed=21)
    log = write_rows(tmp_path / "day.csv", rows)
    found = differ(shop, rival, log)
    first = scored(shop, log, tmp_path / "a.parquet")["pctr"].to_numpy()
    second = scored(replace(shop, plan=replace(shop.plan, out=rival)), log, tmp_path / "b.parquet")
    second = second["pctr"].to_numpy()
    labels = np.array([row.clicked for row in rows]).astype(np.uint8)
    for side, pctr in ((found.first, first), (found.second, second)):
        for name, value in msgspec.structs.asdict(evaluate(labels, pctr)).items():
            if not name.endswith("_interval"):
                assert getattr(side.quality.metrics, name) == pytest.approx(value), name
    for name in ("auc", "logloss"):
        wanted = paired_bootstrap(labels, first, second, name)
        change = found.changes[name]
        assert (change.delta, *change.interval) == pytest.approx((wanted.delta, wanted.low, wanted.high))
    assert found.changes["auc"].verdict == found.changes["logloss"].verdict == "worse"
    assert found.changes["pcoc"].verdict == ""
    assert found.changes["ece"].delta == pytest.approx(ece(labels, second) - ece(labels, first))
    assert found.agreement.rank_correlation == pytest.approx(spearmanr(first, second).statistic)
    odds = np.log(second / (1 - second)) - np.log(first / (1 - first))
    assert found.agreement.mean_difference == pytest.approx(odds.mean())
    assert found.agreement.largest == pytest.approx(np.abs(odds).max())
    assert found.agreement.apart == pytest.approx((np.abs(second / first - 1) > 0.1).mean())
    tops = [set(np.argsort(-one, kind="stable")[:140].tolist()) for one in (first, second)]
    assert found.agreement.top_share == len(tops[0] & tops[1]) / 140
    days = np.array([row.second // 86_400 for row in rows])
    for day, number in zip(found.days, np.unique(days), strict=True):
        chosen = days == number
        delta = evaluate(labels[chosen], second[chosen]).auc - evaluate(labels[chosen], first[chosen]).auc
        assert day.changes["auc"].delta == pytest.approx(delta)


def test_where_they_disagree_is_found_value_by_value(shop: Shop, rival: Path, tmp_path: Path) -> None:
    """The rival does not see ads, whose first eight click more; turned round, the shop's fields are told."""
    rows = shown_rows(4_000, seed=22)
    log = write_rows(tmp_path / "day.csv", rows)
    found = diff_bundles(DiffPlan(bundles=(rival, shop.folder), data=log), say=silent)
    scores = [
        scored(
            replace(shop, plan=replace(shop.plan, out=folder)),
            log,
            tmp_path / "s.parquet",
            keep=("ad", "page"),
        )
        for folder in (rival, shop.folder)
    ]
    first, second = (frame["pctr"].to_numpy() for frame in scores)
    odds = np.log(second / (1 - second)) - np.log(first / (1 - first))
    assert found.values[0].field == "ad"
    assert all(abs(one.errors) >= 5 for one in found.values)
    by_page = [one for one in found.values if one.field == "site"]
    pages = scores[0]["page"].to_numpy()
    for one in by_page:
        chosen = pages == ("NA" if one.value == "missing" else one.value)
        assert one.rows == chosen.sum()
        assert one.difference == pytest.approx(odds[chosen].mean())
    for one in (each for each in found.values if each.field == "ad"):
        # A bucket of hashing may hold several ads: the sums of the rows that are in it are what is told.
        assert one.value.startswith("bucket ")
    popular = {f"ad{number}" for number in range(8)}
    chosen = np.array([ad in popular for ad in scores[0]["ad"].to_list()])
    assert odds[chosen].mean() > odds[~chosen].mean()
    assert max(one.difference for one in found.values if one.field == "ad") > odds.mean()


def test_the_same_bundle_twice_differs_in_nothing_but_the_graph(shop: Shop, tmp_path: Path) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(500, seed=23))
    same = differ(shop, shop.folder, log, variants=("float32",))
    assert same.agreement.largest == 0.0
    assert same.agreement.rank_correlation == pytest.approx(1.0)
    assert same.values == ()
    assert all(change.delta == 0.0 and change.verdict == "" for change in same.changes.values())
    graphs = differ(shop, shop.folder, log, variants=("float32", "int8"))
    assert 0.0 < graphs.agreement.largest < 0.5
    assert (graphs.first.subject.variant, graphs.second.subject.variant) == ("float32", "int8")
    assert graphs.first.graph_bytes == len(shop.bundle.graphs["float32"])
    assert graphs.second.graph_bytes == len(shop.bundle.graphs["int8"])
    assert set(graphs.first.microseconds_a_row) == {"1", "64", "1024"}


def test_rows_that_only_one_reads_are_left_out_of_both(shop: Shop, rival: Path, tmp_path: Path) -> None:
    """The rival has its own schema, in which `NA` is no missing price but a malformed row."""
    rows = shown_rows(300, seed=24)
    log = write_rows(tmp_path / "day.csv", rows)
    lines = log.read_text().splitlines()
    for place in (3, 250):
        cells = lines[place].split(";")
        cells[-3] = "NA"
        lines[place] = ";".join(cells)
    log.write_text("\n".join(lines) + "\n")
    strict = _with_log(rival, tmp_path / "strict", missing=["none"])
    found = differ(shop, strict, log, on_malformed="skip")
    assert (found.log.rows, found.rows_left_out) == (298, 2)
    with pytest.raises(ExportError, match=r"line 4: column 'price' must be a finite number"):
        differ(shop, strict, log)


def _with_log(bundle: Path, folder: Path, **changed: object) -> Path:
    """A copy of a bundle whose own log is read otherwise."""
    shutil.copytree(bundle, folder)
    rewrite_json(folder, LOG_FILE, lambda record: record.update(changed))
    return folder


def test_labels_that_mean_something_else_cannot_be_paired(shop: Shop, rival: Path, tmp_path: Path) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(100, seed=25))
    other = _with_log(rival, tmp_path / "other", label={"column": "tags", "present": True})
    with pytest.raises(
        ExportError, match=r"'label' must mean the same to both bundles .got another one for row"
    ):
        differ(shop, other, log)


def test_logs_that_kept_other_shares_of_non_clicks_need_the_share_of_this_one(
    shop: Shop, tmp_path: Path
) -> None:
    folder = with_sampling_rate(shop.folder, tmp_path / "sampled", 0.5)
    log = write_rows(tmp_path / "day.csv", shown_rows(200, seed=26))
    with pytest.raises(ExportError, match=r"'sampling_rate' must be given where .* \(got 1 and 0.5\)"):
        differ(shop, folder, log)
    found = differ(shop, folder, log, sampling_rate=1.0)
    assert found.agreement.mean_difference == pytest.approx(np.log(0.5), abs=1e-6)


@needs_chromium
def test_what_the_command_prints_and_the_page(shop: Shop, rival: Path, tmp_path: Path, capsys) -> None:
    log = write_rows(tmp_path / "day.csv", shown_rows(1_500, seed=27))
    out = tmp_path / "side"
    bundles = ["--bundle", str(shop.folder), "--bundle", str(rival)]
    assert main(["diff", *bundles, "--data", str(log), "--out", str(out)]) == 0
    *text, line = capsys.readouterr().out.splitlines()
    told = msgspec.json.decode(line, type=Diff)
    assert told == msgspec.json.decode((out / "diff.json").read_bytes(), type=Diff)
    for start in ("first: ", "second: ", "AUC", "2025-01-01", "rank agreement", "us a row, batch 1"):
        assert any(one.startswith(start) for one in text), start
    # The differences, the reliability of both.
    check_readable((out / "diff.html").read_text(), tmp_path, figures=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bundle", "a"], "'--bundle' must be given twice (got 1 of them)"),
        (["--bundle", "a", "--bundle", "b", "--bundle", "c"], "'--bundle' must be given twice (got 3"),
        (["--bundle", "a", "--bundle", "b", "--variants", "x,y,z"], "'variants' must be one, for both"),
    ],
)
def test_two_bundles_are_asked_for(options: list[str], message: str, capsys) -> None:
    assert main(["diff", *options, "--data", "day.csv"]) == 1
    assert message in capsys.readouterr().err


def test_a_few_rows_tell_no_winner(shop: Shop, rival: Path, tmp_path: Path) -> None:
    rows = shown_rows(100, seed=29)
    pair = [next(row for row in rows if row.clicked), next(row for row in rows if not row.clicked)]
    found = differ(shop, rival, write_rows(tmp_path / "day.csv", pair))
    low, high = found.changes["logloss"].interval
    assert low == high != 0.0
    assert all(change.verdict == "" for change in found.changes.values())


def test_a_bundle_that_scores_all_rows_alike_is_held_beside_another(
    shop: Shop, rival: Path, tmp_path: Path
) -> None:
    rows = [replace(row, page="news", price=1.0, tags=(), second=START) for row in shown_rows(100, seed=28)]
    log = write_rows(tmp_path / "day.csv", rows)  # the rival knows no ads, which alone differ
    lines = []
    plan = DiffPlan(bundles=(shop.folder, rival), data=log)
    found = diff_bundles(plan, say=lines.append)
    assert found.agreement.rank_correlation is None
    assert found.second.quality.metrics.auc == 0.5
    assert any(line.startswith("rank agreement: none") for line in lines)


def test_rank_correlation_shares_the_rank_of_ties() -> None:
    draw = np.random.default_rng(1)
    one = np.round(draw.random(500), 1)
    other = np.round(one + draw.random(500), 1)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation(one, np.ones(500)) is None
    assert pl.Series(one).n_unique() == 11
