"""The whole pipeline on a tiny log: the bundle is consistent, and a stage alone works as in a run."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

from export.compress.choice import PruneChoice
from export.data.encoded import Part, open_log
from export.data.errors import LogError
from export.errors import ExportError
from export.judge.metrics import auc, sigmoid
from export.report.summary import summary
from export.stages.fit_schema import fit_schema
from export.stages.package import package
from export.stages.pipeline import run
from export.stages.plan import GraphPlan, Plan, default_work
from export.stages.prune import prune
from export.stages.quantize import quantize, spread_rows
from export.stages.records import LogSummary, Trained
from export.stages.to_onnx import to_onnx
from export.stages.train import train
from export.stages.variants import read_variants
from export.stages.work import Work
from export.train.checkpoint import load_checkpoint
from export.train.choices import EmbeddingChoice, TrainChoice
from export.train.fitting import fitting_batch
from export.train.loop import predict_logits
from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.store import Bundle, load_bundle


def hashes(bundle: Bundle) -> dict[str, str]:
    return {name: hashlib.sha256(graph).hexdigest() for name, graph in bundle.graphs.items()}


def test_the_bundle_ships_the_pruned_float_graph_and_int8(exported) -> None:
    manifest = exported.bundle.manifest
    assert set(manifest.graphs) == {"pruned", "int8"}
    assert set(manifest.evaluation) == set(manifest.uncalibrated) == {"float32", "pruned", "int8"}
    assert {one.variant for one in manifest.latency} == {"torch", "float32", "pruned", "int8"}
    assert all(set(one.microseconds_a_row) == {"1", "64", "1024"} for one in manifest.latency)
    assert [(one.reference, one.variant) for one in manifest.parity] == [
        ("float32", "pruned"),
        ("pruned", "int8"),
    ]
    assert manifest.serving_variant in manifest.graphs
    assert set(manifest.kept_out) <= {"int8"} - {manifest.serving_variant}


def test_golden_rows_replay_through_another_session(exported) -> None:
    """Raw rows -> the bundle's encoder -> its graph -> its calibrator, without code of the export room."""
    bundle = load_bundle(exported.plan.out)
    encoder = Encoder(bundle.schema)
    assert len(bundle.golden.rows) == 32
    for name, graph in bundle.graphs.items():
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        outputs = bundle.golden.variants[name]
        for row, ids, logit, pctr in zip(
            bundle.golden.rows, bundle.golden.ids, outputs.logits, outputs.pctrs, strict=True
        ):
            encoded = encoder.encode_request(row.context, [row.candidate])
            assert tuple(encoded[0]) == ids
            found = session.run(None, {"ids": encoded})[0]
            assert found[0] == pytest.approx(logit, abs=outputs.logit_tolerance)
            assert bundle.calibrators[name].pctr(found)[0] == pytest.approx(pctr, abs=outputs.logit_tolerance)


def test_the_shipped_schema_and_graph_give_the_evaluated_quality(exported) -> None:
    """The shipped encoder gives ids that were scored, and their scores give the AUC in the manifest."""
    bundle, plan = exported.bundle, exported.plan
    log = open_log(Work(plan.work).path("log"))
    samples = log.sample_rows
    encoder = Encoder(bundle.schema)
    ids = np.concatenate([encoder.encode_request(row["context"], [row["candidate"]]) for row in samples])
    variants = read_variants(Work(plan.work), log.schema)
    renumbered = variants["int8"].ids(log.parts["test"].ids)
    known = {tuple(row) for row in renumbered.tolist()}
    assert {tuple(row) for row in ids.tolist()} <= known
    part = log.parts["test"]
    for name in bundle.graphs:
        logits = variants[name].score(part)
        assert auc(part.labels, logits.astype(np.float64)) == pytest.approx(
            bundle.manifest.uncalibrated[name].auc, abs=1e-9
        )


def test_pruning_reaches_its_rates_and_is_recorded(exported) -> None:
    compression = exported.bundle.manifest.compression
    assert compression.recipe == "low-latency"
    for part, target in compression.rates.items():
        sizes = {"dnn": 16 * 9 * 4 + 8 * 16, "field_matrix": 36, "embedding": 10**9}
        assert compression.reached[part] == pytest.approx(target, abs=0.005 + 1 / sizes[part])
    assert compression.graph_bytes["pruned"] < compression.graph_bytes["float32"]


def test_calibration_belongs_to_the_graphs_and_its_own_rows(exported) -> None:
    bundle = exported.bundle
    log = open_log(Work(exported.plan.work).path("log"))
    part = log.parts["calibration"]
    for name, calibrator in bundle.calibrators.items():
        assert calibrator.graph_sha256 == hashes(bundle)[name]
        assert calibrator.fit_rows == len(part)
        assert calibrator.fit_clicks == part.clicks
        assert calibrator.fit_window == (part.timestamps.min(), part.timestamps.max())
    assert bundle.manifest.training.window[1] < part.timestamps.min()


