"""Of each arm the bundle that it served before, ready to serve again; it knows no process.

What an arm served is kept when another bundle takes over, whatever becomes of its folder. A bundle that takes
over from itself replaces nothing: after two reloads of the same bundle the one before is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from service.errors import BadConfiguration

T = TypeVar("T")


class KeptArms(Generic[T]):
    """What arms served before, by name; `bundle_of` gives the id of a bundle. Nothing unless `is_on`."""

    def __init__(self, bundle_of: Callable[[T], str], *, is_on: bool) -> None:
        self._bundle_of = bundle_of
        self._is_on = is_on
        self._kept: dict[str, T] = {}

    @property
    def bundles(self) -> dict[str, str]:
        """The ids of the bundles that are kept, by arm."""
        return {name: self._bundle_of(arm) for name, arm in self._kept.items()}

    def replace(self, before: Mapping[str, T], after: Mapping[str, T]) -> None:
        """The arms `after` serve from now on in place of those `before`."""
        for name, arm in before.items():
            if self._is_on and self._bundle_of(arm) != self._bundle_of(after[name]):
                self._kept[name] = arm

    def forget(self) -> None:
        """Keep nothing."""
        self._kept.clear()

    def restored(self, serving: Mapping[str, T], names: Sequence[str] = ()) -> list[T]:
        """The arms that are `serving`, but those of these names as they were before; else all kept ones.

        Raises BadConfiguration for an arm that served nothing else before.
        """
        self.check(names)
        names = names or [*self._kept]
        return [self._kept[name] if name in names else arm for name, arm in serving.items()]

    def check(self, names: Sequence[str]) -> None:
        """Raises BadConfiguration unless each arm of these names, or without names any, is kept."""
        if not self._is_on:
            raise BadConfiguration(
                "no bundle is kept: 'keep_previous' is off; put the one before into its folder and reload"
            )
        if not self._kept:
            raise BadConfiguration(
                "no arm has served another bundle since the start; there is nothing to go back to"
            )
        for name in names:
            if name not in self._kept:
                raise BadConfiguration(
                    f"'arm' must be one that has served another bundle since the start, "
                    f"{', '.join(self._kept)} (got {name!r}); put its bundle into its folder and reload"
                )
