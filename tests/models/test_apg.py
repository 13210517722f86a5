"""APG on its backbones: the replaced layers, all other parts, and the exported graphs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from export.graph.folding import inference_copy
from export.graph.onnx import export_onnx
from export.graph.runtime import run_graph
from export.train.build import build_from_fields, hyperparameters_of
from export.train.checkpoint import load_checkpoint, save_checkpoint
from models import MODELS
from models.adaptive_layers import VERSIONS, AdaptiveLinear, Version
from models.apg import APG, APGDCN, APGDIFM, APGDNN, APGAutoInt, APGDeepFwFM, APGWideDeep
from models.apg_conditions import AGGREGATIONS
from models.deep_fwfm import DeepFwFM
from models.dnn import DNN
from models.fields import Field, columns
from models.layers import MLP
from tests.models import layouts
from tests.models.onnx_graphs import as_graph, onnx_logits

FIELDS = (Field("user", 11), Field("history", 8, width=3), Field("hour", 6), Field("ad", 9))
CONDITIONS: list[dict[str, Any]] = [
    {"condition_fields": "ad"},
    {"condition_fields": ["history"], "version": "v2"},
    *({"condition_fields": ["ad", "user"], "aggregation": how} for how in AGGREGATIONS),
    *(
        {"condition_fields": ["ad", "user"], "aggregation": how, "aggregate_at": "output"}
        for how in AGGREGATIONS
    ),
]


def some_ids(rows: int = 9, seed: int = 0) -> Tensor:
    return layouts.some_ids(FIELDS, rows, seed)


def with_large_weights(model: nn.Module) -> nn.Module:
    """A model with large embeddings and generators, so conditions make a difference."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def adaptive(**hyperparameters: Any) -> nn.Module:
    torch.manual_seed(0)
    return with_large_weights(
        APGDNN(FIELDS, **{"dim": 4, "hidden_units": (16, 8), "adaptive_rank": 3, **hyperparameters})
    )


@pytest.mark.parametrize("name", sorted(name for name in MODELS if name.startswith("apg_")))
def test_the_hidden_layers_are_adaptive_and_nothing_else_is(name: str) -> None:
    backbone = MODELS[name.removeprefix("apg_")]
    plain, model = backbone(FIELDS), MODELS[name](FIELDS)
    assert isinstance(model, backbone)
    assert isinstance(model, APG)
    hidden = [layer for part in plain.modules() if isinstance(part, MLP) for layer in part.hidden]
    made = [layer for layer in model.modules() if isinstance(layer, AdaptiveLinear)]
    assert [(layer.in_features, layer.out_features) for layer in made] == [
        (layer.in_features, layer.out_features) for layer in hidden
    ]
    rest = {path: values.shape for path, values in plain.state_dict().items() if ".hidden." not in path}
    assert {
        path: values.shape for path, values in model.state_dict().items() if ".hidden." not in path
    } == rest


def test_the_papers_backbones_are_there() -> None:
    paper = ["wide_deep", "pnn", "fibinet", "difm", "deepfm", "dcn", "autoint"]
    assert {f"apg_{name}" for name in paper} <= MODELS.keys()


def test_a_class_takes_apgs_hyperparameters_and_its_backbones() -> None:
    known = hyperparameters_of("apg_dcn")
    assert list(known)[:3] == ["version", "adaptive_rank", "inner_width"]
    assert known["version"] == "v5"
    backbone = hyperparameters_of("dcn")
    assert {name: known[name] for name in backbone} == backbone
    model = build_from_fields(
        "apg_dcn", FIELDS, {"cross_layers": 2, "hidden_units": [8], "adaptive_rank": [5]}
    )
    assert isinstance(model, APGDCN)
    assert model.cross.weight.shape[0] == 2
    with pytest.raises(TypeError, match="nonsense"):
        APGDCN(FIELDS, nonsense=1)


def test_a_name_that_both_would_take_is_refused() -> None:
    class Clashing(DNN):
        def __init__(self, fields: Any, version: int = 1) -> None:
            super().__init__(fields)

    with pytest.raises(TypeError, match="'version'"):
        type("APGClashing", (APG, Clashing), {})


def test_the_rank_may_differ_from_layer_to_layer() -> None:
    model = APGDNN(FIELDS, hidden_units=(16, 8), adaptive_rank=[4, 2])
    assert [layer.how.rank for layer in model.mlp.hidden] == [4, 2]
    with pytest.raises(
        ValueError, match="'adaptive_rank' must be one number, or one for each of 3 hidden layers"
    ):
        APGDNN(FIELDS, hidden_units=(16, 8, 4), adaptive_rank=[4, 2])


def test_hidden_layers_must_be_there_to_adapt() -> None:
    with pytest.raises(ValueError, match="'hidden_units' must be at least one"):
        APGAutoInt(FIELDS, hidden_units=())


def test_self_wise_each_layer_sees_its_own_input() -> None:
    model: Any = adaptive()
    hidden = model.embedding(some_ids()).flatten(1)
    for layer in model.mlp.hidden:
        hidden = layer(hidden, hidden).relu()
    torch.testing.assert_close(model(some_ids()), model.bias + model.mlp.output(hidden).squeeze(1))


def test_group_wise_each_layer_sees_the_fields_embedding() -> None:
    model: Any = adaptive(condition_fields="hour")
    embeddings = model.embedding(some_ids())
    hidden = embeddings.flatten(1)
    for layer in model.mlp.hidden:
        hidden = layer(hidden, embeddings[:, 2]).relu()
    torch.testing.assert_close(model(some_ids()), model.bias + model.mlp.output(hidden).squeeze(1))


