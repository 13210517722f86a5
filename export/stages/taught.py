"""What teachers say of a log's rows, as files in the work folder; which teachers, and how good they are.

It knows neither where a teacher is found nor how it is asked (`export.teach`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.data.encoded import EncodedLog
from export.data.splits import PARTS
from export.errors import ExportError
from export.stages.work import Say, Work
from export.train.choices import TrainChoice
from export.train.config import DISTILLATION, TrainConfig

FOLDER: Final = "teachers"


class TaughtBy(msgspec.Struct, frozen=True):
    """A teacher: its name and model, its quality on the validation part, and the `file` of its log-odds.

    The file has a number for each row of the log, part after part. LogLoss is after a fitted line, which has
    this `slope` and is how the log-odds in the file were made of what the teacher says.
    """

    name: str
    model: str
    slope: float
    auc: float
    logloss: float
    file: str


class Taught(msgspec.Struct, frozen=True):
    """A lesson: its teachers, and the `file` of what they say together of the training rows.

    That is in the student's own space: as its logits are with its loss and its sampling of rows.
    """

    teachers: tuple[TaughtBy, ...]
    file: str


class Untaught(msgspec.Struct, frozen=True):
    """The same model trained by the labels alone, beside the taught one: `metric` on the validation part."""

    metric: str
    taught: float
    alone: float
    better: bool  # the one that is trained alone, which is then the model

    def __str__(self) -> str:
        name = {"auc": "AUC", "logloss": "LogLoss after a fitted line"}[self.metric]
        kept = "so the teachers are left out" if self.better else "so it stays with its teachers"
        return (
            f"{name} of the model on the validation part: taught {self.taught:.5f}, alone {self.alone:.5f}; "
            f"{kept}"
        )


class Teach(Protocol):
    """Asks the teachers of a plan about the log in the work folder, for a student trained by `config`."""

    @property
    def teachers(self) -> tuple[Path, ...]: ...

    def check(self, work: Path) -> None:
        """Raises ExportError, before any work is done, for a teacher that cannot be used."""

    def __call__(self, work: Work, config: TrainConfig, *, say: Say = print) -> Taught: ...


def taught_log(work: Work, log: EncodedLog, taught: Taught | None) -> EncodedLog:
    """The log with what the teachers say of its training rows; as it is where there are none."""
    if taught is None:
        return log
    rows = len(log.parts["train"])
    return log.with_taught(_open(work, taught.file, rows))


def teacher_log_odds(work: Work, log: EncodedLog, teacher: TaughtBy, part: str) -> NDArray[np.float32]:
    """What a teacher says of the rows of a part, [n], as log-odds of a click in the log."""
    sizes = {name: len(log.parts[name]) for name in PARTS}
    start = sum(sizes[name] for name in PARTS[: PARTS.index(part)])
    return _open(work, teacher.file, sum(sizes.values()))[start : start + sizes[part]]


def _open(work: Work, name: str, rows: int) -> NDArray[np.float32]:
    path = work.folder / FOLDER / name
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"'{path}' must be what the teachers say of the log ({reason}); run train again"
        ) from None
    if found.shape != (rows,) or found.dtype != np.float32:
        raise ExportError(
            f"'{path}' must hold a float32 for each of {rows:,} rows (got {found.dtype} {found.shape}); "
            "run train again"
        )
    return found


def check_distillation(training: TrainChoice, teachers: tuple[Path, ...]) -> None:
    """Raises ExportError for a number of distillation where nothing teaches."""
    for name in () if teachers else DISTILLATION:
        if name in training.given:
            raise ExportError(
                f"'{name}' must be left out without a teacher (got {training.given[name]!r}); name one with "
                "--teacher, as run and train take it"
            )
