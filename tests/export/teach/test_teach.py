"""Teachers of every kind: their answers on each row, what is kept of them, and a student from end to end."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from torch import nn

from export.__main__ import main
from export.bundles.plan import ScorePlan
from export.bundles.score import score
from export.compress.choice import PruneChoice
from export.data.encoded import open_log
from export.data.log_schema import load_log_schema
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.errors import ExportError
from export.judge.metrics import auc, logloss, sigmoid
from export.stages.calibration_methods import fit_platt
from export.stages.fit_schema import fit_schema
from export.stages.pipeline import run
from export.stages.plan import LogPlan, Plan
from export.stages.records import Trained
from export.stages.taught import FOLDER, Taught, taught_log, teacher_log_odds
from export.stages.train import train
from export.stages.work import Work
from export.teach.lesson import Lesson, level_shift
from export.train.checkpoint import load_checkpoint
from export.train.choices import TrainChoice
from export.train.config import TrainConfig
from export.train.loop import Log, predict_logits
from export.train.loop import train as train_model
from export.train.result import TrainResult
from service.bundle.manifest import Distillation
from service.bundle.store import Bundle

CONFIG = SyntheticConfig(
    rows=2500,
    seed=5,
    features=1500,
    numeric_fields=1,
    categorical_fields=4,
    candidate_fields=2,
    sequence_fields=1,
    ctr=0.3,
    rows_per_day=500,
)
TRAINING = TrainChoice(epochs=1, seed=7, threads=1)
STUDENT = {"dim": 2, "hidden_units": [4]}


def silent(_: str) -> None:
    """Takes a line."""


@dataclass(frozen=True)
class Class:
    """A log, the plan and the bundle of a pruned teacher, whose ids are renumbered, and a student's log."""

    log: Path
    schema: Path
    plan: Plan
    bundle: Bundle
    work: Work  # of a student with other vocabularies

    def student_work(self, folder: Path) -> Work:
        """A copy of the student's work folder."""
        shutil.copytree(self.work.folder, folder / "work")
        return Work(folder / "work")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Class:
    folder = tmp_path_factory.mktemp("class")
    log = folder / "log.parquet"
    schema = write_synthetic_log(CONFIG, log, report=silent)
    # Rows out of order: parts are by time, and each row has to find its own answer.
    pl.read_parquet(log).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(log)
    plan = Plan(
        data=log,
        schema=str(schema),
        out=folder / "teacher",
        work=folder / "teacher-work",
        model="deep_fwfm",
        hyperparameters={"dim": 4, "hidden_units": [16], "dropout": 0.3},
        training=TRAINING.updated(epochs=2),
        pruning=PruneChoice(preset="low-memory", finetune_epochs=0.5, dense_twin="skip"),
        ship="pruned",
        quantization_rows=200,
    )
    bundle = run(plan, say=silent)
    with Work(folder / "student").held(new=True) as work:
        fit_schema(work, LogPlan(data=log, schema=str(schema), min_count=30), say=silent)
    return Class(log, schema, plan, bundle, work)


def ask(work: Work, *teachers: Path, config: TrainConfig | None = None) -> list[str]:
    """What is said while teachers are asked."""
    lines: list[str] = []
    Lesson(teachers)(work, config or TrainConfig(), say=lines.append)
    return lines


def test_a_bundle_of_other_vocabularies_says_what_it_serves(room: Class, tmp_path: Path) -> None:
    """Its answers are those of `score`, up to the line, on the same rows, though it was pruned."""
    work = room.student_work(tmp_path)
    log = open_log(work.path("log"))
    assert [f.cardinality for f in log.schema.fields] != [f.cardinality for f in room.bundle.schema.fields]
    taught = Lesson((room.plan.out,))(work, TrainConfig(), say=silent)
    (teacher,) = taught.teachers
    score(ScorePlan(bundle=room.plan.out, data=room.log, out=tmp_path / "scores.parquet"), say=silent)
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    seconds = pl.read_parquet(room.log)["timestamp"].cast(pl.Int64)
    served = scores["pctr"].to_numpy()
    log_odds = np.log(served) - np.log1p(-served)
    for name, part in log.parts.items():
        assert part.timestamps is not None
        rows = np.isin(seconds.to_numpy(), np.unique(part.timestamps))
        assert rows.sum() == len(part)
        answers = teacher_log_odds(work, log, teacher, name).astype(np.float64)
        shift = answers - teacher.slope * log_odds[rows]
        assert shift == pytest.approx(np.full(len(part), shift[0]), abs=1e-4), name
    assert (teacher.name, teacher.model) == (room.bundle.manifest.id, "deep_fwfm")


