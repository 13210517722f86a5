"""The layers above the embeddings that models share: interactions of fields, the perceptron.

They know nothing of schemas, training or export. Equation numbers without another paper are those of
DeepLight (Deng et al., "DeepLight: Deep Lightweight Feature Interactions for Accelerating CTR
Predictions in Ad Serving", WSDM 2021).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.hyperparameters import check_count, check_widths

HeadSizes = Sequence[tuple[int, int]]
"""Of each head of attention the length of its queries and keys, and that of its values."""


class FieldLinear(nn.Module):
    """The linear term of FwFM, eq. 6: the sum of <e_i, v_f>, a vector v_f for each field."""

    def __init__(self, n_fields: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_fields, dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch]."""
        # Not a flat matrix-vector product, which is slower in ONNX Runtime.
        return (embeddings * self.weight).sum(dim=(1, 2))


def checked_pairs(n_fields: int, pairs: Sequence[tuple[int, int]] | None) -> tuple[tuple[int, int], ...]:
    """The pairs that a layer keeps, by default all i < j. Raises ValueError for others than these."""
    every = tuple(itertools.combinations(range(n_fields), 2))
    kept = every if pairs is None else tuple((int(i), int(j)) for i, j in pairs)
    if not set(kept) <= set(every) or len(set(kept)) < len(kept):
        raise ValueError(
            f"'pairs' must be distinct (i, j) with 0 <= i < j < {n_fields} (got {kept!r}); "
            "a pair has no order, so give each in one"
        )
    return kept


class FieldPairs(nn.Module):
    """The pairwise term of FwFM, eq. 6: the sum over pairs i < j of <e_i, e_j> R_ij.

    Only R's upper triangle U is a parameter, so R is symmetric by construction. `pairs` lists the entries
    kept. The sum is computed as sum_i <e_i, (U e)_i>, one small matrix product per row, for any number of
    pairs: gathering pairs is only faster, and by little, with fewer pairs than fields
    (docs/measured-training.md).
    """

    left: Tensor
    right: Tensor

    def __init__(self, n_fields: int, pairs: Sequence[tuple[int, int]] | None = None) -> None:
        super().__init__()
        self.n_fields, self.pairs = n_fields, checked_pairs(n_fields, pairs)
        self.weight = nn.Parameter(torch.empty(len(self.pairs)))
        nn.init.uniform_(self.weight, -(n_fields**-0.5), n_fields**-0.5)
        ends = torch.tensor(self.pairs, dtype=torch.int64).reshape(-1, 2)
        self.register_buffer("left", ends[:, 0].contiguous(), persistent=False)
        self.register_buffer("right", ends[:, 1].contiguous(), persistent=False)

    def triangle(self) -> Tensor:
        """U [n_fields, n_fields]: R above the diagonal, 0 elsewhere and for pairs not kept."""
        empty = self.weight.new_zeros(self.n_fields, self.n_fields)
        return empty.index_put((self.left, self.right), self.weight)

    def matrix(self) -> Tensor:
        """R [n_fields, n_fields], symmetric, with a zero diagonal."""
        upper = self.triangle()
        return upper + upper.T

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch]."""
        return (embeddings * (self.triangle() @ embeddings)).sum(dim=(1, 2))


class BiInteraction(nn.Module):
    """Bi-interaction pooling: the sum over pairs i < j of e_i * e_j, element by element.

    Reference: He & Chua, "Neural Factorization Machines for Sparse Predictive Analytics", SIGIR 2017, eq. 4;
    summed over dim it is the pairwise term of Rendle, "Factorization Machines", ICDM 2010.
    """

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, dim]."""
        return 0.5 * (embeddings.sum(dim=1).square() - embeddings.square().sum(dim=1))


class InnerProducts(nn.Module):
    """<f_i, f_j> for every pair i < j, or those in `pairs`: entries of one matrix product per row."""

    positions: Tensor

    def __init__(self, n_fields: int, pairs: Sequence[tuple[int, int]] | None = None) -> None:
        super().__init__()
        self.pairs = checked_pairs(n_fields, pairs)
        self.out_features = len(self.pairs)
        positions = torch.tensor([i * n_fields + j for i, j in self.pairs], dtype=torch.int64)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, n_pairs], in the order of the pairs."""
        products = embeddings @ embeddings.transpose(1, 2)  # [batch, n_fields, n_fields]
        return products.flatten(1).index_select(1, self.positions)


class InteractingLayer(nn.Module):
    """Multi-head self-attention over the fields, plus W_Res e, through a ReLU.

    Reference: Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural
    Networks", CIKM 2019, eq. 5 to 8; `scaled` divides the scores by sqrt(attention_dim), as in a transformer.
    `sizes` replaces the heads.

    Two alternatives are slower: one product with all four matrices, split in four, and heads as a separate
    axis, which needs copies.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        attention_dim: int,
        scaled: bool = False,
        sizes: HeadSizes | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("heads", heads), ("attention_dim", attention_dim)):
            check_count(name, value, 1, "attention needs a head of size 1")
        for length in itertools.chain.from_iterable(sizes or ()):
            check_count("head_sizes", length, 1, "a head is (length of its queries, length of its values)")
        self.heads, self.attention_dim = heads, attention_dim
        every = [(attention_dim, attention_dim)] * heads if sizes is None else sizes
        self.sizes = [(int(queries), int(values)) for queries, values in every]
        self.query_sizes, self.value_sizes = (list(lengths) for lengths in zip(*self.sizes, strict=True))
        self.out_features = sum(self.value_sizes)
        self.scale = attention_dim**-0.5 if scaled else 1.0
        lengths = sum(self.query_sizes), sum(self.query_sizes), self.out_features, self.out_features
        self.query, self.key, self.value, self.residual = (
            nn.Linear(dim, length, bias=False) for length in lengths
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, n_fields, out_features], all heads' values."""
        queries = torch.split(self.query(embeddings) * self.scale, self.query_sizes, dim=2)
        keys = torch.split(self.key(embeddings), self.query_sizes, dim=2)
        values = torch.split(self.value(embeddings), self.value_sizes, dim=2)
        by_head = zip(queries, keys, values, strict=True)
        attended = [(query @ key.transpose(1, 2)).softmax(dim=2) @ value for query, key, value in by_head]
        return torch.relu(torch.cat(attended, dim=2) + self.residual(embeddings))


