"""How near the serving variant came to the teachers of its model, on the test part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.judge.bootstrap import paired_changes
from export.judge.metrics import auc, logloss, sigmoid
from export.stages.artifacts import Artifacts
from export.stages.calibration_methods import fit_platt
from export.stages.evaluate import Judged
from export.stages.taught import TaughtBy, teacher_log_odds
from export.stages.work import Work
from service.bundle.manifest import Distillation, Teacher


def beside_teachers(work: Work, made: Artifacts, judged: Judged) -> Distillation | None:
    """The teachers of the model with their quality, and the serving variant's minus theirs together.

    LogLoss is that of log-odds after a line fitted to the calibration part, as the variant is calibrated
    there. None for a model that none taught: a checkpoint is taught where it is pruned.
    """
    taught = made.trained.taught
    if taught is None or (made.trained.checkpoint is not None and made.pruned is None):
        return None
    said = {
        part: [teacher_log_odds(work, made.log, one, part) for one in taught.teachers]
        for part in ("calibration", "test")
    }
    fitted_labels = np.asarray(made.log.parts["calibration"].labels)
    labels = np.asarray(made.test.labels)

    def pctr(fitted: list[NDArray[np.float32]], tested: list[NDArray[np.float32]]) -> NDArray[np.float64]:
        line = fit_platt(np.mean(fitted, axis=0, dtype=np.float64), fitted_labels)
        return sigmoid(line.slope * np.mean(tested, axis=0, dtype=np.float64) + line.intercept)

    def teacher(one: TaughtBy, fitted: NDArray[np.float32], tested: NDArray[np.float32]) -> Teacher:
        own = pctr([fitted], [tested])
        return Teacher(one.name, one.model, auc(labels, own), logloss(labels, own))

    together = pctr(said["calibration"], said["test"])
    served = judged.quality.pctr[judged.serving_variant]
    of_auc, of_logloss = paired_changes(labels, (together, served), (together, served))
    config = made.trained.config
    return Distillation(
        alpha=config.distill_alpha,
        temperature=config.distill_temperature,
        teachers=tuple(map(teacher, taught.teachers, said["calibration"], said["test"])),
        auc=auc(labels, together),
        logloss=logloss(labels, together),
        auc_delta=of_auc.delta,
        auc_interval=of_auc.interval,
        logloss_delta=of_logloss.delta,
        logloss_interval=of_logloss.interval,
    )