def test_a_bundle_teaches_on_a_folder_of_examples_of_its_fields(room: Class, tmp_path: Path) -> None:
    """Each row gets the answer that it gets in the log, whose columns have other names."""
    log = pl.read_parquet(room.log)
    schema = load_log_schema(room.schema)
    assert schema.timestamp is not None
    assert schema.label is not None
    time = {"unix": 1000, "unix_ms": 1}[schema.timestamp.format]
    names = {one.column: one.name for one in schema.fields if one.column is not None}
    examples = log.select(
        pl.col(schema.label.column).cast(pl.Int8).alias("_clicked"),
        (pl.col(schema.timestamp.column) * time).alias("_time_ms"),
        *(pl.col(column).alias(name) for column, name in names.items()),
    )
    data = tmp_path / "examples"
    data.mkdir()
    examples[:1000].write_parquet(data / "examples-1.parquet")
    examples[1000:].write_parquet(data / "examples-2.parquet")
    said = []
    for number, (rows, by) in enumerate([(room.log, room.schema), (data, room.plan.out)]):
        with Work(tmp_path / f"work-{number}").held(new=True) as work:
            fit_schema(work, LogPlan(data=rows, schema=str(by), min_count=30), say=silent)
            taught = Lesson((room.plan.out,))(work, TrainConfig(), say=silent)
            known = open_log(work.path("log"))
            said.append(teacher_log_odds(work, known, taught.teachers[0], "train"))
            assert "kept" in ask(work, room.plan.out)[0]
    np.testing.assert_array_equal(*said)


def test_the_line_is_of_validation_labels_and_its_level_that_of_training(room: Class, tmp_path: Path) -> None:
    work = room.student_work(tmp_path)
    log = taught_log(
        work, open_log(work.path("log")), Lesson((room.plan.out,))(work, TrainConfig(), say=silent)
    )
    part, validation = log.parts["train"], log.parts["validation"]
    assert part.taught is not None
    assert sigmoid(np.asarray(part.taught)).mean() == pytest.approx(part.clicks / len(part), abs=1e-5)
    (record,) = [msgspec.json.decode(path.read_bytes()) for path in (work.folder / FOLDER).glob("*.json")]
    rows = slice(len(part), len(part) + len(validation))
    answers = np.load(work.folder / FOLDER / record["file"])[rows].astype(np.float64)
    line = fit_platt(answers, np.asarray(validation.labels))
    assert line.slope == pytest.approx(1.0, abs=1e-4)
    pctr = sigmoid(line.slope * answers + line.intercept)
    assert record["auc"] == pytest.approx(auc(validation.labels, answers))
    assert record["logloss"] == pytest.approx(logloss(validation.labels, pctr), abs=1e-6)


def test_teachers_are_averaged_as_log_odds_in_the_students_space(room: Class, tmp_path: Path) -> None:
    """A checkpoint of the log's own ids teaches beside a bundle; the student draws few non-clicks."""
    folder = room.plan.work
    work = Work(tmp_path / "work")
    shutil.copytree(folder / "log", work.folder / "log")
    shutil.copy(folder / "fit-schema.json", work.folder)
    (work.folder / ".bidlight-work").touch()
    checkpoint = tmp_path / "alone.pt"
    shutil.copy(folder / "dense.pt", checkpoint)
    config = TrainConfig(negative_rate=0.2)
    taught = Lesson((room.plan.out, checkpoint))(work, config, say=silent)
    log = open_log(work.path("log"))
    bundle, own = (teacher_log_odds(work, log, one, "train") for one in taught.teachers)
    found = taught_log(work, log, taught).parts["train"].taught
    assert found is not None
    assert found == pytest.approx((bundle.astype(float) + own) / 2 - np.log(0.2), abs=1e-5)
    raw = predict_logits(load_checkpoint(checkpoint, log.schema).model, log.parts["train"].ids)
    line = taught.teachers[1].slope
    assert np.ptp(own - line * raw) < 1e-4


