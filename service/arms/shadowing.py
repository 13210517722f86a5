"""Shadow arms as settings and commands name them: which arm follows which, and for what share of its keys.

It scores nothing and knows no queue (service.shadow).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from service.errors import BadConfiguration
from service.hashes import KeyHash

Share = Annotated[float, Meta(gt=0.0, le=1.0)]


class Shadowing(msgspec.Struct, frozen=True):
    """An arm scores a share, above 0 and up to 1, of the requests that the arm `of` answers."""

    of: str
    share: float


class KeyShare:
    """The keys of which a shadow scores the requests: the same in every process and on every machine.

    A key's hash has nothing to do with the split. A share that is raised keeps the keys that it had. Requests
    without a key are drawn one by one.
    """

    def __init__(self, salt: str, shadow: str, share: float) -> None:
        self._uniform = KeyHash(salt, shadow, person=b"shadow").uniform
        self._share = share

    def holds(self, key: str | None) -> bool:
        """Whether a request with this key is scored; an empty key counts as none."""
        return (self._uniform(key) if key else random.random()) < self._share


def parse_shadow(text: str) -> tuple[str, Shadowing]:
    """`NAME=ARM:SHARE` -> the shadow's name, and what it follows. Raises BadConfiguration."""
    name, equals, rest = text.partition("=")
    followed, colon, share = rest.rpartition(":")
    try:
        if not (name and equals and followed and colon):
            raise ValueError
        found = Shadowing(followed, float(share))
    except ValueError:
        raise BadConfiguration(
            f"'shadow' must be NAME=ARM:SHARE (got {text!r}); for example candidate=control:0.1"
        ) from None
    check_share(name, found.share)
    return name, found


def check_share(name: str, share: float) -> None:
    """Raises BadConfiguration for a share that no shadow can have."""
    if not 0.0 < share <= 1.0:
        raise BadConfiguration(
            f"'share' of shadow {name} must be above 0 and at most 1 (got {share!r}); 1 is every request"
        )


def parse_shadows(texts: Sequence[str], arms: Sequence[str], control_arm: str) -> dict[str, Shadowing]:
    """The shadows of the settings by name. Raises BadConfiguration."""
    shadows: dict[str, Shadowing] = {}
    for text in texts:
        name, shadowing = parse_shadow(text)
        if name in shadows:
            raise BadConfiguration(f"'shadow' must be named once (got {name!r} twice); it follows one arm")
        shadows[name] = shadowing
    check_shadows(shadows, arms)
    for name in shadows:
        check_answers(name, control_arm)
    return shadows


def check_shadows(shadows: Mapping[str, Shadowing], arms: Sequence[str]) -> None:
    """Raises BadConfiguration unless each shadow is an arm and follows one that answers."""
    for name, shadowing in shadows.items():
        check_share(name, shadowing.share)
        for each in (name, shadowing.of):
            if each not in arms:
                raise BadConfiguration(
                    f"'shadow' must name arms, {', '.join(arms)} (got {each!r}); name one with --arm"
                )
        if shadowing.of in shadows:
            raise BadConfiguration(
                f"'shadow' {name} must follow an arm that answers (got {shadowing.of!r}, which is "
                f"{'the same' if shadowing.of == name else 'a shadow too'}); follow another arm"
            )


def check_answers(name: str, control_arm: str) -> None:
    """Raises BadConfiguration for a shadow that must answer for other arms."""
    if name == control_arm:
        raise BadConfiguration(
            f"'shadow' must be another arm than the control arm, {control_arm}, which answers for those "
            "that are killed; choose another control arm with --control-arm, or another shadow"
        )
