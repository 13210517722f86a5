"""STAR: a perceptron whose weights are the product of a shared part and a part of each domain.

Reference: Sheng et al., "One Model to Serve All: Star Topology Adaptive Recommender for Multi-Domain CTR
Prediction", CIKM 2021, section 3: partitioned normalization, star topology network, auxiliary network. Layer
widths are those of APG's comparison (Yan et al., "APG: Adaptive Parameter Generation Network for
Click-Through Rate Prediction", NeurIPS 2022, appendix B.3), which uses it as a coarse-grained baseline.
Departs from STAR in batches, which mix domains here and have one domain there: the normalization computes
statistics per domain within the batch.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.domains import DomainLinear, domain_column, domain_field, domain_result_rows
from models.embedding import FeaturesEmbedding
from models.fields import Field
from models.hyperparameters import check_widths
from models.layers import MLP, Dropout, start_before_relu


class StarLinear(nn.Module):
    """The map of domain k: weights W * W_k, element by element, and bias b + b_k.

    All domains' maps are applied and each row keeps one result; DomainLinear states the cost. W_k starts at
    one and b_k at zero, so all domains start as the shared network.
    """

    def __init__(self, n_domains: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.shared = nn.Linear(in_features, out_features)
        self.weight = nn.Parameter(torch.ones(n_domains, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(n_domains, out_features))

    def forward(self, inputs: Tensor, result_rows: Tensor) -> Tensor:
        """inputs [batch, in_features], result_rows [batch] of domain_result_rows -> [batch, out_features]."""
        weight, bias = self.shared.weight * self.weight, self.shared.bias + self.bias
        results = F.linear(inputs, weight.flatten(0, 1), bias.flatten())  # [batch, n_domains * out_features]
        return results.reshape(-1, self.shared.out_features).index_select(0, result_rows)

    def bias_with(self, inputs: Tensor, columns: Tensor) -> Tensor:
        """The biases of domains, with what some columns of inputs [n_domains, in_features] add to them.

        Without those columns the map with these biases computes the same.
        """
        weight = (self.shared.weight * self.weight)[:, :, columns]
        return self.bias + (weight @ inputs[:, columns].unsqueeze(2)).squeeze(2)

    def product(self) -> DomainLinear:
        """The same maps as a DomainLinear, without shared weights."""
        n_domains, out_features, in_features = self.weight.shape
        maps = DomainLinear(n_domains, in_features, out_features)
        with torch.no_grad():
            maps.maps.weight.copy_((self.shared.weight * self.weight).flatten(0, 1))
            maps.maps.bias.copy_((self.shared.bias + self.bias).flatten())
        return maps.eval()


class PartitionedNorm(nn.Module):
    """Normalization by the statistics of a row's own domain.

    (z - mean_k) / sqrt(var_k + eps) * (gamma * gamma_k) + (beta + beta_k): mean and variance over the batch's
    rows of domain k in training, running statistics otherwise. A domain with fewer than FEWEST_ROWS rows in a
    batch is normalized by its running statistics, because a single row would become zero, and updates them in
    proportion to its rows.
    """

    FEWEST_ROWS = 32

    running_mean: Tensor
    running_square: Tensor

    def __init__(self, n_domains: int, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.n_domains, self.momentum, self.eps = n_domains, momentum, eps
        self.gamma = nn.Parameter(torch.ones(features))
        self.beta = nn.Parameter(torch.zeros(features))
        self.domain_gamma = nn.Parameter(torch.ones(n_domains, features))
        self.domain_beta = nn.Parameter(torch.zeros(n_domains, features))
        self.register_buffer("running_mean", torch.zeros(n_domains, features))
        self.register_buffer("running_square", torch.ones(n_domains, features))  # the mean of z * z

    def forward(self, inputs: Tensor, domains: Tensor) -> Tensor:
        """inputs [batch, features], domains [batch] -> [batch, features]."""
        mean, variance = self._batch_statistics(inputs, domains) if self.training else self._running()
        scale, shift = self._affine(mean, variance)
        return inputs * F.embedding(domains, scale) + F.embedding(domains, shift)

    def of_zeros(self) -> Tensor:
        """What inputs of zero become by the running statistics, [n_domains, features]."""
        return self._affine(*self._running())[1]

    def fold_into(self, layer: DomainLinear) -> None:
        """Changes `layer` so that it computes layer(normalize(z)) for z, with the running statistics."""
        scale, shift = self._affine(*self._running())
        with torch.no_grad():
            weight = layer.maps.weight.reshape(self.n_domains, layer.out_features, -1)
            layer.maps.bias.add_((weight @ shift.unsqueeze(2)).flatten())
            layer.maps.weight.copy_((weight * scale.unsqueeze(1)).flatten(0, 1))

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics [n_domains, features] -> scale and shift of the same shape."""
        scale = self.gamma * self.domain_gamma * torch.rsqrt(variance + self.eps)
        return scale, self.beta + self.domain_beta - mean * scale

    def _running(self) -> tuple[Tensor, Tensor]:
        """The running mean and variance [n_domains, features]."""
        return self.running_mean, (self.running_square - self.running_mean.square()).clamp(min=0.0)

    def _batch_statistics(self, inputs: Tensor, domains: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [n_domains, features] of each domain's rows; updates the running statistics."""
        members = F.one_hot(domains.long(), self.n_domains).to(inputs.dtype)  # [batch, n_domains]
        counts = members.sum(dim=0).unsqueeze(1)  # [n_domains, 1]
        weights = (members / counts.T.clamp(min=1.0)).T  # [n_domains, batch], each row sums to 1
        mean = weights @ inputs
        variance = weights @ (inputs - F.embedding(domains, mean)).square()
        running_mean, running_variance = self._running()
        enough = counts >= self.FEWEST_ROWS
        statistics = torch.where(enough, mean, running_mean), torch.where(enough, variance, running_variance)
        with torch.no_grad():
            share = self.momentum * (counts / self.FEWEST_ROWS).clamp(max=1.0)
            self.running_mean.lerp_(mean, share)
            self.running_square.lerp_(variance + mean.square(), share)
        return statistics


class _Unchanged(nn.Module):
    """Replaces a normalization that was folded into a layer."""

    def forward(self, inputs: Tensor, domains: Tensor) -> Tensor:
        """inputs [batch, features] -> the same."""
        return inputs


class STAR(nn.Module):
    """star_k(normalize_k(e)) + auxiliary(e), k the row's domain.

    e includes the domain's embedding, so the auxiliary network sees the domain.

    hidden_units     the star topology network's hidden layers
    auxiliary_units  the auxiliary network's hidden layers; by default it has two layers with its output
    domain           the field whose ids are the domains; None: the context field with the fewest ids
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (256, 128, 64),
        dropout: float = 0.0,
        auxiliary_units: Sequence[int] = (64,),
        domain: str | None = None,
    ) -> None:
        super().__init__()
        check_widths("hidden_units", hidden_units, "they are the star network's hidden layers")
        check_widths("auxiliary_units", auxiliary_units, "they are the auxiliary network's hidden layers")
        self.fields = tuple(fields)
        field = domain_field(fields, domain)
        self.domain_column, self.n_domains = domain_column(fields, field), field.cardinality
        self.embedding = FeaturesEmbedding(fields, dim)
        widths = (len(fields) * dim, *hidden_units, 1)
        self.normalize: nn.Module = PartitionedNorm(self.n_domains, widths[0])
        layers = [StarLinear(self.n_domains, *sizes) for sizes in itertools.pairwise(widths)]
        for layer in layers[:-1]:
            start_before_relu(layer.shared)
        nn.init.zeros_(layers[-1].shared.bias)
        self.layers = nn.ModuleList(layers)
        self.dropout = Dropout(dropout)
        self.auxiliary = MLP(widths[0], auxiliary_units, dropout)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        domains = ids[:, self.domain_column]
        result_rows = domain_result_rows(domains, self.n_domains)
        inputs = self.embedding(ids).flatten(1)  # [batch, n_fields * dim]
        hidden = self.normalize(inputs, domains)
        *inner, last = self.layers
        for layer in inner:
            hidden = self.dropout(F.relu(layer(hidden, result_rows)))
        logits: Tensor = self.bias + last(hidden, result_rows).squeeze(1) + self.auxiliary(inputs)
        return logits

    def folded(self) -> Self:
        """For inference: weights are multiplied per domain, the normalization folds into the first layer."""
        folded = copy.deepcopy(self).eval()
        if isinstance(self.normalize, PartitionedNorm):
            maps = [layer.product() for layer in self.layers if isinstance(layer, StarLinear)]
            self.normalize.fold_into(maps[0])
            folded.normalize, folded.layers = _Unchanged(), nn.ModuleList(maps)
        return folded
