"""Rewrites between model and graph: folded parts, integer divisions, inputs of mixed scales."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.graph.folding import inference_copy
from export.graph.inference_form import InferenceForm
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import run_graph
from export.judge.parity import check_against_torch, check_batch_invariance
from models import DNN, LR, DeepFwFM, FwFM
from models.fields import Field
from models.penalty import Penalized

FIELDS = tuple(Field(f"f{number}", 30) for number in range(5))
IDS = np.random.default_rng(0).integers(0, 30, (400, 5)).astype(np.int32)


class LowRank(nn.Module):
    """x P Q, which folds to one matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.randn(width, 97))
        self.q = nn.Parameter(torch.randn(97, width))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.p @ self.q

    def folded(self) -> nn.Module:
        layer = nn.Linear(len(self.p), len(self.p), bias=False)
        layer.weight = nn.Parameter((self.p @ self.q).T.clone())
        return layer


class Outer(nn.Module):
    """A part that folds into another, which holds a part that folds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = LowRank(width)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs) * 2.0

    def folded(self) -> nn.Module:
        return nn.Sequential(self.inner, Twice())


class Twice(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * 2.0


class WithFoldedParts(Penalized):
    def __init__(self) -> None:
        super().__init__()
        self.fields = FIELDS
        self.table = nn.Embedding(30, 8)
        self.outer = Outer(8)

    def forward(self, ids: Tensor) -> Tensor:
        values = self.outer(self.table(ids))
        if self.training:
            self.penalty = values.square().sum()
        return values.tanh().sum(dim=(1, 2))


def test_parts_fold_wherever_they_are() -> None:
    model = WithFoldedParts()
    model(torch.from_numpy(IDS))  # leaves a penalty with gradients
    graph = export_onnx(model, 5)
    sizes = [tensor.dims for tensor in onnx.load_model_from_string(graph).graph.initializer]
    assert not any(97 in size for size in sizes)
    assert check_against_torch(model, graph, IDS) < 1e-4
    assert model.penalty is not None
    assert isinstance(model.outer, Outer)


def test_a_copy_for_inference_shares_nothing() -> None:
    model = DNN(FIELDS, hidden_units=(8,)).train()
    before = copy.deepcopy(model.state_dict())
    for parameter in inference_copy(model).parameters():
        parameter.fill_(0.0)
    assert model.training
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


@pytest.mark.parametrize("kind", [LR, FwFM, DeepFwFM])
def test_models_with_a_form_of_their_own(kind: type[nn.Module]) -> None:
    assert InferenceForm.supports(kind(FIELDS))
    assert not InferenceForm.supports(kind((Field("f", 9, storage="qr", collisions=2),)))
    assert not InferenceForm.supports(kind((Field("f", 9, width=2, pooling="sum"), Field("g", 3))))


def test_a_model_with_other_parts_is_not_supported() -> None:
    assert not InferenceForm.supports(DNN(FIELDS))
    more, other, inner = DeepFwFM(FIELDS), DeepFwFM(FIELDS), DeepFwFM(FIELDS)
    more.norm = nn.LayerNorm(3)
    other.scale = nn.Parameter(torch.ones(()))
    inner.mlp.hidden[0] = nn.Sequential(inner.mlp.hidden[0])
    assert not any(InferenceForm.supports(model) for model in (more, other, inner))


def test_ids_above_what_a_float_holds_are_divided_exactly() -> None:
    """The exporter divides in float32, which cannot represent 2**24 + 1."""
    fields = (Field("large", 2**24 + 4000, storage="qr", collisions=1000), Field("small", 5))
    model = DNN(fields, dim=2, hidden_units=(4,)).eval()
    nn.init.normal_(model.embedding.table.weight)
    ids = np.stack([2**24 + np.arange(4000), np.zeros(4000)], axis=1).astype(np.int32)
    graph = export_onnx(model, 2)
    operators = [node.op_type for node in onnx.load_model_from_string(graph).graph.node]
    assert "Floor" not in operators
    quotients = model.embedding.table.weight[ids[:, 0] // 1000]
    assert len(torch.unique(quotients, dim=0)) == 5
    logits = run_graph(graph, ids)
    wanted = model(torch.from_numpy(ids).long()).detach().numpy()
    np.testing.assert_allclose(logits, wanted, atol=1e-5)


class MixedScales(nn.Module):
    """A layer on embeddings beside their products, which are a thousand times smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = FIELDS
        self.table = nn.Embedding(30, 10)
        nn.init.normal_(self.table.weight, std=1e-3)
        self.layer = nn.Linear(100, 60)
        nn.init.normal_(self.layer.weight)
        with torch.no_grad():
            self.layer.weight[:, 50:] *= 1000.0
        self.output = nn.Linear(60, 1)

    def forward(self, ids: Tensor) -> Tensor:
        values = self.table(ids)
        both = torch.cat([values, values * values.flip(1)], dim=1).flatten(1)
        return self.output(torch.relu(self.layer(both))).squeeze(1)


def test_small_inputs_keep_their_precision_beside_large_ones() -> None:
    torch.manual_seed(0)
    graph = export_onnx(MixedScales(), 5)
    int8 = quantize_int8(graph, IDS[:200])
    assert int8 is not None
    weights = [numpy_helper.to_array(t) for t in onnx.load_model_from_string(int8).graph.initializer]
    assert any(values.dtype == np.int8 and values.shape == (60, 100) for values in weights)
    check_batch_invariance(int8, IDS)
    float32 = run_graph(graph, IDS)
    assert np.sqrt(np.mean((run_graph(int8, IDS) - float32) ** 2)) < 0.04 * float32.std()