def sizes_of_layers(sizes: Sequence[HeadSizes] | None, layers: int) -> Sequence[HeadSizes | None]:
    """`head_sizes` of a model as `sizes` of each of its interacting layers."""
    if sizes is None:
        return [None] * layers
    if len(sizes) != layers or not all(sizes):
        raise ValueError(
            f"'head_sizes' must be a list of heads for each of {layers} layers (got {sizes!r}); "
            "a head is (length of its queries, length of its values)"
        )
    return sizes


class Dropout(nn.Module):
    """Sets a share of its inputs to zero in training and scales up the rest; a faster nn.Dropout.

    nn.Dropout generates one Bernoulli number at a time, slow on a CPU. Here each random 64-bit integer gives
    four 16-bit numbers; the share is exact to 2^-16.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0.0 <= share < 1.0:
            raise ValueError(f"'dropout' must be in [0, 1) (got {share!r}); it is the share of units dropped")
        self.share = share

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        if not self.training or self.share == 0.0:
            return inputs
        random = torch.empty(-(-inputs.numel() // 4), dtype=torch.int64, device=inputs.device)
        random.random_(-(2**63), None)
        levels = random.view(torch.int16)[: inputs.numel()].view(inputs.shape)  # uniform over [-2^15, 2^15)
        dropped = min(round(self.share * 2**16), 2**16 - 1)
        kept = (levels >= dropped - 2**15).to(inputs.dtype)
        return inputs * kept.mul_(2**16 / (2**16 - dropped))


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization that uses running statistics for a batch of one row, which has no variance."""

    running_mean: Tensor
    running_var: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [batch, features] -> [batch, features]."""
        if not self.training or len(inputs) > 1:
            return super().forward(inputs)
        scale, shift = self._affine()
        return inputs * scale + shift

    def fold_into(self, layer: nn.Linear) -> None:
        """Changes `layer` so that it computes layer(normalize(x)) for x, with the running statistics.

        Its input may hold several x, one behind the other.
        """
        several = layer.in_features // self.num_features
        scale, shift = (values.repeat(several) for values in self._affine())
        with torch.no_grad():
            layer.bias.add_(layer.weight @ shift)
            layer.weight.mul_(scale)

    def _affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift [features] from the running statistics."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale


def start_before_relu(layer: nn.Linear) -> None:
    """Initial values of a linear layer whose results go through a ReLU: He-uniform weights, zero biases.

    Reference: He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10. PyTorch's default has a sixth of
    that variance, so a deep perceptron's logits start almost equal for all rows.
    """
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    """A perceptron with ReLU and dropout after each hidden layer and one linear output, eq. 5's deep part.

    `activation` creates the activation of a layer with the given number of neurons, in place of ReLU. With
    `outputs=None` there is no output layer, and other parts read the last hidden layer.

    Hidden weights start uniform, not normal: pruning by magnitude would keep the random tails of a normal
    distribution, so more neurons stay alive (docs/measured-training.md).
    """

    output: nn.Linear

    def __init__(
        self,
        in_features: int,
        hidden_units: Sequence[int],
        dropout: float,
        outputs: int | None = 1,
        activation: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        check_widths("hidden_units", hidden_units, "they are the widths of its hidden layers")
        widths = (in_features, *hidden_units)
        self.out_features = widths[-1] if outputs is None else outputs
        hidden = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(widths)]
        for layer in hidden:
            start_before_relu(layer)
        self.hidden = nn.ModuleList(hidden)
        self.has_output = outputs is not None
        if self.has_output:
            self.output = nn.Linear(widths[-1], self.out_features)
            nn.init.zeros_(self.output.bias)
        self.dropout = Dropout(dropout)
        self.activations = None if activation is None else nn.ModuleList(map(activation, hidden_units))

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [batch, in_features] -> [batch] with one output, else [batch, out_features]."""
        for number, layer in enumerate(self.hidden):
            activate = F.relu if self.activations is None else self.activations[number]
            inputs = self.dropout(activate(layer(inputs)))
        if not self.has_output:
            return inputs
        outputs: Tensor = self.output(inputs)
        return outputs.squeeze(1) if self.out_features == 1 else outputs
