"""What the integers of an INT8 graph were rounded from. It knows names of constants, not what reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from export.graph.editing import Array


@dataclass(frozen=True)
class Unrounded:
    """By the names of constants, what a training of the graph starts from.

    tables  rows [n, dim] as floats, and what each row is multiplied by before it is rounded, [n]; ZERO_POINT
            is added after
    layers  weights and biases, in units of one
    """

    tables: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    layers: dict[str, Array] = field(default_factory=dict)
