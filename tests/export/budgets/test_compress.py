"""A whole search on the tiny log: the budget's bundle, what is kept of it, and what no trial reaches."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from export.budgets.compress import BUNDLE, JSON, PAGE, compress
from export.budgets.kept import (
    FOLDER,
    RECORD,
    forget_other_models,
    kept_trials,
    trial_folder,
    trials_folder,
)
from export.budgets.plan import BudgetPlan
from export.budgets.subject import Subject
from export.compress.choice import PruneChoice
from export.errors import ExportError
from export.stages.records import Calibrated
from export.stages.variants import DENSE, graph_name
from export.stages.work import Work
from service.bundle.store import load_bundle
from tests.export.conftest import Exported, silent
from tests.full_disk import full_disk


@pytest.fixture
def plan(exported: Exported, tmp_path: Path) -> BudgetPlan:
    work = tmp_path / "work"
    shutil.copytree(exported.plan.work, work)
    return BudgetPlan(
        work=work,
        out=tmp_path / "out",
        max_auc_loss=0.5,
        trials=2,
        students=("none",),
        pruning=PruneChoice(prune_epochs=0.2, finetune_epochs=0.1, dense_twin="skip"),
    )


def test_a_search_keeps_its_trials_and_ends_with_a_bundle(plan: BudgetPlan) -> None:
    lines: list[str] = []
    found = compress(plan, say=lines.append)
    assert [one.name for one in found.trials] == ["none", "high-performance"]
    assert found.best in found.front
    best = found.trials[found.best - 1].form
    assert best is not None
    bundle = load_bundle(plan.out / BUNDLE)
    assert bundle.manifest.name == "out"
    served = {graph.variant: graph for graph in bundle.manifest.graphs.values()}
    assert best.variant in served
    assert (plan.out / JSON).exists()
    assert "<svg" in (plan.out / PAGE).read_text()
    first = found.trials[0].form
    assert first is not None
    assert first.validation.auc_delta == pytest.approx(first.auc - found.dense.auc)

    # Trials share the dense graph, and what no bundle can be made of is a record.
    folder = trials_folder(Subject.of(Work(plan.work)), plan)
    assert not list(folder.glob("*/pruned.pt"))
    for one in found.trials[1:]:
        graph = trial_folder(folder, one.number) / graph_name(DENSE)
        assert graph.is_symlink() == (one.number in found.front)
        assert graph.exists() == graph.is_symlink()

    # Other limits find the same trials; one whose process was killed is begun again, and so is one that a
    # full disk ended: it says nothing of its recipe.
    (trial_folder(folder, 2) / RECORD).unlink()
    with full_disk(2_000), pytest.raises(OSError, match="File too large"):
        compress(plan, say=lines.append)
    assert [one.number for one in kept_trials(folder)] == [1]
    tight = replace(plan, max_auc_loss=None, budget_bytes=10, out=plan.out.with_name("tight"), trials=1)
    with pytest.raises(ExportError, match="at most 10 bytes: none of 1 trials keeps that"):
        compress(tight, say=lines.append)
    assert "trials kept from an earlier search of the same model: 1" in lines
    assert (tight.out / JSON).exists()
    assert not (tight.out / BUNDLE).exists()

    # Another model in the same work folder: links of the old trials would lead to it.
    other = folder.with_name("another-schedule")
    forget_other_models(other)
    assert not folder.exists()


def test_a_log_that_lacks_non_clicks_is_calibrated_as_in_its_run(plan: BudgetPlan) -> None:
    path = plan.work / "calibrate.json"
    record = msgspec.json.decode(path.read_bytes(), type=Calibrated)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, sampling_rate=0.1)))
    with pytest.raises(ExportError, match=r"'sampling_rate' must be 0.1, as in the run .* \(got 1\)"):
        compress(plan, say=silent)


def test_what_calibrates_the_bundle_is_checked_before_the_search(plan: BudgetPlan) -> None:
    graphs = replace(plan.graphs, calibrate_by="nobody")
    with pytest.raises(ExportError, match=r"'calibrate_by' must be a field of the log \(got 'nobody'\)"):
        compress(replace(plan, graphs=graphs), say=silent)
    assert not (plan.work / FOLDER).exists()


def test_a_budget_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'--budget-us', '--budget-bytes' or .* must be given"):
        BudgetPlan(work=tmp_path, out=tmp_path / "out")


def test_a_work_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    plan = BudgetPlan(work=tmp_path / "work", out=tmp_path / "out", budget_us=1.0)
    with pytest.raises(ExportError, match=r"'dense.pt' must be in .*; run `python -m export train"):
        compress(plan, say=silent)
