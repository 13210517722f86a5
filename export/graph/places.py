"""Positions in the flat row of a value, and how some of them lie to each other. Arithmetic on indices alone.

A value's shape is (lines, *row_shape): a row may have become several lines, [batch * lines, *row_shape]. One
line is no axis of an array of places.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from export.graph.editing import Array, size_of

MOST_AXES_TURNED = 4  # 24 orders


def all_places(shape: Sequence[int]) -> Array:
    """The places of all numbers of a value of this shape."""
    places = np.arange(size_of(shape)).reshape(tuple(shape))
    return places[0] if shape[0] == 1 else places


def grid(indices: Sequence[Array], shape: Sequence[int]) -> Array:
    """The places at these indices along each axis of `shape`."""
    places = np.asarray(np.ravel_multi_index(np.ix_(*indices), tuple(shape)))
    return places[0] if shape[0] == 1 else places


def box_of(places: Array, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[Array, ...]] | None:
    """How places [*own shape] are a product of indices along each axis of `shape`.

    The order of their own axes in which they are, and the indices by axis; None where they are no such box.
    """
    for order in _orders(places.ndim):
        coordinates = np.unravel_index(np.transpose(places, order).ravel(), tuple(shape))
        indices = [_in_order_of_appearance(values) for values in coordinates]
        if math.prod(map(len, indices)) != places.size:
            return None
        expected = np.meshgrid(*indices, indexing="ij")
        if all((a.ravel() == b).all() for a, b in zip(expected, coordinates, strict=True)):
            return order, tuple(indices)
    return None


def cheapest_turn(places: Array, wanted: Array) -> tuple[tuple[int, ...], Array]:
    """The order of axes from which the `wanted` places are taken in the longest runs, and their indices."""
    best: tuple[int, tuple[int, ...], Array] = (0, (), wanted)
    for order in _orders(places.ndim):
        turned = np.transpose(places, order).ravel()
        by_place = np.argsort(turned, kind="stable")
        indices = by_place[np.searchsorted(turned[by_place], wanted.ravel())]
        run = len(turned) + 1 if (np.diff(indices) == 1).all() else longest_run(indices, len(turned))
        if run > best[0]:
            best = run, order, indices
    return best[1], best[2]


def longest_run(indices: Array, size: int) -> int:
    """The largest length such that `indices` are runs of it, each from a multiple on; divides `size`."""
    starts = np.flatnonzero(np.diff(indices, prepend=indices[:1] - 2) != 1)
    lengths = np.diff([*starts, len(indices)])
    return math.gcd(size, *map(int, lengths), *map(int, indices[starts]))


def _orders(axes: int) -> Iterator[tuple[int, ...]]:
    """The orders of so many axes, as they are first; of many axes no other."""
    every = itertools.permutations(range(axes))
    return every if axes <= MOST_AXES_TURNED else itertools.islice(every, 1)


def _in_order_of_appearance(values: Array) -> Array:
    _, firsts = np.unique(values, return_index=True)
    return np.asarray(values[np.sort(firsts)])
