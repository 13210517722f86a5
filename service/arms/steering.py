"""What operators change of the arms while they serve: weights, kills, shadows; it knows no socket or process.

The arms themselves, their names and folders, come from the settings and stay. Processes share a `Steering`
through `service.arms.steering_memory`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Self

import msgspec

from service.arms.shadowing import Shadowing, check_shadows
from service.arms.split import Weighted, check_weights
from service.errors import BadConfiguration, UnknownArm

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
    """An arm's weight in the split, whether it is killed, the last change of either, and what it shadows.

    A shadow has the weight 0.
    """

    name: str
    weight: float
    changed: Change
    is_killed: bool = False
    shadow: Shadowing | None = None


class Steering(msgspec.Struct, frozen=True):
    """The arms in the order of the settings. Methods return what it is after a change."""

    arms: tuple[SteeredArm, ...]

    @classmethod
    def of(cls, arms: Sequence[Weighted], now: float, shadows: Mapping[str, Shadowing] | None = None) -> Self:
        """As the settings say. Raises BadConfiguration as `check_weights` and `check_shadows` do."""
        check_weights(arms)
        start, shadows = Change(now, START), shadows or {}
        steered = cls(tuple(SteeredArm(arm.name, arm.weight, start) for arm in arms))
        for name, shadowing in shadows.items():
            steered = steered.with_shadow(name, shadowing, start)
        return steered

    @property
    def killed(self) -> frozenset[str]:
        """The names of the arms that are killed."""
        return frozenset(arm.name for arm in self.arms if arm.is_killed)

    @property
    def weights(self) -> dict[str, float]:
        """The weights by arm."""
        return {arm.name: arm.weight for arm in self.arms}

    @property
    def shadows(self) -> dict[str, Shadowing]:
        """What the shadows follow, by their names."""
        return {arm.name: arm.shadow for arm in self.arms if arm.shadow is not None}

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return sum(arm.weight for arm in self.arms)

    def with_weights(self, weights: Mapping[str, float], change: Change) -> Self:
        """Other weights of some arms. Raises UnknownArm, and BadConfiguration as `check_weights` does.

        It raises that for the weight of a shadow, too.
        """
        self.check_names(weights)
        for name in self.shadows:
            if weights.get(name, 0.0) > 0.0:
                raise BadConfiguration(
                    f"'weight' of arm {name} must be 0 as long as it is a shadow (got {weights[name]!r}); "
                    f"end that first: shadow {name} off"
                )
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

    def with_shadow(self, name: str, shadowing: Shadowing | None, change: Change) -> Self:
        """An arm becomes a shadow, with the weight 0, or (None) is no longer one, and keeps that weight.

        Raises UnknownArm, and BadConfiguration as `check_weights` and `check_shadows` do.
        """
        self.check_names([name] if shadowing is None else [name, shadowing.of])
        return self._with(
            msgspec.structs.replace(
                arm, weight=0.0 if shadowing else arm.weight, shadow=shadowing, changed=change
            )
            if arm.name == name and arm.shadow != shadowing
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
        check_shadows(changed.shadows, [arm.name for arm in self.arms])
        return changed
