"""Adam for embedding tables: the cost of a step depends on the rows in the batch, not on the table's size.

It knows tables and gradients, not models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from export.train.row_gradients import rows_and_gradients


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba, ICLR 2015, Algorithm 1) on the rows that a batch looked up; others do not change.

    Two things differ from dense Adam. A row that is not looked up keeps its moments, so momentum does not
    move it: the row of a rare id moves about three learning rates each time, not thirty. And the L2 penalty's
    gradient, due at every step, is applied at a row's next lookup for all steps since its last one. Gradients
    add up to those of dense L2, but Adam normalises them with that lookup's own: a rare row moves a few
    learning rates, however long its absence. (Zhou et al., "Deep Interest Network", KDD 2018, section 5.1,
    has the same aim: an L2 that computes on the batch's rows only and includes rare ids.)
    """

    def __init__(
        self,
        tables: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        l2: float = 0.0,
    ) -> None:
        super().__init__(tables, {"lr": lr, "betas": betas, "eps": eps, "l2": l2})
        self.steps = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the rows in each table's gradient, sparse ([touched, dim]) or dense ([rows, dim])."""
        self.steps += 1
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, *rows_and_gradients(table.grad), group)

    def _update(self, table: Tensor, rows: Tensor, gradients: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state["mean"] = torch.zeros_like(table)
            state["square"] = torch.zeros_like(table)
            state["seen"] = torch.zeros(len(table), dtype=torch.int32, device=table.device)
        beta1, beta2 = group["betas"]
        values = table.index_select(0, rows)  # [touched, dim]
        if group["l2"]:
            elapsed = (self.steps - state["seen"].index_select(0, rows)).to(values.dtype)
            gradients = gradients.addcmul(values, elapsed.unsqueeze(1), value=group["l2"])
            state["seen"].index_fill_(0, rows, self.steps)
        mean = state["mean"].index_select(0, rows).lerp_(gradients, 1 - beta1)
        square = state["square"].index_select(0, rows)
        square.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        state["mean"].index_copy_(0, rows, mean)
        state["square"].index_copy_(0, rows, square)
        scale = square.div_(1 - beta2**self.steps).sqrt_().add_(group["eps"])
        values.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**self.steps))
        table.index_copy_(0, rows, values)
