"""Adam for embedding tables: the cost of a step depends on the rows in the batch, not on the table's size.

It knows tables and gradients, not models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from export.train.row_gradients import rows_and_gradients

NEGLIGIBLE = 1e-8
"""What is left of a gradient's momentum, as a share of its first step, when a row is taken to rest."""


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba, ICLR 2015, Algorithm 1) that touches only the rows that a batch looked up.

    In dense Adam a row goes on moving by its momentum after it was looked up, and its moments decay: the row
    of a rare id moves about thirty learning rates for one gradient. Here both happen at the row's next
    lookup, or at `settle`, for all steps since its last one. Rows that are settled before each lookup are
    those of dense Adam, but for `eps`. Else a batch reads a row without the momentum of its absence, and the
    gradient is that of where it was.

    The L2 penalty's gradient, due at every step, is applied at a row's next lookup too. Gradients add up to
    those of dense L2, but Adam normalises them with that lookup's own: dense Adam moves a row without
    other gradients by a learning rate a step, however weak the penalty. (Zhou et al., "Deep Interest
    Network", KDD 2018, section 5.1, has the same aim: an L2 that computes on the batch's rows only and
    includes rare ids.) `l2_factors` multiplies it by row, [rows, 1], of the tables that it names.
    """

    def __init__(
        self,
        tables: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        l2: float = 0.0,
        l2_factors: Mapping[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(tables, {"lr": lr, "betas": betas, "eps": eps, "l2": l2})
        self.l2_factors = dict(l2_factors or {})
        self.steps = self.settled = 0
        for group in self.param_groups:
            group["drift"] = _Drift(*group["betas"], device=group["params"][0].device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the rows in each table's gradient, sparse ([touched, dim]) or dense ([rows, dim])."""
        self.steps += 1
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, *rows_and_gradients(table.grad), group)
            group["drift"].add(self.steps, self._rate(group))

    @torch.no_grad()
    def settle(self) -> None:
        """Moves all rows to where their momentum has brought them by now.

        The cost depends on the rows that batches looked up since the last time: most others are at rest.
        """
        for group in self.param_groups:
            since = max(0, self.settled - group["drift"].longest)
            for table in group["params"]:
                state = self.state[table]
                if state:
                    rows = torch.nonzero(state["seen"] > since).squeeze(1)
                    values, mean, square, seen = _looked_up(table, state, rows)
                    _drift(values, mean, square, group["drift"].due(seen), group["eps"])
                    table.index_copy_(0, rows, values)
            group["drift"].clear()
        self.settled = self.steps

    def _rate(self, group: dict[str, Any]) -> float:
        """The factor of mean / sqrt(square) in this step's update."""
        beta1, beta2 = group["betas"]
        rate: float = group["lr"] * math.sqrt(1 - beta2**self.steps) / (1 - beta1**self.steps)
        return rate

    def _update(self, table: Tensor, rows: Tensor, gradients: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state["mean"] = torch.zeros_like(table)
            state["square"] = torch.zeros_like(table)
            state["seen"] = torch.zeros(len(table), dtype=torch.int32, device=table.device)
        beta1, beta2 = group["betas"]
        values, mean, square, seen = _looked_up(table, state, rows)
        _drift(values, mean, square, group["drift"].due(seen), group["eps"])
        elapsed = (self.steps - seen).to(values.dtype).unsqueeze(1)
        if group["l2"]:
            factors = self.l2_factors.get(table)
            due = elapsed if factors is None else elapsed * factors.index_select(0, rows)
            gradients = gradients.addcmul(values, due, value=group["l2"])
        mean.mul_(beta1**elapsed).add_(gradients, alpha=1 - beta1)
        square.mul_(beta2**elapsed).addcmul_(gradients, gradients, value=1 - beta2)
        state["mean"].index_copy_(0, rows, mean)
        state["square"].index_copy_(0, rows, square)
        state["seen"].index_fill_(0, rows, self.steps)
        eps = group["eps"] * math.sqrt(1 - beta2**self.steps)
        values.addcdiv_(mean, square.sqrt_().add_(eps), value=-self._rate(group))
        table.index_copy_(0, rows, values)


def _looked_up(
    table: Tensor, state: dict[str, Tensor], rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Copies of these rows: values, mean and square, [touched, dim], and the steps of their gradients."""
    every = (table, state["mean"], state["square"], state["seen"])
    values, mean, square, seen = (each.index_select(0, rows) for each in every)
    return values, mean, square, seen


def _drift(values: Tensor, mean: Tensor, square: Tensor, due: Tensor, eps: float) -> None:
    """Moves values [touched, dim] in place by the momentum of absence; `due` [touched] is its length."""
    values.addcdiv_(mean * due.unsqueeze(1), square.sqrt().add_(eps), value=-1)


class _Drift:
    """How far the momentum of a gradient is still to move its row, by the step of the gradient.

    Without another gradient Adam's mean decays by beta1 a step and its square by beta2, so k steps later a
    row moves by that step's rate times (beta1 / sqrt(beta2))^k, in units of mean / sqrt(square) at the
    gradient. After `longest` steps no more is added.
    """

    def __init__(self, beta1: float, beta2: float, *, device: torch.device) -> None:
        decay = beta1 / math.sqrt(beta2) if beta1 else 0.0
        if decay >= 1:
            raise ValueError(f"'betas' must have beta1 < sqrt(beta2) (got {beta1}, {beta2}); lower beta1")
        self.longest = math.ceil(math.log(NEGLIGIBLE) / math.log(decay)) if decay else 0
        ages = torch.arange(self.longest, 0, -1, dtype=torch.float64)
        self._of_age = (decay**ages).to(device, torch.float32)  # the oldest first
        self._due = torch.zeros(1024, device=device)  # by step

    def add(self, step: int, rate: float) -> None:
        """Adds the move of a step, counted from 1, for the gradients of all steps before it."""
        if step >= len(self._due):
            self._due = torch.cat((self._due, torch.zeros_like(self._due)))
        first = max(1, step - self.longest)
        self._due[first:step].add_(self._of_age[self.longest - (step - first) :], alpha=rate)

    def due(self, steps: Tensor) -> Tensor:
        """What is due to rows whose last gradients are of these steps, [n] -> [n]."""
        return self._due.index_select(0, steps)

    def clear(self) -> None:
        """Takes all rows as moved."""
        self._due.zero_()