def test_answers_are_kept_until_the_teacher_or_the_log_changes(room: Class, tmp_path: Path) -> None:
    work, teacher = room.student_work(tmp_path), tmp_path / "teacher"
    shutil.copytree(room.plan.out, teacher)
    assert "asking" in ask(work, teacher)[0]
    first = {path.name for path in (work.folder / FOLDER).iterdir()}
    kept = {path: path.stat().st_mtime_ns for path in (work.folder / FOLDER).iterdir()}
    assert "kept from an earlier run" in ask(work, teacher)[0]
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    # Another loss: the answers stay, what is made of them is another.
    assert "kept from an earlier run" in ask(work, teacher, config=TrainConfig(negative_rate=0.5))[0]
    # Another log.
    fit_schema(work, LogPlan(data=room.log, schema=str(room.schema), min_count=20), say=silent)
    assert "asking" in ask(work, teacher)[0]
    # Another teacher in its place.
    shutil.rmtree(teacher)
    shutil.copytree(room.plan.work, teacher)
    assert "asking" in ask(work, teacher)[0]
    now = {path.name for path in (work.folder / FOLDER).iterdir()}
    assert len(now) == len(first) == 3
    assert not now & first


def test_a_log_that_changed_since_it_was_encoded_is_refused(room: Class, tmp_path: Path) -> None:
    data = tmp_path / "log.parquet"
    shutil.copy(room.log, data)
    with Work(tmp_path / "work").held(new=True) as work:
        fit_schema(work, LogPlan(data=data, schema=str(room.schema), min_count=30), say=silent)
    pl.read_parquet(data).reverse().write_parquet(data)
    with pytest.raises(ExportError, match="must be as it was when the log was made of it"):
        ask(work, room.plan.out)
    assert not list((work.folder / FOLDER).glob("*.npy"))
    data.unlink()
    with pytest.raises(ExportError, match="'data' must be what the log was made of"):
        ask(work, room.plan.out)


