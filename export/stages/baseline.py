"""The stage baseline: a plain model beside the trained one, on the same log, to see what that one wins.

It trains and exports LR with its fitted defaults. What a served graph wins over it is judged later.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from export.data.encoded import EncodedLog, open_log
from export.errors import ExportError
from export.graph.onnx import export_onnx
from export.judge.parity import check_against_torch
from export.stages.records import GraphFile, Trained, TrainedBaseline
from export.stages.train import new_network
from export.stages.variants import CHECKED_ROWS, Variant
from export.stages.work import Say, Work
from export.train.choices import TrainChoice
from export.train.config import ODDS, TrainConfig
from export.train.distributed import train_together
from export.train.loop import SECONDS_BETWEEN_LINES
from service.bundle.schema import Schema

BASELINE = "lr"
GRAPH = "baseline.onnx"

SHARED = (*ODDS, "seed")
"""What the baseline takes over from the training of the model: its loss and its rows."""

PLACE = ("threads", "device")
"""Where it is trained, which is where the model was."""


def baseline(work: Work, *, say: Say = print) -> TrainedBaseline:
    """WORK/log -> WORK/baseline.onnx: LR with its fitted defaults, beside whatever model `train` made.

    Nothing is trained beside LR itself.
    """
    log = open_log(work.path("log")).without_past()
    trained = work.read_record("train", Trained)
    work.start("baseline")
    if trained.model == BASELINE:
        say(f"the model is {BASELINE} itself: nothing is trained beside it")
        record = TrainedBaseline(BASELINE)
    else:
        record = _train(work, log, baseline_config(trained.config, log), say)
    work.record("baseline", record)
    return record


def baseline_config(model: TrainConfig, log: EncodedLog) -> TrainConfig:
    """How the baseline is trained beside a model that was trained so: its own defaults, the model's loss."""
    part = log.parts["train"]
    chosen = TrainChoice(loss=model.loss, negative_rate=model.negative_rate)
    fitted = chosen.config(len(part), part.clicks, model=BASELINE)
    return replace(fitted, **{name: getattr(model, name) for name in (*SHARED, *PLACE)})


def _train(work: Work, log: EncodedLog, config: TrainConfig, say: Say) -> TrainedBaseline:
    started = time.perf_counter()
    network = new_network(log, BASELINE, {}, config)
    say(f"training {BASELINE} beside it, to see what the model wins")
    result = train_together(network, log, work.path("log"), config, report=_now_and_then(say))
    graph = export_onnx(network, log.schema.columns)
    ids = np.array(log.parts["validation"].ids[:CHECKED_ROWS])
    difference = check_against_torch(network, graph, ids)
    work.write(GRAPH, graph)
    seconds = time.perf_counter() - started
    best = result.best or result.history[-1]
    say(
        f"{BASELINE}: validation logloss {best.logloss:.5f} AUC {best.auc:.5f} in epoch {best.epoch}, "
        f"{seconds:.1f} s"
    )
    variant = Variant(BASELINE, graph, log.schema)
    file = GraphFile(size=len(graph), sha256=variant.sha256, max_abs_logit=difference)
    return TrainedBaseline(BASELINE, file, config, result.best_epoch, seconds)


def read_baseline(work: Work, schema: Schema) -> Variant | None:
    """The baseline's graph; None where the model is the baseline itself.

    Raises ExportError for a graph that is missing, or differs from the one that the stage wrote.
    """
    written = work.read_record("baseline", TrainedBaseline).graph
    if written is None:
        return None
    variant = Variant(BASELINE, work.path(GRAPH).read_bytes(), schema)
    if variant.sha256 != written.sha256:
        raise ExportError(
            f"'{GRAPH}' in {work.folder} must be what the stage baseline wrote there "
            f"(got another file of {len(variant.graph)} bytes); run that stage again"
        )
    return variant


def _now_and_then(say: Say) -> Say:
    """Says a line of the training's when the last one is long ago: its model is not what is being made."""
    last = time.perf_counter()

    def report(line: str) -> None:
        nonlocal last
        if time.perf_counter() - last >= SECONDS_BETWEEN_LINES:
            last = time.perf_counter()
            say(f"{BASELINE}: {line}")

    return report
