"""What operators change of the arms while they serve, weights and kills; it knows no socket and no process.

The arms themselves, their names and folders, come from the settings and stay. Processes share a `Steering`
through `service.arms.steering_memory`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Self

import msgspec

from service.arms.split import Weighted, check_weights
from service.errors import UnknownArm

# The command of what the settings say.
START = "start"


class Change(msgspec.Struct, frozen=True):
    """When something became as it is (Unix seconds), by which command, and of which user (a uid).

    The settings have no user.
    """

    at: float
    command: str
    user: int | None = None


class SteeredArm(msgspec.Struct, frozen=True):
    """An arm's weight in the split, whether it is killed, and the last change of either."""

    name: str
    weight: float
    changed: Change
    is_killed: bool = False


class Steering(msgspec.Struct, frozen=True):
    """The arms in the order of the settings. Methods return what it is after a change."""

    arms: tuple[SteeredArm, ...]

    @classmethod
    def of(cls, arms: Sequence[Weighted], now: float) -> Self:
        """As the settings say. Raises BadConfiguration as `check_weights` does."""
        check_weights(arms)
        start = Change(now, START)
        return cls(tuple(SteeredArm(arm.name, arm.weight, start) for arm in arms))

    @property
    def killed(self) -> frozenset[str]:
        """The names of the arms that are killed."""
        return frozenset(arm.name for arm in self.arms if arm.is_killed)

    @property
    def weights(self) -> dict[str, float]:
        """The weights by arm."""
        return {arm.name: arm.weight for arm in self.arms}

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return sum(arm.weight for arm in self.arms)

    def with_weights(self, weights: Mapping[str, float], change: Change) -> Self:
        """Other weights of some arms. Raises UnknownArm, and BadConfiguration as `check_weights` does."""
        self.check_names(weights)
        return self._with(
            msgspec.structs.replace(arm, weight=weights[arm.name], changed=change)
            if weights.get(arm.name, arm.weight) != arm.weight
            else arm
            for arm in self.arms
        )

    def with_killed(self, name: str, change: Change, *, is_killed: bool) -> Self:
        """An arm is killed, or is no longer. Raises UnknownArm."""
        self.check_names([name])
        return self._with(
            msgspec.structs.replace(arm, is_killed=is_killed, changed=change)
            if arm.name == name and arm.is_killed != is_killed
            else arm
            for arm in self.arms
        )

    def check_names(self, names: Collection[str]) -> None:
        """Raises UnknownArm for the first that no arm has."""
        known = [arm.name for arm in self.arms]
        for name in names:
            if name not in known:
                raise UnknownArm(f"'arm' must be one of {', '.join(known)} (got {name!r}); name one of these")

    def _with(self, arms: Iterable[SteeredArm]) -> Self:
        changed = msgspec.structs.replace(self, arms=tuple(arms))
        check_weights(changed.arms)
        return changed
