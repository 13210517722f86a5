"""DeepFwFM against FwFM, and its compacted form."""

from __future__ import annotations

import torch

from models.deep_fwfm import DeepFwFM
from models.fwfm import FwFM
from tests.models.layouts import PLAIN, some_ids


def test_defaults_are_the_papers() -> None:
    model = DeepFwFM(PLAIN)
    assert model.embedding.table.embedding_dim == 10
    assert [layer.weight.shape for layer in model.mlp.hidden] == [(400, 40), (400, 400), (400, 400)]
    assert model.mlp.dropout.share == 0.5
    assert model.pairs.weight.shape == (6,)


def test_a_compacted_model_is_the_same_class_with_less_in_it() -> None:
    model = DeepFwFM(PLAIN, dim=4, hidden_units=(7, 1, 3), pairs=[(0, 3)]).eval()
    assert model(some_ids(PLAIN, 5)).shape == (5,)
    assert sum(p.numel() for p in FwFM(PLAIN, pairs=[]).parameters()) == 18 * 10 + 4 * 10 + 1


def test_deep_fwfm_is_fwfm_and_a_perceptron_on_the_same_embeddings() -> None:
    deep, shallow = DeepFwFM(PLAIN).eval(), FwFM(PLAIN).eval()
    shallow.load_state_dict(deep.state_dict(), strict=False)
    ids = some_ids(PLAIN, 20)
    torch.testing.assert_close(deep(ids), shallow(ids) + deep.mlp(deep.embedding(ids).flatten(1)))


def test_dropout_leaves_the_input_of_the_perceptron_whole() -> None:
    model = DeepFwFM(PLAIN, dim=4, hidden_units=(7,), dropout=0.9).train()
    seen: list[torch.Tensor] = []
    model.mlp.hidden[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ids = some_ids(PLAIN, 20)
    model(ids)
    torch.testing.assert_close(seen[0], model.embedding(ids).flatten(1))
