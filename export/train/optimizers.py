"""The optimizers of a model: one for the embedding tables and one for all other weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from export.train.config import TrainConfig
from export.train.ftrl import Ftrl
from export.train.row_adam import RowAdam


class Optimizers:
    """All optimizers of a model as one. Only the table rows that a batch looked up are updated.

    `l2_factors` multiplies Adam's penalty by row, [rows, 1], of the tables that it names.
    """

    def __init__(
        self,
        model: nn.Module,
        tables: Iterable[Tensor],
        config: TrainConfig,
        l2_factors: Mapping[Tensor, Tensor] | None = None,
    ) -> None:
        tables = list(tables)
        ids_of_tables = {id(table) for table in tables}
        rest = [weights for weights in model.parameters() if id(weights) not in ids_of_tables]
        self.weights = [*tables, *rest]
        self._all: list[torch.optim.Optimizer] = []
        if tables:
            self._all.append(_of_tables(tables, config, l2_factors))
        if rest:
            self._all.append(_of_layers(rest, config))

    def step(self, rate: float, rows: int) -> None:
        """Updates from the gradients of a batch of `rows` rows, then clears them; `rate` is Adam's."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group |= {"rows": rows} if isinstance(optimizer, Ftrl) else {"lr": rate}
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def settle(self) -> None:
        """Moves rows by the momentum that waits for their next lookup."""
        for optimizer in self._all:
            if isinstance(optimizer, RowAdam):
                optimizer.settle()


def _of_tables(
    tables: Sequence[Tensor], config: TrainConfig, l2_factors: Mapping[Tensor, Tensor] | None
) -> torch.optim.Optimizer:
    if config.embedding_optimizer == "adam":
        weights = [table for table in tables if table.shape[1] == 1]  # LR's, and those of linear terms
        vectors = [table for table in tables if table.shape[1] > 1]
        groups = [
            {"params": each, "l2": l2}
            for each, l2 in ((weights, config.linear_l2), (vectors, config.embedding_l2))
            if each
        ]
        return RowAdam(groups, config.learning_rate, l2_factors=l2_factors)
    grouped = config.embedding_optimizer == "group-lasso-ftrl"
    return _ftrl(tables, config, group_lasso=config.group_lasso if grouped else 0.0)


def _of_layers(weights: Sequence[Tensor], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam(weights, config.learning_rate, weight_decay=config.l2, fused=True)
    return _ftrl(weights, config)


def _ftrl(weights: Sequence[Tensor], config: TrainConfig, group_lasso: float = 0.0) -> Ftrl:
    return Ftrl(
        weights,
        config.ftrl_alpha,
        beta=config.ftrl_beta,
        l1=config.ftrl_l1,
        l2=config.ftrl_l2,
        group_lasso=group_lasso,
    )


@contextlib.contextmanager
def sparse_gradients(model: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a model's embedding tables; within the context their gradients are sparse."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    before = [embedding.sparse for embedding in embeddings]
    try:
        for embedding in embeddings:
            embedding.sparse = True
        yield list({id(embedding.weight): embedding.weight for embedding in embeddings}.values())
    finally:
        for embedding, sparse in zip(embeddings, before, strict=True):
            embedding.sparse = sparse
