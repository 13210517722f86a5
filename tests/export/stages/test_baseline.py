"""LR beside the model: it is trained for real, on the same rows, and the bundle says what is won over it."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from export.cli.knob_options import given_of
from export.cli.options import build_parser
from export.data.encoded import EncodedLog, open_log
from export.errors import ExportError
from export.judge.bootstrap import Delta
from export.judge.metrics import evaluate, logloss, sigmoid
from export.stages.artifacts import read_artifacts
from export.stages.baseline import GRAPH, baseline, baseline_config, read_baseline
from export.stages.calibrate import calibrate
from export.stages.calibration_methods import METHODS
from export.stages.evaluate import Judged, evaluate_variants
from export.stages.fit_schema import fit_schema
from export.stages.gain import command_of, gain_over_baseline, verdict_of
from export.stages.package import package
from export.stages.plan import GraphPlan, LogPlan
from export.stages.quantize import quantize
from export.stages.records import Calibrated, LogSummary, Trained, TrainedBaseline
from export.stages.to_onnx import to_onnx
from export.stages.train import train
from export.stages.work import Work
from export.train.choices import TrainChoice
from export.train.config import TrainConfig
from service.bundle.manifest import Baseline


@pytest.fixture(scope="module")
def log(exported) -> EncodedLog:
    return open_log(Work(exported.plan.work).path("log"))


@pytest.fixture(scope="module")
def won(exported) -> Baseline:
    found = exported.bundle.manifest.baseline
    assert found is not None
    return found


@pytest.fixture
def work(exported, tmp_path: Path) -> Work:
    """A copy of the exported work folder."""
    folder = tmp_path / "work"
    shutil.copytree(exported.plan.work, folder)
    return Work(folder)


def gain(work: Work, out: Path, *, share: float = 1.0) -> Baseline:
    """What the dense graph wins over the baseline in a work folder, as packaging judges it.

    Of its pCTRs this share is kept, the rest is the click rate.
    """
    made = read_artifacts(work)
    quality = evaluate_variants(made.variants, made.calibrators, made.test)
    rate = made.test.clicks / len(made.test)
    pctr = {name: share * one + (1 - share) * rate for name, one in quality.pctr.items()}
    judged = Judged(replace(quality, pctr=pctr), (), "float32", {})
    beside = read_baseline(work, made.log.schema)
    assert beside is not None
    return gain_over_baseline(beside, made, judged, out)


def test_the_baseline_is_as_good_as_a_trained_logistic_regression(exported, log: EncodedLog) -> None:
    variant = read_baseline(Work(exported.plan.work), log.schema)
    assert variant is not None
    train, test = log.parts["train"], log.parts["test"]
    columns = [log.schema.column_slices[one.name] for one in log.schema.fields if one.max_length == 1]
    single = np.concatenate([np.arange(one.start, one.stop) for one in columns])
    encoder = OneHotEncoder(handle_unknown="ignore").fit(train.ids[:, single])
    losses = []
    for strength in (0.01, 0.03, 0.1, 0.3, 1.0):
        peer = LogisticRegression(C=strength, max_iter=1000)
        peer.fit(encoder.transform(train.ids[:, single]), np.asarray(train.labels))
        losses.append(logloss(test.labels, peer.predict_proba(encoder.transform(test.ids[:, single]))[:, 1]))
    assert logloss(test.labels, sigmoid(variant.score(test))) < 1.02 * min(losses)


def test_the_gain_is_the_difference_to_the_served_variant(exported, log: EncodedLog, won: Baseline) -> None:
    manifest = exported.bundle.manifest
    served = manifest.evaluation[manifest.serving_variant]
    assert won.model == "lr"
    assert won.metrics.rows == served.rows == len(log.parts["test"])
    assert won.auc_delta == pytest.approx(served.auc - won.metrics.auc, abs=1e-12)
    assert won.logloss_delta == pytest.approx(served.logloss - won.metrics.logloss, abs=1e-12)
    assert won.auc_interval[0] < won.auc_delta < won.auc_interval[1]
    assert won.logloss_interval[0] < won.logloss_delta < won.logloss_interval[1]
    # Paired: narrower than that of two models judged on rows of their own.
    assert served.auc_interval is not None
    assert np.ptp(won.auc_interval) < np.ptp(served.auc_interval)
    graph = read_baseline(Work(exported.plan.work), log.schema)
    assert graph is not None
    assert won.graph_bytes == len(graph.graph)
    raw = evaluate(log.parts["test"].labels, sigmoid(graph.score(log.parts["test"])))
    assert won.metrics.auc == pytest.approx(raw.auc, abs=1e-9)


def test_the_baseline_is_calibrated_like_the_variants(work: Work, log: EncodedLog, tmp_path: Path) -> None:
    """With a loss that weighs clicks, LR's raw probabilities are too high; its LogLoss is not."""
    trained = work.read_record("train", Trained)
    config = replace(trained.config, loss="weighted-bce", click_weight=8.0)
    work.record("train", msgspec.structs.replace(trained, config=config))
    baseline(work, say=str)
    found = gain(work, tmp_path)
    graph = read_baseline(work, log.schema)
    assert graph is not None
    raw = evaluate(log.parts["test"].labels, sigmoid(graph.score(log.parts["test"])))
    assert raw.pcoc > 1.5
    assert found.metrics.pcoc == pytest.approx(1.0, abs=0.25)
    assert found.metrics.logloss < raw.logloss - 0.05


