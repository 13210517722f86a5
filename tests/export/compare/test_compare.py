"""A comparison of real models on a tiny log: figures that hold, results that are kept, models that fail."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from export.__main__ import main
from export.compare.compare import JSON, PAGE, TEXT, chosen_models, compare, read_comparison
from export.compare.plan import ComparePlan, Overrides
from export.compare.records import Comparison, Result
from export.compare.tables import as_text
from export.data.log_schema import load_log_schema
from export.errors import ExportError
from export.stages.package import package
from export.stages.plan import Plan
from export.stages.work import Work
from models import MODELS

BROKEN = {"deep_fwfm": {"hidden_units": ["wide"]}}


@dataclass(frozen=True)
class Compared:
    """One comparison: what it was told, what it said, what it found."""

    plan: ComparePlan
    lines: list[str]
    found: Comparison


@pytest.fixture(scope="module")
def compared(tiny_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """lr and fwfm, and a deep_fwfm that cannot be built."""
    folder = tmp_path_factory.mktemp("compare")
    plan = ComparePlan(
        data=tiny_plan.data,
        schema=tiny_plan.schema,
        out=folder / "out",
        work=folder / "work",
        models=("deep_fwfm", "lr", "fwfm"),
        common={"dim": 4},
        overrides=Overrides(own=BROKEN),
        training=tiny_plan.training.updated(epochs=1),
    )
    lines: list[str] = []
    return Compared(plan, lines, compare(plan, say=lines.append))


@pytest.fixture
def again(compared: Compared, tmp_path: Path) -> ComparePlan:
    """The plan of a comparison that finds the work of the first one."""
    shutil.copytree(compared.plan.work, tmp_path / "work", symlinks=True)
    return replace(compared.plan, work=tmp_path / "work", out=tmp_path / "out")


def trained(lines: list[str]) -> list[str]:
    return [line.partition(":")[0] for line in lines if ": training " in line]


def test_every_model_is_in_the_table_or_has_a_reason(compared: Compared) -> None:
    found = compared.found
    assert {row.model for row in found.rows} == {"lr", "fwfm"}
    assert [failure.model for failure in found.failures] == ["deep_fwfm"]
    assert "cannot be built" in found.failures[0].reason
    assert found.reference == "lr"
    assert found.best == found.rows[0].model
    for row in found.rows:
        assert row.variant in ("float32", "int8")
        assert row.auc_interval[0] < row.auc < row.auc_interval[1] < found.auc_of_true_pctr + 0.2
        assert set(row.microseconds_a_row) == {"1", "64", "1024"}
        assert row.seconds_an_epoch > 0
        assert row.epochs == 1


def test_what_is_written_is_what_was_found(compared: Compared) -> None:
    out = compared.plan.out
    assert sorted(path.name for path in out.iterdir()) == sorted((JSON, TEXT, PAGE))
    assert read_comparison(out) == compared.found
    assert (out / TEXT).read_text() == as_text(compared.found) + "\n"
    assert "fwfm" in (out / PAGE).read_text()
    for folder in (out.parent, compared.plan.data.parent):
        assert str(folder) not in (out / JSON).read_text()


def test_a_row_says_what_a_bundle_of_that_model_says(compared: Compared, tmp_path: Path) -> None:
    """The contender's folder is a work folder: a bundle of it needs no training."""
    row = next(row for row in compared.found.rows if row.model == "fwfm")
    work = Work(compared.plan.work / "models" / "fwfm" / f"seed-{row.seeds[0]}")
    manifest = package(work, tmp_path / "shop", say=str).manifest
    metrics = manifest.evaluation[row.variant]
    assert (row.auc, row.logloss, row.ece, row.prauc) == pytest.approx(
        (metrics.auc, metrics.logloss, metrics.ece, metrics.prauc), abs=1e-12
    )
    assert manifest.files[f"model.{row.variant}.onnx"].size == row.graph_bytes
    assert manifest.model.parameters == row.parameters


def test_what_is_done_is_kept_and_what_failed_is_tried_again(compared: Compared, again: ComparePlan) -> None:
    lines: list[str] = []
    found = compare(again, say=lines.append)
    assert trained(lines) == []
    assert "kept from an earlier run" in lines
    assert found.failures == compared.found.failures
    fresh = {row.model: row for row in compared.found.rows}
    assert [(row.model, row.seconds) for row in found.rows] == [
        (row.model, fresh[row.model].seconds) for row in found.rows
    ]


def test_other_options_of_a_model_train_that_one_anew(again: ComparePlan) -> None:
    lines: list[str] = []
    plan = replace(again, overrides=Overrides(own={**BROKEN, "fwfm": {"dim": 2, "learning_rate": 0.01}}))
    found = compare(plan, say=lines.append)
    assert trained(lines) == ["fwfm"]
    row = next(row for row in found.rows if row.model == "fwfm")
    assert row.hyperparameters["dim"] == 2
    assert row.config.learning_rate == 0.01


def test_another_field_to_calibrate_by_makes_all_anew(again: ComparePlan) -> None:
    lines: list[str] = []
    name = load_log_schema(again.schema).fields[0].name
    plan = replace(again, models=("lr",), overrides=Overrides(), calibrate_by=name)
    found = compare(plan, say=lines.append)
    assert trained(lines) == ["lr"]
    assert any("offsets by the" in line and f"values of {name}" in line for line in lines)
    assert found.options["calibrate_by"] == name


