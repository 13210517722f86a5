"""AFN+: products of embeddings, each to a power that is learned, under a perceptron, beside another one.

Reference: Cheng, Shen & Huang, "Adaptive Factorization Network: Learning Adaptive-Order Feature
Interactions", AAAI 2020: the logarithmic transformation layer, and the ensemble with a perceptron on
embeddings of its own, AFN+. Departs from it in the least |e|, 1e-5 as in FuxiCTR's code; in hidden layers,
which are not normalized; in the sum of both parts, whose weights are those of the output layers; in initial
values, positive embeddings, running statistics of these and small weights of an output; and in the sizes,
which are ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from models.embedding import EMBEDDING_STD, FeaturesEmbedding
from models.fields import Field, stored_rows
from models.hyperparameters import check_count, check_widths
from models.layers import MLP, BatchNorm

LEAST = 1e-5
# Of ln|x| for x from a normal distribution of mean 0 and deviation 1.
LOG_MEAN, LOG_VARIANCE = -0.5 * (0.5772156649 + math.log(2.0)), math.pi**2 / 8.0


class LogarithmicNeurons(nn.Module):
    """y_j = exp(sum over fields i of w_ij ln |e_i|), so the product of |e_i|^w_ij, element by element.

    Logarithms are normalized by field, and products by neuron, over the batch and the elements.
    """

    def __init__(self, n_fields: int, neurons: int) -> None:
        super().__init__()
        check_count("neurons", neurons, 1, "each is a product of embeddings")
        self.normalize_logs = BatchNorm(n_fields)
        # What new embeddings have: before the first step nothing else is known of the logarithms.
        self.normalize_logs.running_mean.fill_(LOG_MEAN + math.log(EMBEDDING_STD))
        self.normalize_logs.running_var.fill_(LOG_VARIANCE)
        self.powers = nn.Linear(n_fields, neurons, bias=False)
        nn.init.xavier_uniform_(self.powers.weight)
        self.normalize = BatchNorm(neurons)
        self.reads_logs = False  # in place of embeddings

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [batch, n_fields, dim] -> [batch, dim * neurons]."""
        logs = embeddings if self.reads_logs else logarithms(embeddings)
        by_element = logs.transpose(1, 2).flatten(0, 1)  # [batch * dim, n_fields]
        products = torch.exp(self.powers(self.normalize_logs(by_element)))
        normalized: Tensor = self.normalize(products)  # [batch * dim, neurons]
        return normalized.reshape(-1, embeddings.shape[2] * self.powers.out_features)

    def fold_into(self, reader: nn.Linear) -> None:
        """Changes powers and `reader`, which reads the products, so that nothing is normalized any more."""
        self.normalize.fold_into(reader)
        self.powers.bias = nn.Parameter(self.powers.weight.new_zeros(self.powers.out_features))
        self.normalize_logs.fold_into(self.powers)
        parts: Any = self
        parts.normalize, parts.normalize_logs = nn.Identity(), nn.Identity()

    def read_logs_of(self, embedding: FeaturesEmbedding) -> None:
        """Changes a table of embeddings, one row for a field's id, to one of their logarithms.

        Those of a field lie around 0, where an INT8 table is finest; powers' bias holds the rest.
        """
        table = embedding.table.weight.data
        table.copy_(logarithms(table))
        middles: dict[int, Tensor] = {}  # by first row, which fields may share
        firsts = embedding.offsets.tolist()
        for field, first in zip(embedding.fields, firsts, strict=True):
            rows = table[first : first + stored_rows(field)]
            if first not in middles:
                middles[first] = (rows.max() + rows.min()) / 2.0
                rows.sub_(middles[first])
        moved = torch.stack([middles[first] for first in firsts])
        self.powers.bias.data.add_(self.powers.weight @ moved)
        self.reads_logs = True


class AFN(nn.Module):
    """MLP(logarithmic neurons of e) + MLP(e'), with embeddings e and e'.

    hidden_units  the hidden layers of the first perceptron
    second_units  those of the second one
    neurons       how many products the first one reads
    ensemble      whether there is a second one; without it this is AFN and not AFN+
    """

    def __init__(
        self,
        fields: Sequence[Field],
        dim: int = 10,
        hidden_units: Sequence[int] = (400, 400),
        dropout: float = 0.2,
        second_units: Sequence[int] = (400, 400),
        neurons: int = 64,
        ensemble: bool = True,
    ) -> None:
        super().__init__()
        check_widths("second_units", second_units, "they are the hidden layers of the second perceptron")
        self.fields = tuple(fields)
        self.embedding = FeaturesEmbedding(fields, dim)
        # No sign matters, and a mean of positive ones, which stands for unknown ids, is of their size.
        self.embedding.table.weight.data.abs_()
        self.logarithmic = LogarithmicNeurons(len(fields), neurons)
        self.mlp = MLP(dim * neurons, hidden_units, dropout)
        # Normalized products are of unit size for any row; the logits of a new model are near its bias.
        nn.init.normal_(self.mlp.output.weight, std=EMBEDDING_STD)
        self.second_embedding = FeaturesEmbedding(fields, dim) if ensemble else None
        self.second = MLP(len(fields) * dim, second_units, dropout) if ensemble else None
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        logits: Tensor = self.bias + self.mlp(self.logarithmic(self.embedding(ids)))
        if self.second_embedding is not None and self.second is not None:
            logits = logits + self.second(self.second_embedding(ids).flatten(1))
        return logits

    def folded(self) -> Self:
        """For inference: normalizations fold into linear layers; logarithms are looked up if possible."""
        folded = copy.deepcopy(self).eval()
        layers: Any = [*folded.mlp.hidden, folded.mlp.output]
        folded.logarithmic.fold_into(layers[0])
        if all(field.width == 1 and field.storage != "qr" for field in self.fields):
            folded.logarithmic.read_logs_of(folded.embedding)
        return folded


def logarithms(embeddings: Tensor) -> Tensor:
    """ln |e|, of at least LEAST; any shape -> the same shape."""
    return embeddings.abs().clamp(min=LEAST).log()