@pytest.mark.parametrize("how", CONDITIONS)
def test_gradients_reach_every_parameter(how: dict[str, Any]) -> None:
    for version in VERSIONS:
        model = adaptive(**{"version": version, **how})
        model(some_ids(200)).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, (version, name)
            assert parameter.grad.isfinite().all(), (version, name)
            assert parameter.grad.any(), (version, name)


@pytest.mark.parametrize("how", [{}, *CONDITIONS])
def test_a_row_does_not_depend_on_its_batch_mates(how: dict[str, Any]) -> None:
    model, ids = adaptive(**how), some_ids(17)
    together = model(ids)
    torch.testing.assert_close(
        torch.cat([model(row) for row in ids.split(1)]), together, rtol=1e-5, atol=1e-5
    )
    assert together.std() > 0.03


class Several(nn.Module):
    """Models side by side, ids [batch, columns] -> [batch, models]: one graph of all is quicker to export."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.stack([model(ids) for model in self.models], dim=1)


@pytest.mark.parametrize(
    "hows", [[{"version": version} for version in VERSIONS if version != "v5"], CONDITIONS]
)
def test_the_graph_of_every_version_and_condition_equals_the_model(hows: list[dict[str, Any]]) -> None:
    fields = [Field("user", 11), Field("history", 8), Field("hour", 6), Field("ad", 9)]  # no sequence to pool
    small = {"dim": 4, "hidden_units": (8,), "adaptive_rank": 3}
    models = [with_large_weights(APGDNN(fields, **{**small, **how})) for how in hows]
    ids = some_ids(23)[:, :4]
    graph = as_graph(Several(models), ids)
    found = graph(ids)
    torch.testing.assert_close(graph(ids[:1]), found[:1])
    for how, model, logits in zip(hows, models, found.unbind(dim=1), strict=True):
        torch.testing.assert_close(logits, model(ids).detach(), rtol=1e-4, atol=1e-4, msg=str(how))


def test_the_exported_graph_has_no_trace_of_the_inner_width() -> None:
    torch.manual_seed(0)
    model = with_large_weights(APGDeepFwFM(FIELDS, hidden_units=(16, 8), adaptive_rank=3, inner_width=37))
    exported = export_onnx(model, columns(FIELDS))
    graph = onnx.load_model_from_string(exported)
    onnx.checker.check_model(graph)
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    sides = {side for tensor in graph.graph.initializer for side in tensor.dims}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        sides |= {side.dim_value for side in value.type.tensor_type.shape.dim}
    for tensor in graph.graph.initializer:
        if tensor.data_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64):
            sides |= {int(number) for number in onnx.numpy_helper.to_array(tensor).flatten()}
    assert {16, 8, 3} <= sides
    assert 37 not in sides
    assert sum(37 in parameter.shape for parameter in model.parameters()) == 8
    folded = inference_copy(model)
    assert sum(values.numel() for values in folded.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(folded(some_ids()), model(some_ids()).detach(), rtol=1e-5, atol=1e-5)
    found = torch.from_numpy(run_graph(exported, some_ids().numpy()))
    torch.testing.assert_close(found, model(some_ids()).detach(), rtol=1e-4, atol=1e-4)


def test_a_conditioned_backbone_becomes_a_graph() -> None:
    torch.manual_seed(0)
    model = with_large_weights(APGDIFM(FIELDS, hidden_units=(16,), condition_fields=["ad", "user"]))
    ids = some_ids(5)
    torch.testing.assert_close(
        onnx_logits(inference_copy(model), ids), model(ids).detach(), rtol=1e-4, atol=1e-5
    )


def test_a_model_can_be_pickled() -> None:
    model = adaptive(condition_fields=["ad", "user"])
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(some_ids()), model(some_ids()))


def test_a_checkpoint_brings_a_model_back_by_its_name(tmp_path: Path) -> None:
    hyperparameters = {
        "dim": 4, "hidden_units": (16, 8), "adaptive_rank": (3, 2), "inner_width": 5,
        "condition_fields": ["ad", "user"], "aggregate_at": "output",
    }  # fmt: skip
    torch.manual_seed(0)
    model = with_large_weights(MODELS["apg_wide_deep"](FIELDS, **hyperparameters))
    save_checkpoint(tmp_path / "model.pt", model, "apg_wide_deep", hyperparameters)
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert type(loaded.model) is APGWideDeep
    assert torch.equal(loaded.model(some_ids()), model(some_ids()))


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_its_backbone_when_the_generated_weights_do_not_vary(version: Version) -> None:
    """With generator weights zero, every row has one W: the backbone with those weights is the same model."""
    torch.manual_seed(0)
    model: Any = APGDeepFwFM(FIELDS, hidden_units=(8, 6), adaptive_rank=3, version=version).eval()
    plain: Any = DeepFwFM(FIELDS, hidden_units=(8, 6)).eval()
    shared = {path: values for path, values in model.state_dict().items() if ".hidden." not in path}
    plain.load_state_dict(shared, strict=False)
    with torch.no_grad():
        for layer, static in zip(model.mlp.hidden, plain.mlp.hidden, strict=True):
            layer.generator.networks[0][-1].weight.zero_()
            zero = torch.zeros(1, layer.in_features)
            # The columns of W are the layer's outputs for the unit vectors, without bias.
            static.weight.copy_((layer(torch.eye(layer.in_features)) - layer(zero)).T)
            static.bias.copy_(layer.bias)
    torch.testing.assert_close(model(some_ids()), plain(some_ids()))
