"""When to prune and at which rate: Algorithm 1's growing rate, scaled to the number of steps.

It knows no weights. The paper's rate after k iterations of pruning is s(k) = S (1 - D^(k/W)), with D = 0.99
and W = 100. The share D^(k/W) of the target is then missing: 1e-7 after Criteo's 160,000 iterations, but 90 %
after 1,000. So W must grow with the number of steps K. Choose W so that a share `residual` (rho) of the
target is missing at K: W = K ln D / ln rho, hence D^(k/W) = rho^(k/K), and D drops out. Dividing by 1 - rho
makes the rate reach the target:

    s(k) = S (1 - rho^(k/K)) / (1 - rho),    s(0) = 0,  s(K) = S exactly, for every K >= 1.
"""

from __future__ import annotations

RESIDUAL = 0.01
"""rho: the rate is half of the target after 15 % of the steps, and nine tenths after half of them."""

LEAST_PRUNINGS = 20
"""On a small log ten steps are an epoch; with few prunings no weight has a chance to be restored."""


def sparse_rate(target: float, step: int, steps: int, residual: float = RESIDUAL) -> float:
    """The rate after `step` of `steps` training steps: 0 before the first, `target` after the last.

    `residual` in (0, 1): a smaller value makes the rate grow earlier.
    """
    if step <= 0:
        return 0.0
    if step >= steps:
        return target
    missing: float = residual ** (step / steps)
    return target * (1.0 - missing) / (1.0 - residual)


def pruning_interval(steps: int, every: int) -> int:
    """Steps between prunings: `every`, or fewer to give at least LEAST_PRUNINGS prunings."""
    return max(1, min(every, steps // LEAST_PRUNINGS))


def is_pruning_step(step: int, steps: int, every: int) -> bool:
    """Whether to prune after this step: every `every` steps, and always after the last."""
    return step == steps or (0 < step < steps and step % every == 0)
