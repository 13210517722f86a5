"""The report shows the findings in a page that needs no other file."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from export.judge.fields import field_warnings
from export.report import plots
from export.report.findings import (
    EvaluationPoint,
    FieldMatrix,
    Findings,
    RateWindow,
    reliability,
)
from export.report.layout import document, figure, section, table
from export.report.page import page
from export.report.summary import summary
from export.stages.fit_schema import few_warnings
from export.stages.records import Graphs, LogSummary, Pruned, Trained
from export.stages.report import rate_warnings, warnings_of
from export.stages.work import Work
from service.bundle.encoder import Encoder
from service.bundle.manifest import Metrics
from tests.browser import check_readable, measure, needs_chromium

VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """Checks that every HTML element closes, and collects the addresses that the page fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href") and value
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def unusual_page(findings: Findings) -> str:
    """A model that was not trained here, nothing pruned, a variant kept out, a warning, a name of HTML."""
    return page(
        msgspec.structs.replace(
            findings,
            bundle="<script>alert(1)</script>",
            kept_out={"int8": "is not faster"},
            serving_variant="pruned",
            warnings=("lost 0.1 AUC",),
            training=(),
            pruning=(),
            compression=None,
            field_matrices={},
        )
    )


def test_the_page_is_whole_and_fetches_nothing(exported) -> None:
    text = (exported.plan.out / "report" / "index.html").read_text()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert all(target.startswith(("#", "data:")) for target in parser.fetched)
    assert not re.search(r"@import|url\((?!#)", text)
    # histogram, reliability, click rate, sizes, latency, curves, two field matrices
    assert text.count("<svg") == 8


@needs_chromium
def test_a_browser_shows_the_page_and_its_figures_whole(exported, tmp_path: Path) -> None:
    check_readable((exported.plan.out / "report" / "index.html").read_text(), tmp_path, figures=8)


@needs_chromium
def test_the_page_is_dark_where_its_reader_is(tmp_path: Path) -> None:
    page = document("dark", [section("A figure", figure("<svg></svg>"))])
    light, dark = (measure(page, tmp_path, dark=dark)["phone"] for dark in (False, True))
    assert light["ground"] == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", dark["ground"]))) < 200


def test_the_page_shows_each_variant_and_each_field(exported) -> None:
    text = (exported.plan.out / "report" / "index.html").read_text()
    manifest = exported.bundle.manifest
    for name, metrics in manifest.evaluation.items():
        assert f"{name}, calibrated" in text
        assert f"<td>{metrics.auc:.5f}</td>" in text
        assert f"<td>{manifest.uncalibrated[name].ece:.5f}</td>" in text
    for field in exported.bundle.schema.fields:
        assert f"<td>{field.name}</td>" in text
    assert "live neurons" in text
    assert "clicks.csv.gz" in text


def test_the_first_table_tells_unseen_and_missing_values_by_field(exported) -> None:
    text = (exported.plan.out / "report" / "index.html").read_text()
    first = text[text.index("<table") : text.index("</table>")]
    head = re.findall("<th>(.*?)</th>", first)
    assert head[4:8] == [
        "unseen in calibration",
        "unseen in test",
        "missing in calibration",
        "missing in test",
    ]
    shown = re.findall(r"<tr><td>(.*?)</td>.*?</tr>", first)
    assert set(shown) == {field.name for field in exported.bundle.schema.fields}
    unseen = [float(row) for row in re.findall(r"<td>(?:[^<]*</td><td>){5}([\d.]+)%", first)]
    assert unseen == sorted(unseen, reverse=True)
    assert any(line.startswith("unseen values") for line in exported.lines)


def test_report_json_agrees_with_the_manifest(exported, findings: Findings) -> None:
    manifest = exported.bundle.manifest
    assert findings.evaluation == manifest.evaluation
    assert findings.parity == manifest.parity
    assert findings.latency == manifest.latency
    assert findings.serving_variant == manifest.serving_variant
    assert findings.compression == manifest.compression
    assert findings.data.rows == manifest.training.rows
    assert manifest.training.missing == {each.name: each.missing["train"] for each in findings.data.fields}
    assert any(manifest.training.missing.values())
    assert sum(findings.data.rows.values()) == 4_000
    assert findings.training[-1].epoch == pytest.approx(2.0)
    assert findings.pruning[-1].sparsity["dnn"] == pytest.approx(0.99)