def test_another_log_trains_all_anew(again: ComparePlan) -> None:
    lines: list[str] = []
    plan = replace(again, models=("lr",), overrides=Overrides(), split=(0.6, 0.1, 0.1, 0.2))
    found = compare(plan, say=lines.append)
    assert trained(lines) == ["lr"]
    assert found.log.rows["test"] == pytest.approx(800, abs=2)


def test_a_process_gives_what_this_process_gives(compared: Compared, again: ComparePlan) -> None:
    lines: list[str] = []
    plan = replace(again, models=("lr",), overrides=Overrides(), jobs=2, again=("lr",))
    row = compare(plan, say=lines.append).rows[0]
    assert trained(lines) == ["lr"]
    # The variant that serves may differ, where two are as fast: what both made of each is the same.
    path = Path("models/lr/seed-7/result.json")
    here, there = (
        msgspec.json.decode((work / path).read_bytes(), type=Result)
        for work in (compared.plan.work, again.work)
    )
    assert there.metrics == here.metrics
    assert there.key == here.key
    assert row.auc == there.metrics[row.variant].auc


def test_seeds_are_averaged_and_only_new_ones_trained(again: ComparePlan) -> None:
    lines: list[str] = []
    row = compare(replace(again, models=("lr",), overrides=Overrides(), seeds=2), say=lines.append).rows[0]
    assert trained(lines) == ["lr"]
    assert row.seeds == (7, 8)
    assert row.auc_by_seed[0] != row.auc_by_seed[1]
    assert row.auc == pytest.approx(sum(row.auc_by_seed) / 2)
    assert row.auc_sd == pytest.approx(abs(row.auc_by_seed[0] - row.auc_by_seed[1]) / 2**0.5)


def test_a_pruned_model_is_compared_by_its_pruned_graph(again: ComparePlan) -> None:
    pruning = replace(again.pruning, preset="high-performance", finetune_epochs=0.5)
    plan = replace(again, models=("fwfm",), overrides=Overrides(), pruning=pruning, ship="pruned")
    found = compare(plan, say=str)
    assert found.rows[0].variant in ("pruned", "int8")
    assert found.reference is None


def test_where_no_model_comes_through_there_is_no_table(again: ComparePlan) -> None:
    with pytest.raises(ExportError, match=r"at least one model.*'deep_fwfm' cannot be built"):
        compare(replace(again, models=("deep_fwfm",)), say=str)
    assert not (again.out / JSON).exists()


def test_jobs_and_torchrun_do_not_go_together(again: ComparePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ExportError, match="'jobs' must be 1 under torchrun"):
        compare(replace(again, jobs=2), say=str)


def test_no_pruned_graph_can_ship_where_nothing_is_pruned(again: ComparePlan) -> None:
    with pytest.raises(ExportError, match="'ship' must be auto or dense where nothing is pruned"):
        compare(replace(again, ship="pruned"), say=str)
    assert not (again.out / JSON).exists()


def test_all_means_every_model_in_the_order_of_reading() -> None:
    assert chosen_models(("all",)) == tuple(MODELS)
    assert chosen_models(("fwfm", "lr")) == ("lr", "fwfm")
    with pytest.raises(ExportError, match=r"'models' must be all or among lr, .*got 'lrr'"):
        chosen_models(("lr", "lrr"))


def test_the_command_line_compares_and_shows(
    compared: Compared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = compared.plan
    options = ["--data", plan.data, "--schema", plan.schema, "--out", tmp_path / "out", "--models", "lr"]
    arguments = [*options, "--hyperparameter", "lr.epochs=1", "--threads", 1, "--learning-rate", 0.005]
    assert main(["compare", *map(str, arguments)]) == 0
    assert "python -m export package --work" in capsys.readouterr().out
    found = read_comparison(tmp_path / "out")
    assert found.rows[0].epochs == 1
    assert found.options["pruning"]["preset"] == "none"
    assert main(["compare", "--show", str(tmp_path / "out"), "--show", str(plan.out)]) == 0
    shown = capsys.readouterr().out
    assert as_text(found) in shown
    assert as_text(compared.found) in shown
    assert main(["compare", "--show", str(plan.out), "--format", "markdown"]) == 0
    assert "| `fwfm` |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "'--data' must be given"),
        (["--show", "nowhere"], "'show' must be the folder of a finished comparison"),
        (["--show", "nowhere", "--out", "out"], "'--out' must be left out with --show"),
        (["--data", "x", "--schema", "criteo", "--out", "o", "--models", "lr,nope"], "got 'nope'"),
        (["--data", "x", "--schema", "criteo", "--out", "o", "--again", "nope"], "got 'nope'"),
        (["--data", "x", "--schema", "criteo", "--out", "o", "--settings", "no.toml"], "no.toml"),
        (["--data", "x", "--schema", "criteo", "--out", "o", "--hyperparameter", "lr.dim=3"], "got 'dim'"),
        (["--data", "x", "--schema", "criteo", "--out", "o", "--device", "tpu"], "tpu"),
        (
            ["--data", "x", "--schema", "criteo", "--out", "o", "--calibrate-by", "nope"],
            "'calibrate_by' must be a field of the log (got 'nope')",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_that_is_none_is_refused(tmp_path: Path, compared: Compared) -> None:
    (tmp_path / JSON).write_bytes(msgspec.json.encode(compared.found)[:-9])
    with pytest.raises(ExportError, match="must be a comparison"):
        read_comparison(tmp_path)
