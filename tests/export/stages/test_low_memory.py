"""A lean bundle with narrow rows and forgotten values: small, whole, and as good as its graph was judged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from export.compress.choice import PruneChoice
from export.data.encoded import EncodedLog, open_log
from export.graph.runtime import run_graph
from export.stages.calibrate import calibrate_as_planned
from export.stages.package import package
from export.stages.pipeline import run
from export.stages.plan import GraphPlan, Plan
from export.stages.quantize import quantize
from export.stages.trained_file import read_trained_file, schema_digest
from export.stages.variants import INT8, PRUNED, read_variants
from export.stages.work import Work
from export.train.choices import TrainChoice
from service.bundle.encoder import Encoder
from service.bundle.manifest import EmbeddingRows
from service.bundle.schema import OOV_ID, Vocabulary
from service.bundle.store import Bundle, load_bundle
from service.scoring.golden import replay_golden
from service.scoring.predictor import Predictor
from service.settings import Settings
from tests.export.click_csv import write_clicks

ROWS = 6_000


@dataclass(frozen=True)
class Exported:
    plan: Plan
    work: Work
    lines: list[str]
    bundle: Bundle
    log: EncodedLog


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Clicks that users and ads decide; pages are noise, whose rows pruning zeroes first."""
    folder = tmp_path_factory.mktemp("lean")
    draw = np.random.default_rng(4)
    effects = draw.normal(0, 1.5, (2, 40))
    ids = draw.integers(0, [40, 40, 300], (ROWS, 3))
    clicks = draw.random(ROWS) < 1 / (1 + np.exp(-effects[0, ids[:, 0]] - effects[1, ids[:, 1]]))
    rows = [
        (int(click), f"u{user}", f"a{ad}", f"p{page}")
        for click, (user, ad, page) in zip(clicks, ids, strict=True)
    ]
    log = write_clicks(folder, "shop", {"user": "context", "ad": "candidate", "page": "context"}, rows)
    plan = Plan(
        data=log.data,
        schema=log.schema,
        min_count=1,
        out=folder / "bundle",
        work=folder / "work",
        hyperparameters={"dim": 6, "hidden_units": [32], "dropout": 0.0},
        training=TrainChoice(epochs=2, learning_rate=1e-2, seed=1, threads=1),
        pruning=PruneChoice(
            preset="low-memory", prune_epochs=0.5, finetune_epochs=0.5, dense_twin="skip", prune_every=1
        ),
        ship="pruned",
        embedding_bits="mixed",
        embedding_loss=0.001,
        zero_rows="forget",
        contents="lean",
    )
    lines: list[str] = []
    bundle = run(plan, say=lines.append)
    work = Work(plan.work)
    return Exported(plan, work, lines, bundle, open_log(work.path("log")))


def test_the_bundle_holds_one_graph_and_what_it_answers_with(lean: Exported) -> None:
    files = set(lean.bundle.manifest.files)
    assert lean.bundle.manifest.serving_variant == INT8
    assert set(lean.bundle.graphs) == {INT8}
    assert not [name for name in files if name.endswith((".table", ".html", ".jsonl"))]
    assert not (lean.plan.out / "training").exists()
    assert (lean.plan.work / "report" / "index.html").stat().st_size > 10_000
    asyncio.run(replay_golden(Predictor(lean.bundle, Settings())))
    assert any("the report stays in" in line for line in lean.lines)


def test_forgotten_values_are_unknown_and_all_others_score_as_the_graph_was_judged(lean: Exported) -> None:
    page, before = lean.bundle.schema.field("page"), lean.log.schema.field("page")
    assert isinstance(page.encoding, Vocabulary)
    assert isinstance(before.encoding, Vocabulary)
    assert page.renumbering is None
    assert 0 < page.encoding.size < before.encoding.size / 2
    forgotten = next(value for value in before.encoding.values if value not in page.encoding.values)
    encoder = Encoder(lean.bundle.schema)
    column = lean.bundle.schema.column_slices["page"].start
    assert encoder.encode_request({"page": forgotten}, [{}])[0, column] == OOV_ID
    rows = lean.log.sample_rows
    ids = np.concatenate([encoder.encode_request(row["context"], [row["candidate"]]) for row in rows])
    int8 = read_variants(lean.work, lean.log.schema)[INT8]
    # Values were rows of the log's test part: the log's ids, renumbered, are the bundle's.
    log_encoder = Encoder(lean.log.schema)
    log_ids = np.concatenate([log_encoder.encode_request(row["context"], [row["candidate"]]) for row in rows])
    assert np.array_equal(int8.ids(log_ids), ids)
    assert np.array_equal(run_graph(lean.bundle.graphs[INT8], ids), run_graph(int8.graph, ids))


def test_manifest_and_report_say_how_rows_are_written(lean: Exported) -> None:
    told = lean.bundle.manifest.embedding_rows
    assert isinstance(told, EmbeddingRows)
    (bits,) = told.tables.values()
    assert set(bits) == {"user", "ad", "page"}
    assert min(bits.values()) < 8
    assert told.asked == "mixed"
    assert told.bytes < 0.75 * 6 * lean.bundle.manifest.compression.embedding_rows[1]
    page = (lean.plan.work / "report" / "index.html").read_text()
    assert all(f"at {width} bits" in page for width in set(bits.values()))
    steps = [step for step in lean.bundle.manifest.ladder if step.reference == PRUNED]
    assert [step.variant for step in steps] == [INT8]


def test_the_next_export_goes_on_from_all_values(lean: Exported, tmp_path: Path) -> None:
    package(lean.work, tmp_path / "whole", say=lean.lines.append)
    assert (
        load_bundle(tmp_path / "whole").schema.field("page").encoding
        != lean.log.schema.field("page").encoding
    )
    _, found = read_trained_file(tmp_path / "whole")
    assert schema_digest(found.past.schema) == schema_digest(lean.log.schema)


def test_the_report_counts_forgotten_values_as_evaluate_will(lean: Exported) -> None:
    report = msgspec.json.decode((lean.plan.work / "report" / "report.json").read_bytes())
    (page,) = [one for one in report["data"]["fields"] if one["name"] == "page"]
    test, variant = lean.log.parts["test"], read_variants(lean.work, lean.log.schema)[INT8]
    assert page["unseen"]["test"] == pytest.approx(np.mean(variant.ids_of(test, "page") == OOV_ID))
    assert page["unseen"]["test"] > 0.2


def test_the_same_work_makes_the_whole_bundle_with_bytes_for_numbers(lean: Exported, tmp_path: Path) -> None:
    quantize(lean.work, GraphPlan(quantization_rows=1_000, ship="pruned"), say=lean.lines.append)
    calibrate_as_planned(lean.work, lean.plan, say=lean.lines.append)
    package(lean.work, tmp_path / "whole", say=lean.lines.append)
    whole = load_bundle(tmp_path / "whole")
    assert set(whole.graphs) == {PRUNED, INT8}
    assert "embedding_rows" not in msgspec.json.decode((tmp_path / "whole" / "manifest.json").read_bytes())
    assert whole.schema.field("page").encoding == lean.log.schema.field("page").encoding
    assert size_of(tmp_path / "whole") > 3 * size_of(lean.plan.out)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
