"""A model as ONNX Runtime computes it from its exported graph."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
import torch
from torch import Tensor, nn

from export.graph.onnx import quiet
from export.graph.torchlib import shared_registry


def onnx_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """ids [batch, columns] -> logits [batch], by the model's graph."""
    return as_graph(model, ids)(ids)


def as_graph(model: nn.Module, ids: Tensor) -> Callable[[Tensor], Tensor]:
    """The model exported with two rows of these ids and a free batch axis: ids [batch, columns] -> logits."""
    with quiet("torch.onnx"), shared_registry():
        program = torch.onnx.export(
            model.eval(),
            (torch.zeros_like(ids[:2]),),
            dynamo=True,
            opset_version=20,
            input_names=["ids"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    return lambda of_any_batch: torch.from_numpy(session.run(None, {"ids": of_any_batch.numpy()})[0])
