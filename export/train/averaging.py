"""The moving average of a training's weights: what is evaluated, and kept if it is best.

It knows a model's weights as named tensors, and no log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Average:
    """An exponential moving average of weights and buffers, over about the last `span` calls of `update`.

    With a steady step size weights wander about a minimum, and their average is nearer to it (Polyak &
    Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 1992). Until
    there are `span` updates it is their plain mean.
    """

    def __init__(self, model: nn.Module, span: float) -> None:
        self.model, self.span = model, span
        self.updates = 0
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the model's present weights into the average."""
        self.updates += 1
        share = 1.0 / max(1.0, min(self.updates, self.span))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within the context the model holds the average, and afterwards its own weights again.

        A weight that is zero now is zero in the average too: pruning and FTRL make weights zero for good.
        """
        own = self.model.state_dict()
        with torch.no_grad():
            held = {name: value.clone() for name, value in own.items()}
            for name, value in own.items():
                zero = value == 0
                value.copy_(self.weights[name]).masked_fill_(zero, 0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in own.items():
                    value.copy_(held[name])
