"""INT8 trained on as integers is kept where it is better; dynamic INT8 ships, and serves only by its name."""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import UNSET

from export.bundles.scorer import Scorer
from export.compress.choice import PruneChoice
from export.data.encoded import open_log
from export.data.parts import part_path
from export.errors import ExportError
from export.graph import torch_graph
from export.graph.int8_layers import gaining_layers
from export.graph.quantize import quantize_int8
from export.judge.metrics import auc
from export.knobs import choose
from export.report.changes import float_layer_lines
from export.stages.calibrate import calibrate
from export.stages.package import package
from export.stages.pipeline import run
from export.stages.plan import GraphPlan, Plan, QatChoice
from export.stages.qat import qat_line
from export.stages.quantize import ONLY_BY_NAME, quantize, spread_rows
from export.stages.records import QatRecord
from export.stages.variants import PRUNED, read_variants
from export.stages.work import Work
from service.bundle.errors import BundleError
from service.bundle.manifest import manifest_from_file, manifest_to_file
from service.bundle.store import Bundle
from service.reading import decode_request
from service.scoring.golden import replay_golden
from service.scoring.predictor import Predictor
from service.scoring.rows import BatchRows
from service.settings import Settings
from service.wire import JSON
from tests.running import RunningApp

ROWS = 400
AS_INT8 = GraphPlan(ship="pruned", quantization="qat", quantization_rows=ROWS)


@dataclass(frozen=True)
class Made:
    """A run with dynamic INT8 of a pruned model, and what it printed."""

    bundle: Bundle
    work: Work
    lines: list[str]


