"""A model of trees runs every stage: nothing in its graph can be INT8, so only the float graph serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from export.compress.choice import PruneChoice
from export.stages.pipeline import run
from export.stages.plan import Plan


def test_trees_are_served_as_they_are(tiny_plan: Plan, tmp_path: Path) -> None:
    plan = replace(
        tiny_plan,
        model="gbdt_lr",
        hyperparameters={},
        pruning=PruneChoice(preset="none"),
        out=tmp_path / "trees",
        work=tmp_path / "work",
    )
    lines: list[str] = []
    bundle = run(plan, say=lines.append)
    assert any(line.startswith("nothing to quantize in model.float32.onnx") for line in lines)
    assert set(bundle.graphs) == set(bundle.manifest.evaluation) == {"float32"}
    assert bundle.manifest.serving_variant == "float32"
    assert {one.variant for one in bundle.manifest.latency} == {"torch", "float32"}
    assert not bundle.manifest.parity
    assert not bundle.manifest.kept_out
    assert bundle.manifest.evaluation["float32"].auc > 0.5
