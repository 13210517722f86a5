"""FTRL against the paper's algorithm, coordinate by coordinate, and its exact zeros."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from export.train.ftrl import Ftrl

Batch = list[tuple[int, list[float]]]  # rows looked up, each with its gradient
ALPHA, BETA = 0.1, 1.0


def naive(
    start: Tensor, batches: list[Batch], l1: float, l2: float, lasso: float, rows: int
) -> list[list[float]]:
    """McMahan et al., Algorithm 1, coordinate by coordinate, with the group's threshold row by row."""
    weights = start.tolist()
    dim = len(weights[0])
    z = [[-w * (BETA / ALPHA + l2) for w in row] for row in weights]
    n = [[0.0] * dim for _ in weights]
    for batch in batches:
        summed: dict[int, list[float]] = {}
        for row, gradient in batch:
            known = summed.get(row, [0.0] * dim)
            summed[row] = [a + rows * b for a, b in zip(known, gradient, strict=True)]
        for row, gradient in summed.items():
            for i, g in enumerate(gradient):
                sigma = (math.sqrt(n[row][i] + g * g) - math.sqrt(n[row][i])) / ALPHA
                z[row][i] += g - sigma * weights[row][i]
                n[row][i] += g * g
            kept = [math.copysign(max(abs(each) - l1, 0.0), each) for each in z[row]]
            length = math.sqrt(sum(each * each for each in kept))
            threshold = lasso * math.sqrt(dim)
            share = 1 - threshold / length if length > threshold else 0.0
            share = share if lasso else 1.0
            for i, each in enumerate(kept):
                weights[row][i] = -share * each / ((BETA + math.sqrt(n[row][i])) / ALPHA + l2)
    return weights


def some_batches(seed: int, rows: int, dim: int, size: int = 0.3) -> list[Batch]:  # type: ignore[assignment]
    random = torch.Generator().manual_seed(seed)
    return [
        [
            (
                int(torch.randint(rows, (), generator=random)),
                (size * torch.randn(dim, generator=random)).tolist(),
            )
            for _ in range(4)
        ]
        for _ in range(25)
    ]


def run(table: nn.Embedding, optimizer: Ftrl, batches: list[Batch], rows: int = 1) -> None:
    """Steps with the gradients of the batches."""
    optimizer.param_groups[0]["rows"] = rows
    for batch in batches:
        looked_up = table(torch.tensor([row for row, _ in batch]))
        (looked_up * torch.tensor([gradient for _, gradient in batch])).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def a_table(rows: int = 7, dim: int = 3, *, sparse: bool = True) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(rows, dim, sparse=sparse)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(
    ("l1", "l2", "lasso"),
    [(0.0, 0.0, 0.0), (0.4, 0.0, 0.0), (0.2, 1.5, 0.0), (0.0, 0.5, 0.3), (0.1, 0.5, 0.2)],
)
def test_it_is_the_papers_algorithm_coordinate_by_coordinate(
    l1: float, l2: float, lasso: float, sparse: bool
) -> None:
    table = a_table(sparse=sparse)
    start = table.weight.detach().clone()
    batches = some_batches(1, rows=7, dim=3)
    if not sparse:  # a dense gradient touches all rows
        batches = [[*batch, *((row, [0.0] * 3) for row in range(7))] for batch in batches]
    run(table, Ftrl([table.weight], ALPHA, BETA, l1, l2, lasso), batches, rows=5)
    expected = naive(start, batches, l1, l2, lasso, rows=5)
    torch.testing.assert_close(table.weight.detach(), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_without_penalties_a_weight_starts_where_the_model_put_it() -> None:
    table = a_table()
    before = table.weight.detach().clone()
    run(table, Ftrl([table.weight], l2=2.0), [[(2, [0.0, 0.0, 0.0])]])
    torch.testing.assert_close(table.weight.detach(), before)
    run(table, Ftrl([table.weight]), [[(2, [1e-4, 0.0, -1e-4])]])
    torch.testing.assert_close(table.weight.detach(), before, atol=2e-5, rtol=0)


def test_l1_gives_exact_zeros_and_only_where_little_is_known() -> None:
    table = a_table(rows=2, dim=2)
    with torch.no_grad():
        table.weight.fill_(0.01)
    steady: list[Batch] = [[(0, [0.5, 0.001])] for _ in range(30)]
    run(table, Ftrl([table.weight], ALPHA, BETA, l1=1.0), steady)
    strong, weak = table.weight[0].tolist()
    assert strong < -0.1
    assert weak == 0.0
    assert math.copysign(1.0, weak) == 1.0
    assert table.weight[1].tolist() == pytest.approx([0.01, 0.01])  # never looked up


def test_group_lasso_makes_whole_rows_zero_and_brings_them_back() -> None:
    table = a_table(rows=3, dim=4)
    with torch.no_grad():
        table.weight.mul_(0.01)
    optimizer = Ftrl([table.weight], ALPHA, BETA, group_lasso=0.5)
    noise: Batch = [(0, [0.01, -0.02, 0.01, 0.0]), (1, [0.4, -0.02, 0.01, 0.0])]
    run(table, optimizer, [noise] * 20)
    assert table.weight[0].tolist() == [0.0] * 4
    assert (table.weight[1] != 0).sum() >= 3  # a row is non-zero as a whole, including small weights
    run(table, optimizer, [[(0, [0.0, 0.5, 0.0, 0.0])]] * 20)
    assert table.weight[0, 1] < -0.1


def test_rows_that_were_not_looked_up_stay_bit_for_bit() -> None:
    table = a_table()
    before = table.weight.detach().clone()
    batches: list[Batch] = [[(1, [0.1, 0.2, 0.3]), (4, [1.0, 0.0, -1.0])]] * 5
    run(table, Ftrl([table.weight], l1=5.0, l2=1.0, group_lasso=2.0), batches)
    rested = [0, 2, 3, 5, 6]
    assert torch.equal(table.weight[rested], before[rested])
    assert not (table.weight[[1, 4]] == before[[1, 4]]).any()


def test_weights_of_any_shape_are_trained() -> None:
    shapes = [(), (3,), (2, 3), (2, 2, 2)]
    weights = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = Ftrl(weights, alpha=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        sum(((weight - 0.25) ** 2).sum() for weight in weights).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert all(torch.allclose(weight, torch.tensor(0.25), atol=1e-2) for weight in weights)
