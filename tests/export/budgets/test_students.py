"""Students that a trained model teaches in a search: who may be one, and what a trial makes of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.budgets.kept import keep, trial_folder, trials_folder
from export.budgets.plan import BudgetPlan
from export.budgets.records import Limits, Trial
from export.budgets.search import next_trial, opened
from export.budgets.space import DIM, FLOAT, ITSELF, LAYERS, QUANTIZATION, STATIC, STUDENT, WIDTH
from export.budgets.subject import Subject, dense_of, twin_of
from export.budgets.trial import Workshop
from export.compress.choice import PruneChoice
from export.errors import ExportError
from export.judge.metrics import auc
from export.stages.calibrate import calibrate_as_planned
from export.stages.package import package
from export.stages.records import Trained
from export.stages.taught import Teach
from export.stages.work import Work
from export.teach.lesson import Lesson
from export.train.choices import TrainChoice
from service.bundle.store import load_bundle
from tests.export.conftest import Exported, silent


@pytest.fixture(scope="module")
def workshop(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, Path]:
    folder = tmp_path_factory.mktemp("students")
    shutil.copytree(exported.plan.work, folder / "work")
    plan = BudgetPlan(
        work=folder / "work",
        out=folder / "out",
        budget_us=1.0,
        students=("same", "lr", "dien"),
        pruning=PruneChoice(prune_epochs=0.2, finetune_epochs=0.1),
        teaching=TrainChoice(distill_twin="skip"),
    )
    subject = Subject.of(Work(plan.work))
    trials = trials_folder(subject, plan)
    trials.mkdir(parents=True)
    return opened(subject, plan, trials, Lesson, say=silent), trials


def test_cheaper_models_that_the_log_has_fields_for_are_students(workshop: tuple[Workshop, Path]) -> None:
    kinds = {kind.name: kind for kind in workshop[0].space.kinds}
    assert [*kinds] == [ITSELF, workshop[0].subject.trained.model, "lr"]
    assert kinds["lr"].parts == ("embedding",)


def test_students_of_one_name_are_one(workshop: tuple[Workshop, Path]) -> None:
    shop = workshop[0]
    assert shop.students is not None
    own = shop.subject.trained.model
    narrow, narrower = (shop.students.student({STUDENT: own, WIDTH: halvings}) for halvings in (4, 5))
    assert narrow is not None
    assert narrower is not None
    assert narrow.name == narrower.name  # both are as narrow as any may be
    assert narrow == narrower


def test_one_dense_twin_is_trained_for_all_trials(workshop: tuple[Workshop, Path]) -> None:
    twin = twin_of(workshop[0].base)
    assert twin is not None
    assert twin.epochs > 0


def test_a_student_is_taught_once_pruned_and_judged_beside_the_model(
    workshop: tuple[Workshop, Path], tmp_path: Path
) -> None:
    shop, folder = workshop
    own = shop.subject.trained
    narrow = {STUDENT: own.model, WIDTH: 1, LAYERS: 1, DIM: 1, "neurons": 0.5, QUANTIZATION: STATIC}
    form, _ = shop.attempt(narrow, folder / "narrow")
    width = own.hyperparameters["hidden_units"][0] // 2
    assert form.live_neurons == (round(width * 0.5),)
    assert form.validation.auc_delta == pytest.approx(form.auc - _dense_auc(shop))
    assert shop.students is not None
    student = shop.students.student({**narrow, QUANTIZATION: FLOAT})
    assert student is not None
    (kept,) = (folder / "students").iterdir()
    before = (kept / "train.json").stat().st_mtime_ns
    assert shop.students.taught(student, shop.base).folder == kept
    assert (kept / "train.json").stat().st_mtime_ns == before

    work = Work(folder / "narrow")
    calibrate_as_planned(work, shop.plan.graphs, say=silent)
    package(work, tmp_path / "bundle", say=silent)
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.distillation
    assert manifest.model.hyperparameters["hidden_units"] == [width]
    assert work.read_record("train", Trained).taught is not None
    report = (tmp_path / "bundle" / "report" / "index.html").read_text()
    assert "chosen by a search for a budget" in report
    assert "--ship pruned" not in report


def _dense_auc(shop: Workshop) -> float:
    part = shop.subject.log.parts["validation"]
    return auc(np.asarray(part.labels), dense_of(shop.base, shop.subject).score(part))


def test_a_trial_that_fails_in_any_way_is_recorded_and_skipped(workshop: tuple[Workshop, Path]) -> None:
    shop, folder = workshop

    def broken(teachers: tuple[Path, ...]) -> Teach:
        raise RuntimeError(f"no lesson of {len(teachers)}")

    assert shop.students is not None
    lessons, shop.students.lessons = shop.students.lessons, broken
    starts = shop.space.starts()
    number = [name for name, _ in starts].index("lr")
    done = [Trial(number=n + 1, name=starts[n][0], values=starts[n][1], seconds=1.0) for n in range(number)]
    trial = next_trial(shop, folder, done, Limits(microseconds=1.0))
    shop.students.lessons = lessons
    assert (trial.name, trial.form, trial.reason) == ("lr", None, "RuntimeError: no lesson of 1")
    keep(folder, [trial])
    assert "no lesson of 1" in (trial_folder(folder, trial.number) / "failure.txt").read_text()


def test_no_student_beside_others_is_refused(workshop: tuple[Workshop, Path]) -> None:
    plan = workshop[0].plan
    assert replace(plan, students=("none",), teaching=TrainChoice()).students == ()
    with pytest.raises(ExportError, match="'distill_twin' must be left out without students"):
        replace(plan, students=("none",))
    with pytest.raises(ExportError, match=r"'students' must be none alone, or names \(got none,lr\)"):
        replace(plan, students=("none", "lr"))
    with pytest.raises(ExportError, match="'model' must be one of"):
        opened(workshop[0].subject, replace(plan, students=("lrr",)), workshop[1], Lesson, say=silent)