def test_requests_are_rows_that_the_bundle_encodes(exported) -> None:
    text = (exported.plan.out / "report" / "requests.jsonl").read_bytes()
    rows = msgspec.json.Decoder().decode_lines(text)
    encoder = Encoder(exported.bundle.schema)
    assert len(rows) > 100
    for row in rows:
        assert set(row) == {"context", "candidate"}
        assert encoder.encode_request(row["context"], [row["candidate"]]).shape == (
            1,
            exported.bundle.schema.columns,
        )


def test_the_summary_is_a_table_with_the_way_to_serve(exported) -> None:
    lines = summary(exported.bundle).splitlines()
    head = next(line for line in lines if line.startswith("variant"))
    rows = lines[lines.index(head) + 1 :][:4]
    assert [row.split()[0] for row in rows] == ["torch", "float32", "pruned", "int8"]
    assert all(len(row) == len(head) for row in rows)
    assert lines[-1] == f"serve it: python -m service --arm control={exported.plan.out}"


def test_names_are_escaped(unusual_page: str) -> None:
    assert "<script>" not in unusual_page
    assert "&lt;script&gt;" in unusual_page
    assert "<b>" not in table(["<b>"], [["<b>", 1]])


def test_warnings_and_reasons_are_shown(unusual_page: str) -> None:
    assert "<b>int8</b> is kept out: is not faster" in unusual_page
    assert '<p class="warning">lost 0.1 AUC</p>' in unusual_page


def test_a_loaded_model_has_no_curves(unusual_page: str) -> None:
    assert "loaded from a checkpoint" in unusual_page
    assert "no pruning" in unusual_page


def test_the_page_is_the_same_for_the_same_findings(exported, findings: Findings) -> None:
    assert page(findings) == (exported.plan.out / "report" / "index.html").read_text()


def test_reliability_bins_hold_all_rows() -> None:
    random = np.random.default_rng(1)
    pctr = random.random(1000)
    labels = (random.random(1000) < pctr).astype(np.uint8)
    found = reliability(labels, pctr, bins=10)
    assert found.rows == (100,) * 10
    assert list(found.pctr) == sorted(found.pctr)
    assert np.average(found.click_rate, weights=found.rows) == pytest.approx(labels.mean())
    assert len(reliability(labels[:3], pctr[:3]).rows) == 3


def test_a_field_matrix_of_zeros_can_be_drawn() -> None:
    names = ("a & b", "<c>")
    figure = plots.field_matrix_figure(FieldMatrix(names, ((0.0, 0.0), (0.0, 0.0))), title="R")
    assert figure.startswith("<svg")
    assert "<c>" not in figure


def test_one_evaluation_is_a_curve_too(findings: Findings) -> None:
    point = EvaluationPoint(epoch=1.0, train_loss=0.5, validation_logloss=0.4, validation_auc=0.7)
    assert plots.curves_figure(msgspec.structs.replace(findings, training=(point,), pruning=())).startswith(
        "<svg"
    )


@pytest.mark.parametrize(
    ("delta", "noise", "told"),
    [(-0.02, 0.01, True), (-0.02, 0.03, False), (-0.0009, 0.0001, False), (0.01, 0.001, False)],
)
def test_a_pruned_graph_that_lost_quality_gives_a_warning(
    exported, delta: float, noise: float, told: bool
) -> None:
    parity = msgspec.structs.replace(
        exported.bundle.manifest.parity[0], auc_delta=delta, auc_interval=(delta - noise, delta + noise)
    )
    assert parity.variant == "pruned"
    found = warnings_of(None, [parity], {}, ())
    assert len(found) == told
    assert all("pruned lost 0.0200 AUC against float32 on the test part" in text for text in found)
    assert all("--ship dense" in text for text in found)
    assert not warnings_of(None, [parity], {"pruned": "loses AUC"}, ())  # said once, where it is kept out


