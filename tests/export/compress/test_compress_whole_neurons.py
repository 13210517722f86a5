"""Whole neurons are pruned by importance, in the given number, on the schedule, finally at its end."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from export.compress.compact import compact
from export.compress.config import PruneConfig
from export.compress.perceptrons import dead_neuron_rate, find_perceptrons, hidden_widths
from export.compress.prune import Pruner, prune
from export.compress.recipes import Recipe
from export.compress.schedule import sparse_rate
from export.train.config import TrainConfig
from models import MODELS
from models.deep_fwfm import DeepFwFM
from models.fields import Field
from models.layers import MLP

FIELDS = (Field("user", 20), Field("site", 12), Field("ad", 30), Field("price", 5, values=(0.0, 1, 2, 3, 4)))
HISTORY = Field("history", 30, width=3, same_values_as="ad")


def neurons_only(rate: float) -> Recipe:
    return Recipe("mine", dnn=0.0, field_matrix=0.0, embedding=0.0, neurons=rate)


def left_of(widths: Sequence[int], rate: float) -> tuple[int, ...]:
    return tuple(max(1, width - round(rate * width)) for width in widths)


def live(layers: tuple[nn.Linear, ...]) -> tuple[int, ...]:
    """Neurons with input weights and output weights."""
    return tuple(
        int(((reader.weight != 0).any(dim=0) & (layer.weight != 0).any(dim=1)).sum())
        for layer, reader in itertools.pairwise(layers)
    )


def read(layers: tuple[nn.Linear, ...]) -> tuple[int, ...]:
    """Neurons with output weights."""
    return tuple(int((reader.weight != 0).any(dim=0).sum()) for reader in layers[1:])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.floats(0, 0.999),
    st.integers(0, 10**6),
)
def test_exactly_as_many_as_asked_go_and_a_layer_keeps_one(widths: list[int], rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = DeepFwFM(FIELDS, dim=2, hidden_units=widths)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    Pruner(model, neurons_only(rate), steps=1).after_step(1)
    (layers,) = find_perceptrons(model)
    left = left_of(widths, rate)
    assert live(layers) == left
    assert dead_neuron_rate(model) == pytest.approx(1 - sum(left) / sum(widths))
    for name, value in model.state_dict().items():
        changed = value != weights[name]
        assert not value[changed].any()
        assert (".weight" in name and "mlp" in name) or not changed.any()
    compacted = compact(model, {"dim": 2, "hidden_units": tuple(widths)})
    assert compacted.notes == ()
    assert compacted.live_neurons == compacted.hyperparameters["hidden_units"] == left


def test_those_that_carry_least_go() -> None:
    """Importance depends on both sides: large input weights without output weights do not count."""
    mlp = MLP(3, (4,), dropout=0.0)
    (layer,) = mlp.hidden
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[9.0], [1.0], [2.0], [0.1]]).expand(4, 3))
        mlp.output.weight.copy_(torch.tensor([[0.01, 1.0, 2.0, 3.0]]))
    Pruner(nn.Sequential(mlp), neurons_only(0.5), steps=1).after_step(1)
    assert mlp.output.weight.tolist() == [[0.0, 1.0, 2.0, 0.0]]
    assert layer.weight.any(dim=1).tolist() == [False, True, True, False]


def test_a_neuron_comes_back_until_the_masks_are_final() -> None:
    mlp = MLP(2, (4,), dropout=0.0)
    (layer,) = mlp.hidden
    pruner = Pruner(nn.Sequential(mlp), neurons_only(0.5), steps=200, every=10)
    outgoing = torch.tensor([[1.0, 2.0, 3.0, 4.0]])

    def step(number: int, values: Tensor) -> None:
        with torch.no_grad():
            layer.weight.fill_(1.0)
            mlp.output.weight.copy_(values)
        pruner.after_step(number)

    step(189, outgoing)
    assert mlp.output.weight.all()
    step(190, outgoing)
    assert mlp.output.weight.tolist() == [[0.0, 0.0, 3.0, 4.0]]
    assert layer.weight.all()
    step(200, outgoing.flip(1))
    assert mlp.output.weight.tolist() == [[4.0, 3.0, 0.0, 0.0]]
    assert layer.weight.any(dim=1).tolist() == [True, True, False, False]
    step(201, outgoing)
    assert mlp.output.weight.tolist() == [[1.0, 2.0, 0.0, 0.0]]
    assert layer.weight.any(dim=1).tolist() == [True, True, False, False]


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_they_go_on_the_schedule_of_the_weights(rate: float) -> None:
    """After each pruning of 40 neurons the number of silent ones follows the rate, whatever training did."""
    torch.manual_seed(1)
    model = DeepFwFM(FIELDS, dim=2, hidden_units=(30, 20))
    pruner = Pruner(model, neurons_only(rate), steps=400, start=7, every=10)
    (layers,) = find_perceptrons(model)
    for step in range(1, 408):
        with torch.no_grad():
            for layer in layers:
                layer.weight.add_(0.01 * torch.randn_like(layer.weight))
        pruner.after_step(step)
        if step > 7 and (step - 7) % 10 == 0:
            assert read(layers) == left_of((30, 20), sparse_rate(rate, step - 7, 400))
    assert live(layers) == left_of((30, 20), rate)


def test_weights_and_neurons_go_together() -> None:
    """The weights of pruned neurons count as pruned, so the remaining weights belong to live neurons."""
    torch.manual_seed(2)
    model = DeepFwFM(FIELDS, dim=5, hidden_units=(40, 40))
    pruner = Pruner(model, Recipe("both", dnn=0.9, field_matrix=0.0, embedding=0.0, neurons=0.5), steps=20)
    (layers,) = find_perceptrons(model)
    for step in range(1, 31):
        with torch.no_grad():
            for layer in layers:
                layer.weight.add_(0.01 * torch.randn_like(layer.weight))
        pruner.after_step(step)
    for layer in layers[:-1]:
        assert int(layer.weight.count_nonzero()) == layer.weight.numel() - round(0.9 * layer.weight.numel())
    assert compact(model, {"dim": 5, "hidden_units": (40, 40)}).live_neurons == (20, 20)


@pytest.mark.parametrize("neurons", [0.0, 0.5])
def test_moments_of_the_optimizer_wake_no_neuron(neurons: float) -> None:
    torch.manual_seed(0)
    model = DeepFwFM(FIELDS, dim=4, hidden_units=(16, 12))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=0.01)
    recipe = Recipe("mine", dnn=0.6, field_matrix=0.0, embedding=0.0, neurons=neurons)
    pruner = Pruner(model, recipe, steps=30, start=5)
    ids = torch.stack([torch.randint(field.cardinality, (64,)) for field in FIELDS], dim=1)
    (layers,) = find_perceptrons(model)
    held: list[Tensor] = []
    for step in range(1, 61):
        optimizer.zero_grad()
        (model(ids) - 1.0).square().mean().backward()
        optimizer.step()
        pruner.after_step(step)
        now = [layer.weight == 0 for layer in layers]
        if step == 35:
            held = now
        elif step > 35:
            assert all(torch.equal(before, after) for before, after in zip(held, now, strict=True))
    assert bool(held[-1].any()) is (neurons > 0)


def test_a_pruned_model_ranks_and_reports_its_rates(log: Any) -> None:
    torch.manual_seed(3)
    hyperparameters = {"dim": 6, "hidden_units": (32, 24), "dropout": 0.1}
    model = DeepFwFM(log.fields, **hyperparameters)
    config = TrainConfig(batch_size=200, learning_rate=5e-3, warmup_steps=5, threads=1)
    recipe = Recipe("mine", dnn=0.0, field_matrix=0.5, embedding=0.4, neurons=0.75)
    lines: list[str] = []
    result = prune(
        model, log, recipe, config, lines.append, schedule=PruneConfig(warmup_epochs=2.0, finetune_epochs=1.0)
    )
    assert result.rates["neurons"] == 0.75
    assert result.reached["neurons"] == 0.75
    assert result.training.best is not None
    assert result.training.best.auc > 0.7
    assert any("neurons 75.0%; the masks are held from here" in line for line in lines)
    assert compact(model, hyperparameters).live_neurons == (8, 6)


def of_every_kind(name: str) -> nn.Module:
    torch.manual_seed(0)
    arguments = inspect.signature(MODELS[name]).parameters
    sizes = {"hidden_units": (12, 8)} if "hidden_units" in arguments else {}
    return MODELS[name]((*FIELDS, HISTORY), **sizes)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_narrowed_or_unchanged(name: str) -> None:
    model = of_every_kind(name)
    perceptrons = find_perceptrons(model)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    Pruner(model, neurons_only(0.5), steps=1).after_step(1)
    if not perceptrons:
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
        return
    compacted = compact(model, {"hidden_units": (12, 8)})
    assert [note for note in compacted.notes if "neurons" in note] == []
    asked = [left_of(hidden_widths(layers), 0.5) for layers in perceptrons]
    assert [hidden_widths(layers) for layers in find_perceptrons(compacted.model)] == asked
    assert compacted.live_neurons == tuple(itertools.chain(*asked))


def test_perceptrons_are_those_with_removable_neurons() -> None:
    has = {name: bool(find_perceptrons(of_every_kind(name))) for name in MODELS}
    assert all(has[name] for name in ("dnn", "deep_fwfm", "dlrm", "star", "pnn", "xdeepfm"))
    assert not any(has[name] for name in ("lr", "fwfm", "din", "dien", "apg_dnn", "gbdt_lr", "mmoe"))
    assert len(find_perceptrons(of_every_kind("dlrm"))) == 2