@pytest.fixture(scope="module")
def made(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("dynamic")
    plan = replace(
        tiny_plan,
        out=folder / "bundle",
        work=folder / "work",
        hyperparameters={"dim": 8, "hidden_units": [64, 48]},  # wide enough for INT8
        training=tiny_plan.training.updated(epochs=1),
        pruning=PruneChoice(preset="high-performance", finetune_epochs=0.5, dense_twin="skip"),
        ship="pruned",
        quantization="dynamic",
        quantization_rows=ROWS,
    )
    lines: list[str] = []
    return Made(run(plan, say=lines.append), Work(plan.work), lines)


def test_dynamic_int8_ships_and_does_not_serve(made: Made) -> None:
    manifest = made.bundle.manifest
    assert manifest.quantization == "dynamic"
    assert set(made.bundle.graphs) == {"pruned", "int8", "dynamic"}
    assert manifest.serving_variant != "dynamic"
    assert manifest.kept_out["dynamic"] == ONLY_BY_NAME
    assert manifest.graphs["dynamic"].depends_on_batch is True
    assert all(manifest.graphs[name].depends_on_batch is UNSET for name in ("pruned", "int8"))
    assert "dynamic" not in made.bundle.shared_graphs
    assert f"warning: dynamic {ONLY_BY_NAME}" in made.lines
    page = (made.bundle.folder / "report/index.html").read_text()
    assert "its batch" in page
    assert ("pruned", "dynamic") in {(one.reference, one.variant) for one in manifest.parity}


def test_a_lean_bundle_does_not_say_how_to_serve_what_it_has_not(made: Made, tmp_path: Path) -> None:
    manifest = package(made.work, tmp_path / "lean", contents="lean", say=lambda _: None).manifest
    assert set(manifest.graphs) == {manifest.serving_variant}
    assert "one graph" in manifest.kept_out["dynamic"]
    for text in (*manifest.kept_out.values(), *manifest.warnings):
        assert "--variant" not in text


def test_a_bundle_cannot_choose_it_by_itself(made: Made) -> None:
    chosen = msgspec.structs.replace(made.bundle.manifest, serving_variant="dynamic", kept_out={})
    with pytest.raises(BundleError, match="one whose rows do not depend on their batch"):
        manifest_from_file(manifest_to_file(chosen))


def test_its_golden_rows_are_replayed_alone(made: Made) -> None:
    predictor = Predictor(made.bundle, Settings(variant="dynamic"))
    assert predictor.depends_on_batch
    asyncio.run(replay_golden(predictor))
    Scorer(made.bundle, "dynamic")  # replays them too
    bodies = [
        msgspec.json.encode({"context": row.context, "candidates": [{"features": row.candidate}]})
        for row in made.bundle.golden.rows
    ]
    rows = [predictor.encode(decode_request(body, JSON), 1) for body in bodies]
    alone = np.concatenate([predictor.graphs.run(BatchRows.of([row])) for row in rows])
    together = predictor.graphs.run(BatchRows.of(rows))
    assert (alone != together).any()
    assert not Predictor(made.bundle, Settings()).depends_on_batch


def test_a_service_that_is_asked_for_it_says_what_that_means(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "bidlight"):
        service = RunningApp(Settings(arms=[f"control={made.bundle.folder}"], variant="dynamic"))
    with closing(service):
        assert_it_says_so(service, caplog)


def assert_it_says_so(service: RunningApp, caplog: pytest.LogCaptureFixture) -> None:
    assert "arm control serves dynamic of" in caplog.text
    assert "a row's pCTR depends on the other rows of its batch" in caplog.text
    ready = service.get("/readyz")
    assert (ready.status_code, ready.text) == (200, "ready; pCTRs depend on the batch in control\n")
    (arm,) = service.get("/arms").json()["arms"]
    assert (arm["variant"], arm["depends_on_batch"]) == ("dynamic", True)


@pytest.mark.parametrize("rate", [1e-4, 0.3])
def test_the_better_of_static_and_trained_is_the_graph(made: Made, tmp_path: Path, rate: float) -> None:
    """A step size that destroys the model leaves the static graph; the log's ids are renumbered."""
    copy = Work(tmp_path / "work")
    shutil.copytree(made.work.folder, copy.folder)
    lines: list[str] = []
    record = quantize(copy, replace(AS_INT8, qat_learning_rate=rate), say=lines.append)
    assert record.quantization == "qat"
    assert record.qat is not None
    assert qat_line(record.qat) in lines
    log = open_log(copy.path("log"))
    variants = read_variants(copy, log.schema)
    assert set(variants) == {"float32", "pruned", "int8"}
    pruned = variants[PRUNED]
    static = quantize_int8(pruned.graph, pruned.ids(spread_rows(log.parts["train"], ROWS)))
    assert (variants["int8"].graph != static) is record.qat.better
    assert record.qat.better is (
        record.qat.logloss < record.qat.static_logloss and record.qat.auc >= record.qat.static_auc
    )
    part = log.parts["validation"]
    found = auc(part.labels, variants["int8"].score(part))
    assert found == pytest.approx(max(record.qat.static_auc, record.qat.auc * record.qat.better))
    if rate > 0.1:
        assert not record.qat.better
        return
    calibrate(copy, sampling_rate=1.0, methods=("platt",), say=str)
    bundle = package(copy, tmp_path / "bundle", say=str)
    assert bundle.manifest.quantization == ("qat" if record.qat.better else UNSET)
    assert qat_line(record.qat) in (bundle.folder / "report/index.html").read_text().replace("&gt;", ">")


def test_an_operator_that_cannot_be_trained_costs_no_export(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, lines = Work(tmp_path / "work"), list[str]()
    shutil.copytree(made.work.folder, copy.folder)
    copy.path("quantize.json").unlink()  # as if the stage had been stopped before its end
    known = {name: one for name, one in torch_graph.OPERATORS.items() if name != "Reshape"}
    monkeypatch.setattr(torch_graph, "OPERATORS", known)
    record = quantize(copy, AS_INT8, say=lines.append)
    assert (record.qat, record.made_as) == (None, "static")
    assert "int8" in record.graphs
    assert any(line.startswith("warning: the INT8 graph cannot be trained on, and") for line in lines)


def test_layers_that_lose_too_much_stay_float32_and_the_bundle_says_so(made: Made, tmp_path: Path) -> None:
    """Rows are clicked where INT8 layers make the pCTR smaller, so INT8 loses AUC beyond all noise."""
    copy, lines = Work(tmp_path / "work"), list[str]()
    shutil.copytree(made.work.folder, copy.folder)
    log = open_log(copy.path("log"))
    pruned, validation = read_variants(copy, log.schema)[PRUNED], log.parts["validation"]
    rows = pruned.ids(spread_rows(log.parts["train"], ROWS))
    layers = [layer.name for layer in gaining_layers(pruned.graph)]
    logits = []
    for kept in ([], layers):
        graph = quantize_int8(pruned.graph, rows, kept=kept)
        assert graph is not None
        logits.append(replace(pruned, graph=graph).score(validation))
    clicks = (logits[0] < logits[1]).astype(np.uint8)
    np.save(part_path(copy.path("log"), "validation", "labels"), clicks)
    record = quantize(copy, replace(AS_INT8, quantization="dynamic", layer_loss=0.0), say=lines.append)
    told = record.float_layers
    assert told is not None
    calibrate(copy, sampling_rate=1.0, methods=("platt",), say=str)
    bundle = package(copy, tmp_path / "bundle", say=str)
    assert bundle.manifest.float_layers == told
    page = (bundle.folder / "report" / "index.html").read_text()
    for line in float_layer_lines(told):
        assert line in lines
        assert line in page
    assert b'"float_layers"' not in (made.bundle.folder / "manifest.json").read_bytes()


def test_its_line_says_which_one_is_kept() -> None:
    record = QatRecord(1, 1e-4, 2.0, 0.7, 0.5, 0.71, 0.49, better=True)
    assert qat_line(record).endswith("0.50000 -> 0.49000; the trained one is the INT8 graph")
    worse = msgspec.structs.replace(record, better=False)
    assert qat_line(worse).endswith("the INT8 graph stays as it was")


def test_epochs_as_int8_are_for_qat_alone() -> None:
    assert choose(GraphPlan, {"quantization": "qat", "qat_epochs": 3}).qat == QatChoice(3, 1e-4)
    with pytest.raises(ExportError, match="'qat_epochs' must be left out with quantization static"):
        choose(GraphPlan, {"qat_epochs": 1})
