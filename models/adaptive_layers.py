"""Linear layers whose weights are generated for each row: APG's versions v1 to v5.

Reference: Yan et al., "APG: Adaptive Parameter Generation Network for Click-Through Rate Prediction",
NeurIPS 2022, sections 3.1.2 and 3.2, with its equation numbers. A layer maps x of size M to size N; K is the
rank, P the inner width of the over-parameterisation, z the condition, D its size:

    v1  W_i x            W_i [N, M] generated from z                                            eq. 1, 2
    v2  (U_i S_i V_i) x  U_i [N, K], S_i [K, K] and V_i [K, M] generated                        eq. 3
    v3  U_i (S_i (V_i x))  the same, and W_i is never built: decomposed feed-forwarding         eq. 4
    v4  U (S_i (V x))    U and V are shared by all rows, only S_i is generated                  eq. 5, 6
    v5  as v4 with U = U_l U_r [N, P][P, K] and V = V_l V_r [K, P][P, M] in training            eq. 7

The reference's equations have neither a bias nor initial values. Here the bias is shared, as in a plain
layer, and not generated. The generator's own bias starts as the initial weights of a plain layer (S_i: the
identity) and its weights start small, so a new adaptive layer equals a new plain layer of rank K and departs
from it as z grows.

Departs from eq. 7 by a constant that is folded too: U = U_l U_r / P. Adam moves each entry of the factors by
the learning rate, so without the constant the product moves up to P times as far in a step, and v5 fails to
learn at rates at which v1 and v4 learn. v2 and v3 are of degree four in x if z = x and may diverge at high
rates: they need the reference's 0.005.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.apg_conditions import Aggregation, Mixture, condition_of_this_pass
from models.hyperparameters import check_choice, check_count, check_widths

Version = Literal["v1", "v2", "v3", "v4", "v5"]
VERSIONS: tuple[Version, ...] = get_args(Version)


@dataclass(frozen=True)
class Adaptation:
    """How a layer adapts.

    rank             K
    inner_width      P, of v5
    generator_units  widths of the generator's hidden layers; empty: a single layer
    condition_size   D; None means self-wise: z is the layer's input
    conditions       above 1, z is [batch, conditions, D]: each generates parameters, joined by `aggregation`
    """

    version: Version = "v5"
    rank: int = 8
    inner_width: int = 64
    generator_units: Sequence[int] = ()
    condition_size: int | None = None
    conditions: int = 1
    aggregation: Aggregation = "attention"

    def __post_init__(self) -> None:
        check_choice("version", self.version, VERSIONS, "v5 is all of APG")
        check_count("adaptive_rank", self.rank, 1, "it is a matrix's width")
        check_count("inner_width", self.inner_width, 1, "it is a matrix's width")
        check_widths("generator_units", self.generator_units, "they are the generators' hidden layers")


class Generator(nn.Module):
    """G: a perceptron from a condition to the entries of one or more matrices, eq. 1, 3 and 5.

    Each condition has its own perceptron. With mean or attention each generates all entries, which are
    averaged. With concatenation each generates a share of the entries: for S_i a share of the rows.
    """

    def __init__(self, condition_size: int, starts: Sequence[Tensor], how: Adaptation) -> None:
        """starts: the approximate initial values of each matrix."""
        super().__init__()
        self.shapes = [tuple(matrix.shape) for matrix in starts]
        self.sizes = [matrix.numel() for matrix in starts]
        start = torch.cat([matrix.flatten() for matrix in starts])
        scale = torch.cat([torch.full((matrix.numel(),), matrix.shape[1] ** -0.5) for matrix in starts])
        in_shares = how.conditions > 1 and how.aggregation == "concatenation"
        all_entries = torch.arange(start.numel())
        entries = all_entries.tensor_split(how.conditions) if in_shares else [all_entries] * how.conditions
        self.networks = nn.ModuleList(
            _perceptron(condition_size, how.generator_units, start[own], scale[own]) for own in entries
        )
        mixes = how.conditions > 1 and not in_shares
        self.mixture = Mixture(how.aggregation, how.conditions, start.numel()) if mixes else None

    def forward(self, condition: Tensor) -> list[Tensor]:
        """condition [batch, D], or [batch, conditions, D] -> a matrix [batch, *shape] for each shape."""
        if len(self.networks) == 1:
            entries = self.networks[0](condition)
        else:
            each = [network(condition[:, j]) for j, network in enumerate(self.networks)]
            entries = (
                torch.cat(each, dim=1) if self.mixture is None else self.mixture(torch.stack(each, dim=1))
            )
        parts = entries.split(self.sizes, dim=1) if len(self.sizes) > 1 else (entries,)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]


class AdaptiveLinear(nn.Module):
    """A linear layer with different weights for each row; it replaces an nn.Linear before a ReLU."""

    def __init__(self, in_features: int, out_features: int, how: Adaptation | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.how = how = Adaptation() if how is None else how
        N, M, K, P = out_features, in_features, how.rank, how.inner_width
        if how.version == "v1":
            generated = [_uniform(N, M, gain=2.0)]
        elif how.version in ("v2", "v3"):
            generated = [_uniform(N, K, gain=2.0), torch.eye(K), _uniform(K, M)]
        else:
            generated = [torch.eye(K)]
        if how.version == "v4":
            self.U = nn.Parameter(_uniform(N, K, gain=2.0))
            self.V = nn.Parameter(_uniform(K, M))
        if how.version == "v5":
            self.U_l, self.U_r = _factors(N, P, K, gain=2.0)
            self.V_l, self.V_r = _factors(K, P, M)
        self.generator = Generator(M if how.condition_size is None else how.condition_size, generated, how)
        self.bias = nn.Parameter(torch.zeros(N))

    def forward(self, inputs: Tensor, condition: Tensor | None = None) -> Tensor:
        """inputs [batch, M], condition as Generator takes it -> [batch, N].

        Without a condition it uses the inputs if the layer is self-wise, else the condition of this pass.
        """
        if condition is None:
            condition = inputs if self.how.condition_size is None else condition_of_this_pass()
        generated = self.generator(condition)
        match self.how.version:
            case "v1":
                (W,) = generated
                return _each_row(W, inputs) + self.bias
            case "v2":
                U, S, V = generated
                return _each_row(U @ S @ V, inputs) + self.bias
            case "v3":
                U, S, V = generated
                return _each_row(U, _each_row(S, _each_row(V, inputs))) + self.bias
            case _:
                (S,) = generated
                shared_U, shared_V = self.shared()
                return F.linear(_each_row(S, F.linear(inputs, shared_V)), shared_U, self.bias)

    def shared(self) -> tuple[Tensor, Tensor]:
        """U [N, K] and V [K, M] of v4 and v5. The product costs N P K per batch, not per row."""
        if self.how.version == "v5":
            P = self.how.inner_width
            return self.U_l @ self.U_r / P, self.V_l @ self.V_r / P
        return self.U, self.V

    def folded(self) -> AdaptiveLinear:
        """The same layer for inference: v5 becomes v4 with the products as U and V."""
        if self.how.version != "v5":
            return self
        plain = AdaptiveLinear(self.in_features, self.out_features, replace(self.how, version="v4"))
        with torch.no_grad():
            U, V = self.shared()
            plain.U.copy_(U)
            plain.V.copy_(V)
            plain.bias.copy_(self.bias)
        plain.generator = copy.deepcopy(self.generator)
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, version={self.how.version}, rank={self.how.rank}"


def _each_row(matrices: Tensor, vectors: Tensor) -> Tensor:
    """matrices [batch, n, m] times vectors [batch, m] -> [batch, n]."""
    return (matrices @ vectors.unsqueeze(2)).squeeze(2)


def _uniform(rows: int, columns: int, gain: float = 1.0) -> Tensor:
    """A matrix that multiplies the mean square of a vector by `gain`; before a ReLU it is 2."""
    bound = math.sqrt(3.0 * gain / columns)
    return torch.empty(rows, columns).uniform_(-bound, bound)


def _factors(rows: int, inner: int, columns: int, gain: float = 1.0) -> tuple[nn.Parameter, nn.Parameter]:
    """L [rows, inner] and R [inner, columns] of equal scale: L R / inner is like _uniform(rows, columns)."""
    bound = math.sqrt(3.0 * math.sqrt(inner * gain / columns))
    left, right = torch.empty(rows, inner), torch.empty(inner, columns)
    return nn.Parameter(left.uniform_(-bound, bound)), nn.Parameter(right.uniform_(-bound, bound))


def _perceptron(in_features: int, hidden_units: Sequence[int], start: Tensor, scale: Tensor) -> nn.Sequential:
    """[batch, in_features] -> [batch, len(start)]: `start` plus a small deviation of size `scale`."""
    layers: list[nn.Module] = []
    widths = (in_features, *hidden_units)
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    last = nn.Linear(widths[-1], start.numel())
    with torch.no_grad():
        last.weight.mul_(scale.unsqueeze(1))
        last.bias.copy_(start)
    return nn.Sequential(*layers, last)
