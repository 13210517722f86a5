"""Positions of elements in the flat row of a value: which form a box, and in which order. Index arithmetic.

A value's shape is (lines, *row_shape): a reshape may turn a row into several lines, [batch * lines,
*row_shape]. An array of positions has no axis for a single line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from export.graph.editing import Array, size_of

MOST_AXES_PERMUTED = 4  # 24 orders


def all_positions(shape: Sequence[int]) -> Array:
    """The positions of all elements of a value of this shape."""
    positions = np.arange(size_of(shape)).reshape(tuple(shape))
    return positions[0] if shape[0] == 1 else positions


def grid(indices: Sequence[Array], shape: Sequence[int]) -> Array:
    """The positions at these indices along each axis of `shape`."""
    positions = np.asarray(np.ravel_multi_index(np.ix_(*indices), tuple(shape)))
    return positions[0] if shape[0] == 1 else positions


def box_of(positions: Array, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[Array, ...]] | None:
    """Positions [*block shape] as the Cartesian product of indices along each axis of `shape`.

    Returns the order of the block's axes that makes them one, and the indices by axis; None if none does.
    """
    for order in _orders(positions.ndim):
        coordinates = np.unravel_index(np.transpose(positions, order).ravel(), tuple(shape))
        indices = [_in_order_of_appearance(values) for values in coordinates]
        if math.prod(map(len, indices)) != positions.size:
            return None
        expected = np.meshgrid(*indices, indexing="ij")
        if all((a.ravel() == b).all() for a, b in zip(expected, coordinates, strict=True)):
            return order, tuple(indices)
    return None


def cheapest_transposition(positions: Array, wanted: Array) -> tuple[tuple[int, ...], Array]:
    """The order of axes that holds the `wanted` positions in the longest runs, and their indices in it."""
    best: tuple[int, tuple[int, ...], Array] = (0, (), wanted)
    for order in _orders(positions.ndim):
        transposed = np.transpose(positions, order).ravel()
        by_position = np.argsort(transposed, kind="stable")
        indices = by_position[np.searchsorted(transposed[by_position], wanted.ravel())]
        run = len(transposed) + 1 if (np.diff(indices) == 1).all() else longest_run(indices, len(transposed))
        if run > best[0]:
            best = run, order, indices
    return best[1], best[2]


def longest_run(indices: Array, size: int) -> int:
    """The largest divisor of `size` by which `indices` fall into aligned runs of consecutive indices."""
    starts = np.flatnonzero(np.diff(indices, prepend=indices[:1] - 2) != 1)
    lengths = np.diff([*starts, len(indices)])
    return math.gcd(size, *map(int, lengths), *map(int, indices[starts]))


def _orders(axes: int) -> Iterator[tuple[int, ...]]:
    """All orders of the axes, the present one first; with many axes the present one only."""
    every = itertools.permutations(range(axes))
    return every if axes <= MOST_AXES_PERMUTED else itertools.islice(every, 1)


def _in_order_of_appearance(values: Array) -> Array:
    _, firsts = np.unique(values, return_index=True)
    return np.asarray(values[np.sort(firsts)])
