"""MMoE: experts shared by all domains; each domain has a gate that mixes them and a tower above the mix.

Reference: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
KDD 2018, section 4.2, with its 8 experts; layer widths are those of APG's comparison (Yan et al., "APG:
Adaptive Parameter Generation Network for Click-Through Rate Prediction", NeurIPS 2022, appendix B.3), which
uses it as a coarse-grained baseline. Departs from MMoE in its tasks, which are domains: a row has one label
and uses the gate and the tower of its domain only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.domains import DomainLinear, domain_column, domain_field, domain_result_rows
from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_count, check_widths
from models.layers import Dropout, start_before_relu


class Experts(nn.Module):
    """Perceptrons of equal shape: first layers as one matrix product, later ones as a batched product."""

    def __init__(self, experts: int, in_features: int, hidden_units: Sequence[int], dropout: float) -> None:
        super().__init__()
        check_count("experts", experts, 1, "the paper has 8")
        check_widths("hidden_units", hidden_units, "they are each expert's layers", layers=1)
        self.n_experts, self.first_units, self.out_features = experts, hidden_units[0], hidden_units[-1]
        self.first = nn.Linear(in_features, experts * hidden_units[0])
        start_before_relu(self.first)
        shapes = list(itertools.pairwise(hidden_units))
        self.weights = nn.ParameterList(
            _he_uniform(fan_in, experts, fan_in, fan_out) for fan_in, fan_out in shapes
        )
        self.biases = nn.ParameterList(torch.zeros(experts, 1, fan_out) for _, fan_out in shapes)
        self.dropout = Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [batch, in_features] -> [batch, experts, hidden_units[-1]]."""
        hidden: Tensor = self.dropout(F.relu(self.first(inputs)))
        hidden = hidden.reshape(-1, self.n_experts, self.first_units)
        if not len(self.weights):
            return hidden
        hidden = hidden.transpose(0, 1)  # [experts, batch, hidden]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = self.dropout(F.relu(hidden @ weight + bias))
        return hidden.transpose(0, 1)

    def folded(self) -> nn.Module:
        """For inference: each expert's later layers as linear layers of its own."""
        return ExpertsByLayer(self) if len(self.weights) else self


class ExpertsByLayer(nn.Module):
    """The function of Experts in linear layers, one an expert: so they are faster, and can be INT8."""

    def __init__(self, source: Experts) -> None:
        super().__init__()
        self.n_experts, self.out_features = source.n_experts, source.out_features
        self.first = source.first
        pairs = zip(source.weights, source.biases, strict=True)
        self.later = nn.ModuleList(_layers_of(weight.detach(), bias.detach()) for weight, bias in pairs)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [batch, in_features] -> [batch, experts, hidden_units[-1]]."""
        hidden = F.relu(self.first(inputs))  # [batch, experts * hidden]
        later: Any = self.later
        for layers in later:
            pairs = zip(layers, hidden.chunk(self.n_experts, dim=1), strict=True)
            hidden = F.relu(torch.cat([layer(part) for layer, part in pairs], dim=1))
        return hidden.reshape(-1, self.n_experts, self.out_features)


def _layers_of(weights: Tensor, biases: Tensor) -> nn.ModuleList:
    """x @ weights[i] [in, out] + biases[i] [1, out], for each i."""
    layers = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(weight.shape[0], weight.shape[1], device="meta")  # draws no random numbers
        layer.weight, layer.bias = nn.Parameter(weight.T.clone()), nn.Parameter(bias.flatten().clone())
        layers.append(layer)
    return nn.ModuleList(layers)


class MMoE(nn.Module):
    """tower_k(sum over experts of g_k(e)_i * f_i(e)), k the row's domain.

    hidden_units  the layers of each expert
    tower_units   the hidden layers of each tower
    domain        the field whose ids are the domains; None: the context field with the fewest ids
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (256, 128),
        dropout: float = 0.0,
        experts: int = 8,
        tower_units: Sequence[int] = (64,),
        domain: str | None = None,
    ) -> None:
        super().__init__()
        check_widths("tower_units", tower_units, "they are each tower's hidden layers")
        self.fields = tuple(fields)
        field = domain_field(fields, domain)
        self.domain_column, self.n_domains = domain_column(fields, field), field.cardinality
        self.embedding = FeaturesEmbedding(fields, dim)
        self.experts = Experts(experts, len(fields) * dim, hidden_units, dropout)
        self.gates = DomainLinear(self.n_domains, len(fields) * dim, experts, bias=False)
        widths = (self.experts.out_features, *tower_units, 1)
        towers = [DomainLinear(self.n_domains, *sizes) for sizes in itertools.pairwise(widths)]
        for tower in towers[:-1]:
            start_before_relu(tower.maps)
        nn.init.zeros_(towers[-1].maps.bias)
        self.towers = nn.ModuleList(towers)
        self.dropout = Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        result_rows = domain_result_rows(ids[:, self.domain_column], self.n_domains)
        inputs = self.embedding(ids).flatten(1)  # [batch, n_fields * dim]
        gates = self.gates(inputs, result_rows).softmax(dim=1)  # [batch, experts]
        hidden = (gates.unsqueeze(1) @ self.experts(inputs)).squeeze(1)  # [batch, hidden_units[-1]]
        *inner, last = self.towers
        for layer in inner:
            hidden = self.dropout(F.relu(layer(hidden, result_rows)))
        logits: Tensor = self.bias + last(hidden, result_rows).squeeze(1)
        return logits


def _he_uniform(fan_in: int, *shape: int) -> nn.Parameter:
    """As `start_before_relu`, for several matrices at once."""
    bound: float = (6 / fan_in) ** 0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
