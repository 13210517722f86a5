"""The kinds of interactions, by what a note calls them; a new kind is added here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from export.compress.interactions import attention, cin, crosses, generated, products
from export.compress.plan import Plan
from export.compress.whole_units import Units

REMOVALS: Mapping[str, Callable[[nn.Module, Plan], Plan]] = {
    "dead pairs of products": products.without_dead,
    "dead maps and pairs of the CIN": cin.without_dead,
    "zeros of cross layers": crosses.without_dead,
    "dead ranks of generated matrices": generated.without_dead,
    "dead heads of attention": attention.without_dead,
}


def find_interactions(model: nn.Module) -> list[Units]:
    """The units of all kinds in this model; none where it has no such layer, or nothing that can go."""
    return [
        units for kind in (products, cin, crosses, generated, attention) for units in kind.find_units(model)
    ]
