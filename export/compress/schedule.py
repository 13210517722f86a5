"""When to prune and how far: Algorithm 1's growing rate, scaled to the number of steps there are.

It knows no weights. The paper's rate after k iterations of pruning is s(k) = S (1 - D^(k/W)), with D = 0.99
and W = 100. What is left to go is D^(k/W): 1e-7 of the target after Criteo's 160,000 iterations, but still
90 % of it after 1,000. So W must grow with the number of steps K. Choose it so that a share `residual`
(rho) of the target is left at K: W = K ln D / ln rho, hence D^(k/W) = rho^(k/K), and D drops out. Dividing
by 1 - rho takes the rest away:

    s(k) = S (1 - rho^(k/K)) / (1 - rho),    s(0) = 0,  s(K) = S exactly, for every K >= 1.
"""

from __future__ import annotations

RESIDUAL = 0.01
"""rho: half of the target is reached after 15 % of the steps, nine tenths after half of them."""

LEAST_PRUNINGS = 20
"""On a small log ten steps are an epoch: pruning all at once there leaves no weight a chance to come back."""


def sparse_rate(target: float, step: int, steps: int, residual: float = RESIDUAL) -> float:
    """The rate after `step` of `steps` training steps: 0 before the first, `target` from the last on.

    `residual` in (0, 1): the smaller, the earlier the rate grows.
    """
    if step <= 0:
        return 0.0
    if step >= steps:
        return target
    left: float = residual ** (step / steps)
    return target * (1.0 - left) / (1.0 - residual)


def pruning_interval(steps: int, every: int) -> int:
    """Steps from one pruning to the next: `every`, or less where that were under LEAST_PRUNINGS in all."""
    return max(1, min(every, steps // LEAST_PRUNINGS))


def is_pruning_step(step: int, steps: int, every: int) -> bool:
    """Whether to prune after this step: every `every` steps, and always after the last."""
    return step == steps or (0 < step < steps and step % every == 0)
