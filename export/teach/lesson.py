"""Asks teachers about each row of a log, once, and makes of their answers what a student is taught.

What they said is kept in the work folder by a hash of the teacher and of the rows. Memory holds a chunk of
rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.data.encode import encode_chunk, new_array
from export.data.encoded import EncodedLog, open_log
from export.data.log_schema import of_examples
from export.data.progress import Progress
from export.data.readers import stamp_of
from export.data.splits import PARTS
from export.errors import ExportError
from export.judge.metrics import auc, logloss, sigmoid
from export.stages.calibration_methods import MIN_SLOPE, fit_platt
from export.stages.records import LogSummary
from export.stages.taught import FOLDER, Taught, TaughtBy, teacher_log_odds
from export.stages.work import OUTPUTS, Say, Work, hash_of
from export.teach.raw_rows import raw_rows_in_place
from export.teach.teachers import Teacher, find_teacher
from export.train.config import TrainConfig, odds_of
from export.train.prior import uncorrected_logits
from service.bundle.encoder import Encoder
from service.bundle.folders import discard, replacing

CHUNK_ROWS = 65_536
VERSION = 1  # of what files of answers hold

Floats = NDArray[np.float64]
Answers = NDArray[np.float32]


@dataclass(frozen=True)
class Lesson:
    """The teachers of a run, whose log-odds of a click are averaged."""

    teachers: tuple[Path, ...]

    def check(self, work: Path) -> None:
        """Raises ExportError for a teacher that is none, or whose files go as soon as the run begins."""
        for path in self.teachers:
            if work.resolve() in (path.resolve(), path.resolve().parent):
                raise ExportError(
                    f"'teacher' must be in another folder than the one that the run works in (got {path}), "
                    "whose files go as soon as it begins; name its bundle, or another --work"
                )
        self._check_each_once([find_teacher(path) for path in self.teachers])

    def __call__(self, work: Work, config: TrainConfig, *, say: Say = print) -> Taught:
        """The answers about the log in the work folder, for a student that is trained by `config`.

        Each teacher's log-odds get a line: its slope is fitted to the labels of the validation part, since on
        rows that a teacher was trained on it is too sure of itself; its level is that of the click rate of
        the training part. The mean of these is moved to where the student's logits are with its loss and its
        sampling. Answers that are not needed any more are removed.
        """
        self._check_outlives(work)
        log = open_log(work.path("log"))
        rows = _Rows(work, log)
        known = [find_teacher(path, log.schema, device=config.device) for path in self.teachers]
        self._check_each_once(known)
        records = tuple(_asked(rows, teacher, say) for teacher in known)
        key = hash_of([VERSION, [one.file for one in records], odds_of(config)])[:24]
        found = Taught(records, f"{key}.taught.npy")
        path = work.folder / FOLDER / found.file
        if not path.exists():
            answers = [teacher_log_odds(work, log, one, "train") for one in records]
            _write_taught(path, answers, config)
        _forget_others(work, found)
        return found

    def _check_outlives(self, work: Work) -> None:
        """Raises ExportError for a teacher that the student would take the place of."""
        folder = work.folder.resolve()
        outputs = {folder} | {folder / name for names in OUTPUTS.values() for name in names}
        for path in self.teachers:
            if path.resolve() in outputs:
                raise ExportError(
                    f"'teacher' must be no file that a stage in its folder writes (got {path}), since the "
                    "student would take its place; copy it to another name first"
                )

    def _check_each_once(self, known: Sequence[Teacher]) -> None:
        """Raises ExportError where one teacher, by whatever paths, would count as several."""
        if len({one.key for one in known}) < len(known):
            raise ExportError(
                f"'teacher' must name each teacher once (got {', '.join(map(str, self.teachers))}); leave "
                "out one"
            )


def _forget_others(work: Work, taught: Taught) -> None:
    """Removes answers that are not these, so that a folder does not grow with each teacher that was tried."""
    kept = {taught.file, *(one.file for one in taught.teachers)}
    for file in (work.folder / FOLDER).iterdir():
        if file.with_suffix(".npy").name not in kept:
            discard(file)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of an encoded log that is asked about, by their ids or as they stand in its file."""

    work: Work
    log: EncodedLog

    def __len__(self) -> int:
        return sum(len(self.log.parts[name]) for name in PARTS)

    @cached_property
    def key(self) -> str:
        """A hash of the ids and labels of all parts."""
        found = hashlib.sha256()
        for name in PARTS:
            part = self.log.parts[name]
            for array in (part.ids, part.labels):
                for start in range(0, len(array), CHUNK_ROWS):
                    found.update(np.ascontiguousarray(array[start : start + CHUNK_ROWS]).data)
        return found.hexdigest()

    @cached_property
    def data(self) -> Path:
        """The file or folder that the log was made of. Raises ExportError where it is gone."""
        found = self.work.read_record("fit-schema", LogSummary).data
        path = Path(found)
        if not found or not path.exists() or self.log.description is None:
            raise ExportError(
                f"'data' must be what the log was made of, for a teacher with other vocabularies "
                f"(got {found!r}); put it there, or run fit-schema again"
            )
        return path

    def answers(self, teacher: Teacher) -> Iterator[tuple[Any, Floats]]:
        """Where rows are among all, and what the teacher says of them, [n]."""
        if teacher.knows_ids_of(self.log.schema):
            first = 0
            for name in PARTS:
                ids = self.log.parts[name].ids
                for start in range(0, len(ids), CHUNK_ROWS):
                    chunk = np.array(ids[start : start + CHUNK_ROWS])
                    yield slice(first + start, first + start + len(chunk)), teacher.ask(chunk)
                first += len(ids)
            return
        if teacher.described is None or teacher.schema is None:
            raise ExportError(
                f"'teacher' must say how its log is read, having other vocabularies than the student (got "
                f"{teacher.name}); name a bundle, or a work folder of this release"
            )
        encoder, own, other = Encoder(teacher.schema), self.log.description, teacher.described(self.data)
        assert own is not None  # or else there is no `data`
        if own.is_of_examples:
            other = msgspec.structs.replace(of_examples(other).for_scores(), label=None)
        for rows in raw_rows_in_place(self.data, self.log, self.work.path("log"), own, other):
            yield rows.places, teacher.ask(encode_chunk(encoder, rows.fields))

    def key_for(self, teacher: Teacher) -> str:
        """A hash of all that the teacher's answers hang on."""
        inputs = [VERSION, self.key, teacher.key]
        if not teacher.knows_ids_of(self.log.schema):
            inputs.append(stamp_of(self.data))
        return hash_of(inputs)[:24]


