"""xDeepFM's CIN, which never computes the maps it pools, against the loops of its equations."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from models.fields import Field
from models.xdeepfm import CIN, PairedCIN, XDeepFM

FIELDS = (Field("site", 5), Field("hour", 4), Field("ad", 6))


def pooled_by_the_book(cin: CIN, maps_per_layer: tuple[int, ...], split_half: bool, row: Tensor) -> Tensor:
    """Equations 6 to 8 for one row X^0 [n_fields, dim]: every map of every layer, then p+ . w."""
    below, logit = row, torch.zeros(())
    for layer, count in enumerate(maps_per_layer):
        weight, maps = cin.weights[layer], []
        for h in range(count):
            pairs = itertools.product(range(len(below)), range(len(row)))
            maps.append(sum(weight[h, i, j] * (below[i] * row[j]) for i, j in pairs))
        is_last = layer == len(maps_per_layer) - 1
        direct = maps[count // 2 :] if split_half and not is_last else maps
        for w, of_output in zip(cin.outputs[layer], direct, strict=True):
            logit = logit + w * of_output.sum()
        below = torch.stack(maps[: count // 2] if split_half else maps)
    return logit


@pytest.mark.parametrize("maps", [(3,), (4, 2), (4, 5, 3)])
@pytest.mark.parametrize("split_half", [False, True])
def test_cin_follows_the_equations(maps: tuple[int, ...], split_half: bool) -> None:
    torch.manual_seed(0)
    cin, embeddings = CIN(4, maps, split_half), torch.randn(5, 4, 3)
    expected = torch.stack([pooled_by_the_book(cin, maps, split_half, row) for row in embeddings])
    torch.testing.assert_close(cin(embeddings), expected)


def test_a_cin_over_pairs_has_only_those() -> None:
    torch.manual_seed(0)
    pairs = [[(0, 0), (1, 3), (2, 1)], [(1, 0), (0, 3)]]
    cin, embeddings = PairedCIN(4, [3, 2], pairs), torch.randn(5, 4, 3)
    expected = torch.zeros(5)
    for row, x in enumerate(embeddings):
        below = x
        for layer, mixed in enumerate(cin.mixed):
            for i, j in itertools.product(range(len(below)), range(4)):
                expected[row] += mixed[i, j].item() * (below[i] @ x[j])
            if layer < 2:
                products = torch.stack([below[i] * x[j] for i, j in pairs[layer]])
                below = cin.maps[layer].detach() @ products
    torch.testing.assert_close(cin(embeddings), expected)


@pytest.mark.parametrize("pairs", [[], [[]], [[(0, 4)]], [[(4, 0)]], [[(0, 1)], [(0, 1)]]])
def test_pairs_that_a_layer_cannot_have_are_refused(pairs: list[list[tuple[int, int]]]) -> None:
    with pytest.raises(ValueError, match="'cin_pairs' must be pairs"):
        PairedCIN(4, [3], pairs)


@pytest.mark.parametrize("split_half", [False, True])
def test_every_weight_of_every_map_learns(split_half: bool) -> None:
    torch.manual_seed(0)
    cin = CIN(4, (4, 6, 2), split_half)
    cin(torch.randn(5, 4, 3)).square().sum().backward()
    for parameter in cin.parameters():
        assert parameter.grad is not None
        assert parameter.grad.flatten(min(1, parameter.dim() - 1)).ne(0).all()


def test_the_logit_is_the_sum_of_three_parts() -> None:
    torch.manual_seed(0)
    model = XDeepFM(FIELDS, dim=3, hidden_units=(4,), cin_maps=(3, 2)).eval()
    torch.nn.init.constant_(model.bias, 0.25)
    torch.nn.init.normal_(model.embedding.table.weight)
    torch.nn.init.normal_(model.wide.embedding.table.weight)
    ids = torch.tensor([[0, 1, 2], [4, 3, 5]])
    embeddings = model.embedding(ids)
    cin = torch.stack([pooled_by_the_book(model.cin, (3, 2), False, row) for row in embeddings])
    weights = model.wide.embedding.table.weight[:, 0]
    linear = torch.stack([weights[[0, 5 + 1, 9 + 2]].sum(), weights[[4, 5 + 3, 9 + 5]].sum()])
    torch.testing.assert_close(model(ids), 0.25 + linear + cin + model.mlp(embeddings.flatten(1)))


@pytest.mark.parametrize(
    ("maps", "split_half", "least"), [((), False, 1), ((4, 0), False, 1), ((1, 4), True, 2)]
)
def test_layers_without_maps_are_refused(maps: tuple[int, ...], split_half: bool, least: int) -> None:
    with pytest.raises(ValueError, match=f"'cin_maps' must be one number a layer, each at least {least}"):
        XDeepFM(FIELDS, cin_maps=maps, split_half=split_half)