def test_a_student_of_another_model_end_to_end(
    room: Class, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is pruned and trained as INT8 while it is taught; manifest, report and terminal tell of teachers."""
    lines: list[str] = []
    taught_as_int8: list[bool] = []

    def train_and_note(model: nn.Module, log: Log, config: TrainConfig, **others: Any) -> TrainResult:
        taught_as_int8.append(log.parts["train"].taught is not None)
        return train_model(model, log, config, **others)

    monkeypatch.setattr("export.stages.qat.train", train_and_note)
    plan = replace(
        room.plan,
        model="dnn",
        hyperparameters=STUDENT,
        min_count=30,
        out=tmp_path / "student",
        work=tmp_path / "work",
        training=TRAINING.updated(distill_alpha=0.7, distill_temperature=3.0, distill_twin="skip"),
        teachers=(room.plan.out, room.plan.work),
        quantization="qat",
    )
    bundle = run(plan, teach=Lesson(plan.teachers), say=lines.append)
    assert taught_as_int8 == [True]
    assert sum(line.startswith("the INT8 graph trained on as integers") for line in lines) == 1
    told = bundle.manifest.distillation
    assert isinstance(told, Distillation)
    assert (told.alpha, told.temperature) == (0.7, 3.0)
    assert [one.name for one in told.teachers] == [room.bundle.manifest.id, str(room.plan.work)]
    assert [one.model for one in told.teachers] == ["deep_fwfm"] * 2
    served = bundle.manifest.evaluation[bundle.manifest.serving_variant]
    assert told.auc_delta == pytest.approx(served.auc - told.auc, abs=1e-9)
    assert told.logloss_delta == pytest.approx(served.logloss - told.logloss, abs=1e-9)
    page = (plan.out / "report" / "index.html").read_text()
    assert "<h2>Teachers</h2>" in page
    assert room.bundle.manifest.id in page
    assert any("by which it was taught (alpha 0.7, temperature 3)" in line for line in lines)
    trained = Work(plan.work).read_record("train", Trained)
    assert trained.taught is not None
    assert not isinstance(room.bundle.manifest.distillation, Distillation)
    assert b"distillation" not in (room.plan.out / "manifest.json").read_bytes()


def test_a_teacher_that_harms_is_left_out(room: Class, tmp_path: Path) -> None:
    """Of one that says noise, the model is that of labels alone; one that says the labels is kept."""
    work = room.student_work(tmp_path)
    labels = open_log(work.path("log")).parts["train"].labels
    noise = np.random.default_rng(0).normal(0, 3, len(labels)).astype(np.float32)
    lessons = {"noise": noise, "labels": np.where(labels == 1, 3.0, -3.0).astype(np.float32)}
    (work.folder / FOLDER).mkdir()
    config = TRAINING.updated(epochs=3, distill_alpha=1.0, distill_temperature=1.0).config(
        len(labels), model="lr"
    )
    train(work, "lr", {}, config, say=silent)
    alone = load_checkpoint(work.path("dense.pt")).model.state_dict()
    for name, said in lessons.items():
        np.save(work.folder / FOLDER / f"{name}.npy", said)
        lines: list[str] = []
        record = train(work, "lr", {}, config, taught=Taught((), f"{name}.npy"), say=lines.append)
        assert record.untaught is not None
        is_alone = record.untaught.alone < record.untaught.taught
        assert record.untaught.better == is_alone == (record.taught is None)
        found = load_checkpoint(work.path("dense.pt")).model.state_dict()
        assert all(bool((value == alone[key]).all()) for key, value in found.items()) == is_alone
        assert str(record.untaught) in lines
        if name == "noise":
            assert is_alone
    # An alpha of 0 leaves nothing of a teacher.
    zero = replace(config, distill_alpha=0.0, distill_twin="skip")
    assert train(work, "lr", {}, zero, taught=Taught((), "noise.npy"), say=silent).untaught is None
    found = load_checkpoint(work.path("dense.pt")).model.state_dict()
    assert all(bool((value == alone[key]).all()) for key, value in found.items())


def test_the_command_line_teaches_and_refuses(
    room: Class, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = room.student_work(tmp_path)

    def train_it(*more: str) -> tuple[int, str]:
        options = ["--work", str(work.folder), "--model", "lr", "--epochs", "1", "--threads", "1", "--quiet"]
        status = main(["train", *options, *more])
        return status, capsys.readouterr().err

    def run_it(*more: str) -> tuple[int, str]:
        options = ["--data", str(room.log), "--schema", str(room.schema), "--out", str(tmp_path / "out")]
        status = main(["run", *options, "--work", str(tmp_path / "run"), "--quiet", *more])
        return status, capsys.readouterr().err

    teacher = str(room.plan.out)
    assert train_it("--teacher", teacher, "--distill-temperature", "2", "--distill-twin", "skip") == (0, "")
    taught = work.read_record("train", Trained).taught
    assert taught is not None
    assert taught.teachers[0].name == room.bundle.manifest.id
    assert train_it() == (0, "")
    assert work.read_record("train", Trained).taught is None
    status, said = train_it("--distill-alpha", "0.3")
    assert status == 1
    assert "'distill_alpha' must be left out without a teacher (got 0.3)" in said
    status, said = train_it("--teacher", str(work.folder / "dense.pt"))
    assert status == 1
    assert "must be no file that a stage in its folder writes" in said
    assert work.has("dense.pt")
    status, said = run_it("--teacher", str(tmp_path))
    assert status == 1
    assert "'teacher' must be a bundle, the work folder of a run, or a checkpoint" in said
    # A misspelled name in a work folder does not stand for the folder's model.
    for absent in (tmp_path / "none.pt", room.plan.work / "dens.pt"):
        for command in (run_it, train_it):
            status, said = command("--teacher", str(absent))
            assert status == 1
            assert f"(got {absent}, which is not there)" in said
    status, said = run_it("--teacher", str(tmp_path / "run" / "dense.pt"))
    assert status == 1
    assert "must be in another folder than the one that the run works in" in said
    copy = tmp_path / "copy"
    shutil.copytree(teacher, copy)
    for again in (teacher, str(copy)):
        for command in (run_it, train_it):
            status, said = command("--teacher", teacher, "--teacher", again)
            assert status == 1
            assert "must name each teacher once" in said
    checkpoint = str(room.plan.work / "dense.pt")
    status, said = run_it("--teacher", teacher, "--checkpoint", checkpoint, "--preset", "none")
    assert status == 1
    assert "'teacher' must be left out where nothing is trained" in said
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


def test_a_level_is_found_whatever_the_log_odds() -> None:
    log_odds = np.random.default_rng(0).normal(3, 2, 1000).astype(np.float32)
    for rate in (0.001, 0.2, 0.9):
        assert sigmoid(log_odds + level_shift(log_odds, rate)).mean() == pytest.approx(rate, abs=1e-7)
