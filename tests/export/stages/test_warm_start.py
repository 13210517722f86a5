"""A run that goes on from another one: the same weights, grown vocabularies, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from export.__main__ import main
from export.compress.choice import PruneChoice
from export.data.encoded import open_log
from export.data.errors import LogError
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.errors import ExportError
from export.stages.fit_schema import fit_schema
from export.stages.pipeline import run
from export.stages.plan import Plan
from export.stages.records import LogSummary, Trained
from export.stages.trained_file import TRAINED_FILE, TrainedModel, read_trained_file, trained_file
from export.stages.warm_start import read_warm_start
from export.stages.work import Work
from export.train.build import build_model
from export.train.checkpoint import load_checkpoint
from export.train.choices import EmbeddingChoice, TrainChoice
from models.fields import fields_of, first_rows, table_rows
from service.bundle.schema import FIRST_ID, Schema, Vocabulary
from service.bundle.store import Bundle, load_bundle

CONFIG = SyntheticConfig(
    rows=3000,
    seed=5,
    features=2000,
    numeric_fields=1,
    categorical_fields=4,
    candidate_fields=2,
    sequence_fields=1,
    ctr=0.3,
    rows_per_day=1500,
)
NAME = "C4"  # the field with the most values
TRAINING = TrainChoice(epochs=1, seed=7, threads=1)


@dataclass(frozen=True)
class TwoDays:
    """The logs of two days, and the first one's bundle."""

    plan: Plan
    today: Path
    bundle: Bundle

    def goes_on(self, folder: Path, **changed: Any) -> Plan:
        """The plan of the second day, from the bundle of the first."""
        plan = replace(self.plan, data=self.today, warm_start=self.plan.out, out=folder / "today")
        return replace(plan, **{"work": folder / "work", **changed})


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoDays]:
    folder = tmp_path_factory.mktemp("two-days")
    schema = write_synthetic_log(CONFIG, folder / "log.parquet", report=str)
    log = pl.read_parquet(folder / "log.parquet")
    for name, rows in {"yesterday": log[:1500], "today": log[1500:]}.items():
        rows.write_parquet(folder / f"{name}.parquet")
    plan = Plan(
        data=folder / "yesterday.parquet",
        schema=str(schema),
        out=folder / "shop",
        work=folder / "work",
        hyperparameters={"dim": 4, "hidden_units": [8, 4]},
        training=TRAINING,
        pruning=PruneChoice(preset="none"),
        quantization_rows=200,
    )
    bundle = run(plan, say=str)
    return TwoDays(plan, folder / "today.parquet", bundle)


def values_of(schema: Schema) -> dict[str, set[str]]:
    return {
        field.name: set(field.encoding.values)
        for field in schema.fields
        if isinstance(field.encoding, Vocabulary)
    }


def test_without_a_step_the_same_log_gives_the_same_pctrs(two_days: TwoDays, tmp_path: Path) -> None:
    """Steps of 1e-30 change no weight, and nothing else of a warm start may.

    Rows of ids that no training row has are means of the others, whose last bits follow the steps' averaging.
    """
    plan = two_days.goes_on(tmp_path, data=two_days.plan.data, training=TRAINING.updated(learning_rate=1e-30))
    bundle = run(plan, say=str)
    assert values_of(bundle.schema) == values_of(two_days.bundle.schema)
    assert bundle.golden.rows == two_days.bundle.golden.rows
    assert bundle.golden.ids == two_days.bundle.golden.ids
    served = [one.golden.variants["float32"].pctrs for one in (bundle, two_days.bundle)]
    assert served[0] == pytest.approx(served[1], abs=1e-7)
    _, before = read_trained_file(two_days.plan.out)
    _, after = read_trained_file(plan.out)
    trained = trained_rows(before)
    for name, value in before.network.state_dict().items():
        other = after.network.state_dict()[name]
        assert torch.allclose(value, other, rtol=0, atol=1e-7)
        same = value == other
        assert bool((same[trained] if name.endswith(".table.weight") else same).all()), name
    assert after.past.rows == 2 * before.past.rows
    for name, counts in before.past.counts.items():
        assert np.array_equal(after.past.counts[name], 2 * counts)


def trained_rows(model: TrainedModel) -> torch.Tensor:
    """Which rows of the tables some training row has, [rows]; fields with the same rows count together."""
    fields = fields_of(model.network)
    met = np.zeros(sum(map(table_rows, fields)), np.int64)
    for field, first in zip(fields, first_rows(fields), strict=True):
        met[first : first + field.cardinality] += model.past.counts[field.name]
    return torch.from_numpy(met > 0)