def test_the_true_probability_bounds_the_auc(exported) -> None:
    served = exported.bundle.manifest.evaluation[exported.bundle.manifest.serving_variant]
    assert served.auc_of_true_pctr is not None
    assert 0.5 < served.auc < served.auc_of_true_pctr


def test_the_run_says_where_it_is_and_how_to_serve(exported) -> None:
    text = "\n".join(exported.lines)
    for stage in ("fit-schema", "train", "baseline", "prune", "to-onnx", "quantize", "calibrate", "package"):
        assert f"s] {stage}" in text
    assert f"python -m service --arm control={exported.plan.out}" in text
    assert "rows/s" in text


def test_a_checkpoint_takes_the_place_of_training(exported, tmp_path: Path) -> None:
    plan = replace(
        exported.plan,
        checkpoint=exported.plan.work / "dense.pt",
        training=TrainChoice(seed=7, threads=1),
        pruning=PruneChoice(preset="none"),
        model="lr",  # the checkpoint decides
        hyperparameters={},
        out=tmp_path / "from-checkpoint",
        work=tmp_path / "work",
    )
    lines: list[str] = []
    bundle = run(plan, say=lines.append)
    dense = read_variants(Work(exported.plan.work), bundle.schema)["float32"].graph
    assert bundle.graphs["float32"] == dense
    assert bundle.manifest.model.name == "deep_fwfm"
    assert bundle.manifest.training.epochs == 0
    assert set(bundle.graphs) == {"float32", "int8"}
    assert bundle.manifest.compression is None
    # Of the baseline, which trains all the same, a busy machine tells how far it is.
    assert not [line for line in lines if "rows/s  " in line and not line.startswith("lr: ")]


def test_whole_neurons_are_pruned_and_recorded(exported, tmp_path: Path) -> None:
    plan = replace(
        exported.plan,
        checkpoint=exported.plan.work / "dense.pt",
        training=TrainChoice(seed=7, threads=1),
        pruning=PruneChoice(preset="none", neurons=0.5, finetune_epochs=0.5),
        hyperparameters={},
        out=tmp_path / "narrow",
        work=tmp_path / "work",
    )
    bundle = run(plan, say=str)
    compression = bundle.manifest.compression
    assert compression.recipe == "none, neurons 50%"
    assert compression.rates["neurons"] == compression.reached["neurons"] == 0.5
    assert compression.live_neurons == (8, 4)
    page = (bundle.folder / "report" / "index.html").read_text()
    assert "neurons: pruned (target 50.0%)" in page
    assert "8-4 of 16-8" in page


def test_training_starts_at_the_click_rate_and_says_how_it_ended(exported, tmp_path: Path) -> None:
    work, lines = Work(tmp_path / "work"), []
    fit_schema(work, exported.plan, say=str)
    log = open_log(work.path("log"))
    config = replace(exported.plan.training.config(2800), epochs=1, learning_rate=1e-7)
    train(work, "lr", {}, config, say=lines.append)
    network, *_ = load_checkpoint(work.path("dense.pt"), log.schema)
    rate = log.parts["train"].clicks / len(log.parts["train"])
    assert sigmoid(predict_logits(network, log.parts["train"].ids)).mean() == pytest.approx(rate, rel=0.02)
    assert any(line.startswith("the epochs ran out, and the weights after 1.00 epochs") for line in lines)


