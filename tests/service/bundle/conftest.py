"""A small bundle with every kind, role and encoding; its graphs are arbitrary bytes, since none is run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle.calibration import Calibrator, Quality
from service.bundle.encoder import Encoder
from service.bundle.manifest import (
    Baseline,
    Compression,
    Description,
    Golden,
    GoldenOutputs,
    GoldenRow,
    Graph,
    Latency,
    Manifest,
    Metrics,
    ModelInfo,
    Parity,
    Tensor,
    Training,
)
from service.bundle.prior import Prior, PriorField
from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Schema, Vocabulary
from service.bundle.store import Contents, save_bundle

ROWS = (
    ({"site": "b", "hour": 7, "seen ☃": ["x", "y", "z", "x"]}, {"../ad": "a2", "campaign": 1005}),
    ({"hour": -1.5}, {"../ad": "never seen", "campaign": ""}),
    ({}, {}),
)


@pytest.fixture(scope="session")
def schema() -> Schema:
    """A schema with two field names that would be dangerous as file names."""
    return Schema(
        (
            Field("site", Kind.CATEGORICAL, Role.CONTEXT, Vocabulary(("a", "b", "7", "\u2028"))),
            Field("../ad", Kind.CATEGORICAL, Role.CANDIDATE, Vocabulary(tuple(f"a{n}" for n in range(9)))),
            Field("hour", Kind.NUMERIC, Role.CONTEXT, Bins((-1.0, 0.1, 6.0, 1e300))),
            Field("campaign", Kind.CATEGORICAL, Role.CANDIDATE, Hashing(50, seed=7)),
            Field("seen ☃", Kind.SEQUENCE, Role.CONTEXT, Vocabulary(("x", "y")), max_length=3),
        )
    ).renumbered(
        {"../ad": np.array([0, 1, 2, 3, 4, 2, 5, 2, 6, 7, 2]), "hour": np.array([0, 1, 2, 2, 2, 3, 4])}
    )


@pytest.fixture(scope="session")
def parts(schema: Schema) -> dict[str, Any]:
    """The fields of a description and of contents; `descriptions` are the description's graphs."""
    graphs = {"pruned": b"a float graph " * 40, "int8": b"an int8 graph " * 20}
    quality = Quality(logloss=0.5, ece=0.01, pcoc=1.0)
    calibrators = {
        variant: Calibrator(
            variant=variant,
            graph_sha256=hashlib.sha256(graph).hexdigest(),
            method="isotonic",
            knots=((-4.0, -4.5), (0.1, -1.0), (2.0, 0.5)),
            sampling_rate=0.3,
            fit_rows=100,
            fit_clicks=10,
            fit_window=(1_700_000_000, 1_700_003_600),
            before=quality,
            after=quality,
        )
        for variant, graph in graphs.items()
    }
    encoder = Encoder(schema)
    ids = tuple(tuple(encoder.encode_request(context, [each])[0].tolist()) for context, each in ROWS)
    metrics = Metrics(1000, 170, 0.71, 0.4, 0.3, 8.0, 0.01, 0.9, 1.02, auc_of_true_pctr=0.77)
    return {
        "name": "tiny-deep_fwfm",
        "created_at": "2026-01-31T12:00:00+00:00",
        "model": ModelInfo("deep_fwfm", {"dim": 10, "hidden_units": [4, 4], "pairs": None}, 1234),
        "schema": schema,
        "graphs": graphs,
        "descriptions": {
            variant: Graph(
                file=f"model.{variant}.onnx",
                variant=variant,
                opset=20,
                inputs=(Tensor("ids", "int32", (None, schema.columns)),),
                outputs=(Tensor("logits", "float32", (None,)),),
            )
            for variant in graphs
        },
        "serving_variant": "pruned",
        "kept_out": {"int8": "slower than float32 here"},
        "warnings": ("pruned predicts 1.4 times the clicks",),
        "calibrators": calibrators,
        "prior": Prior(
            intercept=-2.0,
            fields=(
                PriorField("../ad", ((0, -0.5), (4, 1.25))),
                PriorField("hour", ((1, 0.125),)),
            ),
            sampling_rate=0.3,
            fit_rows=700,
            fit_clicks=70,
            fit_window=(1_700_000_000, 1_700_600_000),
            validation=metrics,
            test=metrics,
        ),
        "golden": Golden(
            rows=tuple(GoldenRow(context, candidate) for context, candidate in ROWS),
            ids=ids,
            variants={
                variant: GoldenOutputs((0.5, -1.0, 0.0), (0.6, 0.3, 0.5), logit_tolerance=1e-4)
                for variant in graphs
            },
        ),
        "training": Training(
            source="log.csv.gz",
            rows={"train": 700, "test": 100},
            clicks={"train": 70, "test": 10},
            window=(1_700_000_000, 1_700_600_000),
            split="time",
            negative_sampling_rate=0.3,
            epochs=2,
            seed=0,
            missing={"site": 0.25},
        ),
        "evaluation": dict.fromkeys(("float32", *graphs), metrics),
        "uncalibrated": dict.fromkeys(graphs, metrics),
        "baseline": Baseline(
            model="lr",
            graph_bytes=120,
            metrics=metrics,
            auc_delta=2e-3,
            auc_interval=(-1e-3, 5e-3),
            logloss_delta=-1e-4,
            logloss_interval=(-3e-4, 1e-4),
            verdict="no better",
            command="python -m export run --model lr",
        ),
        "parity": (Parity("pruned", "int8", 0.02, -1e-4, 1e-5, (-2e-4, 1e-5), (-1e-5, 3e-5)),),
        "latency": (Latency("int8", {"1": 30.0, "64": 3.0, "1024": 2.5}),),
        "machine": "a machine",
        "compression": Compression(
            "low-latency", {"dnn": 0.99}, {"dnn": 0.989}, (3, 4), 37, (1_000, 400), {"pruned": 560}
        ),
        "extra_files": {"report/index.html": b"<h1>Report</h1>", "report/plots/auc.png": bytes(range(256))},
    }


@pytest.fixture
def save(parts: dict[str, Any]) -> Callable[..., Manifest]:
    """save_bundle(folder) with `parts`, some of them replaced."""

    def saving(folder: Path, **changes: Any) -> Manifest:
        fields = {**parts, **changes}
        contents = {
            each.name: fields.pop(each.name) for each in dataclasses.fields(Contents) if each.name in fields
        }
        description = Description(graphs=fields.pop("descriptions"), **fields)
        return save_bundle(folder, description, Contents(**contents))

    return saving