def test_the_next_day_by_the_command_line(
    two_days: TwoDays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names neither the model nor its hyperparameters, and replaces the bundle that it goes on from."""
    out, work = tmp_path / "shop", tmp_path / ".work" / "shop"
    shutil.copytree(two_days.plan.out, out)
    options = ["run", "--data", two_days.today, "--schema", two_days.plan.schema, "--out", out]
    options += ["--warm-start", out, "--threads", 1, "--epochs", 1, "--preset", "none"]
    assert main([*map(str, options)]) == 0
    text = capsys.readouterr().out
    bundle = load_bundle(out)
    before, after = values_of(two_days.bundle.schema), values_of(bundle.schema)
    assert all(before[name] <= after[name] for name in before)
    assert sum(map(len, after.values())) > sum(map(len, before.values()))
    log, summary = open_log(work / "log"), Work(work).read_record("fit-schema", LogSummary)
    assert summary.changes is not None
    assert summary.changes.forgotten == 0
    assert summary.earlier_rows == 1050
    source = f"shop@{two_days.bundle.manifest.version}"
    trained = Work(work).read_record("train", Trained)
    assert trained.warm_start == source
    assert trained.hyperparameters["hidden_units"] == [8, 4]
    assert f"vocabularies: {summary.changes}" in text
    assert f"on from {source}, after 1,050 rows" in text
    assert "as it is: validation logloss" in text
    page = (out / "report" / "index.html").read_text()
    assert f"training went on from {source}, a model of 1,050 rows; vocabularies: " in page
    _, kept = read_trained_file(out)
    assert kept.past.rows == 1050 + len(log.parts["train"])
    assert_absences(kept.past.absent[NAME], log)
    assert main([*map(str, options), "--model", "lr"]) == 1
    assert "'model' must be 'deep_fwfm'" in capsys.readouterr().err
    assert load_bundle(out).digest == bundle.digest


def assert_absences(absent: np.ndarray, log: Any) -> None:
    """An id's run is 1 where the second day's training part does not have it, else 0."""
    column = log.parts["train"].ids[:, log.schema.column_slices[NAME]]
    shown = np.isin(np.arange(FIRST_ID, len(absent)), column)
    assert absent[FIRST_ID:].tolist() == np.where(shown, 0, 1).tolist()
    assert not shown.all()


def test_values_are_forgotten_by_age(two_days: TwoDays, tmp_path: Path) -> None:
    plan = two_days.goes_on(tmp_path)
    growth = read_warm_start(two_days.plan.out).growth(forget_after=1)
    fit_schema(Work(plan.work), plan, growth=growth, say=str)
    log = open_log(plan.work / "log")
    values = values_of(log.schema)[NAME]
    column = log.parts["train"].ids[:, log.schema.column_slices[NAME]]
    assert set(range(FIRST_ID, FIRST_ID + len(values))) <= set(column.ravel().tolist())
    assert values_of(two_days.bundle.schema)[NAME] - values


def test_a_work_folder_and_its_checkpoint_are_the_bundle_s_model(two_days: TwoDays) -> None:
    found = [
        read_warm_start(path).trained
        for path in (two_days.plan.out, two_days.plan.work, two_days.plan.work / "dense.pt")
    ]
    for one in found[1:]:
        assert (one.model, one.hyperparameters, one.training) == (
            found[0].model,
            found[0].hyperparameters,
            found[0].training,
        )
        for name, value in found[0].network.state_dict().items():
            assert torch.equal(value, one.network.state_dict()[name])
        assert one.past.arrays().keys() == found[0].past.arrays().keys()
        for name, array in found[0].past.arrays().items():
            assert np.array_equal(array, one.past.arrays()[name])


def test_what_contradicts_the_model_is_refused_before_the_log_is_read(
    two_days: TwoDays, tmp_path: Path
) -> None:
    source = rf"shop@{two_days.bundle.manifest.version}"
    for changed, said in (
        ({"model": "lr"}, rf"'model' must be 'deep_fwfm', as in {source} \(got 'lr'\); leave it out"),
        ({"hyperparameters": {"dim": 5}}, rf"'dim' must be 4, as in {source} \(got 5\)"),
        ({"embedding": EmbeddingChoice("qr", least_ids=2)}, r"'embedding' must be \[.*full.*\(got \[.*qr"),
        ({"training": TrainChoice(loss="focal")}, r"'loss' must be 'bce', .* \(got 'focal'\)"),
        ({"training": TrainChoice(negative_rate=0.5)}, r"'negative_rate' must be 1.0, .* \(got 0.5\)"),
        ({"pruning": PruneChoice(preset="accurate")}, r"'preset' must be none .* takes a trained model"),
        ({"checkpoint": two_days.plan.work / "dense.pt"}, "'warm-start' must be left out with --checkpoint"),
        ({"warm_start": None, "forget_after": 3}, "'forget_after' must be left out without --warm-start"),
        ({"warm_start": None, "bins": "refit"}, "'bins' must be left out without --warm-start"),
        ({"warm_start": tmp_path / "no"}, r"'warm-start' must be a bundle, the work folder of a run, or a"),
        ({"warm_start": two_days.plan.work / "dens.pt"}, r"dens\.pt, which is not there\)"),
        ({"warm_start": two_days.plan.work / "train.json"}, r"dense model of a work folder \(got train.json"),
        ({"warm_start": two_days.plan.work, "work": two_days.plan.work}, "another folder than the one that"),
    ):
        plan = two_days.goes_on(tmp_path, **{"data": tmp_path / "no.parquet", **changed})
        with pytest.raises(ExportError, match=said):
            run(plan, say=str)
    assert (two_days.plan.work / "dense.pt").exists()
    assert not (tmp_path / "work").exists()


def test_a_folder_that_another_export_uses_is_named_by_its_option(two_days: TwoDays) -> None:
    with (
        Work(two_days.plan.work).held(),
        pytest.raises(ExportError, match=r"'warm-start' must be a folder .*; .* name another with --warm-s"),
    ):
        read_warm_start(two_days.plan.work)


def test_no_model_was_named_beside_a_checkpoint_and_a_warm_start(
    two_days: TwoDays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = two_days.plan
    options = ["--data", str(plan.data), "--schema", plan.schema, "--out", str(tmp_path / "out"), "--quiet"]
    sources = ["--warm-start", str(plan.out), "--checkpoint", str(plan.work / "dense.pt")]
    assert main(["run", *options, *sources]) == 1
    assert "'warm-start' must be left out with --checkpoint" in capsys.readouterr().err


def test_other_fields_are_refused(two_days: TwoDays, tmp_path: Path) -> None:
    schema = tmp_path / "other.toml"
    schema.write_text(Path(two_days.plan.schema).read_text().replace('name = "C1"', 'name = "C9"'))
    with pytest.raises(LogError, match=r"must be as in the model .* 'C1' .* \(got 'C9'"):
        run(two_days.goes_on(tmp_path, schema=str(schema)), say=str)


def test_the_loss_of_before_is_taken(two_days: TwoDays) -> None:
    found = read_warm_start(two_days.plan.out)
    other = replace(found, trained=replace(found.trained, training={"loss": "bce", "negative_rate": 0.25}))
    assert other.settled_training(TrainChoice(seed=3)).given == {
        "seed": 3,
        "loss": "bce",
        "negative_rate": 0.25,
    }


def test_a_bundle_serves_without_the_file_and_says_what_is_missing(two_days: TwoDays, tmp_path: Path) -> None:
    copy = tmp_path / "shop"
    shutil.copytree(two_days.plan.out, copy, ignore=shutil.ignore_patterns("training"))
    assert load_bundle(copy).digest == two_days.bundle.digest
    with pytest.raises(ExportError, match=r"a bundle with training/dense.npz \(got .*shop without it"):
        read_warm_start(copy)


def test_a_damaged_file_and_one_of_another_bundle_are_refused(two_days: TwoDays, tmp_path: Path) -> None:
    copy = tmp_path / "shop"
    shutil.copytree(two_days.plan.out, copy)
    path, whole = copy / TRAINED_FILE, (copy / TRAINED_FILE).read_bytes()
    for content in (b"", b"no archive", whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(ExportError, match=r"training/dense.npz' must be what the export of its bundle"):
            read_warm_start(copy)
    path.write_bytes(whole)
    with np.load(path) as arrays:
        changed = {name: array for name, array in arrays.items() if name != "weights/bias"}
    np.savez(path, **changed)
    with pytest.raises(ExportError, match=r"Missing key\(s\) in state_dict: \"bias\""):
        read_warm_start(copy)


def test_a_file_of_a_bundle_with_other_values_is_refused(two_days: TwoDays, tmp_path: Path) -> None:
    copy = tmp_path / "shop"
    shutil.copytree(two_days.plan.out, copy)
    _, found = read_trained_file(copy)
    first, *others = found.past.schema.fields
    schema = Schema((first, *reversed(others)))
    moved = replace(found, past=replace(found.past, schema=schema))
    (copy / TRAINED_FILE).write_bytes(trained_file(moved))
    with pytest.raises(ExportError, match="it is that of a bundle with other values"):
        read_warm_start(copy)


def test_trees_are_refused(two_days: TwoDays, tmp_path: Path) -> None:
    copy = tmp_path / "shop"
    shutil.copytree(two_days.plan.out, copy)
    _, found = read_trained_file(copy)
    trees = build_model("gbdt_lr", found.past.schema, {"trees": 2, "depth": 2})
    other = replace(found, network=trees, model="gbdt_lr", hyperparameters={"trees": 2, "depth": 2})
    (copy / TRAINED_FILE).write_bytes(trained_file(other))
    with pytest.raises(ExportError, match=r"must go on from a model without trees \(got gbdt_lr\)"):
        read_warm_start(copy)


def test_the_pruned_model_s_dense_one_goes_on(exported: Any) -> None:
    """The bundle's ids are merged; those of the weights are not."""
    _, found = read_trained_file(exported.plan.out)
    log = open_log(exported.plan.work / "log")
    dense = load_checkpoint(exported.plan.work / "dense.pt", log.schema).model
    assert any(field.renumbering is not None for field in exported.bundle.schema.fields)
    for name, value in dense.state_dict().items():
        assert torch.equal(value, found.network.state_dict()[name])