def test_what_int8_lost_is_kept_by_serving_its_float_graph(exported) -> None:
    (parity,) = [one for one in exported.bundle.manifest.parity if one.variant == "int8"]
    lossy = msgspec.structs.replace(parity, auc_delta=-0.02, auc_interval=(-0.03, -0.01))
    (text,) = warnings_of(None, [lossy], {}, (parity.reference, "int8"))
    assert text.startswith(f"int8 lost 0.0200 AUC against {parity.reference} on the test part")
    assert text.endswith(f"a service with --variant {parity.reference} keeps it")


def test_notes_on_a_pruned_graph_that_does_not_ship_are_no_warnings(exported) -> None:
    pruned = Work(exported.plan.work).read_record("prune", Pruned)
    noted = msgspec.structs.replace(pruned, notes=("zero embedding rows stay masked: they are shared",))
    assert warnings_of(noted, [], {}, ()) == noted.notes
    assert warnings_of(noted, [], {"pruned": "is left out by --ship dense"}, ()) == ()


METRICS = Metrics(
    rows=10_000, clicks=1_000, auc=0.7, logloss=0.3, prauc=0.2, rce=5.0, ece=0.01, ne=0.95, pcoc=1.0
)


@pytest.mark.parametrize(
    ("rows", "clicks", "pcoc", "told"),
    [
        (10_000, 1_000, 1.0, None),
        (
            10_000,
            1_000,
            1.41,
            "1.410 times the clicks of the test part, 11.8 standard errors from 1: .* high",
        ),
        (10_000, 1_000, 0.7, "too low"),
        (1_000_000, 100_000, 1.08, None),  # beyond noise, and small
        (1_000, 28, 1.4, None),  # large, and within noise
        (10, 9, 1.1, None),
    ],
)
def test_a_served_graph_that_is_off_on_average_gives_a_warning(
    rows: int, clicks: int, pcoc: float, told: str | None
) -> None:
    metrics = msgspec.structs.replace(METRICS, rows=rows, clicks=clicks, pcoc=pcoc)
    found = rate_warnings("int8", metrics)
    assert len(found) == (told is not None)
    assert told is None or re.search(told, found[0])


def test_the_report_says_what_the_click_rate_did(exported, findings: Findings) -> None:
    windows = findings.rate_windows
    assert sum(window.rows for window in windows) == sum(findings.data.rows.values())
    assert sum(window.clicks for window in windows) == sum(findings.data.clicks.values())
    assert {window.part for window in windows} == {"train", "validation", "calibration", "test"}
    (test,) = [window for window in windows if window.part == "test"]
    served = findings.serving_variant
    assert test.pcoc_before == pytest.approx(findings.uncalibrated[served].pcoc)
    assert test.pcoc_after == pytest.approx(findings.evaluation[served].pcoc)
    text = page(findings)
    assert all(f"<td>{window.name}</td>" in text for window in windows)
    assert "<h2>Calibration</h2>" in page(msgspec.structs.replace(findings, rate_windows=()))


def test_a_window_without_a_click_can_be_drawn(findings: Findings) -> None:
    empty = RateWindow("2025-01-01", "train", 10, 0, None, None)
    windows = (empty, *findings.rate_windows)
    assert "<td>–</td>" in page(msgspec.structs.replace(findings, rate_windows=windows))


def test_the_summary_and_the_manifest_repeat_the_warnings(exported, findings: Findings) -> None:
    assert exported.bundle.manifest.warnings == findings.warnings
    manifest = msgspec.structs.replace(exported.bundle.manifest, warnings=("clicks are off",))
    text = summary(replace(exported.bundle, manifest=manifest))
    assert "\nwarning: clicks are off\n" in text


def test_a_run_prints_a_warning_where_it_arises_and_in_its_summary(exported, findings: Findings) -> None:
    """What packaging finds arises right before the summary, so it is printed there alone."""
    said = [line for text in exported.lines for line in text.splitlines() if line.startswith("warning: ")]
    work = Work(exported.plan.work)
    earlier = (
        *field_warnings(work.read_record("fit-schema", LogSummary).fields),
        *few_warnings(work.read_record("fit-schema", LogSummary)),
        *work.read_record("train", Trained).warnings,
        *work.read_record("quantize", Graphs).losses,
    )
    for warning in findings.warnings:
        assert said.count(f"warning: {warning}") == 1 + (warning in earlier)
