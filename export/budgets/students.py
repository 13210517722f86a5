"""Cheaper models that a trained one teaches: which there may be, and each taught once and kept.

It asks no teacher itself: a lesson is passed in (`export.teach`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from export.budgets.plan import SAME, BudgetPlan
from export.budgets.space import DIM, ITSELF, LAYERS, SMALLEST_DIM, STUDENT, WIDTH, Kind, losable_parts
from export.budgets.subject import Subject, link, take
from export.errors import ExportError
from export.stages.baseline import BASELINE
from export.stages.dense_twin import TWIN
from export.stages.taught import FOLDER as TEACHERS
from export.stages.taught import Teach
from export.stages.train import train
from export.stages.work import Work, silent
from export.train.build import (
    build_model,
    check_model,
    hyperparameters_of,
    model_fields,
    possible_dim,
)
from export.train.checkpoint import load_checkpoint
from export.train.choices import EmbeddingChoice, TrainChoice
from export.train.config import TrainConfig, odds_of
from export.trials import Values, narrowed

Lessons = Callable[[tuple[Path, ...]], Teach]
"""Makes the lesson of these teachers."""

# Of the teacher's training, what a student of another kind has too; the rest are the defaults of its kind.
SHARED = (
    "batch_size", "evaluations_per_epoch", "averaging", "patience", "stopping_metric", "seed", "threads",
    "device",
)  # fmt: skip


@dataclass(frozen=True)
class Student:
    """A model to be taught, and the name of its folder: `dnn-50-50-at-5`."""

    model: str
    hyperparameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        units = [str(width) for width in self.hyperparameters.get("hidden_units", ())]
        dim = [f"at-{self.hyperparameters['dim']}"] if "dim" in self.hyperparameters else []
        return "-".join([self.model, *units, *dim])


class Students:
    """The students of one trained model, and where they are kept."""

    def __init__(self, subject: Subject, plan: BudgetPlan, folder: Path, lessons: Lessons) -> None:
        self.subject, self.plan, self.folder, self.lessons = subject, plan, folder, lessons
        self._own = subject.trained.model
        known, found = hyperparameters_of(self._own), subject.trained.hyperparameters
        self._own_hyperparameters = {name: value for name, value in found.items() if name in known}
        # How the model keeps its embeddings, which a narrower one does too.
        self._embedding = EmbeddingChoice(**{n: value for n, value in found.items() if n not in known})

    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of students that are cheaper than the model, in the order of the plan.

        A narrower one of its own kind is so if it has a size to narrow, another kind if it has fewer
        parameters. Raises ExportError for an unknown name.
        """
        found = []
        for name in self.plan.students:
            model = self._own if name == SAME else name
            check_model(model, {})
            kind = self._kind(model)
            if kind is not None and kind not in found:
                found.append(kind)
        return tuple(found)

    def student(self, values: Values) -> Student | None:
        """The student at a point; None where the model itself is pruned.

        Dropout shrinks with the layers: half of a few neurons are too few, and overfit less. Students of one
        name are one.
        """
        model = str(values.get(STUDENT, ITSELF))
        if model == ITSELF:
            return None
        found = self._hyperparameters(model)
        if "hidden_units" in found:
            widths = found["hidden_units"]
            narrow = narrowed(widths, int(values.get(LAYERS, len(widths))), int(values.get(WIDTH, 0)))
            if narrow and "dropout" in found:
                found["dropout"] *= min(1.0, narrow[0] / widths[0])
            found["hidden_units"] = narrow
        if halvings := int(values.get(DIM, 0)):
            found["dim"] = self._possible_dim(model, found, found["dim"] >> halvings)
        return Student(model, found)

    def taught(self, student: Student, teacher: Work) -> Work:
        """Its work folder, in which it is trained unless that is done. Raises ExportError."""
        work = Work(self.folder / "students" / student.name)
        if work.has("train.json"):
            return work
        shutil.rmtree(work.folder, ignore_errors=True)
        work.claim()
        take(work, self.subject.work, "log", "fit-schema.json")
        answers = self.folder / TEACHERS  # what the teacher says is the same for all
        answers.mkdir(exist_ok=True)
        link(work.folder / TEACHERS, answers)
        config = self._config(student)
        lesson = self.lessons((teacher.folder if teacher.has(TWIN) else self.subject.work.folder,))
        taught = lesson(work, config, say=silent)
        train(
            work,
            student.model,
            student.hyperparameters,
            config,
            embedding=self._embedding,
            taught=taught,
            say=silent,
        )
        if student.model != BASELINE:  # which is its own baseline
            take(work, self.subject.work, "baseline.json", "baseline.onnx")
        return work

    def _kind(self, model: str) -> Kind | None:
        found = self._hyperparameters(model)
        layers, dim = len(found.get("hidden_units") or ()), int(found.get("dim") or 0)
        try:
            network = build_model(model, self.subject.log.schema, found, embedding=self._embedding)
        except ExportError:  # the log has not the fields that it needs
            return None
        size = sum(weights.numel() for weights in network.parameters())
        is_own = model == self._own
        if not (layers or dim > SMALLEST_DIM) if is_own else size >= self.subject.trained.parameters:
            return None
        return Kind(model, losable_parts(network, found), layers, dim)

    def _hyperparameters(self, model: str) -> dict[str, Any]:
        """Those of the model itself, or of another kind with as many neurons and numbers in an embedding."""
        own, known = self._own_hyperparameters, hyperparameters_of(model)
        if model == self._own:
            return dict(own)
        shared = {name: own[name] for name in ("dim", "hidden_units", "dropout") if own.get(name)}
        found = {**known, **{name: value for name, value in shared.items() if name in known}}
        if "dim" in shared and "dim" in known:
            found["dim"] = self._possible_dim(model, found, own["dim"])
        return found

    def _possible_dim(self, model: str, found: Mapping[str, Any], dim: int) -> int:
        """About so many numbers in an embedding, at most those of the model itself, if it has any."""
        fields = model_fields(self.subject.log.schema, self._embedding)
        most = int(self._own_hyperparameters.get("dim", found["dim"]))
        return possible_dim(model, fields, found, dim, least=SMALLEST_DIM, most=most)

    def _config(self, student: Student) -> TrainConfig:
        own, teaching = self.subject.trained.config, self.plan.teaching.given
        if student.model == self._own:
            return replace(own, **teaching)
        part = self.subject.log.parts["train"]
        given = odds_of(own) | {name: getattr(own, name) for name in SHARED} | dict(teaching)
        config = TrainChoice(**given).config(len(part), part.clicks, model=student.model)
        return replace(config, epochs=min(config.epochs, own.epochs))


def kinds_of(subject: Subject, students: Sequence[Kind]) -> tuple[Kind, ...]:
    """The trained model itself, then its students."""
    own = load_checkpoint(subject.checkpoint, subject.log.schema)
    return Kind(ITSELF, losable_parts(own.model, own.hyperparameters)), *students
