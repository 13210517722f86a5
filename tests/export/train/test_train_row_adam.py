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


def test_a_factor_makes_the_penalty_of_its_rows_stronger() -> None:
    """Tables of one row each, with the penalty times the factor, are the rows of one table with factors."""
    ours, factors = table(), torch.tensor([[1.0], [1.0], [3.0], [0.5], [1.0], [2.0]])
    visits = [[0, 2, 3], [2, 2], [3], [0, 5], [2, 3, 5, 5]]
    optimizer = RowAdam([ours.weight], lr=0.1, l2=0.2, l2_factors={ours.weight: factors})
    alone = [nn.Embedding(1, 3, sparse=True) for _ in factors]
    adams = []
    for row, (one, factor) in enumerate(zip(alone, factors, strict=True)):
        one.weight.data.copy_(ours.weight.data[row : row + 1])
        adams.append(RowAdam([one.weight], lr=0.1, l2=0.2 * float(factor)))
    target = torch.linspace(-1, 1, 3)
    for ids in visits:
        step(ours, optimizer, ids)
        for row, (one, adam) in enumerate(zip(alone, adams, strict=True)):
            adam.zero_grad()
            times = ids.count(row)
            if times:
                (one(torch.zeros(times, dtype=torch.int64)) - target).square().sum().backward()
                adam.step()
            else:  # the others' steps pass for it, too
                adam.steps += 1
                adam.param_groups[0]["drift"].add(adam.steps, adam._rate(adam.param_groups[0]))
    torch.testing.assert_close(ours.weight.data, torch.cat([one.weight.data for one in alone]))


# The last lookups are hundreds of steps after some others, and after the momentum of those has died away.
VISITS = [[0, 1, 1], [4], [1, 4, 4, 4], [0], [2, 0], *[[5]] * 300, [1, 3, 2], [0], *[[3]] * 20]


def test_it_is_dense_adam_where_rows_are_settled_before_each_lookup() -> None:
    ours, theirs = table(), table(sparse=False)
    first, second = RowAdam([ours.weight], lr=0.05), torch.optim.Adam([theirs.weight], lr=0.05)
    for visit, ids in enumerate(VISITS):
        for optimizer in (first, second):
            optimizer.param_groups[0]["lr"] = 0.05 * 0.99**visit  # momentum moves by the rate of its step
        step(ours, first, ids)
        first.settle()
        step(theirs, second, ids)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settled_at", [{327}, {3, 50, 51, 310, 327}])
def test_it_is_dense_adam_for_the_same_gradients_however_rarely_rows_are_settled(
    settled_at: set[int],
) -> None:
    ours, theirs = table(), table(sparse=False)
    first, second = RowAdam([ours.weight], lr=0.05), torch.optim.Adam([theirs.weight], lr=0.05)
    slope = torch.linspace(-1, 2, 3)
    for visit, ids in enumerate(VISITS, 1):
        for embedding, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            (embedding(torch.tensor(ids)) * slope).sum().backward()  # wherever the rows are
            optimizer.step()
        if visit in settled_at:
            first.settle()
    assert visit in settled_at
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-5)


def test_a_row_that_is_settled_twice_moves_once() -> None:
    embedding = table()
    optimizer = RowAdam([embedding.weight], lr=0.05)
    step(embedding, optimizer, [0, 1])
    step(embedding, optimizer, [2], steps=4)
    before = embedding.weight.detach().clone()
    optimizer.settle()
    once = embedding.weight.detach().clone()
    optimizer.settle()
    assert torch.equal(embedding.weight, once)
    assert not torch.isclose(once[:3], before[:3]).all(dim=1)[:2].any()
    assert torch.equal(once[3:], before[3:])


def test_betas_without_a_limit_of_momentum_are_refused() -> None:
    with pytest.raises(ValueError, match="beta1 < sqrt"):
        RowAdam([table().weight], betas=(0.9, 0.5))


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