@pytest.mark.parametrize(
    "given",
    [
        {"loss": "focal", "focal_gamma": 1.5, "seed": 4, "threads": 1},
        {"loss": "weighted-bce", "click_weight": 5.0},
        {"negative_rate": 0.2, "epochs": 1, "learning_rate": 1.0, "patience": 1},
    ],
)
def test_it_is_trained_by_its_own_defaults_with_the_loss_of_the_model(
    log: EncodedLog, given: dict[str, object]
) -> None:
    part = log.parts["train"]
    model = TrainChoice(**given).config(len(part), part.clicks, model="deep_fwfm")
    found = baseline_config(model, log)
    fitted = TrainChoice(negative_rate=model.negative_rate).config(len(part), part.clicks, model="lr")
    for name in TrainConfig.__dataclass_fields__:
        theirs = ("loss", "click_weight", "focal_gamma", "negative_rate", "seed", "threads")
        assert getattr(found, name) == getattr(model if name in theirs else fitted, name), name


def test_nothing_is_trained_beside_lr_itself(work: Work, log: EncodedLog) -> None:
    trained = work.read_record("train", Trained)
    train(work, "lr", {}, replace(trained.config, epochs=1), say=str)
    lines: list[str] = []
    assert baseline(work, say=lines.append).graph is None
    assert lines == ["the model is lr itself: nothing is trained beside it"]
    assert not work.has(GRAPH)
    assert read_baseline(work, log.schema) is None


def test_the_stage_leaves_the_graphs_and_a_new_model_makes_it_stale(work: Work) -> None:
    before = work.path(GRAPH).read_bytes()
    baseline(work, say=str)
    assert work.path(GRAPH).read_bytes() == before  # the same seed
    assert work.has("model.int8.onnx")
    assert work.has("calibration.json")
    trained = work.read_record("train", Trained)
    train(work, "fm", {"dim": 2}, replace(trained.config, epochs=1), say=str)
    assert not work.has(GRAPH)
    assert not work.has("baseline.json")


def test_a_package_makes_up_for_a_baseline_that_was_left_out(
    exported, work: Work, won: Baseline, tmp_path: Path
) -> None:
    (work.folder / GRAPH).unlink()
    (work.folder / "baseline.json").unlink()
    lines: list[str] = []
    bundle = package(work, tmp_path / "again", say=lines.append)
    found = bundle.manifest.baseline
    assert found is not None
    assert found.metrics == won.metrics
    assert any(line.startswith("training lr beside it") for line in lines)
    assert work.read_record("baseline", TrainedBaseline).seconds > 0


def test_a_graph_that_the_stage_did_not_write_is_refused(work: Work, log: EncodedLog) -> None:
    work.path(GRAPH).write_bytes(work.path("model.float32.onnx").read_bytes())
    with pytest.raises(ExportError, match="must be what the stage baseline wrote there"):
        read_baseline(work, log.schema)


@pytest.mark.parametrize(
    ("auc", "loss", "verdict"),
    [
        ((0.001, 0.02), (-0.02, -0.001), "better"),
        ((0.001, 0.02), (-0.02, 0.001), "better"),
        ((-0.001, 0.02), (-0.02, -0.001), "better"),
        ((-0.001, 0.02), (-0.02, 0.001), "no better"),
        ((0.0, 0.0), (0.0, 0.0), "no better"),
        ((-0.02, -0.001), (-0.01, 0.01), "worse"),
        ((0.001, 0.02), (0.001, 0.02), "worse"),  # ranks better, and predicts worse
    ],
)
def test_the_intervals_give_the_verdict(
    auc: tuple[float, float], loss: tuple[float, float], verdict: str
) -> None:
    assert verdict_of(Delta(sum(auc) / 2, *auc), Delta(sum(loss) / 2, *loss)) == verdict


