"""What a training step takes: time of several in turns, and what its forward pass keeps. For benchmarks."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor


def median_milliseconds(steps: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of `rounds` steps of each, which take turns, after one round to warm up.

    A step gives back its own milliseconds: it knows what of it counts.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _, (name, step) in itertools.product(range(rounds + 1), steps.items()):
        found[name].append(step())
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def kept_bytes(forward: Callable[[], Tensor], known: Iterable[Tensor]) -> int:
    """What a forward pass keeps for its backward pass, each storage once, those of `known` left out."""
    left_out = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in left_out:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        outputs = forward()  # held until the sum is taken: what is freed may lend its address
        total = sum(kept.values())
        del outputs
    return total