def test_a_warning_of_training_stands_in_the_report(exported, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    shutil.copytree(exported.plan.work, work.folder)
    trained = work.read_record("train", Trained)
    work.record("train", msgspec.structs.replace(trained, warnings=("an unknown site moves the mean",)))
    lines: list[str] = []
    bundle = package(work, tmp_path / "bundle", say=lines.append)
    assert "an unknown site moves the mean" in (bundle.folder / "report" / "index.html").read_text()
    # The training said it where it arose; the summary repeats it, and packaging itself does not.
    assert not any("an unknown site" in line for line in lines)
    assert summary(bundle).count("warning: an unknown site moves the mean\n") == 1


def test_a_field_that_tells_the_label_is_among_the_warnings_of_the_bundle(exported, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    shutil.copytree(exported.plan.work, work.folder)
    encoded = work.read_record("fit-schema", LogSummary)
    first, *others = encoded.fields
    leak = msgspec.structs.replace(first, auc=1.0)
    work.record("fit-schema", msgspec.structs.replace(encoded, fields=(leak, *others)))
    bundle = package(work, tmp_path / "bundle", say=str)
    (told,) = [text for text in bundle.manifest.warnings if "probably tells the label" in text]
    assert told.startswith(f"field '{leak.name}' alone ranks")
    assert (bundle.folder / "report" / "index.html").read_text().count("probably tells the label") == 1


def test_a_model_without_neurons_warns_and_prunes_none(exported, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    fit_schema(work, exported.plan, say=str)
    train(work, "lr", {}, replace(exported.plan.training.config(2800), epochs=1), say=str)
    lines: list[str] = []
    assert prune(work, PruneChoice(preset="none", neurons=0.5), say=lines.append) is None
    assert not work.has("pruned.pt")
    (line,) = lines
    assert line.startswith("warning: 'neurons' must be 0 for lr")
    assert "(got 0.5)" in line
    choice = PruneChoice(preset="narrow", prune_epochs=0.1, finetune_epochs=0.1)
    pruned = prune(work, choice, say=lines.append)
    assert pruned is not None
    assert pruned.recipe == "narrow, neurons 0%"
    assert "neurons" not in {**pruned.rates, **pruned.reached}
    lines.clear()
    assert prune(work, PruneChoice(preset="none", interactions=0.9, dimensions=0.5), say=lines.append) is None
    assert [line.partition(" must be 0 for lr")[0] for line in lines] == [
        "warning: 'interactions'",
        "warning: 'dimensions'",
    ]


def test_whole_interactions_and_dimensions_are_pruned_and_recorded(exported, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    fit_schema(work, exported.plan, say=str)
    sizes = {"dim": 4, "hidden_units": (8,)}
    train(work, "fibinet", sizes, replace(exported.plan.training.config(2800), epochs=1), say=str)
    choice = PruneChoice(
        preset="none", interactions=0.9, dimensions=0.5, finetune_epochs=0.1, dense_twin="skip"
    )
    pruned = prune(work, choice, say=str)
    assert pruned is not None
    assert pruned.recipe == "none, interactions 90%, dimensions 50%"
    assert pruned.reached["dimensions"] == 0.5
    assert pruned.hyperparameters["dim"] == 2
    n_fields = len(open_log(work.path("log")).schema.fields)
    n_pairs = n_fields * (n_fields - 1) // 2
    assert len(pruned.hyperparameters["pairs"]) <= n_pairs - round(0.9 * n_pairs)
    (smaller, *_) = load_checkpoint(work.path("compact.pt"))
    assert sum(one.numel() for one in smaller.parameters()) == pruned.parameters[1] < pruned.parameters[0]


def test_fwfm_on_a_down_sampled_log_runs_every_stage(exported, tmp_path: Path) -> None:
    plan = replace(
        exported.plan,
        model="fwfm",
        hyperparameters={"dim": 4},
        out=tmp_path / "fwfm",
        work=tmp_path / "work",
        sampling_rate=0.5,
    )
    bundle = run(plan, say=str)
    assert bundle.manifest.model.name == "fwfm"
    assert bundle.manifest.training.negative_sampling_rate == 0.5
    # Quality is measured in the log's own distribution; the served pCTR is lower by the sampling.
    served = bundle.manifest.serving_variant
    assert bundle.manifest.evaluation[served].pcoc == pytest.approx(1.0, abs=0.25)
    assert bundle.calibrators[served].sampling_rate == 0.5


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    with pytest.raises(ExportError, match=r"'dense\.pt' .* run `python -m export train --work"):
        work.path("dense.pt")
    with pytest.raises(ExportError, match="export fit-schema --work"):
        train(work, "lr", {}, TrainChoice().config(1000))


def test_embeddings_that_share_no_rows_on_this_log_are_named_and_not_recorded(
    tiny_plan: Plan, tmp_path: Path
) -> None:
    work, lines = Work(tmp_path), list[str]()
    fit_schema(work, tiny_plan, say=str)
    config = replace(tiny_plan.training.config(2800), epochs=1)
    few = EmbeddingChoice("qr", collisions=9, least_ids=100_000, pooling="sum")
    record = train(work, "lr", {}, config, embedding=few, say=lines.append)
    assert "warning: 'embedding' qr changes nothing here: no field of 100000 ids" in "\n".join(lines)
    assert record.hyperparameters == {"pooling": "sum"}
    many = EmbeddingChoice("qr", collisions=2, least_ids=5)
    record = train(work, "lr", {}, config, embedding=many, say=str)
    assert record.hyperparameters == many.described()


def test_an_earlier_stage_makes_later_outputs_stale(exported, tmp_path: Path) -> None:
    plan, work = exported.plan, Work(tmp_path / "work")
    fit_schema(work, plan, say=str)
    config = replace(plan.training.config(2800), epochs=1)
    train(work, "lr", {}, config, say=str)
    to_onnx(work, say=str)
    assert work.has("model.float32.onnx")
    train(work, "lr", {}, replace(config, seed=9), say=str)
    assert not work.has("model.float32.onnx")
    with pytest.raises(ExportError, match="export to-onnx"):
        quantize(work, GraphPlan(quantization_rows=100))


def test_a_folder_with_other_files_is_refused(exported, tmp_path: Path) -> None:
    thesis = tmp_path / "log" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(ExportError, match="'work' must be a new, an empty"):
        fit_schema(Work(tmp_path), exported.plan)
    with pytest.raises(BundleError, match="a folder of other files"):
        run(replace(exported.plan, out=tmp_path, work=tmp_path / "w"))
    assert thesis.read_text() == "years of work"


def test_a_calibration_of_another_graph_is_refused(exported, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    shutil.copytree(exported.plan.work, work.folder)
    path = work.path("calibration.json")
    text = path.read_text()
    sha256 = msgspec.json.decode(text)["int8"]["graph_sha256"]
    path.write_text(text.replace(sha256, "0" * 64))
    with pytest.raises(ExportError, match=r"fitted on the graph model\.int8\.onnx"):
        package(work, tmp_path / "bundle", say=str)


def test_a_package_that_fails_leaves_the_old_bundle(exported, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    shutil.copytree(exported.plan.out, out)
    with pytest.raises(ExportError, match="'name'"):
        package(Work(exported.plan.work), out, name="no spaces, please", say=str)
    assert load_bundle(out).manifest == exported.bundle.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_a_killed_package_leaves_the_old_bundle(exported, tmp_path: Path) -> None:
    """A package that is killed while it works leaves the old bundle unchanged."""
    out = tmp_path / "tiny"
    shutil.copytree(exported.plan.out, out)
    code = (
        "import os, signal, sys; from pathlib import Path; from export.stages.package import package; "
        "from export.stages.work import Work; "
        "die = lambda text: os.kill(os.getpid(), signal.SIGKILL); "
        "package(Work(Path(sys.argv[1])), Path(sys.argv[2]), say=die)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, exported.plan.work, out], cwd=Path(__file__).parents[3]
    )
    assert done.returncode == -signal.SIGKILL
    assert load_bundle(out).manifest == exported.bundle.manifest


def test_too_small_a_log_is_refused_in_one_line(exported, tmp_path: Path) -> None:
    log = tmp_path / "small.csv"
    log.write_text("click,timestamp,C1,true_pctr\n" + "".join(f"0,{second},a,0.1\n" for second in range(40)))
    schema = tmp_path / "small.toml"
    schema.write_text(
        'name = "small"\nformat = "csv"\n[label]\ncolumn = "click"\n[timestamp]\ncolumn = "timestamp"\n'
        '[[field]]\nname = "C1"\nkind = "categorical"\nrole = "context"\n'
    )
    plan = Plan(data=log, schema=str(schema), out=tmp_path / "out", work=tmp_path / "work")
    with pytest.raises(LogError, match="clicks and non-clicks"):
        run(plan, say=str)
    assert not plan.out.exists()


@pytest.mark.parametrize(
    ("rows", "batch"), [(1_000, 64), (14_001, 64), (112_000, 512), (300_000, 1024), (1_400_000, 2048)]
)
def test_small_logs_get_small_batches(rows: int, batch: int) -> None:
    assert fitting_batch(rows) == batch
    config = TrainChoice().config(rows)
    assert config.batch_size == batch
    assert config.learning_rate == pytest.approx(2e-3 * (batch / 2048) ** 0.5)
    assert TrainChoice(batch_size=32, learning_rate=0.5).config(rows).learning_rate == 0.5


@pytest.mark.parametrize(("rows", "l2"), [(1_000, 1e-2), (400_000, 2.5e-3), (40_000_000, 2.5e-5)])
def test_a_longer_log_gets_a_weaker_embedding_penalty(rows: int, l2: float) -> None:
    assert TrainChoice().config(rows).embedding_l2 == pytest.approx(l2)
    assert TrainChoice(embedding_l2=0.0).config(rows).embedding_l2 == 0.0


def test_the_work_folder_is_beside_the_bundle() -> None:
    assert default_work(Path("artifacts/shop")) == Path.cwd() / "artifacts" / ".work" / "shop"


@pytest.mark.parametrize("rows", [10, 100, 150, 1000])
def test_int8_ranges_are_found_on_rows_from_the_first_to_the_last(rows: int) -> None:
    ids = np.arange(rows, dtype=np.int32)[:, None]
    part = Part(ids, np.zeros(rows, np.uint8), None, None)
    found = spread_rows(part, 100)[:, 0]
    assert len(found) == min(rows, 100)
    assert (found[0], found[-1]) == (0, rows - 1)
    assert np.diff(found).max() <= -(-rows // 100) + 1


def test_golden_rows_have_a_tight_tolerance(exported) -> None:
    for outputs in exported.bundle.golden.variants.values():
        assert outputs.logit_tolerance == 1e-4
