"""A small, whole bundle in a fraction of a second, for tests that need real files and no trained model.

Two context fields (`site` categorical, `hour` numeric), a context sequence (`history`), two candidate
fields (`ad` a vocabulary, `campaign` hashed); a table of random embeddings and one hidden layer, and a second
graph that looks the context up once a request. Another seed gives other weights.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.bundle.calibration import Calibrator, Quality, segments_of
from service.bundle.encoder import Encoder
from service.bundle.manifest import (
    Description,
    Golden,
    GoldenOutputs,
    GoldenRow,
    Graph,
    ModelInfo,
    SharedContext,
    Tensor,
    Training,
)
from service.bundle.prior import Prior, PriorField
from service.bundle.schema import Bins, Field, Hashing, Kind, Role, Schema, Vocabulary
from service.bundle.store import Contents, save_bundle

DIM, HIDDEN, OPSET = 4, 16, 17
SAMPLE_ROWS = 64
SHARED_FROM = 3  # candidates


def tiny_schema() -> Schema:
    """Every kind, role and encoding; `ad` is renumbered as compaction would: a3 and a5 share an id."""
    sites = Vocabulary(tuple(f"s{n}" for n in range(6)))
    ads = Vocabulary(tuple(f"a{n}" for n in range(10)))
    renumbering = np.array([0, 1, 2, 3, 4, 5, 6, 5, 7, 8, 9, 10], dtype=np.int32)
    return Schema(
        (
            Field("site", Kind.CATEGORICAL, Role.CONTEXT, sites),
            Field("hour", Kind.NUMERIC, Role.CONTEXT, Bins((6.0, 12.0, 18.0))),
            Field("history", Kind.SEQUENCE, Role.CONTEXT, ads, max_length=3),
            Field("ad", Kind.CATEGORICAL, Role.CANDIDATE, ads, renumbering=renumbering),
            Field("campaign", Kind.CATEGORICAL, Role.CANDIDATE, Hashing(buckets=8, seed=3)),
        )
    )


def tiny_prior(**values: Any) -> Prior:
    """By fields of every encoding and role, some ids without an offset."""
    fields = (
        PriorField("ad", ((0, -0.5), (1, -1.0), (2, 1.5), (5, 0.25), (10, 2.0))),
        PriorField("site", ((0, 0.75), (1, 0.125), (3, -2.0))),
        PriorField("campaign", ((0, 0.5), (4, -0.25), (9, 3.0))),
        PriorField("hour", ((0, -0.0625), (2, 1.0), (5, -1.0))),
    )
    given = {"intercept": -2.0, "fields": fields, "sampling_rate": 0.5, "fit_rows": 100, "fit_clicks": 10}
    return Prior(**{**given, **values})


def tiny_rows(count: int, seed: int = 0) -> list[dict[str, dict[str, Any]]]:
    """Rows `{"context": {...}, "candidate": {...}}` as a client sends them, some values missing or new."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        context: dict[str, Any] = {
            "site": draw.choice(["s0", "s1", "s2", "s5", "never seen", ""]),
            "hour": draw.choice([0, 6, 11.5, 23, None]),
            "history": [f"a{draw.randrange(12)}" for _ in range(draw.randrange(5))],
        }
        candidate: dict[str, Any] = {"ad": f"a{draw.randrange(12)}", "campaign": draw.randrange(1000, 1100)}
        if draw.random() < 0.1:
            del candidate["campaign"], context["hour"]
        rows.append({"context": context, "candidate": candidate})
    return rows


