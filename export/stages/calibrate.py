"""The stage calibrate: the logits of each graph on the calibration part -> its calibrator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part, open_log
from export.errors import ExportError
from export.stages.base_rate import Sample, movement, samples_of, windows_of
from export.stages.calibrator_fit import fit_calibrator
from export.stages.records import Calibrated, Graphs, Trained
from export.stages.variants import Variant, graph_name, read_variants
from export.stages.work import Say, Work
from export.train.config import TrainConfig
from export.train.prior import corrected_logits
from service.bundle.calibration import Calibrator
from service.bundle.json_files import encode_json


def calibrate(
    work: Work,
    *,
    sampling_rate: float,
    methods: Sequence[str],
    say: Say = print,
) -> dict[str, Calibrator]:
    """A calibrator of each graph, fitted on its logits of the calibration part -> WORK/calibration.json."""
    log = open_log(work.path("log"))
    work.read_record("quantize", Graphs)
    variants = read_variants(work, log.schema)
    training = work.read_record("train", Trained).config
    work.start("calibrate")
    part = log.parts["calibration"]
    samples = samples_of(log.parts)
    found = {}
    for name, variant in variants.items():
        found[name], moved = calibrator_of(variant, part, samples, training, sampling_rate, methods)
        before, after = found[name].before, found[name].after
        say(
            f"{name}: the log-odds of a click change by {math.sqrt(moved):.3f} (standard deviation) from one "
            "window of the log to a later one, beyond what the model says"
        )
        say(
            f"calibrated {name}: {found[name].method}, LogLoss {before.logloss:.5f} -> {after.logloss:.5f}, "
            f"ECE {before.ece:.5f} -> {after.ece:.5f}, PCOC {before.pcoc:.4f} -> {after.pcoc:.4f}"
        )
    work.write("calibration.json", encode_json(found))
    record = Calibrated({name: c.method for name, c in found.items()}, sampling_rate, tuple(methods))
    work.record("calibrate", record)
    return found


def calibrator_of(
    variant: Variant,
    part: Part,
    samples: Sequence[Sample],
    training: TrainConfig,
    sampling_rate: float,
    methods: Sequence[str],
) -> tuple[Calibrator, float]:
    """The calibrator of a graph, fitted on the calibration part, and how much its level moves by window.

    `samples` are windows of the log, `training` is how its model was trained.
    """
    moved = movement(windows_of(samples, partial(_score, variant, training)))
    calibrator = fit_calibrator(
        variant.score(part),
        part.labels,
        variant=variant.name,
        graph_sha256=variant.sha256,
        training=training,
        sampling_rate=sampling_rate,
        timestamps=part.timestamps,
        movement=moved,
        methods=methods,
    )
    return calibrator, moved


def _score(variant: Variant, training: TrainConfig, part: Part) -> NDArray[np.float64]:
    """Logits [n] without what training did to the odds."""
    return corrected_logits(variant.score(part), training)


def read_calibrators(work: Work, variants: Mapping[str, Variant]) -> dict[str, Calibrator]:
    """The calibrators of these graphs. Raises ExportError for one fitted on another graph."""
    path = work.path("calibration.json")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Calibrator])
    except msgspec.MsgspecError as error:
        raise ExportError(f"'{path}' must hold calibrators (got: {error}); calibrate again") from None
    for name, variant in variants.items():
        if name not in found or found[name].graph_sha256 != variant.sha256:
            raise ExportError(
                f"'{path}' must be fitted on the graph {graph_name(name)} in {work.folder} "
                "(got another graph's); calibrate again"
            )
    return {name: found[name] for name in variants}
