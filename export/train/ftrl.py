"""FTRL-Proximal and GroupLasso-FTRL: optimizers that produce exact zeros, by element or by embedding row.

They know tensors and gradients, not models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from export.train.row_gradients import rows_and_gradients


class Ftrl(torch.optim.Optimizer):
    """Follow the regularised leader: weights are a function of sums z of gradients and n of their squares.

    For each coordinate, with D = (beta + sqrt(n)) / alpha + l2,

        sigma = (sqrt(n + g^2) - sqrt(n)) / alpha;  z += g - sigma w;  n += g^2
        u = sign(z) max(|z| - l1, 0);  w = -u / D

    and with `group_lasso` lambda > 0 a table's row of `dim` weights is zero as a whole or not at all:

        w = -max(1 - lambda sqrt(dim) / |u|, 0) u / D

    The cost of a step is proportional to the rows of a sparse gradient, or to a dense one. Gradients are
    multiplied by the batch's number of rows (`rows` of the parameter group), which makes them sums over rows,
    so alpha, beta, l1, l2 and lambda have the papers' meaning for single rows, whatever the batch size.

    References: McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013, Algorithm 1; Ni et
    al., "Feature Selection for Facebook Feed Ranking System via a Group-Sparsity-Regularized Training
    Algorithm", CIKM 2019, for the group penalty, which Yan & Li, "xDeepInt", 2020, give the embedding tables.
    Departs from them in the initial weights: theirs are 0, but a deep model whose weights are all 0 has no
    gradient. Here z starts at -w D for the weights w at the first step, so without l1 and lambda every weight
    starts from its initial value; the thresholds apply from a weight's first update.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        alpha: float = 0.1,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        group_lasso: float = 0.0,
    ) -> None:
        settings = {"alpha": alpha, "beta": beta, "l1": l1, "l2": l2, "group_lasso": group_lasso, "rows": 1}
        super().__init__(weights, settings)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the coordinates in each gradient, [touched, dim] of a sparse one."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                z, n = self._sums(weights, group)
                if weights.grad.is_sparse:
                    _update_rows(weights, weights.grad, z, n, group)
                else:
                    weights.copy_(_advance(weights, weights.grad * group["rows"], z, n, group))

    def _sums(self, weights: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        state = self.state[weights]
        if not state:
            state["z"] = weights * -(group["beta"] / group["alpha"] + group["l2"])
            state["n"] = torch.zeros_like(weights)
        return state["z"], state["n"]


def _update_rows(weights: Tensor, gradient: Tensor, z: Tensor, n: Tensor, group: dict[str, Any]) -> None:
    """Updates the rows of a sparse gradient."""
    rows, gradients = rows_and_gradients(gradient)
    touched_z, touched_n = z.index_select(0, rows), n.index_select(0, rows)
    values = _advance(
        weights.index_select(0, rows), gradients.mul_(group["rows"]), touched_z, touched_n, group
    )
    z.index_copy_(0, rows, touched_z)
    n.index_copy_(0, rows, touched_n)
    weights.index_copy_(0, rows, values)


def _advance(weights: Tensor, gradients: Tensor, z: Tensor, n: Tensor, group: dict[str, Any]) -> Tensor:
    """Returns the new weights and updates z and n in place. All have one shape."""
    alpha, beta, l1, l2, lasso = (group[name] for name in ("alpha", "beta", "l1", "l2", "group_lasso"))
    root_before = n.sqrt()
    n.addcmul_(gradients, gradients)
    root = n.sqrt()
    z.add_(gradients).addcmul_(root - root_before, weights, value=-1 / alpha)
    kept = z.sign() * (z.abs() - l1).clamp_(min=0.0) if l1 else z
    if lasso:
        threshold = lasso * kept.shape[-1] ** 0.5
        lengths = torch.linalg.vector_norm(kept, dim=-1, keepdim=True)
        kept = kept * (1 - threshold / lengths.clamp(min=1e-30)).clamp_(min=0.0)
    # Not -kept, so a zero weight is 0 and not -0.
    return (0.0 - kept).div_(root.add_(beta).div_(alpha).add_(l2))
