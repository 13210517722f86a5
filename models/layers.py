"""The layers that models share above their embeddings: interactions of fields, the perceptron.

They know nothing of schemas, training or export. Where a class names no other paper, equation numbers are
those of DeepLight (Deng et al., "DeepLight: Deep Lightweight Feature Interactions for Accelerating CTR
Predictions in Ad Serving", WSDM 2021).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.hyperparameters import check_count, check_widths


class FieldLinear(nn.Module):
    """The linear term of FwFM, eq. 6: the sum of <e_i, v_f>, one vector v_f a field, no weight an id."""

    def __init__(self, n_fields: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_fields, dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch]."""
        # A flat matrix-vector product is the same sum; ONNX Runtime takes three times as long over it.
        return (embeddings * self.weight).sum(dim=(1, 2))


class FieldPairs(nn.Module):
    """The pairwise term of FwFM, eq. 6: the sum over pairs i < j of <e_i, e_j> R_ij.

    Only R's upper triangle U is a parameter: R is symmetric by construction. `pairs` names the entries kept.
    The sum is written as sum_i <e_i, (U e)_i>, one small matrix product a row. ONNX Runtime, one thread, 39
    fields, k = 10, microseconds at 1 / 64 / 1024 rows with the lookup and the linear term: 6 / 41 / 600 so
    written whatever the pairs; x (U kron I) x 10 / 95 / 1420; gathering both ends of all 741 pairs 16 / 390 /
    8080, of 37 pairs 7 / 35 / 500, of 8 pairs 6 / 22 / 290. So gathering gains little and only once fewer
    pairs than fields are left: one form serves all.
    """

    left: Tensor
    right: Tensor

    def __init__(self, n_fields: int, pairs: Sequence[tuple[int, int]] | None = None) -> None:
        super().__init__()
        self.n_fields = n_fields
        all_pairs = tuple(itertools.combinations(range(n_fields), 2))
        self.pairs = all_pairs if pairs is None else tuple((int(i), int(j)) for i, j in pairs)
        if not set(self.pairs) <= set(all_pairs) or len(set(self.pairs)) < len(self.pairs):
            raise ValueError(
                f"'pairs' must be distinct (i, j) with 0 <= i < j < {n_fields} (got {self.pairs!r}); "
                "R is symmetric, so one order of a pair says it all"
            )
        self.weight = nn.Parameter(torch.empty(len(self.pairs)))
        nn.init.uniform_(self.weight, -(n_fields**-0.5), n_fields**-0.5)
        ends = torch.tensor(self.pairs, dtype=torch.int64).reshape(-1, 2)
        self.register_buffer("left", ends[:, 0].contiguous(), persistent=False)
        self.register_buffer("right", ends[:, 1].contiguous(), persistent=False)

    def triangle(self) -> Tensor:
        """U [n_fields, n_fields]: R above the diagonal, 0 elsewhere and where a pair is not kept."""
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
    """<f_i, f_j> for every pair i < j: one matrix product a row, of which the upper triangle is read."""

    places: Tensor

    def __init__(self, n_fields: int) -> None:
        super().__init__()
        rows, columns = torch.triu_indices(n_fields, n_fields, offset=1)
        self.out_features = len(rows)
        self.register_buffer("places", rows * n_fields + columns, persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, n_pairs], by rows of the triangle."""
        products = embeddings @ embeddings.transpose(1, 2)  # [batch, n_fields, n_fields]
        return products.flatten(1).index_select(1, self.places)


class InteractingLayer(nn.Module):
    """Multi-head self-attention over the fields, plus W_Res e, through a ReLU.

    Reference: Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural
    Networks", CIKM 2019, eq. 5 to 8; `scaled` divides the scores by sqrt(attention_dim), as a transformer.

    Two ways that look cheaper are not: one product with all four matrices, cut in four, takes a third longer
    forward and backward at 2048 rows, and heads as an axis of their own cost copies, which cutting does not.
    """

    def __init__(self, dim: int, heads: int, attention_dim: int, scaled: bool = False) -> None:
        super().__init__()
        for name, value in (("heads", heads), ("attention_dim", attention_dim)):
            check_count(name, value, 1, "attention needs a head of size 1")
        self.heads, self.attention_dim = heads, attention_dim
        self.out_features = heads * attention_dim
        self.scale = attention_dim**-0.5 if scaled else 1.0
        self.query, self.key, self.value, self.residual = (
            nn.Linear(dim, self.out_features, bias=False) for _ in range(4)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, n_fields, heads * attention_dim]."""
        projected = (self.query(embeddings) * self.scale, self.key(embeddings), self.value(embeddings))
        by_head = zip(
            *(torch.split(vectors, self.attention_dim, dim=2) for vectors in projected), strict=True
        )
        attended = [(query @ key.transpose(1, 2)).softmax(dim=2) @ value for query, key, value in by_head]
        return torch.relu(torch.cat(attended, dim=2) + self.residual(embeddings))


class Dropout(nn.Module):
    """Sets a share of its inputs to zero in training and scales up the rest, as nn.Dropout does, but faster.

    nn.Dropout draws one Bernoulli number at a time: 7.6 ms for 2048 x 400 on a CPU, a third of DeepFwFM's
    training step. Here four 16-bit numbers come out of each 64-bit draw: 0.8 ms; the share is exact to 2^-16.
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
        draws = torch.empty(-(-inputs.numel() // 4), dtype=torch.int64, device=inputs.device)
        draws.random_(-(2**63), None)
        levels = draws.view(torch.int16)[: inputs.numel()].view(inputs.shape)  # uniform over [-2^15, 2^15)
        dropped = min(round(self.share * 2**16), 2**16 - 1)
        kept = (levels >= dropped - 2**15).to(inputs.dtype)
        return inputs * kept.mul_(2**16 / (2**16 - dropped))


class MLP(nn.Module):
    """A perceptron with ReLU and dropout after each hidden layer and one linear output, eq. 5's deep part.

    `activation` makes something else than ReLU for a layer of so many neurons. With `outputs=None` there is
    no output layer: a tower, whose last hidden layer others read.

    Weights start uniform (PyTorch's default), not normal: pruning by magnitude would keep the tails that a
    normal draw has by chance. On 2.1 million synthetic rows, D-99 % left 246, 208 and 270 of 400 neurons
    alive instead of 338, 326 and 325, and the AUC of the dense model was no worse (.7731 and .7722).
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
        self.hidden = nn.ModuleList(
            nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.has_output = outputs is not None
        if self.has_output:
            self.output = nn.Linear(widths[-1], self.out_features)
        self.dropout = Dropout(dropout)
        self.activations = None if activation is None else nn.ModuleList(map(activation, hidden_units))

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [batch, in_features] -> [batch] of one output, else [batch, out_features]."""
        for number, layer in enumerate(self.hidden):
            activate = F.relu if self.activations is None else self.activations[number]
            inputs = self.dropout(activate(layer(inputs)))
        if not self.has_output:
            return inputs
        outputs: Tensor = self.output(inputs)
        return outputs.squeeze(1) if self.out_features == 1 else outputs
