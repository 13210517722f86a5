"""Pruning reaches its rates exactly on a short log, keeps its masks, and leaves a model that ranks."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from export.compress.config import PruneConfig
from export.compress.prune import Pruner, prune
from export.compress.recipes import RECIPES, Recipe
from export.compress.targets import find_targets, zero_rates
from export.errors import ExportError
from export.train.config import TrainConfig
from export.train.loop import train
from models.deep_fwfm import DeepFwFM
from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.fwfm import FwFM
from models.layers import MLP
from models.lr import LR

CONFIG = TrainConfig(batch_size=200, learning_rate=5e-3, warmup_steps=5, threads=1)
SCHEDULE = PruneConfig(finetune_epochs=1.0)


def model_for(fields: tuple[Field, ...]) -> DeepFwFM:
    torch.manual_seed(3)
    return DeepFwFM(fields, dim=6, hidden_units=(32, 24), dropout=0.1)


def zeros(weight: Tensor) -> float:
    return float((weight == 0).float().mean())


@pytest.mark.parametrize("name", ["high-performance", "low-memory", "low-latency"])
def test_the_rates_are_reached_on_forty_steps_an_epoch(log: Any, name: str) -> None:
    model, recipe = model_for(log.fields), RECIPES[name]
    lines: list[str] = []
    result = prune(
        model, log, recipe, CONFIG, lines.append, schedule=PruneConfig(warmup_epochs=0.5, finetune_epochs=1.0)
    )
    for layer in model.mlp.hidden:
        assert zeros(layer.weight) == pytest.approx(recipe.dnn, abs=0.005)
        assert layer.bias.all()
    assert model.mlp.output.weight.all()
    # A rate of 0.9 removes five of six pairs, and 0.95 all but the one that always stays.
    assert int(model.pairs.weight.count_nonzero()) == 1
    assert zeros(model.embedding.table.weight) == pytest.approx(recipe.embedding, abs=0.005)
    assert result.reached == zero_rates(model)
    assert result.rates == recipe.rates
    assert any("the masks are held from here" in line for line in lines)


def test_the_pruned_model_still_ranks(log: Any) -> None:
    dense = model_for(log.fields)
    trained = train(dense, log, dataclasses.replace(CONFIG, epochs=3), report=lambda _: None)
    pruned = prune(dense, log, RECIPES["high-performance"], CONFIG, lambda _: None, schedule=SCHEDULE)
    assert trained.best is not None
    assert pruned.training.best is not None
    assert trained.best.auc > 0.7
    assert pruned.training.best.auc > trained.best.auc - 0.03


def test_the_best_weights_are_never_those_from_before_the_masks(log: Any) -> None:
    """The first evaluations during pruning are the best, but the kept weights must be sparse."""
    model = model_for(log.fields)
    config = dataclasses.replace(CONFIG, epochs=4, evaluations_per_epoch=4, patience=1)
    train(model, log, config, report=lambda _: None)
    result = prune(
        model, log, Recipe("hard", 0.97, 0.5, 0.97), config, lambda _: None, schedule=SCHEDULE
    ).training
    last_pruning = 40
    assert min(result.history, key=lambda look: look.logloss).step < last_pruning
    assert result.best is not None
    assert result.best.step >= last_pruning
    assert zeros(model.embedding.table.weight) == pytest.approx(0.97, abs=0.005)


def test_the_same_seed_gives_the_same_sparse_weights(log: Any) -> None:
    first, second = model_for(log.fields), model_for(log.fields)
    for model in (first, second):
        prune(model, log, RECIPES["low-latency"], CONFIG, lambda _: None, schedule=SCHEDULE)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("build", [LR, FwFM])
def test_a_model_without_a_part_reaches_the_rates_it_has(log: Any, build: type[nn.Module]) -> None:
    model = build(log.fields)
    result = prune(model, log, RECIPES["low-memory"], CONFIG, lambda _: None, schedule=SCHEDULE)
    assert set(result.reached) == ({"embedding"} if build is LR else {"embedding", "field_matrix"})
    assert result.reached["embedding"] == pytest.approx(0.9, abs=0.005)


def test_a_pruned_weight_comes_back_until_the_masks_are_final() -> None:
    model = nn.Sequential(MLP(4, (4,), dropout=0.0))
    layer = model[0].hidden[0]
    pruner = Pruner(model, Recipe("half", dnn=0.5, field_matrix=0.0, embedding=0.0), steps=60, every=10)
    weights = torch.arange(1.0, 17.0).reshape(4, 4)

    def step(number: int, values: Tensor) -> None:
        with torch.no_grad():
            layer.weight.copy_(values)
        pruner.after_step(number)

    step(29, weights)
    assert layer.weight.all()
    step(30, weights)
    assert layer.weight[0, 0] == 0
    step(31, weights.flip(0, 1))
    assert layer.weight.all()
    step(60, weights.flip(0, 1))
    assert layer.weight.count_nonzero() == 8
    step(61, torch.ones(4, 4))
    assert torch.equal(layer.weight != 0, weights.flip(0, 1) > 8)


def test_moments_of_the_optimizer_move_no_masked_weight() -> None:
    """Adam with momentum from before the last pruning, and gradients for all weights, step after step."""
    torch.manual_seed(0)
    model = model_for((Field("a", 50), Field("b", 50)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05, weight_decay=0.01)
    pruner = Pruner(model, RECIPES["low-memory"], steps=30, start=5)
    ids = torch.randint(50, (64, 2))
    masks: list[Tensor] = []
    for step in range(1, 61):
        optimizer.zero_grad()
        (model(ids) - 1.0).square().mean().backward()
        optimizer.step()
        pruner.after_step(step)
        now = [weight == 0 for target in find_targets(model) for weight in target.weights]
        if step == 35:
            masks = now
        elif step > 35:
            assert all(torch.equal(before, after) for before, after in zip(masks, now, strict=True))


def test_targets_are_found_by_type_anywhere() -> None:
    class TwoTowers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            fields = [Field("a", 20), Field("b", 30)]
            self.tower = nn.ModuleDict({"left": MLP(4, (8, 4), 0.0), "right": MLP(4, (8,), 0.0)})
            self.wide, self.deep = FeaturesEmbedding(fields, 1), FeaturesEmbedding(fields, 2)
            self.gate = nn.Linear(4, 4)

    model = TwoTowers()
    targets = find_targets(model)
    assert [(target.part, len(target.weights)) for target in targets] == [("dnn", 1)] * 3 + [("embedding", 2)]
    Pruner(model, RECIPES["low-memory"], steps=1).after_step(1)
    assert zero_rates(model) == {
        "dnn": pytest.approx(0.9, abs=0.02),
        "embedding": pytest.approx(0.9, abs=0.005),
    }
    assert model.gate.weight.all()


@pytest.mark.parametrize(
    "wrong", [{"prune_epochs": 0}, {"prune_every": 0}, {"residual": 1.0}, {"warmup_epochs": math.inf}]
)
def test_a_wrong_schedule_names_its_knob(wrong: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match=f"'{next(iter(wrong))}' must be"):
        PruneConfig(**wrong)
