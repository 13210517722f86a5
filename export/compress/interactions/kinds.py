"""The kinds of interactions, by what a note calls them; a new kind is added here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import nn

from export.compress.interactions import attention, cin, crosses, generated, products
from export.compress.plan import Plan
from export.compress.whole_units import Units


class _Kind(Protocol):
    """What each of these modules has."""

    def find_units(self, model: nn.Module) -> list[Units]: ...

    def without_dead(self, model: nn.Module, plan: Plan) -> Plan: ...


_KINDS: Mapping[str, _Kind] = {
    "dead pairs of products": products,
    "dead maps and pairs of the CIN": cin,
    "zeros of cross layers": crosses,
    "dead ranks of generated matrices": generated,
    "dead heads of attention": attention,
}

REMOVALS: Mapping[str, Callable[[nn.Module, Plan], Plan]] = {
    words: kind.without_dead for words, kind in _KINDS.items()
}


def find_interactions(model: nn.Module) -> list[Units]:
    """The units of all kinds in this model; none where it has no such layer, or nothing that can go."""
    return [units for kind in _KINDS.values() for units in kind.find_units(model)]