def test_a_model_that_learns_what_lr_cannot_is_better(tmp_path: Path) -> None:
    """A click follows whether two values agree, which no sum of weights says."""
    draw = np.random.default_rng(2)
    pairs = draw.integers(0, 4, (4000, 2))
    clicks = draw.random(4000) < np.where(pairs[:, 0] == pairs[:, 1], 0.6, 0.1)
    rows = [f"{int(click)},a{a},b{b}" for click, (a, b) in zip(clicks, pairs, strict=True)]
    (tmp_path / "log.csv").write_text("\n".join(["click,a,b", *rows]) + "\n")
    fields = "".join(
        f'[[field]]\nname = "{name}"\nkind = "categorical"\nrole = "context"\n' for name in ("a", "b")
    )
    (tmp_path / "log.toml").write_text(f'name = "log"\nformat = "csv"\n[label]\ncolumn = "click"\n{fields}')
    work = Work(tmp_path / "work")
    fit_schema(work, LogPlan(data=tmp_path / "log.csv", schema=str(tmp_path / "log.toml")), say=str)
    config = TrainChoice(epochs=8, learning_rate=0.02, batch_size=128, threads=1).config(2800)
    train(work, "fm", {"dim": 4}, config, say=str)
    baseline(work, say=str)
    to_onnx(work, say=str)
    quantize(work, GraphPlan(quantization_rows=100), say=str)
    calibrate(work, sampling_rate=1.0, methods=METHODS, say=str)
    found = gain(work, tmp_path / "out")
    assert found.verdict == "better"
    assert found.auc_interval[0] > 0.1
    assert found.logloss_interval[1] < -0.05
    assert found.command == ""
    # LR tells nothing here, so isotonic regression finds no two levels: that must not end the export.
    calibrated = work.read_record("calibrate", Calibrated)
    work.record("calibrate", msgspec.structs.replace(calibrated, allowed=("isotonic",)))
    assert gain(work, tmp_path / "out").metrics.logloss == pytest.approx(found.metrics.logloss, abs=0.01)


def test_a_served_graph_that_tells_nothing_is_worse_and_lr_is_offered(work: Work, tmp_path: Path) -> None:
    found = gain(work, tmp_path / "shop", share=0.0)
    assert found.verdict == "worse"
    assert found.auc_delta == pytest.approx(0.5 - found.metrics.auc)
    assert found.command == command_of(read_artifacts(work), "lr", tmp_path / "shop")


def test_the_offered_command_reads_and_trains_in_the_same_way(exported, work: Work, tmp_path: Path) -> None:
    summary_of_log = work.read_record("fit-schema", LogSummary)
    plan = replace(exported.plan, split=(0.6, 0.1, 0.1, 0.2), on_malformed="skip", min_count=3)
    work.record("fit-schema", msgspec.structs.replace(summary_of_log, options=plan.log_options))
    calibrated = work.read_record("calibrate", Calibrated)
    record = msgspec.structs.replace(calibrated, sampling_rate=0.5, allowed=("identity", "platt"))
    work.record("calibrate", record)
    given = {"loss": "focal", "focal_gamma": 1.5, "negative_rate": 0.25, "seed": 7}
    trained = work.read_record("train", Trained)
    config = TrainChoice(**given, threads=1).config(2800, 700)
    work.record("train", msgspec.structs.replace(trained, config=config))
    command = command_of(read_artifacts(work), "lr", tmp_path / "shop")
    python, dash_m, program, *words = shlex.split(command)
    assert (python, dash_m, program) == ("python", "-m", "export")
    options = build_parser().parse_args(words)
    assert (options.command, options.model, options.preset) == ("run", "lr", "none")
    assert options.out == tmp_path / "shop-lr"
    assert (options.sampling_rate, options.calibration_methods) == (0.5, ("identity", "platt"))
    assert given_of(TrainConfig, options) == given
    names = LogPlan.__dataclass_fields__
    assert LogPlan(**given_of(LogPlan, options)) == LogPlan(**{name: getattr(plan, name) for name in names})


def test_every_option_of_the_log_that_is_not_given_is_left_out(exported) -> None:
    plan = exported.plan
    assert plan.log_options == ("--data", str(plan.data), "--schema", plan.schema)
