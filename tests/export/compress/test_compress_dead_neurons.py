"""Removing dead neurons keeps a perceptron's function and leaves no dead neuron."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.compress.dead_neurons import remove_dead_neurons

Layers = tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]


@st.composite
def sparse_layers(draw: st.DrawFn) -> Layers:
    """Weights and biases of 0 to 3 hidden layers, with a random density of each layer from none to all."""
    widths = draw(st.lists(st.integers(1, 7), min_size=2, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    weights, biases = [], []
    for a, b in itertools.pairwise(widths):
        density = draw(st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]))
        weights.append((rng.normal(size=(b, a)) * (rng.random((b, a)) < density)).astype(np.float32))
        biases.append((rng.normal(size=b) * (rng.random(b) < 0.7)).astype(np.float32))
    return weights, biases


def run(weights: tuple[NDArray, ...], biases: tuple[NDArray, ...], inputs: NDArray) -> NDArray:
    hidden = inputs
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        hidden = np.maximum(hidden @ weight.T + bias, 0)
    return hidden @ weights[-1].T + biases[-1]


def by_search(weights: list[NDArray], biases: list[NDArray]) -> tuple[int, ...]:
    """Live neurons per layer by definition: on a path of non-zero weights from an input to an output."""
    forward = [np.ones(weights[0].shape[1], dtype=bool)]
    for weight in weights:
        forward.append((weight[:, forward[-1]] != 0).any(axis=1))
    backward = [np.ones(len(biases[-1]), dtype=bool)]
    for weight in reversed(weights):
        backward.append((weight[backward[-1]] != 0).any(axis=0))
    return tuple(int((f & b).sum()) for f, b in zip(forward[1:-1], backward[-2:0:-1], strict=True))


@given(sparse_layers())
def test_it_computes_the_same_and_keeps_exactly_the_neurons_on_a_path(layers: Layers) -> None:
    weights, biases = layers
    small = remove_dead_neurons(weights, biases)
    inputs = np.random.default_rng(1).normal(size=(64, weights[0].shape[1])).astype(np.float32)
    before, after = run(tuple(weights), tuple(biases), inputs), run(small.weights, small.biases, inputs)
    np.testing.assert_allclose(after, before, atol=1e-5 * max(1.0, float(np.abs(before).max())))
    assert small.live == by_search(weights, biases)
    assert small.widths == tuple(max(1, count) for count in small.live)
    assert all(array.dtype == np.float32 for array in (*small.weights, *small.biases))


@given(sparse_layers())
def test_a_second_pass_finds_nothing_and_the_arguments_stay(layers: Layers) -> None:
    weights, biases = layers
    copies = [array.copy() for array in (*weights, *biases)]
    once = remove_dead_neurons(weights, biases)
    twice = remove_dead_neurons(once.weights, once.biases)
    assert twice.widths == once.widths
    for first, second in zip((*once.weights, *once.biases), (*twice.weights, *twice.biases), strict=True):
        np.testing.assert_array_equal(first, second)
    for copy, array in zip(copies, (*weights, *biases), strict=True):
        np.testing.assert_array_equal(copy, array)


def test_what_nothing_enters_is_folded_as_a_constant_through_every_layer() -> None:
    weights = [np.zeros((2, 3)), np.array([[1.0, 2.0]]), np.array([[10.0]])]
    biases = [np.array([0.5, -4.0]), np.array([0.25]), np.array([-1.0])]
    small = remove_dead_neurons(weights, biases)
    assert small.live == (0, 0)
    assert small.widths == (1, 1)
    assert not any(weight.any() for weight in small.weights)
    assert [bias.tolist() for bias in small.biases] == [[0.0], [0.0], [10.0 * 0.75 - 1.0]]
    assert small.dead_inputs == 3
