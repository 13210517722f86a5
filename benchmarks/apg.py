"""Times a training step of plain hidden layers and of APG's v1 to v5, and counts their memory, in one run.

    python -m benchmarks.apg [--hidden-units 1024 512 256] [--rank 4] [--inner-width 32] [--rounds 7]

Printed beside it: Table 5 of Yan et al., "APG: Adaptive Parameter Generation Network for Click-Through Rate
Prediction", NeurIPS 2022 (seconds an epoch on a V100S; megabytes). Measured here, on one CPU thread:

step        milliseconds of processor time of forward, backward and Adam on 1024 rows through the hidden
            layers alone, the gradient of their input included; median over interleaved rounds. v1 and v2
            build W_i for every row, 4 GB at 1024 rows: they run 64 rows, which count 16 times, and one step
            of Adam. Embeddings and output layer are left out: they are the same for all.
parameters  megabytes of the weights and Adam's two moments, 12 bytes a parameter. The paper does not define
            its memory; its figures for the base are this plus 0.2 MB at every size, and those for v1 are this
            with a condition of 32 numbers, the dimension of its embeddings. So the condition here has 32.
step memory megabytes of weights, moments, gradients and of the tensors saved for the backward pass (each
            storage once, without the layers' common input and the condition), 1024 rows at once.
inference   microseconds a row of ONNX Runtime at 1 and 64 rows, v5 folded.

`self-wise` rows take the layer's input as the condition, as APG does unless told otherwise. v1 and v2 do not
appear self-wise: v1 would have 760 million parameters.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.command import Command, ended, print_table
from benchmarks.saved_tensors import saved_bytes
from benchmarks.timing import median_in_turns
from export.graph.runtime import open_session
from models.adaptive_layers import Adaptation, AdaptiveLinear, Version

ROWS, IN_FEATURES, CONDITION_SIZE = 1024, 393, 32
ROWS_OF_FULL_MATRICES = 64  # at a time, where every row has a W_i in memory
INFERENCE_BATCHES = (1, 64)
MEGABYTE = 1e6

# Table 5: seconds an epoch and megabytes, for each version's column of hidden units.
PAPER: dict[tuple[int, ...], dict[str, tuple[float, float]]] = {
    (64, 32, 16): {"base": (4.52, 0.50), "v1": (16.52, 11.21), "v2": (13.83, 0.74), "v3": (6.31, 0.74),
                   "v4": (4.49, 0.27)},
    (128, 64, 32): {"base": (5.27, 0.89), "v1": (50.31, 24.20), "v2": (39.53, 0.91), "v3": (5.42, 0.91),
                    "v4": (4.78, 0.29)},
    (256, 128, 64): {"base": (5.89, 1.93), "v1": (126.27, 56.32), "v2": (90.43, 1.21), "v3": (5.71, 1.21),
                     "v4": (5.46, 0.31)},
    (512, 256, 128): {"base": (7.12, 4.61), "v1": (420.33, 144.84), "v2": (363.07, 1.98), "v3": (6.31, 1.98),
                      "v4": (5.89, 0.35)},
    (1024, 512, 256): {"base": (13.04, 12.91), "v1": (1462.78, 419.11), "v2": (1065.35, 3.22),
                       "v3": (11.23, 3.22), "v4": (7.99, 0.44)},
}  # fmt: skip


class HiddenLayers(nn.Module):
    """Linear or adaptive layers with ReLU after each."""

    def __init__(self, widths: Sequence[int], how: Adaptation | None) -> None:
        super().__init__()
        self.adaptive = how is not None
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, fan_out) if how is None else AdaptiveLinear(fan_in, fan_out, how)
            for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.self_wise = how is not None and how.condition_size is None

    def forward(self, inputs: Tensor, condition: Tensor) -> Tensor:
        """inputs [batch, widths[0]], condition [batch, CONDITION_SIZE] -> [batch, widths[-1]]."""
        for layer in self.layers:
            if not self.adaptive:
                inputs = F.relu(layer(inputs))
            else:
                inputs = F.relu(layer(inputs, None if self.self_wise else condition))
        return inputs


class Candidate(NamedTuple):
    """One row of the table; `rows` go through it at a time."""

    layers: HiddenLayers
    version: str
    rows: int


def candidates(hidden_units: Sequence[int], rank: int, inner_width: int) -> dict[str, Candidate]:
    """The plain layers, every version with a separate condition, and the cheap ones self-wise."""
    widths = (IN_FEATURES, *hidden_units)
    found = {"base": Candidate(HiddenLayers(widths, None), "base", ROWS)}
    versions: tuple[Version, ...] = ("v1", "v2", "v3", "v4", "v5")
    for version in versions:
        how = Adaptation(version, rank, inner_width, condition_size=CONDITION_SIZE)
        rows = ROWS_OF_FULL_MATRICES if version in ("v1", "v2") else ROWS
        found[version] = Candidate(HiddenLayers(widths, how), version, rows)
    for version in versions[2:]:
        layers = HiddenLayers(widths, Adaptation(version, rank, inner_width))
        found[f"{version} self-wise"] = Candidate(layers, version, ROWS)
    return found


class Step:
    """A training step on as many rows as the candidate takes at a time."""

    def __init__(self, candidate: Candidate) -> None:
        self.layers, self.rows = candidate.layers, candidate.rows
        self.optimizer = torch.optim.Adam(self.layers.parameters(), lr=1e-4, fused=True)
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(self.rows, IN_FEATURES, generator=generator)
        self.condition = torch.randn(self.rows, CONDITION_SIZE, generator=generator)

    def milliseconds(self) -> float:
        """Processor time of one step on ROWS rows."""
        inputs, condition = self.inputs.requires_grad_(), self.condition.requires_grad_()
        inputs.grad = condition.grad = None
        self.optimizer.zero_grad()
        start = time.process_time()
        (self.layers(inputs, condition).square().sum() / ROWS).backward()
        passed = time.process_time()
        self.optimizer.step()
        stepped = time.process_time()
        return ((passed - start) * ROWS / self.rows + stepped - passed) * 1e3

    def activation_bytes(self) -> float:
        """Bytes that a forward pass of ROWS rows at once saves for the backward pass."""
        inputs, condition = self.inputs.requires_grad_(), self.condition.requires_grad_()
        known = (inputs, condition, *self.layers.parameters())
        return saved_bytes(lambda: self.layers(inputs, condition), known) * ROWS / self.rows


def inference_microseconds(layers: HiddenLayers, rounds: int) -> dict[str, float]:
    """Processor time a row in ONNX Runtime, by batch, adaptive layers folded."""
    folded = copy.deepcopy(layers).eval()
    folded.layers = nn.ModuleList(
        layer.folded() if isinstance(layer, AdaptiveLinear) else layer for layer in folded.layers
    )
    inputs = (torch.randn(4, IN_FEATURES), torch.randn(4, CONDITION_SIZE))
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own internals
        program = torch.onnx.export(
            folded, inputs, dynamo=True, opset_version=20, verbose=False,
            input_names=["inputs", "condition"], dynamic_shapes=({0: batch}, {0: batch}),
        )  # fmt: skip
    if program is None:
        raise SystemExit("the layers must be exportable (got no graph)")
    session = open_session(program.model_proto.SerializeToString())
    taken = {node.name for node in session.get_inputs()}
    figures = {}
    for rows in INFERENCE_BATCHES:
        arrays = {"inputs": np.random.default_rng(0).standard_normal((rows, IN_FEATURES), np.float32)}
        arrays["condition"] = arrays["inputs"][:, :CONDITION_SIZE].copy()
        feed = {name: values for name, values in arrays.items() if name in taken}
        calls = 100 // rows or 1
        durations = []
        for _ in range(rounds + 1):
            start = time.process_time()
            for _ in range(calls):
                session.run(None, feed)
            durations.append((time.process_time() - start) / calls / rows * 1e6)
        figures[str(rows)] = statistics.median(durations[1:])
    return figures


def measure(found: dict[str, Candidate], rounds: int) -> dict[str, dict[str, Any]]:
    """The figures of every candidate."""
    steps = {name: Step(candidate) for name, candidate in found.items()}
    times = median_in_turns({name: step.milliseconds for name, step in steps.items()}, rounds)
    figures: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        parameters = sum(parameter.numel() for parameter in step.layers.parameters())
        activations = step.activation_bytes()
        figures[name] = {
            "step_ms": times[name],
            "parameters_mb": 12 * parameters / MEGABYTE,
            "activations_mb": activations / MEGABYTE,
            "step_memory_mb": (16 * parameters + activations) / MEGABYTE,
            "inference_us_a_row": inference_microseconds(step.layers, rounds),
        }
    return figures


def table(
    figures: dict[str, dict[str, Any]], found: dict[str, Candidate], paper: dict[str, tuple[float, float]]
) -> list[list[str]]:
    """Each figure with its difference from the base, beside the paper's for the same version."""
    inference = [f"x{rows} us/row" for rows in INFERENCE_BATCHES]
    heads = ["", "step ms", "parameters MB", "step memory MB", *inference, "paper: s/epoch", "memory M"]
    rows = [heads]
    base = figures["base"]
    for name, row in figures.items():
        sizes = ("step_ms", "parameters_mb", "step_memory_mb")
        ours = [_against(row[size], base[size]) for size in sizes]
        times = [f"{row['inference_us_a_row'][str(batch)]:.1f}" for batch in INFERENCE_BATCHES]
        theirs = () if "self" in name else paper.get(found[name].version, ())
        beside = [_against(value, whole) for value, whole in zip(theirs, paper.get("base", ()), strict=False)]
        rows.append([name, *ours, *times, *beside])
    return rows


def _against(value: float, base: float) -> str:
    difference = "" if value == base else f" ({value / base - 1:+.1%})"
    return f"{value:.2f}{difference}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON."""
    command = Command("apg", __doc__)
    command.numbers("--hidden-units", [1024, 512, 256], "widths of the hidden layers")
    command.number("--rank", 4, "K, the paper's in Table 5")
    command.number("--inner-width", 32, "P of v5")
    command.number("--rounds", 7, "timed, after one to warm up")
    options = command.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = candidates(options.hidden_units, options.rank, options.inner_width)
    figures = measure(found, options.rounds)
    paper = PAPER.get(tuple(options.hidden_units), {})
    print(f"hidden layers {[IN_FEATURES, *options.hidden_units]}, {ROWS} rows a step, K = {options.rank}")
    print_table(table(figures, found, paper))
    print("difference from the base in brackets; the paper leaves v5 out: folded, it is v4")
    command.print_json(rows=ROWS, **vars(options), figures=figures, paper=paper)


if __name__ == "__main__":
    sys.exit(ended(main))
