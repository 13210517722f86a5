"""Pruning the smallest weights: the exact number, under one threshold, with any ties and zeros."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from export.compress.magnitude import SAMPLED_FROM, apply_mask, largest_mask, zero_smallest

rates = st.floats(0, 0.999)


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    """Tensors with few distinct values, so most thresholds fall on ties."""
    values = st.sampled_from([0.0, -0.0, 0.25, -0.25, 0.5, -1.0, 2.0])
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
    return [
        torch.tensor(draw(st.lists(values, min_size=n * m, max_size=n * m))).reshape(n, m) for n, m in shapes
    ]


@given(tensors(), rates)
def test_exactly_the_smallest_share_is_masked(weights: list[Tensor], rate: float) -> None:
    kept = largest_mask(weights, rate)
    flat = torch.cat([weight.abs().flatten() for weight in weights])
    stays = torch.cat([mask.flatten() for mask in kept])
    assert [mask.shape for mask in kept] == [weight.shape for weight in weights]
    assert int((~stays).sum()) == min(round(rate * len(flat)), len(flat) - 1)
    if not stays.all():
        assert flat[~stays].max() <= flat[stays].min()


def test_of_equal_weights_no_end_of_the_table_is_preferred() -> None:
    (kept,) = largest_mask([torch.ones(1000)], 0.4)
    assert kept[:500].sum() == kept[500:].sum() == 300


def test_one_threshold_serves_all_tables() -> None:
    small, large = torch.full((10, 4), 0.01), torch.full((10, 4), 1.0)
    kept_small, kept_large = largest_mask([small, large], 0.5)
    assert not kept_small.any()
    assert kept_large.all()


@pytest.mark.parametrize("rate", [0.004, 0.4, 0.9])
@pytest.mark.parametrize("zeros", [0.0, 0.395, 0.7])
def test_of_very_many_weights_about_the_share_is_pruned(rate: float, zeros: float) -> None:
    weights = [torch.randn(SAMPLED_FROM // 10, 10), 0.1 * torch.randn(1000, 7)]
    weights[0][torch.rand(len(weights[0])) < zeros] = 0.0
    before = [weight.clone() for weight in weights]
    zero_smallest(weights, rate, torch.Generator().manual_seed(1))
    old = torch.cat([weight.flatten() for weight in before])
    new = torch.cat([weight.flatten() for weight in weights])
    already = float((old == 0).float().mean())
    assert float((new == 0).float().mean()) == pytest.approx(max(rate, already), abs=0.005)
    cut = old[new == 0].abs().max()
    assert torch.equal(new, torch.where(old.abs() <= cut, 0.0, old))


def test_very_many_equal_weights_are_not_pruned_by_an_estimate() -> None:
    """An estimated threshold cannot split a tie, so ties stay until the exact masks at the end."""
    weight = torch.ones(SAMPLED_FROM)
    zero_smallest([weight], 0.5, torch.Generator())
    assert weight.all()


def test_a_mask_zeroes_in_place_what_is_not_kept() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    apply_mask(weight, torch.tensor([[True, False], [False, True]]))
    assert weight.tolist() == [[1.0, 0.0], [0.0, 4.0]]
