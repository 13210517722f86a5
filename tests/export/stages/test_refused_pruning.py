"""A pruned graph that is worse than the dense one is not served: the dense one and its INT8 form ship."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from export.compress.choice import PruneChoice
from export.data.encoded import open_log
from export.stages.pipeline import run
from export.stages.plan import Plan
from export.stages.quantize import quantize
from export.stages.records import Graphs
from export.stages.refusal import why_refused
from export.stages.variants import float_variant, read_variants
from export.stages.work import Work
from export.train.choices import TrainChoice
from service.bundle.encoder import Encoder
from service.bundle.store import Bundle, load_bundle

ROWS = 6_000
DESCRIPTION = """
name = "pairs"
format = "csv"
[label]
column = "click"
[[field]]
name = "user"
kind = "categorical"
role = "context"
[[field]]
name = "ad"
kind = "categorical"
role = "candidate"
"""


def write_log(folder: Path) -> Path:
    """Clicks that follow from the ids alone: a model without embeddings knows nothing."""
    draw = np.random.default_rng(4)
    effects = draw.normal(0, 1.5, (2, 40))
    ids = draw.integers(0, 40, (ROWS, 2))
    logits = effects[0, ids[:, 0]] + effects[1, ids[:, 1]]
    clicks = draw.random(ROWS) < 1 / (1 + np.exp(-logits))
    rows = [f"{int(click)},u{user},a{ad}" for click, (user, ad) in zip(clicks, ids, strict=True)]
    (folder / "pairs.csv").write_text("\n".join(["click,user,ad", *rows]) + "\n")
    (folder / "pairs.toml").write_text(DESCRIPTION)
    return folder / "pairs.csv"


@dataclass(frozen=True)
class Destroyed:
    """A run whose pruning leaves next to nothing of the model, and what it printed."""

    work: Work
    lines: list[str]
    bundle: Bundle


@pytest.fixture(scope="module")
def destroyed(tmp_path_factory: pytest.TempPathFactory) -> Destroyed:
    folder = tmp_path_factory.mktemp("refused")
    log = write_log(folder)
    plan = Plan(
        data=log,
        schema=str(log.with_suffix(".toml")),
        out=folder / "bundle",
        work=folder / "work",
        hyperparameters={"dim": 4, "hidden_units": [16], "dropout": 0.0},
        training=TrainChoice(epochs=4, learning_rate=1e-2, seed=1, threads=1),
        pruning=PruneChoice(
            preset="low-memory", prune_epochs=0.02, finetune_epochs=0.01, prune_learning_rate=1e-9
        ),
    )
    lines: list[str] = []
    bundle = run(plan, say=lines.append)
    return Destroyed(Work(plan.work), lines, bundle)


def test_the_dense_graph_serves_where_pruning_destroyed_the_model(destroyed: Destroyed) -> None:
    manifest = destroyed.bundle.manifest
    assert manifest.evaluation["pruned"].auc < manifest.evaluation["float32"].auc - 0.02
    assert set(manifest.graphs) == {"float32", "int8"}
    assert manifest.serving_variant in ("float32", "int8")
    assert manifest.evaluation[manifest.serving_variant].auc == pytest.approx(
        manifest.evaluation["float32"].auc, abs=0.005
    )
    assert [(one.reference, one.variant) for one in manifest.parity] == [
        ("float32", "pruned"),
        ("float32", "int8"),
    ]


def test_the_reason_is_told_with_what_to_do(destroyed: Destroyed) -> None:
    reason = destroyed.bundle.manifest.kept_out["pruned"]
    assert "AUC against float32 on the validation part (95 % interval of the change -" in reason
    assert "--preset none" in reason
    assert f"warning: pruned {reason}; float32 ships in its place" in destroyed.lines
    assert f"pruned is kept out: {reason}" in "\n".join(destroyed.lines)
    assert "<b>pruned</b> is kept out: loses" in (destroyed.bundle.folder / "report/index.html").read_text()


def test_the_bundle_numbers_ids_as_its_graphs_do(destroyed: Destroyed) -> None:
    bundle = load_bundle(destroyed.bundle.folder, verify_all=True)
    log = open_log(destroyed.work.path("log"))
    assert all(field.renumbering is None for field in bundle.schema.fields)
    encoder = Encoder(bundle.schema)
    row = log.sample_rows[0]
    found = encoder.encode_request(row["context"], [row["candidate"]])[0]
    assert np.array_equal(found, log.parts["test"].ids[0])
    variants = read_variants(destroyed.work, log.schema)
    assert float_variant(variants) == "float32"
    assert not variants["int8"].renumberings
    assert variants["pruned"].renumberings


def test_a_stage_alone_decides_as_the_run_did(destroyed: Destroyed) -> None:
    before = destroyed.work.read_record("quantize", Graphs)
    assert quantize(destroyed.work, rows=16_384, say=str) == before
    assert set(before.refused) == {"pruned"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda logits, _: logits, ""),
        (lambda logits, noise: logits + 0.02 * noise, ""),
        (lambda logits, _: 0.3 * logits - 2.0, ""),  # a calibrator mends that
        (lambda logits, noise: logits + noise, "loses "),
        (lambda logits, _: np.sign(logits) * np.abs(logits) ** 0.25, "adds "),  # ranks as before
    ],
)
def test_losses_beyond_noise_refuse(change, told: str) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 1.5, 4000)
    labels = (draw.random(4000) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    after = change(logits, draw.normal(0, 1, 4000))
    reason = why_refused(labels, logits, after)
    assert reason.startswith(told) if told else not reason
    # Twenty rows cannot tell noise and loss apart.
    assert not why_refused(labels[:20], logits[:20], after[:20])


def test_what_an_earlier_run_refused_may_be_kept(destroyed: Destroyed, tmp_path: Path) -> None:
    copy = Work(tmp_path / "work")
    shutil.copytree(destroyed.work.folder, copy.folder)
    assert not quantize(copy, rows=16_384, keep_worse=True, say=str).refused
    variants = read_variants(copy, open_log(copy.path("log")).schema)
    assert float_variant(variants) == "pruned"
    assert variants["int8"].renumberings
