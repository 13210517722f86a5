"""The stage calibrate: the logits of each graph on the calibration part -> its calibrator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.data.encoded import Part, open_log
from export.errors import ExportError
from export.report.findings import SegmentGain
from export.report.segments import gain_in_words
from export.stages.base_rate import Sample, samples_of, windows_of
from export.stages.calibration_segments import Segments, check_segment_field
from export.stages.calibrator_fit import fit_calibrator
from export.stages.level_forecast import Forecast, forecast
from export.stages.plan import GraphPlan
from export.stages.records import Calibrated, Graphs, Trained
from export.stages.variants import Variant, graph_name, read_variants
from export.stages.work import Say, Work
from export.train.config import TrainConfig
from export.train.prior import corrected_logits
from service.bundle.calibration import Calibrator
from service.bundle.json_files import encode_json


@dataclass(frozen=True)
class Fitted:
    """A calibrator, and what it rests on: the level of the next window, and the gain of a field's offsets."""

    calibrator: Calibrator
    expected: Forecast
    gain: SegmentGain | None  # None without a field to calibrate by


def calibrate_as_planned(work: Work, plan: GraphPlan, *, say: Say = print) -> dict[str, Calibrator]:
    """A calibrator of each graph, by the options of a plan."""
    return calibrate(
        work,
        sampling_rate=plan.sampling_rate,
        methods=plan.calibration_methods,
        segment_field=plan.calibrate_by,
        say=say,
    )


def calibrate(
    work: Work,
    *,
    sampling_rate: float,
    methods: Sequence[str],
    segment_field: str | None = None,
    say: Say = print,
) -> dict[str, Calibrator]:
    """A calibrator of each graph, fitted on its logits of the calibration part -> WORK/calibration.json.

    With `segment_field` it has offsets by that field's values, where held-out rows say so.
    """
    log = open_log(work.path("log"))
    check_segment_field(segment_field, log.schema.fields)
    work.read_record("quantize", Graphs)
    variants = read_variants(work, log.schema)
    training = work.read_record("train", Trained).config
    work.start("calibrate")
    part = log.parts["calibration"]
    samples = samples_of(log.parts)
    found, gains = {}, dict[str, SegmentGain]()
    for name, variant in variants.items():
        fitted = calibrator_of(variant, part, samples, training, sampling_rate, methods, segment_field)
        found[name] = fitted.calibrator
        if fitted.gain is not None:
            gains[name] = fitted.gain
        _tell(fitted, say)
    work.write("calibration.json", encode_json(found))
    record = Calibrated(
        {name: c.method for name, c in found.items()}, sampling_rate, tuple(methods), segment_field, gains
    )
    work.record("calibrate", record)
    return found


def calibrator_of(
    variant: Variant,
    part: Part,
    samples: Sequence[Sample],
    training: TrainConfig,
    sampling_rate: float,
    methods: Sequence[str],
    segment_field: str | None = None,
) -> Fitted:
    """The calibrator of a graph, fitted on the calibration part `part`.

    `samples` are windows of the log, `training` is how its model was trained.
    """
    expected = forecast(windows_of(samples, partial(_score, variant, training)))
    gains: list[SegmentGain] = []
    calibrator = fit_calibrator(
        variant.score(part),
        part.labels,
        variant=variant.name,
        graph_sha256=variant.sha256,
        training=training,
        sampling_rate=sampling_rate,
        timestamps=part.timestamps,
        expected=expected,
        methods=methods,
        segments=_segments(variant, part, segment_field),
        told=gains.append,
    )
    return Fitted(calibrator, expected, gains[0] if gains else None)


def _segments(variant: Variant, part: Part, field: str | None) -> Segments | None:
    return None if field is None else Segments(field, variant.ids_of(part, field))


def _tell(fitted: Fitted, say: Say) -> None:
    """Says what was seen of the log, and what the calibrator makes of it."""
    calibrator, expected = fitted.calibrator, fitted.expected
    name, before, after = calibrator.variant, calibrator.before, calibrator.after
    say(
        f"{name}: by the windows of the log so far, the graph's log-odds of a click are expected to lack "
        f"{expected.offset:+.3f} in the next one (standard error {expected.error:.3f})"
    )
    if fitted.gain is not None:
        say(f"{name}: {gain_in_words(fitted.gain)}")
    say(
        f"calibrated {name}: {calibrator.method_in_words}, "
        f"LogLoss {before.logloss:.5f} -> {after.logloss:.5f}, ECE {before.ece:.5f} -> {after.ece:.5f}, "
        f"PCOC {before.pcoc:.4f} -> {after.pcoc:.4f}"
    )


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
