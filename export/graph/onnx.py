"""Exports a model as one small ONNX graph with its weights inside: ids [batch, columns] -> logits [batch].

It does not know how a graph is quantized, run or evaluated.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Literal

import onnx
import torch
from msgspec import UNSET
from torch import nn

from export.errors import ExportError
from export.graph.editing import GraphEditor
from export.graph.exact_sums import make_sums_exact
from export.graph.folding import inference_copy
from export.graph.inference_form import InferenceForm
from export.graph.simplify import merge_reshapes, simplify
from export.graph.torchlib import shared_registry
from export.graph.tree_ensemble import tree_ensemble
from export.graph.whole_vectors import fill_vectors
from models.fields import fields_of
from models.gbdt_lr import GBDTLR
from service.bundle.graph_check import BATCH_OPERATORS
from service.bundle.manifest import Graph, Tensor

INPUT, OUTPUT = "ids", "logits"
OPSET, IR_VERSION = 20, 10  # ONNX Runtime 1.17 and later read both
MAX_BYTES = 2**31 - 2**20  # a graph is one protobuf message, at most 2 GiB
IDS_TYPES = {"int32": torch.int32, "int64": torch.int64}


def export_onnx(model: nn.Module, columns: int, *, ids_type: Literal["int32", "int64"] = "int32") -> bytes:
    """The graph of `model` in evaluation mode, for any batch size; equal weights give equal bytes.

    `columns` is the width of `ids`. Raises ExportError if the model takes another number of columns, a
    weight is not finite, or the graph does not fit one file.
    """
    expected = sum(field.width for field in fields_of(model))
    if columns != expected:
        raise ExportError(
            f"'columns' must be {expected}, the model's (got {columns!r}); "
            "export with the schema it was trained on"
        )
    for name, values in model.state_dict().items():
        if not torch.isfinite(values).all():
            raise ExportError(
                f"'{name}' must be finite (got NaN or infinity); train again, with a lower learning rate"
            )
    size = sum(values.numel() * 4 for values in model.parameters())
    if size > MAX_BYTES:
        raise ExportError(
            f"'parameters' must take at most {MAX_BYTES} bytes in one graph (got {size}); "
            "raise min_count, hash large fields into fewer buckets, or prune the embeddings"
        )
    if isinstance(model, GBDTLR):
        return serialize(tree_ensemble(model, INPUT, OUTPUT, OPSET, ids_type))
    if InferenceForm.supports(model):
        form: nn.Module = InferenceForm(model, IDS_TYPES[ids_type])
    else:
        form = inference_copy(model)
    example = torch.zeros((2, columns), dtype=IDS_TYPES[ids_type])  # with 1 row the batch would be a constant
    with (
        quiet("torch.onnx"),
        shared_registry(),
    ):  # it warns of its own deprecated calls and of optional packages
        program = torch.onnx.export(
            form,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("'model' must be exportable (got no graph); this torch has no dynamo exporter")
    editor = GraphEditor(program.model)
    simplify(editor)
    make_sums_exact(editor)
    fill_vectors(editor)
    merge_reshapes(editor)
    return serialize(editor.proto())


def serialize(model: onnx.ModelProto) -> bytes:
    """The bytes of a checked graph, without metadata that differs between exports or names their origin."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "bidlight", "", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = "bidlight", ""
    del graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.input, *graph.output, *graph.node, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def describe(graph: bytes, file: str, variant: str, tables: tuple[str, ...] = ()) -> Graph:
    """The manifest's entry for a graph: opset, and name, type and shape of its inputs and outputs."""
    model = onnx.load_model_from_string(graph)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    depends_on_batch = any(node.op_type in BATCH_OPERATORS for node in model.graph.node)
    return Graph(
        depends_on_batch=True if depends_on_batch else UNSET,
        file=file,
        variant=variant,
        opset=opset,
        inputs=tuple(_tensor(value) for value in model.graph.input),
        outputs=tuple(_tensor(value) for value in model.graph.output),
        tables=tables,
    )


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    shape = tuple(None if side.dim_param else side.dim_value for side in kind.shape.dim)
    return Tensor(name=value.name, dtype=dtype, shape=shape)


@contextlib.contextmanager
def quiet(name: str | None) -> Iterator[None]:
    """Silences warnings, and the logger of this name below errors; None is the root logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
