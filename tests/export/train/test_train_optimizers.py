"""Which optimizer trains which weights, with several tables: shared, one-dimensional, with remainders."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from export.train.config import TrainConfig
from export.train.optimizers import Optimizers, sparse_gradients
from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field

FIELDS = (
    Field("ad", 40, storage="qr", collisions=4),
    Field("site", 30, storage="hashed", collisions=3),
    Field("history", 40, width=3, storage="qr", collisions=4, same_values_as="ad"),
    Field("hour", 8),
)
CHOICES = list(itertools.product(("adam", "ftrl"), ("adam", "ftrl", "group-lasso-ftrl")))


class SeveralTables(nn.Module):
    """Embeddings, a linear term and a table that is looked up in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = FeaturesEmbedding(FIELDS, dim=4)
        self.wide = LinearTerm(FIELDS)
        self.twice = nn.Embedding(8, 2)
        self.layer = nn.Linear(16, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        deep = self.layer(self.embedding(ids).flatten(1)).squeeze(1)
        return self.wide(ids) + deep + (self.twice(ids[:, -1]) * self.twice(ids[:, -1] // 2)).sum(1)


def some_ids(rows: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    sizes = [40, 30, 40, 40, 40, 8]
    return torch.stack([torch.randint(1, size, (rows,), generator=random) for size in sizes], dim=1)


def trained(config: TrainConfig, *, sparse: bool, steps: int = 6) -> SeveralTables:
    """After steps in each of which every row of every table is touched: sparse must then equal dense."""
    torch.manual_seed(0)
    model = SeveralTables()
    with sparse_gradients(model) as tables:
        if not sparse:
            for module in model.modules():
                if isinstance(module, nn.Embedding):
                    module.sparse = False
        optimizers = Optimizers(model, tables, config)
        for step in range(steps):
            ids = some_ids(600, seed=step)
            loss = nn.functional.binary_cross_entropy_with_logits(model(ids), (ids[:, 0] % 2).float())
            torch.autograd.backward(loss)
            optimizers.step(0.01, len(ids))
    return model


@pytest.mark.parametrize(("layers", "embeddings"), CHOICES)
def test_sparse_gradients_train_every_table_as_dense_ones_do(layers: str, embeddings: str) -> None:
    config = TrainConfig(optimizer=layers, embedding_optimizer=embeddings, embedding_l2=1e-3)  # type: ignore[arg-type]
    first, second = trained(config, sparse=True), trained(config, sparse=False)
    for (name, ours), theirs in zip(first.named_parameters(), second.parameters(), strict=True):
        # The first rows belong to ids 0, which the batches do not contain.
        seen = slice(1, None) if ours.dim() == 2 and "layer" not in name else slice(None)
        if "table" in name:
            seen = torch.tensor([row for row in range(len(ours)) if row not in (0, 10, 20)])  # type: ignore[assignment]
        torch.testing.assert_close(ours[seen], theirs[seen], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("layers", "embeddings"), CHOICES)
def test_the_row_of_fields_without_remainders_stays_zero(layers: str, embeddings: str) -> None:
    config = TrainConfig(optimizer=layers, embedding_optimizer=embeddings)  # type: ignore[arg-type]
    for sparse in (True, False):
        model = trained(config, sparse=sparse)
        assert model.embedding.remainders.weight[0].tolist() == [0.0] * 4
        assert model.embedding.remainders.weight[1:].any()


@pytest.mark.parametrize(("layers", "embeddings"), CHOICES)
def test_every_parameter_moves_and_no_untouched_row_does(layers: str, embeddings: str) -> None:
    torch.manual_seed(0)
    model = SeveralTables()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = some_ids(5)
    with sparse_gradients(model) as tables:
        assert len(tables) == 5  # two of the embeddings, two of the linear term, the one looked up twice
        config = TrainConfig(optimizer=layers, embedding_optimizer=embeddings)  # type: ignore[arg-type]
        optimizers = Optimizers(model, tables, config)
        torch.autograd.backward(model(ids).sum())
        optimizers.step(0.01, len(ids))
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    touched = {*ids[:, -1].tolist(), *(ids[:, -1] // 2).tolist()}
    rested = [row for row in range(8) if row not in touched]
    assert rested
    assert torch.equal(model.twice.weight[rested], before["twice.weight"][rested])


def test_weights_of_ids_have_a_penalty_of_their_own() -> None:
    config = TrainConfig(embedding_l2=0.0, linear_l2=100.0)
    with_penalty, without = trained(config, sparse=True), trained(replace(config, linear_l2=0.0), sparse=True)
    assert not torch.equal(with_penalty.wide.embedding.table.weight, without.wide.embedding.table.weight)
    swapped = TrainConfig(embedding_l2=100.0, linear_l2=0.0)
    shrunk = trained(swapped, sparse=True, steps=60).embedding.table.weight[11:20]
    assert shrunk.abs().mean() < without.embedding.table.weight[11:20].abs().mean()


def test_a_table_that_two_modules_share_is_one() -> None:
    first, second = nn.Embedding(4, 2), nn.Embedding(4, 2)
    second.weight = first.weight
    model = nn.ModuleList([first, second])
    with sparse_gradients(model) as tables:
        assert len(tables) == 1
        assert first.sparse
        assert second.sparse
    assert not first.sparse


def test_group_lasso_kills_the_rows_that_bring_nothing() -> None:
    """One field decides the click; the rows of the other one are noise and become exactly zero."""
    fields = (Field("signal", 20), Field("noise", 200))
    torch.manual_seed(0)
    embedding = FeaturesEmbedding(fields, dim=4)
    model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(8, 1), nn.Flatten(0))
    config = TrainConfig(embedding_optimizer="group-lasso-ftrl", ftrl_alpha=0.1, group_lasso=2.0)
    random = torch.Generator().manual_seed(1)
    with sparse_gradients(model) as tables:
        optimizers = Optimizers(model, tables, config)
        for _ in range(150):
            signal = torch.randint(20, (256,), generator=random)
            ids = torch.stack([signal, torch.randint(200, (256,), generator=random)], dim=1)
            labels = (torch.rand(256, generator=random) < torch.where(signal % 2 == 0, 0.8, 0.1)).float()
            torch.autograd.backward(nn.functional.binary_cross_entropy_with_logits(model(ids), labels))
            optimizers.step(0.01, len(ids))
    alive = (embedding.table.weight != 0).any(dim=1)
    assert alive[:20].float().mean() > 0.9
    assert alive[20:].float().mean() < 0.2


@pytest.mark.parametrize("embeddings", ["adam", "ftrl"])
def test_settling_moves_the_rows_of_adam_that_are_away(embeddings: str) -> None:
    torch.manual_seed(0)
    model = SeveralTables()
    config = TrainConfig(embedding_optimizer=embeddings)  # type: ignore[arg-type]
    with sparse_gradients(model) as tables:
        optimizers = Optimizers(model, tables, config)
        for ids in (some_ids(1), some_ids(1, seed=1)):
            torch.autograd.backward(model(ids).sum())
            optimizers.step(0.01, 1)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizers.settle()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert ("twice.weight" in moved) == (embeddings == "adam")
    assert not any("layer" in name for name in moved)
