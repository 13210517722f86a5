"""Request -> arm: the override, the sticky split and its weights; it knows nothing of what an arm predicts.

The split is weighted rendezvous hashing (Thaler and Ravishankar 1998; the weighted form by Schindelhauer
and Schomaker 2005): every arm draws an exponential waiting time with rate = its weight from a hash of
(salt, arm's name, key), and the shortest wins. So a key has the same arm in every process and on every
machine, an arm gets the share weight / total, and a change moves as few keys as possible:

- raising an arm's weight, or adding an arm, moves keys into that arm only;
- lowering or removing it moves keys out of it only;
- the order of the arms and the scale of the weights (90:10 or 9:1) move none;
- two experiments with different salts split the same keys independently.

(A hash cut by cumulative weights costs one hash instead of one an arm, but a change of one weight shifts the
borders of all later arms.)
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from service.arms.shadowing import Shadowing
from service.errors import BadConfiguration, UnknownArm
from service.feedback.tokens import Source
from service.hashes import KeyHash
from service.quality import FULL, NO_BID

if TYPE_CHECKING:
    from service.scoring.predictor import Predictor

# Fit for a header and a metric's label: no spaces, no quotes, no separators.
ARM_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class ArmSpec:
    """An arm as the settings name it: its name, its bundle's folder, its weight in the split."""

    name: str
    folder: str
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Arm:
    """One branch of the split. Its share is `weight` / sum of all; with 0 it is reached by its name only.

    Of any `quality` but FULL its model scores nothing: candidates have its bundle's prior, or no bid.
    """

    name: str
    weight: float
    predictor: Predictor
    quality: str = FULL

    @property
    def source(self) -> Source:
        """What its tokens come from."""
        return Source(self.name, self.predictor.manifest.id, self.predictor.variant)


class Weighted(Protocol):
    """What has a share of the traffic."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def weight(self) -> float:
        """Its weight in the split."""


class ArmTable:
    """The arms of a service, and the choice of one for a request.

    `salt` names the experiment; another salt splits the keys differently. An arm that is `killed` keeps its
    keys, and the `control` arm (empty: the first) answers them: so no other arm gets keys that it did not
    have. If that is killed too, the answer has the quality `when_killed`, of the control arm's bundle. Arms
    that are `shadows`, by name, answer nothing; those that are killed follow nobody. Raises BadConfiguration
    as `check_weights` does.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        salt: str = "",
        killed: Collection[str] = (),
        control: str = "",
        when_killed: str = NO_BID,
        shadows: Mapping[str, Shadowing] | None = None,
    ) -> None:
        check_weights(arms)
        self.arms = tuple(arms)
        self.salt = salt
        self.killed = frozenset(killed)
        self.shadows = {**(shadows or {})}
        answers = [arm for arm in arms if arm.name not in self.shadows]
        instead = next((arm for arm in arms if arm.name == control), arms[0])
        if instead.name in killed:
            instead = replace(instead, quality=when_killed)
        # Of each arm, the one that answers its requests.
        answering = {arm: instead if arm.name in killed else arm for arm in answers}
        self.answering = tuple(dict.fromkeys(answering.values()))
        self._by_name = {arm.name: answering[arm] for arm in answers}
        drawn = [arm for arm in answers if arm.weight > 0.0]
        self._drawn = [answering[arm] for arm in drawn]
        largest = max(arm.weight for arm in arms)
        self._cumulative = list(accumulate(arm.weight / largest for arm in drawn))
        self._split = [
            (KeyHash(salt, arm.name).uniform, math.log(arm.weight), answering[arm]) for arm in drawn
        ]

    @property
    def living(self) -> tuple[Arm, ...]:
        """The arms that are not killed."""
        return tuple(arm for arm in self.arms if arm.name not in self.killed)

    @property
    def bidding(self) -> tuple[Arm, ...]:
        """Those of them that are no shadows."""
        return tuple(arm for arm in self.living if arm.name not in self.shadows)

    @property
    def followed(self) -> Mapping[str, Sequence[Arm]]:
        """The living shadows of each arm that has some, by its name."""
        found: dict[str, list[Arm]] = {}
        for arm in self.living:
            if arm.name in self.shadows:
                found.setdefault(self.shadows[arm.name].of, []).append(arm)
        return found

    def choose(self, pinned: str | None, split_key: str | None) -> Arm:
        """The arm of a request: the `pinned` one, else the one of its key, else a random one.

        An empty key counts as none. Raises UnknownArm if there is no arm of the pinned name.
        """
        if pinned is not None:
            arm = self._by_name.get(pinned)
            if arm is None:
                is_shadow = ", a shadow, which answers nothing" if pinned in self.shadows else ""
                raise UnknownArm(
                    f"'X-Arm' must be one of {', '.join(self._by_name)} (got {pinned!r}{is_shadow}); "
                    "leave the header out to be given an arm"
                )
            return arm
        if len(self._drawn) == 1:
            return self._drawn[0]
        if not split_key:
            return self._drawn[bisect_right(self._cumulative, random.random() * self._cumulative[-1])]
        return self._sticky(split_key)

    def _sticky(self, key: str) -> Arm:
        """The arm with the shortest waiting time -ln(u) / weight, in logarithms: no weight overflows."""
        shortest, chosen = math.inf, self._drawn[0]
        for uniform, log_weight, arm in self._split:
            waiting = math.log(-math.log(uniform(key))) - log_weight
            if waiting < shortest:
                shortest, chosen = waiting, arm
        return chosen


