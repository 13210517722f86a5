"""What a reader asks first: what is won over LR, how surely it is known, and how pCTR is spread."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from export.judge.bootstrap import with_intervals
from export.judge.metrics import evaluate, sigmoid
from export.report import plots
from export.report.findings import Findings, pctr_histogram
from export.report.page import page
from export.report.summary import summary
from export.stages.report import gain_warnings, noise_warnings
from service.bundle.manifest import Baseline, Metrics

METRICS = Metrics(
    rows=10_000, clicks=1_000, auc=0.7, logloss=0.3, prauc=0.2, rce=5.0, ece=0.01, ne=0.95, pcoc=1.0
)
BASELINE = Baseline(
    model="lr",
    graph_bytes=1_000,
    metrics=METRICS,
    auc_delta=0.001,
    auc_interval=(-0.002, 0.004),
    logloss_delta=-0.0003,
    logloss_interval=(-0.0011, 0.0005),
    verdict="no better",
    command="python -m export run --data 'my log.csv' --model lr",
)


def retold(exported, findings: Findings, won: Baseline | None, *warnings: str) -> tuple[str, str]:
    """The page and the summary with this baseline."""
    served = exported.bundle.manifest.serving_variant
    metrics = msgspec.structs.replace(
        findings.evaluation[served], auc_interval=(0.7011, 0.7433), logloss_interval=(0.4011, 0.4433)
    )
    changed = {"evaluation": {**findings.evaluation, served: metrics}, "warnings": warnings, "baseline": won}
    manifest = msgspec.structs.replace(exported.bundle.manifest, **changed)
    return (
        html.unescape(page(msgspec.structs.replace(findings, **changed))),
        summary(replace(exported.bundle, manifest=manifest)),
    )


def test_page_and_summary_say_that_nothing_is_won_and_offer_the_smaller_bundle(
    exported, findings: Findings
) -> None:
    served = findings.serving_variant
    size = len(exported.bundle.graphs[served])
    for text in retold(exported, findings, BASELINE):
        assert f"{served} wins nothing over lr beyond noise" in text
        assert "AUC +0.00100 (95 % interval -0.00200 to +0.00400)" in text
        assert "LogLoss -0.00030 (-0.00110 to +0.00050)" in text
        assert f"1,000 bytes in place of {size:,}, {100 - 100_000 / size:.0f} % less" in text
        assert BASELINE.command in text


def test_a_model_that_wins_is_told_without_an_offer(exported, findings: Findings) -> None:
    won = msgspec.structs.replace(BASELINE, verdict="better", auc_interval=(0.0004, 0.004), command="")
    shown, printed = retold(exported, findings, won)
    assert "is better than lr beyond noise" in shown
    assert "AUC +0.00100 (95 % interval +0.00040 to +0.00400)" in printed
    for text in (shown, printed):
        assert "wins nothing" not in text
        assert "in place of" not in text


def test_a_model_that_is_worse_than_lr_is_a_warning(exported, findings: Findings) -> None:
    worse = msgspec.structs.replace(
        BASELINE, verdict="worse", logloss_delta=0.0011, logloss_interval=(0.0003, 0.002)
    )
    (warning,) = gain_warnings("int8", worse)
    assert warning.startswith("int8 is worse than lr beyond noise: AUC +0.0010")
    assert "LogLoss +0.00110 (+0.00030 to +0.00200)" in warning
    assert not gain_warnings("int8", BASELINE)
    assert not gain_warnings("int8", None)
    assert findings.baseline == exported.bundle.manifest.baseline
    assert set(gain_warnings(findings.serving_variant, findings.baseline)) <= set(findings.warnings)
    shown, printed = retold(exported, findings, worse, warning)
    assert f'<p class="warning">{warning}</p>' in shown
    assert shown.index("What the model wins over lr") < shown.index("Fields: what training did not see")
    assert f"\nwarning: {warning}\n" in printed
    assert BASELINE.command in printed


def test_lr_itself_is_compared_with_nothing(exported, findings: Findings) -> None:
    for text in retold(exported, findings, None):
        assert " lr " not in text


def test_intervals_stand_beside_the_metrics(exported, findings: Findings) -> None:
    for metrics in findings.evaluation.values():
        assert metrics.auc_interval is not None
        assert metrics.logloss_interval is not None
        assert metrics.auc_interval[0] < metrics.auc < metrics.auc_interval[1]
        assert metrics.logloss_interval[0] < metrics.logloss < metrics.logloss_interval[1]
    shown, printed = retold(exported, findings, None)
    assert "(0.7011 to 0.7433)" in printed
    assert "(0.4011 to 0.4433)" in printed
    assert "<td>0.7011 … 0.7433</td>" in shown
    assert "<td>0.4011 … 0.4433</td>" in shown


def test_the_page_says_what_each_metric_means(exported) -> None:
    text = (exported.plan.out / "report" / "index.html").read_text()
    for name in ("AUC", "LogLoss", "PRAUC", "RCE %", "ECE", "NE", "PCOC"):
        assert re.search(f"<dt>{name}</dt><dd>.{{30,}}?</dd>", text)
        assert f"<th>{name}</th>" in text


@pytest.mark.parametrize(("clicks", "told"), [(28, True), (2_000, False)])
def test_a_test_part_with_few_clicks_says_that_it_tells_nothing_apart(clicks: int, told: bool) -> None:
    """By the interval that the rows give, whatever the number of clicks."""
    draw = np.random.default_rng(4)
    labels = np.zeros(20_000, np.uint8)
    labels[:clicks] = 1
    pctr = sigmoid(draw.normal(0.8 * labels - 4, 1))
    metrics = with_intervals(labels, pctr, evaluate(labels, pctr))
    found = noise_warnings(metrics, None)
    assert len(found) == told
    assert all(f"nothing apart: with {clicks} clicks in 20,000 rows" in text for text in found)
    assert noise_warnings(metrics, BASELINE) == found
    # Rows that did tell the model from LR are enough for that.
    assert not noise_warnings(metrics, msgspec.structs.replace(BASELINE, verdict="worse"))


@pytest.mark.parametrize(("clicks", "rows"), [(1, 400), (2, 3), (397, 400)])
def test_intervals_of_very_few_clicks_or_non_clicks_are_not_believed(clicks: int, rows: int) -> None:
    """Resamples of one click that is ranked first have no interval at all."""
    labels = np.arange(rows) < clicks
    metrics = with_intervals(labels, 0.9 - np.arange(rows) / 1_000, evaluate(labels, 0.9 - 0.5 * ~labels))
    assert metrics.auc_interval == (1.0, 1.0)
    for verdict in ("better", "worse"):
        (found,) = noise_warnings(metrics, msgspec.structs.replace(BASELINE, verdict=verdict))
        assert f"can tell nothing: it has {clicks} clicks and {rows - clicks} non-clicks" in found


def test_few_clicks_that_are_ranked_perfectly_are_enough() -> None:
    metrics = msgspec.structs.replace(METRICS, clicks=28, auc_interval=(0.985, 0.999))
    assert noise_warnings(metrics, None) == ()
    assert noise_warnings(METRICS, None) == ()  # not known


def test_the_histogram_holds_all_rows_by_their_log_odds(exported, findings: Findings) -> None:
    found = findings.histogram
    assert found is not None
    served = findings.evaluation[findings.serving_variant]
    assert sum(found.clicks) == served.clicks
    assert sum(found.others) == served.rows - served.clicks
    labels, pctr = np.array([0, 0, 1, 1]), np.array([0.01, 0.02, 0.02, 0.5])
    made = pctr_histogram(labels, pctr, bins=4)
    assert np.allclose(np.diff(made.edges), np.log(99) / 4)
    assert made.edges[0] == pytest.approx(np.log(0.01 / 0.99))
    assert made.edges[-1] == pytest.approx(0.0)
    assert (made.clicks, made.others) == ((1, 0, 0, 1), (2, 0, 0, 0))


@pytest.mark.parametrize("pctr", [[0.3, 0.3, 0.3], [0.0, 1.0, 0.5]])
def test_a_histogram_of_extreme_pctrs_can_be_drawn(pctr: list[float]) -> None:
    made = pctr_histogram(np.array([0, 1, 0]), np.array(pctr))
    assert (sum(made.clicks), sum(made.others)) == (1, 2)
    assert np.isfinite(made.edges).all()
    assert "1 clicks" in plots.histogram_figure(made)