def _asked(rows: _Rows, teacher: Teacher, say: Say) -> TaughtBy:
    """What a teacher says, asked now or kept from an earlier run, with its quality."""
    file = f"{rows.key_for(teacher)}.npy"
    path = rows.work.folder / FOLDER / file
    record = path.with_suffix(".json")
    if path.exists() and record.exists():
        say(f"{teacher.name} ({teacher.model}): what it says is kept from an earlier run")
        return msgspec.json.decode(record.read_bytes(), type=TaughtBy)
    say(f"asking {teacher.name} ({teacher.model}) about {len(rows):,} rows")
    with replacing(path, sync=False) as incoming:
        answers = new_array(incoming, np.float32, (len(rows),))
        with Progress("asked", say, about=len(rows)) as progress:
            for places, found in rows.answers(teacher):
                if not np.isfinite(found).all():
                    raise ExportError(
                        f"'teacher' must say a number of every row (got none from {teacher.name}, whose "
                        "weights overflow); name another"
                    )
                answers[places] = found
                progress.add(len(found))
            progress.finish()
        found_by = _with_line(rows.log, teacher, answers, file)
        answers.flush()
        del answers
    with replacing(record) as incoming:
        incoming.write_bytes(msgspec.json.encode(found_by))
    say(
        f"{teacher.name}: validation AUC {found_by.auc:.5f}, LogLoss {found_by.logloss:.5f} after a line of "
        f"slope {found_by.slope:.3f}"
    )
    return found_by


def _with_line(log: EncodedLog, teacher: Teacher, answers: Answers, file: str) -> TaughtBy:
    """Gives the answers their line, in place. Raises ExportError for a teacher that knows nothing."""
    sizes = [len(log.parts[name]) for name in PARTS]
    training = slice(0, sizes[0])
    validation, labels = answers[sizes[0] : sizes[0] + sizes[1]], np.asarray(log.parts["validation"].labels)
    wide = validation.astype(np.float64)
    line = fit_platt(wide, labels)
    if line.slope <= MIN_SLOPE:
        raise ExportError(
            f"'teacher' must tell clicks from non-clicks (got {teacher.name}, which does not on the "
            f"validation part: AUC {auc(labels, wide):.3f} with {int(labels.sum()):,} clicks in "
            f"{len(labels):,} rows, and no rising line fits); name a model of the same label, or take a "
            "longer log"
        )
    quality = logloss(labels, sigmoid(line.slope * wide + line.intercept))
    score = auc(labels, wide)
    for chunk in _chunks(len(answers)):
        answers[chunk] *= line.slope
    part = log.parts["train"]
    shift = level_shift(answers[training], part.clicks / len(part))
    for chunk in _chunks(len(answers)):
        answers[chunk] += shift
    return TaughtBy(teacher.name, teacher.model, line.slope, score, quality, file)


def level_shift(log_odds: NDArray[np.floating], rate: float) -> float:
    """What to add to log-odds [n] so that the mean of their probabilities is `rate`, to about 1e-9."""
    low, high = -50.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        total = sum(
            float(sigmoid(log_odds[c].astype(np.float64) + middle).sum()) for c in _chunks(len(log_odds))
        )
        low, high = (middle, high) if total < rate * len(log_odds) else (low, middle)
    return (low + high) / 2


def _write_taught(path: Path, answers: Sequence[Answers], config: TrainConfig) -> None:
    """The mean of the teachers' log-odds, as logits of the student."""
    with replacing(path, sync=False) as incoming:
        taught = new_array(incoming, np.float32, answers[0].shape)
        for chunk in _chunks(len(taught)):
            mean: Floats = np.asarray(np.mean([each[chunk] for each in answers], axis=0, dtype=np.float64))
            taught[chunk] = uncorrected_logits(mean, config)
        taught.flush()
        del taught


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_ROWS) for start in range(0, rows, CHUNK_ROWS))