def check_weights(arms: Sequence[Weighted]) -> None:
    """Raises BadConfiguration for arms that cannot share traffic.

    These are no arm, two of one name, a weight below 0 or not finite, and no weight above 0.
    """
    if not arms:
        raise BadConfiguration("'arms' must be one or more (got none); name one with --arm NAME=FOLDER")
    names = [arm.name for arm in arms]
    for arm in arms:
        if names.count(arm.name) > 1:
            raise BadConfiguration(f"'arm' must be a name of its own (got {arm.name!r} twice); rename one")
        check_weight(arm.name, arm.weight)
    if not any(arm.weight > 0.0 for arm in arms):
        raise BadConfiguration(
            f"'weight' must be above 0 for one arm or more (got 0 for {', '.join(names)}); "
            "requests without X-Arm must go somewhere"
        )


def check_weight(name: str, weight: float) -> None:
    """Raises BadConfiguration for a weight that no arm can have."""
    if not 0.0 <= weight < math.inf:
        raise BadConfiguration(
            f"'weight' of arm {name} must be a finite number from 0 (got {weight!r}); "
            "0 is reached by X-Arm only"
        )


def parse_arm(text: str) -> ArmSpec:
    """`NAME=FOLDER` or `NAME=FOLDER:WEIGHT` -> ArmSpec; the weight is 1 if it is left out.

    The weight is what follows the last colon, unless that has a slash; so a folder may have colons
    (`C:/bundles/A`, `s:1/A:90`). Raises BadConfiguration.
    """
    name, equals, rest = text.partition("=")
    if not equals or not rest:
        raise BadConfiguration(
            f"'arm' must be NAME=FOLDER or NAME=FOLDER:WEIGHT (got {text!r}); "
            "for example control=artifacts/demo:90"
        )
    if not ARM_NAME.fullmatch(name):
        raise BadConfiguration(
            f"'arm' must have a name of up to 64 letters, digits, dots, dashes, underscores (got {name!r}); "
            "it stands in a header and in metrics"
        )
    folder, colon, weight = rest.rpartition(":")
    if not colon or "/" in weight or "\\" in weight:
        return ArmSpec(name, rest)
    if not folder:
        raise BadConfiguration(
            f"'arm' must name a folder before the weight (got {text!r}); {name}=FOLDER{rest}"
        )
    return ArmSpec(name, folder, _parse_weight(name, weight))


def _parse_weight(name: str, text: str) -> float:
    """The weight in `text`. Raises BadConfiguration."""
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0.0 <= weight < math.inf:
        raise BadConfiguration(
            f"'weight' of arm {name} must be a finite number from 0 (got {text!r}); "
            "a folder whose name has a colon needs its weight too: NAME=FOLDER:1"
        )
    return weight
