"""Prunes whole units: the least important are silenced during training, then removed.

A unit is what compaction can take out of a model as one: a neuron, a pair of fields with all that reads it, a
row of a cross layer, a dimension of the embeddings. It knows weights, neither models nor schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.compress.magnitude import apply_mask, largest_mask

UNOWNED = -1


@dataclass(frozen=True, eq=False)
class Members:
    """The weights of units in one tensor: `unit_of` holds each weight's unit, or UNOWNED.

    It has as many axes as the tensor, each as long or of length 1.
    """

    weight: Tensor
    unit_of: Tensor

    def norms(self, count: int) -> Tensor:
        """The norm of each unit's weights, [count]."""
        squares = self.weight.detach().square()
        shared = [axis for axis, length in enumerate(self.unit_of.shape) if length < squares.shape[axis]]
        if shared:
            squares = squares.sum(dim=shared, keepdim=True)
        sums = squares.new_zeros(count + 1)  # the last is for what no unit owns
        sums.index_add_(0, self.unit_of.to(sums.device).flatten() % (count + 1), squares.flatten())
        return sums[:count].sqrt()

    def of_units(self, chosen: Tensor, *, unowned: bool) -> Tensor:
        """chosen [count] -> bool that broadcasts to the weight: whether an entry's unit is chosen."""
        flags = torch.cat([chosen, chosen.new_tensor([unowned])])
        return flags[self.unit_of.to(flags.device)]


@dataclass(frozen=True, eq=False)
class Units:
    """Units that are ranked among each other: the weights that enter them, and those that read them.

    The importance of a unit is |w_in| |w_out|, the product of the norms of both. With ReLU, doubling one and
    halving the other changes nothing, and the product stays the same. Without readers it is |w_in|, without
    weights that enter |w_out|.
    """

    part: str
    count: int
    entering: tuple[Members, ...]
    leaving: tuple[Members, ...] = ()

    def importance(self) -> Tensor:
        """[count]; 0 for a unit that is dead: nothing enters, or nothing reads it."""
        sides = [side for side in (self.entering, self.leaving) if side]
        norms = [torch.stack([one.norms(self.count) for one in side]).norm(dim=0) for side in sides]
        return torch.stack(norms).prod(dim=0)

    def live(self) -> Tensor:
        """bool [count] on the CPU: those to keep, the first one where all are dead."""
        live = self.importance().cpu() != 0
        if not live.any():
            live[0] = True
        return live

    @property
    def restorable(self) -> bool:
        """Whether a silenced unit keeps the weights that enter it."""
        return bool(self.entering and self.leaving)


class WholeUnits:
    """Units of some kinds, each group pruned at the rate of its part.

    Silencing a unit zeroes what reads it and keeps what enters it, so the optimizer can restore it, as it can
    a single weight. If both were zero, neither would have a gradient.

    Alternatives for neurons (docs/pruning.md) gave no improvement beyond noise: the standard deviation of a
    neuron's activations in place of |w_in|, and one ranking across all layers.
    """

    def __init__(self, groups: Sequence[Units]) -> None:
        self._groups = tuple(groups)
        self._alive: list[Tensor] = []  # of each group bool [count], from the last call of silence

    @torch.no_grad()
    def silence(self, rate: Callable[[str], float]) -> None:
        """Silences the share `rate(part)` of each group, the least important; one unit at least stays."""
        self._alive = []
        for units in self._groups:
            (alive,) = largest_mask([units.importance()], rate(units.part))
            self._alive.append(alive)
            for members in units.leaving or units.entering:
                apply_mask(members.weight, members.of_units(alive, unowned=True))

    def masks(self) -> list[tuple[Tensor, Tensor]]:
        """Each weight matrix with a mask that removes all weights of silent units."""
        return [
            (members.weight, members.of_units(alive, unowned=True).expand_as(members.weight))
            for units, alive in zip(self._groups, self._alive, strict=True)
            for members in (*units.entering, *units.leaving)
        ]

    def silent(self, weight: Tensor) -> Tensor | None:
        """bool that broadcasts to this weight: what enters a silent unit; None for a weight without such."""
        found = None
        for units, alive in zip(self._groups, self._alive, strict=True):
            for members in units.entering if units.restorable else ():
                if members.weight is weight:
                    silent = members.of_units(~alive, unowned=False)
                    found = silent if found is None else found | silent
        return found


def dead_unit_rate(groups: Sequence[Units]) -> float:
    """The share of the units that is dead; 0 if there are none."""
    total = sum(units.count for units in groups)
    dead = sum(int((units.importance() == 0).count_nonzero()) for units in groups)
    return dead / total if total else 0.0


def rows_of(weight: Tensor, unit_of: Tensor | None = None) -> Members:
    """Its rows as members, of one unit each or of the given one."""
    return Members(weight, (torch.arange(weight.shape[0]) if unit_of is None else unit_of).unsqueeze(1))


def columns_of(weight: Tensor, unit_of: Tensor | None = None) -> Members:
    """Its columns as members, of one unit each or of the given one."""
    return Members(weight, (torch.arange(weight.shape[1]) if unit_of is None else unit_of).unsqueeze(0))
