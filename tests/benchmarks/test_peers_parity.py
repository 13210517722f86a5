"""Weights copied into FuxiCTR's models: nothing is left out, and the logits are equal."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.peers import parity
from benchmarks.peers.__main__ import see_installed_peers
from benchmarks.peers.copied import COPIES, Target
from export.errors import ExportError
from models import MODELS
from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.layers import MLP

CHECKOUT = os.environ.get("BIDLIGHT_FUXICTR", "")

pytestmark = pytest.mark.usefixtures("same_path")


class Perceptron(nn.Module):
    """In FuxiCTR's layout."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.mlp(inputs)


class Tables(nn.Module):
    """In FuxiCTR's layout: two fields share a table."""

    def __init__(self) -> None:
        super().__init__()
        tables = {"field_0": nn.Embedding(4, 2), "field_1": nn.Embedding(3, 2)}
        self.embedding_layers = nn.ModuleDict({**tables, "field_2": tables["field_1"]})


def test_a_perceptron_is_copied_with_what_its_output_adds() -> None:
    theirs, ours = Perceptron(), MLP(3, (2,), 0.0)
    to = Target(theirs, [])
    to.perceptron(theirs, ours, added=torch.tensor(0.5))
    to.check()
    inputs = torch.randn(7, 3)
    torch.testing.assert_close(theirs(inputs)[:, 0], ours(inputs) + 0.5)


def test_tables_are_copied_by_field() -> None:
    fields = (Field("site", 4), Field("ad", 3), Field("history", 3, width=2, same_values_as="ad"))
    theirs, ours = Tables(), FeaturesEmbedding(fields, 2)
    to = Target(theirs, ["field_0", "field_1", "field_2"])
    to.embedding(theirs, ours)
    to.check()
    rows = ours.rows(torch.tensor([[3, 2, 1, 0]]))[0]
    assert torch.equal(rows[0], theirs.embedding_layers["field_0"].weight[3])
    assert torch.equal(rows[1:], theirs.embedding_layers["field_2"].weight[[2, 1, 0]])


def test_what_gets_no_weights_is_told() -> None:
    theirs = Perceptron()
    to = Target(theirs, [])
    to.put(theirs.mlp[0].weight, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"mlp\.0\.bias, mlp\.2\.weight, mlp\.2\.bias must get weights"):
        to.check()
    with pytest.raises(ValueError, match=r"'mlp\.2\.weight' must get \(1, 2\) \(got \(2, 1\)\)"):
        to.put(theirs.mlp[2].weight, torch.zeros(2, 1))


def test_every_copied_model_is_compared() -> None:
    assert {variant.model for variant in parity.VARIANTS} == set(COPIES) <= set(MODELS)


def needs_fuxictr() -> None:
    see_installed_peers()
    if find_spec("fuxictr") is None:
        pytest.skip("fuxictr is not installed; `make peers` installs it")


@pytest.mark.filterwarnings("ignore")
def test_a_folder_without_the_models_is_refused(tmp_path: Path) -> None:
    needs_fuxictr()
    with pytest.raises(ExportError, match=r"'fuxictr' must be a checkout .* \(got no .*FINAL\.py\)"):
        parity.compare(parity.VARIANTS[0], tmp_path, 5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(parity.VARIANTS)))
def test_logits_are_equal(number: int) -> None:
    needs_fuxictr()
    if not CHECKOUT:
        pytest.skip("BIDLIGHT_FUXICTR must name a checkout of FuxiCTR, whose models are compared")
    figures = parity.compare(parity.VARIANTS[number], Path(CHECKOUT), 100)
    assert figures["logits"] > 0.01
    assert figures["float64"] < 1e-12
    assert figures["float32"] < 1e-4
