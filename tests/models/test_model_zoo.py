"""The properties of every model of MODELS; a new model is tested automatically."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import MODELS
from models.fields import Field, columns
from tests.models.layouts import some_ids

PLAIN = (
    Field("site", 11),
    Field("hour", 5, values=(0.0, 0.0, -1.2, 0.1, 1.1)),
    Field("device", 7),
    Field("ad", 9, role="candidate"),
)
SEQUENCES = (
    Field("site", 11),
    Field("history", 9, width=3, same_values_as="ad"),
    Field("tags", 6, width=2),
    Field("ad", 9, role="candidate"),
)
SMALLEST = (
    Field("site", 1),
    Field("history", 2, width=2, same_values_as="ad"),
    Field("tags", 1, width=2),
    Field("hour", 2, values=(0.0, 0.0)),
    Field("ad", 2, role="candidate"),
)
LAYOUTS = {"plain": PLAIN, "sequences": SEQUENCES}
# A boosting library fits the leaves of gbdt_lr; what the loop trains of it is a weight for each id.
LINEAR = {"lr", "gbdt_lr"}
FIXED = {"leaf_weights"}
NEEDS_SEQUENCES = {"din", "dien", "bst"}
NEEDS_PAIRS = {"fibinet", "difm", "apg_fibinet", "apg_difm"}
NEEDS_HIDDEN_LAYERS = {"mmoe"} | {name for name in MODELS if name.startswith("apg_")}


def layouts_for(name: str) -> tuple[str, ...]:
    """APG replaces hidden layers, which see no fields, so one layout suffices."""
    return ("sequences",) if name in NEEDS_SEQUENCES or name.startswith("apg_") else tuple(LAYOUTS)


CASES = tuple((name, layout) for name in MODELS for layout in layouts_for(name))


def small(name: str, fields: tuple[Field, ...], seed: int = 0, **hyperparameters: Any) -> nn.Module:
    """A model with narrow layers, with those hyperparameters that it takes."""
    known = inspect.signature(MODELS[name]).parameters
    chosen = {"hidden_units": (32, 16), **hyperparameters}
    torch.manual_seed(seed)
    return MODELS[name](fields, **{key: value for key, value in chosen.items() if key in known})


def whole_loss(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    """The minimised loss: the label's loss and the model's penalty."""
    loss = nn.functional.binary_cross_entropy_with_logits(model(ids), labels)
    penalty = getattr(model, "penalty", None)
    return loss if penalty is None else loss + penalty


@pytest.fixture(params=CASES, ids="-".join)
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
        if not parameter.requires_grad:
            assert name in FIXED
            continue
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


def test_it_learns_64_rows_by_heart(name: str, model: nn.Module, fields: tuple[Field, ...]) -> None:
    """Including what no sum of weights can represent: the parity of two ids."""
    ids = some_ids(fields, 64)
    labels = ((ids[:, 0] + (0 if name in LINEAR else ids[:, -1])) % 2).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.eval()  # no dropout
    for _ in range(300):
        optimizer.zero_grad()
        loss = whole_loss(model, ids, labels)
        if loss < 0.1:
            return
        torch.autograd.backward(loss)
        optimizer.step()
    pytest.fail(f"after 300 steps the loss is {loss.item():.3f}")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 5])
def test_the_smallest_of_everything_can_be_trained_on(name: str, rows: int) -> None:
    """Fields of one id or two, histories of nothing but padding, embeddings of one number, a batch of one."""
    hidden_units = (1,) if name in NEEDS_HIDDEN_LAYERS else ()
    model = small(name, SMALLEST, dim=1, sub_spaces=1, hidden_units=hidden_units).train()
    ids = torch.zeros(rows, columns(SMALLEST), dtype=torch.int32)
    torch.autograd.backward(whole_loss(model, ids, torch.ones(rows)))
    for path, values in (*model.named_parameters(), *model.named_buffers()):
        assert values.isfinite().all(), path
        assert values.grad is None or values.grad.isfinite().all(), path
    assert model.eval()(ids).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_a_single_field_makes_a_model_or_is_refused(name: str) -> None:
    only, ids = (Field("site", 3),), torch.tensor([[0], [1], [2]])
    if name in NEEDS_SEQUENCES | NEEDS_PAIRS:
        with pytest.raises(ValueError, match="'fields' must"):
            small(name, only)
        return
    model = small(name, only).train()
    torch.autograd.backward(whole_loss(model, ids, torch.ones(3)))
    assert model.eval()(ids).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_it_can_be_copied_and_pickled_right_after_a_step(name: str) -> None:
    model, ids = small(name, SEQUENCES).train(), some_ids(SEQUENCES, 40)
    torch.autograd.backward(whole_loss(model, ids, torch.ones(40)))
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    expected = model.eval()(ids)
    for other in copies:
        assert other.training
        assert getattr(other, "penalty", None) is None
        assert torch.equal(other.eval()(ids), expected)


@pytest.mark.parametrize(
    ("hyperparameter", "wrong"),
    [("dim", 0), ("dim", 2.5), ("hidden_units", (4, 0)), ("hidden_units", 4), ("dropout", 1.0)],
)
def test_what_models_take_alike_they_refuse_alike(hyperparameter: str, wrong: Any) -> None:
    takers = [name for name in MODELS if hyperparameter in inspect.signature(MODELS[name]).parameters]
    assert len(takers) > len(MODELS) / 2
    for name in takers:
        with pytest.raises(ValueError, match=f"'{hyperparameter}' must be"):
            small(name, SEQUENCES, **{hyperparameter: wrong})


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
