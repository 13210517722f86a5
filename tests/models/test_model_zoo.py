"""What every model of MODELS promises, whichever it is: one added later is tested by being there."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor, nn

from models import MODELS, DeepFwFM, FwFM
from models.fields import Field, columns
from tests.models.zoo import CASE_NAMES, CASES, LAYOUTS, small, some_ids

LINEAR = {"lr"}
PLAIN = LAYOUTS["plain"]


@pytest.fixture(params=CASES, ids=CASE_NAMES)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def name(case: tuple[str, str]) -> str:
    return case[0]


@pytest.fixture
def fields(case: tuple[str, str]) -> tuple[Field, ...]:
    return LAYOUTS[case[1]]


@pytest.fixture
def model(name: str, fields: tuple[Field, ...]) -> nn.Module:
    return small(name, fields)


def test_ids_in_logits_out(model: nn.Module, fields: tuple[Field, ...]) -> None:
    ids = some_ids(fields, 6)
    assert ids.shape == (6, columns(fields))
    logits = model.eval()(ids)
    assert logits.shape == (6,)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(ids.long()))
    assert model(ids[:1]).shape == (1,)


def test_a_fresh_model_predicts_near_even_odds(model: nn.Module, fields: tuple[Field, ...]) -> None:
    logits = model.eval()(some_ids(fields, 200))
    assert logits.abs().max() < 1.0
    assert logits.std() > 0


def test_gradients_reach_every_parameter(model: nn.Module, fields: tuple[Field, ...]) -> None:
    ids = some_ids(fields, 400)
    model.eval()(ids).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_row_does_not_depend_on_its_batch_mates(model: nn.Module, fields: tuple[Field, ...]) -> None:
    model.eval()
    ids = some_ids(fields, 33)
    together = model(ids)
    alone = torch.cat([model(row) for row in ids.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    turned = model(ids.flip(0)).flip(0)
    torch.testing.assert_close(together, turned, rtol=1e-5, atol=1e-6)


def loss_after_training(model: nn.Module, ids: Tensor, labels: Tensor) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.eval()  # no dropout: these rows are to be learned by heart
    for _ in range(300):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(ids), labels)
        loss.backward()
        optimizer.step()
    return loss.item()


def test_it_learns_64_rows_by_heart(model: nn.Module, fields: tuple[Field, ...]) -> None:
    ids = some_ids(fields, 64)
    assert loss_after_training(model, ids, (ids[:, 0] % 2).float()) < 0.1


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0] not in LINEAR], ids="-".join, indirect=True
)
def test_it_learns_what_no_sum_of_weights_can(name: str, fields: tuple[Field, ...]) -> None:
    ids = some_ids(fields, 64)
    exclusive_or = ((ids[:, 0] + ids[:, -1]) % 2).float()
    assert loss_after_training(small(name, fields), ids, exclusive_or) < 0.1


def test_dropout_acts_in_training_only(name: str, fields: tuple[Field, ...]) -> None:
    has_dropout = "dropout" in inspect.signature(MODELS[name]).parameters
    model, ids = small(name, fields, **({"dropout": 0.5} if has_dropout else {})), some_ids(fields, 50)
    model.eval()
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert torch.equal(model(ids), model(ids)) is not has_dropout


def test_the_state_loads_into_a_fresh_model(name: str, fields: tuple[Field, ...]) -> None:
    ids = some_ids(fields, 20)
    model, other = small(name, fields).eval(), small(name, fields, seed=1).eval()
    assert not torch.equal(other(ids), model(ids))
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other(ids), model(ids))


def test_every_hyperparameter_has_a_default(model: nn.Module) -> None:
    first, *others = inspect.signature(type(model)).parameters.values()
    assert first.name == "fields"
    assert all(parameter.default is not inspect.Parameter.empty for parameter in others)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_it_becomes_a_graph_with_a_free_batch_axis(
    model: nn.Module, fields: tuple[Field, ...], rows: int
) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model.eval(), (some_ids(fields, 4),), dynamic_shapes=({0: batch},))
    ids = some_ids(fields, rows, seed=2)
    torch.testing.assert_close(program.module()(ids), model(ids))


def test_defaults_are_the_papers() -> None:
    model = DeepFwFM(PLAIN)
    assert model.embedding.table.embedding_dim == 10
    assert [layer.weight.shape for layer in model.mlp.hidden] == [(400, 40), (400, 400), (400, 400)]
    assert model.mlp.dropout.share == 0.5
    assert model.pairs.weight.shape == (6,)


def test_a_compacted_model_is_the_same_class_with_less_in_it() -> None:
    model = DeepFwFM(PLAIN, dim=4, hidden_units=(7, 1, 3), pairs=[(0, 3)]).eval()
    assert model(some_ids(PLAIN, 5)).shape == (5,)
    assert sum(p.numel() for p in FwFM(PLAIN, pairs=[]).parameters()) == 32 * 10 + 4 * 10 + 1


def test_deep_fwfm_is_fwfm_and_a_perceptron_on_the_same_embeddings() -> None:
    deep, shallow = DeepFwFM(PLAIN).eval(), FwFM(PLAIN).eval()
    shallow.load_state_dict(deep.state_dict(), strict=False)
    ids = some_ids(PLAIN, 20)
    torch.testing.assert_close(deep(ids), shallow(ids) + deep.mlp(deep.embedding(ids).flatten(1)))
