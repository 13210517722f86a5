"""RowAdam against torch's Adam where they must agree, and its own rules where they must differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from export.train.row_adam import RowAdam


def table(rows: int = 6, dim: int = 3, *, sparse: bool = True) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(rows, dim, sparse=sparse)


def step(embedding: nn.Embedding, optimizer: torch.optim.Optimizer, ids: list[int], steps: int = 1) -> None:
    target = torch.linspace(-1, 1, embedding.embedding_dim)
    for _ in range(steps):
        optimizer.zero_grad()
        (embedding(torch.tensor(ids)) - target).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 4, 2, 2, 2, 0]])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_it_is_adam_when_every_row_is_seen_at_every_step(ids: list[int], l2: float) -> None:
    ours, theirs = table(), table(sparse=False)
    step(ours, RowAdam([ours.weight], lr=0.1, l2=l2), ids, steps=20)
    step(theirs, torch.optim.Adam([theirs.weight], lr=0.1, weight_decay=l2), ids, steps=20)
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_it_is_torchs_lazy_adam_without_l2() -> None:
    ours, theirs = table(), table()
    first, second = RowAdam([ours.weight], lr=0.05), torch.optim.SparseAdam([theirs.weight], lr=0.05)
    for ids in ([0, 1, 1], [4], [1, 4, 4, 4], [0], [2, 0]):
        step(ours, first, ids)
        step(theirs, second, ids)
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_a_dense_gradient_moves_every_row() -> None:
    ours, theirs = table(sparse=False), table(sparse=False)
    step(ours, RowAdam([ours.weight], lr=0.1), [1, 2], steps=5)
    step(theirs, torch.optim.Adam([theirs.weight], lr=0.1), [1, 2], steps=5)
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_rows_that_were_not_looked_up_stay_bit_for_bit(l2: float) -> None:
    embedding = table()
    before = embedding.weight.detach().clone()
    step(embedding, RowAdam([embedding.weight], lr=0.1, l2=l2), [1, 4], steps=7)
    rested = [0, 2, 3, 5]
    assert torch.equal(embedding.weight[rested], before[rested])
    assert not torch.isclose(embedding.weight[[1, 4]], before[[1, 4]]).any()


def penalty_gradient(seen_at: list[int], steps: int) -> Tensor:
    """What L2 adds up to in the first moment of row 0, which has no other gradient."""
    embedding = table(rows=2, dim=1)
    with torch.no_grad():
        embedding.weight.fill_(1.0)
    optimizer = RowAdam([embedding.weight], lr=0.0, betas=(0.0, 0.0), l2=0.01)
    total = torch.zeros(1)
    for at in range(1, steps + 1):
        optimizer.zero_grad()
        (embedding(torch.tensor([0 if at in seen_at else 1])) * 0.0).sum().backward()
        optimizer.step()
        if at in seen_at:
            total += optimizer.state[embedding.weight]["mean"][0]
    return total


def test_the_penalty_of_the_steps_at_rest_is_paid_when_the_row_is_seen() -> None:
    at_every_step = penalty_gradient(list(range(1, 13)), steps=12)
    torch.testing.assert_close(at_every_step, torch.tensor([0.12]))
    torch.testing.assert_close(penalty_gradient([5, 6, 12], steps=12), at_every_step)


def test_weights_set_to_zero_between_steps_are_taken_as_they_are() -> None:
    embedding = table()
    optimizer = RowAdam([embedding.weight], lr=0.1, l2=0.1)
    step(embedding, optimizer, [0, 1])
    with torch.no_grad():
        embedding.weight[0] = 0.0
        embedding.weight[5] = 0.0
    step(embedding, optimizer, [1])
    assert not embedding.weight[[0, 5]].any()
    step(embedding, optimizer, [0])
    assert embedding.weight[0].any()
