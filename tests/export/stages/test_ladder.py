"""A graph that loses on validation rows does not serve: dense -> pruned -> INT8, and dense -> INT8."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from export.compress.choice import PruneChoice
from export.data.encoded import open_log
from export.errors import ExportError
from export.judge.parity import AUC_TOLERANCE
from export.report.changes import step_line
from export.stages.calibrate import calibrate
from export.stages.ladder import LOGLOSS_TOLERANCE, take_step
from export.stages.package import package
from export.stages.pipeline import run
from export.stages.plan import GraphPlan, LogPlan, Plan
from export.stages.prune import prune
from export.stages.quantize import quantize
from export.stages.records import Graphs
from export.stages.to_onnx import to_onnx
from export.stages.variants import float_variant, read_variants
from export.stages.work import Work
from export.train.choices import TrainChoice
from service.bundle.encoder import Encoder
from service.bundle.store import Bundle, load_bundle
from tests.export.click_csv import write_clicks

ROWS = 6_000


def write_log(folder: Path) -> LogPlan:
    """Clicks that follow from the ids alone: a model without embeddings knows nothing."""
    draw = np.random.default_rng(4)
    effects = draw.normal(0, 1.5, (2, 40))
    ids = draw.integers(0, 40, (ROWS, 2))
    logits = effects[0, ids[:, 0]] + effects[1, ids[:, 1]]
    clicks = draw.random(ROWS) < 1 / (1 + np.exp(-logits))
    rows = [(int(click), f"u{user}", f"a{ad}") for click, (user, ad) in zip(clicks, ids, strict=True)]
    return write_clicks(folder, "pairs", {"user": "context", "ad": "candidate"}, rows)


@dataclass(frozen=True)
class Destroyed:
    """A run whose pruning leaves next to nothing of the model, and what it printed."""

    plan: Plan
    work: Work
    lines: list[str]
    bundle: Bundle


def copy_of(destroyed: Destroyed, folder: Path) -> Work:
    """The work folder, to change."""
    copy = Work(folder / "copy")
    shutil.copytree(destroyed.work.folder, copy.folder)
    return copy


@pytest.fixture(scope="module")
def destroyed(tmp_path_factory: pytest.TempPathFactory) -> Destroyed:
    folder = tmp_path_factory.mktemp("refused")
    log = write_log(folder)
    plan = Plan(
        data=log.data,
        schema=log.schema,
        out=folder / "bundle",
        work=folder / "work",
        hyperparameters={"dim": 4, "hidden_units": [16], "dropout": 0.0},
        training=TrainChoice(epochs=4, learning_rate=1e-2, seed=1, threads=1),
        pruning=PruneChoice(
            preset="low-memory",
            prune_epochs=0.02,
            finetune_epochs=0.01,
            prune_learning_rate=1e-9,
            dense_twin="skip",
        ),
    )
    lines: list[str] = []
    bundle = run(plan, say=lines.append)
    return Destroyed(plan, Work(plan.work), lines, bundle)


def test_the_dense_graph_serves_where_pruning_destroyed_the_model(destroyed: Destroyed) -> None:
    manifest = destroyed.bundle.manifest
    assert manifest.evaluation["pruned"].auc < manifest.evaluation["float32"].auc - 0.02
    assert set(manifest.graphs) == {"float32", "int8"}
    assert manifest.serving_variant in ("float32", "int8")
    assert manifest.evaluation[manifest.serving_variant].auc == pytest.approx(
        manifest.evaluation["float32"].auc, abs=0.005
    )
    assert [(one.reference, one.variant) for one in manifest.parity] == [
        ("float32", "pruned"),
        ("float32", "int8"),
    ]


def test_the_reason_is_told_with_what_to_do(destroyed: Destroyed) -> None:
    reason = destroyed.bundle.manifest.kept_out["pruned"]
    assert "AUC against float32 on the validation part (95 % interval of the change -" in reason
    assert "--preset none" in reason
    assert f"warning: pruned {reason}; float32 ships in its place" in destroyed.lines
    assert f"pruned is kept out: {reason}" in "\n".join(destroyed.lines)
    assert "<b>pruned</b> is kept out: loses" in (destroyed.bundle.folder / "report/index.html").read_text()


def test_the_bundle_numbers_ids_as_its_graphs_do(destroyed: Destroyed) -> None:
    bundle = load_bundle(destroyed.bundle.folder)
    log = open_log(destroyed.work.path("log"))
    assert all(field.renumbering is None for field in bundle.schema.fields)
    encoder = Encoder(bundle.schema)
    row = log.sample_rows[0]
    found = encoder.encode_request(row["context"], [row["candidate"]])[0]
    assert np.array_equal(found, log.parts["test"].ids[0])
    variants = read_variants(destroyed.work, log.schema)
    assert float_variant(variants) == "float32"
    assert not variants["int8"].renumberings
    assert variants["pruned"].renumberings


def test_a_stage_alone_decides_as_the_run_did(destroyed: Destroyed) -> None:
    before = destroyed.work.read_record("quantize", Graphs)
    assert quantize(destroyed.work, say=str) == before
    assert set(before.refused) == {"pruned"}


def clicks_of(logits, draw) -> np.ndarray:
    return (draw.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda logits, _: logits, ""),
        (lambda logits, noise: logits + 0.02 * noise, ""),
        (lambda logits, _: 0.3 * logits - 2.0, ""),  # a calibrator mends that
        (lambda logits, noise: logits + noise, "loses "),
        (lambda logits, _: np.sign(logits) * np.abs(logits) ** 0.25, "adds "),  # ranks as before
    ],
)
def test_a_step_that_loses_says_what(change, told: str) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 1.5, 4000)
    step = take_step(("a", "b"), clicks_of(logits, draw), logits, change(logits, draw.normal(0, 1, 4000)))
    assert step.loss.startswith(told) if told else not step.loss
    assert "noise" not in step.loss  # four thousand rows can tell


def test_a_loss_that_may_be_noise_keeps_the_larger_graph() -> None:
    """Of two graphs that are equally good the rows show either ahead; only the one behind is kept out."""
    refused = []
    for seed in range(40):
        draw = np.random.default_rng(seed)
        logits = draw.normal(0, 1, 300)
        labels = clicks_of(logits, draw)
        before, after = (logits + draw.normal(0, 0.5, 300) for _ in range(2))
        step = take_step(("a", "b"), labels, before, after)
        if step.change.auc_interval[0] < 0.0 < step.change.auc_interval[1]:
            lost = step.change.auc_delta < -AUC_TOLERANCE
            refused.append(bool(step.loss))
            assert lost <= bool(step.loss)
            assert not lost or "the rows cannot tell that from noise" in step.loss
    assert 5 < sum(refused) < len(refused) - 5


def test_a_loss_within_tolerance_is_none_however_wide_its_interval() -> None:
    draw = np.random.default_rng(2)
    logits = draw.normal(0, 1, 60)
    labels = clicks_of(logits, draw)
    step = take_step(("a", "b"), labels, logits, logits + 1e-6 * draw.normal(0, 1, 60))
    assert step.change.auc_delta == 0.0
    assert abs(step.change.logloss_delta) < LOGLOSS_TOLERANCE
    assert not step.loss


def test_the_dense_graph_ships_by_choice(destroyed: Destroyed, tmp_path: Path) -> None:
    copy = copy_of(destroyed, tmp_path)
    record = quantize(copy, GraphPlan(ship="dense"), say=str)
    assert record.refused["pruned"] == "is left out by --ship dense"
    assert record.ship == "dense"
    assert [(one.reference, one.variant) for one in record.steps] == [
        ("float32", "pruned"),
        ("float32", "int8"),
    ]


def test_a_pruned_graph_that_lost_ships_where_the_user_insists(destroyed: Destroyed, tmp_path: Path) -> None:
    copy, lines = copy_of(destroyed, tmp_path), []
    record = quantize(copy, GraphPlan(ship="pruned"), say=lines.append)
    assert not record.refused  # INT8 is compared with the pruned graph alone
    (loss,) = record.losses
    assert loss.startswith("pruned loses ")
    assert loss.endswith("it ships all the same, by --ship pruned")
    assert f"warning: {loss}" in lines
    variants = read_variants(copy, open_log(copy.path("log")).schema)
    assert float_variant(variants) == "pruned"
    assert variants["int8"].renumberings
    calibrate(copy, sampling_rate=1.0, methods=("platt",), say=str)
    bundle = package(copy, tmp_path / "bundle", say=str)
    assert set(bundle.graphs) == {"pruned", "int8"}
    assert loss in bundle.manifest.warnings


def test_a_pruned_graph_that_is_not_there_cannot_ship(destroyed: Destroyed, tmp_path: Path) -> None:
    copy = copy_of(destroyed, tmp_path)
    prune(copy, PruneChoice(preset="none"), say=str)
    to_onnx(copy, say=str)
    with pytest.raises(ExportError, match="'ship' must be auto or dense where nothing was pruned"):
        quantize(copy, GraphPlan(ship="pruned"), say=str)


def test_a_run_refuses_that_before_it_trains(destroyed: Destroyed, tmp_path: Path) -> None:
    plan = replace(destroyed.plan, out=tmp_path / "bundle", work=tmp_path / "work", ship="pruned")
    for pruning in (PruneChoice(preset="none"), PruneChoice()):  # chosen, and fitted to a small log
        lines: list[str] = []
        with pytest.raises(ExportError, match="'ship' must be auto or dense where nothing is pruned"):
            run(replace(plan, pruning=pruning), say=lines.append)
        assert not any("] train" in line for line in lines)


def test_every_step_is_told_with_its_interval(destroyed: Destroyed) -> None:
    text = "\n".join(destroyed.lines)
    manifest = destroyed.bundle.manifest
    page = (destroyed.bundle.folder / "report/index.html").read_text()
    assert [(one.reference, one.variant) for one in manifest.ladder] == [
        ("float32", "pruned"),
        ("float32", "int8"),
    ]
    for change in manifest.ladder:
        assert text.count(f"on the validation part {step_line(change)}") == 2  # in its stage and at the end
        assert f"<td>{change.auc_delta:.5f}</td><td>{change.auc_interval[0]:+.5f} … " in page


def click_where_better(work: Work, part: str, better: str, worse: str) -> None:
    """Makes clicks of the rows that one graph ranks higher than the other: its AUC is higher then."""
    log = open_log(work.path("log"))
    variants = read_variants(work, log.schema)
    ranks = [np.argsort(np.argsort(variants[name].score(log.parts[part]))) for name in (better, worse)]
    labels = work.folder / "log" / f"{part}.labels.npy"
    labels.unlink()
    np.save(labels, (ranks[0] > ranks[1]).astype(np.uint8))


@pytest.mark.parametrize(("part", "serves"), [("test", True), ("validation", False)])
def test_int8_is_judged_by_the_validation_part_alone(
    destroyed: Destroyed, tmp_path: Path, part: str, serves: bool
) -> None:
    copy = copy_of(destroyed, tmp_path)
    click_where_better(copy, part, "float32", "int8")
    record = quantize(copy, GraphPlan(ship="dense"), say=str)
    assert ("int8" not in record.refused) == serves
    assert "int8" in record.graphs  # it ships, and serves or does not
    if not serves:
        assert record.refused["int8"].startswith("loses ")
        assert "against float32 on the validation part" in record.refused["int8"]


def test_int8_of_a_pruned_graph_has_to_match_the_dense_one_too(destroyed: Destroyed, tmp_path: Path) -> None:
    copy = copy_of(destroyed, tmp_path)
    click_where_better(copy, "validation", "pruned", "float32")
    record = quantize(copy, say=str)
    assert "pruned" not in record.refused
    assert [(one.reference, one.variant) for one in record.steps] == [
        ("float32", "pruned"),
        ("pruned", "int8"),
        ("float32", "int8"),
    ]


def test_two_losses_do_not_add_up() -> None:
    """A swap of neighbours costs one pair in ten thousand: eight are allowed, sixteen are not."""
    labels = np.tile([0, 1], 100).astype(np.uint8)
    dense = np.arange(200, dtype=np.float32) / 100
    pruned, int8 = dense.copy(), dense.copy()
    for pair in range(0, 80, 5):
        rows = [2 * pair, 2 * pair + 1]
        for graph in [int8] if pair < 40 else [int8, pruned]:
            graph[rows] = graph[rows[::-1]]
    assert not take_step(("float32", "pruned"), labels, dense, pruned).loss
    assert not take_step(("pruned", "int8"), labels, pruned, int8).loss
    assert take_step(("float32", "int8"), labels, dense, int8).loss.startswith("loses 0.00160 AUC")