def tiny_graph(schema: Schema, seed: int = 0) -> bytes:
    """ids [batch, columns] -> offsets -> embeddings -> Relu layer -> logits [batch], with random weights."""
    draw = np.random.default_rng(seed)
    offsets, start = [], 0
    for field in schema.fields:
        offsets += [start] * field.max_length
        start += field.cardinality
    weights: dict[str, NDArray[Any]] = {
        "offsets": np.array(offsets, dtype=np.int32),
        "table": draw.normal(0.0, 0.5, (start, DIM)).astype(np.float32),
        "hidden": draw.normal(0.0, 0.5, (schema.columns * DIM, HIDDEN)).astype(np.float32),
        "output": draw.normal(0.0, 0.5, (HIDDEN, 1)).astype(np.float32),
        "bias": np.array([-2.0], dtype=np.float32),
        "flat_axes": np.array([0, schema.columns * DIM], dtype=np.int64),
        "one_axis": np.array([-1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Add", ["ids", "offsets"], ["rows"]),
        helper.make_node("Gather", ["table", "rows"], ["embedded"]),
        helper.make_node("Reshape", ["embedded", "flat_axes"], ["flat"]),
        helper.make_node("MatMul", ["flat", "hidden"], ["mixed"]),
        helper.make_node("Relu", ["mixed"], ["live"]),
        helper.make_node("MatMul", ["live", "output"], ["score"]),
        helper.make_node("Add", ["score", "bias"], ["column"]),
        helper.make_node("Reshape", ["column", "one_axis"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", schema.columns])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def tiny_shared_graph(schema: Schema, seed: int = 0) -> bytes:
    """The same function of context_ids, candidate_ids, request_index and the table."""
    widths = [field.max_length for field in schema.fields if field.role is Role.CONTEXT]
    context = sum(widths)
    model = onnx.load_model_from_string(tiny_graph(schema, seed))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    offsets = weights.pop("offsets")
    table = weights.pop("table")
    weights |= {"context offsets": offsets[:context], "candidate offsets": offsets[context:]}
    nodes = [
        helper.make_node("Add", ["context_ids", "context offsets"], ["context rows"]),
        helper.make_node("Add", ["candidate_ids", "candidate offsets"], ["candidate rows"]),
        helper.make_node("Gather", ["table", "context rows"], ["contexts"]),
        helper.make_node("Gather", ["table", "candidate rows"], ["candidates"]),
        helper.make_node("Gather", ["contexts", "request_index"], ["contexts by row"]),
        helper.make_node("Concat", ["contexts by row", "candidates"], ["embedded"], axis=1),
        *model.graph.node[2:],
    ]
    inputs = [
        helper.make_tensor_value_info("context_ids", TensorProto.INT32, ["requests", context]),
        helper.make_tensor_value_info("candidate_ids", TensorProto.INT32, ["rows", schema.columns - context]),
        helper.make_tensor_value_info("request_index", TensorProto.INT32, ["rows"]),
        helper.make_tensor_value_info("table", TensorProto.FLOAT, list(table.shape)),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny, shared",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _described_shared(schema: Schema) -> SharedContext:
    context = sum(field.max_length for field in schema.fields if field.role is Role.CONTEXT)
    rows = sum(field.cardinality for field in schema.fields)
    return SharedContext(
        file="model.float32.shared.onnx",
        inputs=(
            Tensor("context_ids", "int32", (None, context)),
            Tensor("candidate_ids", "int32", (None, schema.columns - context)),
            Tensor("request_index", "int32", (None,)),
            Tensor("table", "float32", (rows, DIM)),
        ),
        outputs=(Tensor("logits", "float32", (None,)),),
        from_candidates=SHARED_FROM,
    )


def write_tiny_bundle(
    folder: Path,
    name: str = "tiny",
    seed: int = 0,
    schema: Schema | None = None,
    in_every_context: dict[str, Any] | None = None,
    calibration: dict[str, Any] | None = None,
    missing: dict[str, float] | None = None,
    prior: Prior | None = None,
) -> Path:
    """Writes the bundle into `folder` (replacing one that is there) and returns `folder`.

    A `schema` may add fields to the tiny one; rows leave them out unless `in_every_context` has their values.
    `calibration` has values of the calibrator that differ from the usual ones, `missing` the shares of
    missing values by field.
    """
    schema = schema or tiny_schema()
    graph = tiny_graph(schema, seed)
    described = Graph(
        file="model.float32.onnx",
        variant="float32",
        opset=OPSET,
        inputs=(Tensor("ids", "int32", (None, schema.columns)),),
        outputs=(Tensor("logits", "float32", (None,)),),
        tables=("table",),
        shared_context=_described_shared(schema),
    )
    quality = Quality(logloss=0.5, ece=0.01, pcoc=1.0)
    calibrator = Calibrator(
        variant="float32",
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        method="isotonic",
        knots=((-4.0, -4.5), (-2.0, -2.25), (0.0, -1.0), (2.0, 0.5)),
        sampling_rate=0.8,
        fit_rows=1000,
        fit_clicks=200,
        before=quality,
        after=quality,
    )
    calibrator = msgspec.structs.replace(calibrator, **(calibration or {}))
    rows = tiny_rows(SAMPLE_ROWS, seed)
    for row in rows:
        row["context"] |= in_every_context or {}
    description = Description(
        name=name,
        created_at="2026-01-31T12:00:00+00:00",
        model=ModelInfo("tiny", {"dim": DIM, "hidden_units": [HIDDEN]}, parameters=0),
        graphs={"float32": described},
        serving_variant="float32",
        training=Training(
            source="random weights",
            rows={"train": 0},
            clicks={"train": 0},
            split="row order",
            epochs=0,
            seed=seed,
            missing=missing or {},
        ),
    )
    contents = Contents(
        schema=schema,
        graphs={"float32": graph},
        calibrators={"float32": calibrator},
        golden=tiny_golden(schema, {"float32": graph}, {"float32": calibrator}, rows[:8]),
        shared_graphs={"float32": tiny_shared_graph(schema, seed)},
        prior=prior,
        extra_files={"report/requests.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()},
    )
    save_bundle(folder, description, contents)
    return folder


def tiny_golden(
    schema: Schema,
    graphs: Mapping[str, bytes],
    calibrators: Mapping[str, Calibrator],
    rows: list[dict[str, dict[str, Any]]],
) -> Golden:
    """The answers of each graph, to each row alone."""
    encoder = Encoder(schema)
    ids = np.concatenate([encoder.encode_request(row["context"], [row["candidate"]]) for row in rows])
    variants = {}
    for name, graph in graphs.items():
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        logits = np.concatenate([session.run(["logits"], {"ids": row[None]})[0] for row in ids])
        pctrs = calibrators[name].pctr(logits, segments_of(calibrators[name], schema, ids))
        variants[name] = GoldenOutputs(
            logits=tuple(logits.tolist()), pctrs=tuple(pctrs.tolist()), logit_tolerance=1e-4
        )
    return Golden(
        rows=tuple(GoldenRow(row["context"], row["candidate"]) for row in rows),
        ids=tuple(tuple(row) for row in ids.tolist()),
        variants=variants,
    )
