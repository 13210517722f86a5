"""Times PyTorch, the float32 and the INT8 graph of DeepFwFM at several stages of compression.

    python -m benchmarks.graph [--rows 100000] [--nodes]

The weights are random: this is about time only. 39 fields, dimension 10, one thread. The last column says
what to expect where products take all the time: how many times fewer a row needs than in the dense shape.
"""

from __future__ import annotations

import collections
import itertools
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from benchmarks.command import Command, ended, print_table
from export.graph.onnx import INPUT, export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import (
    BATCHES,
    Scorer,
    graph_scorer,
    microseconds_a_row,
    session_options,
    torch_scorer,
)
from models.deep_fwfm import DeepFwFM
from models.fields import Field

FIELDS, DIM, PAIRS_LEFT = 39, 10, 37
RUNS_A_ROUND = 20  # of a graph whose nodes are timed
ALL_PAIRS = FIELDS * (FIELDS - 1) // 2
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {  # hidden units, pairs
    "dense 400-400-400": ((400, 400, 400), ALL_PAIRS),
    "compacted 172-129-243": ((172, 129, 243), PAIRS_LEFT),
    "compacted 96-96-96": ((96, 96, 96), PAIRS_LEFT),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON: microseconds a row by graph and batch."""
    command = Command("graph", __doc__)
    command.number("--rows", 100_000, "of the embedding table")
    command.number("--rounds", 11, "timed, interleaved")
    command.add_argument(
        "--nodes", action="store_true", help="print the time of each node of the INT8 graphs too"
    )
    options = command.parse_args(arguments)
    fields = [Field(f"f{number}", max(2, options.rows // FIELDS)) for number in range(FIELDS)]
    ids = np.random.default_rng(0).integers(0, fields[0].cardinality, (4096, FIELDS)).astype(np.int32)
    scorers: dict[str, Scorer] = {}
    int8: dict[str, bytes] = {}
    for name, (hidden_units, pairs) in SHAPES.items():
        model = model_of(fields, hidden_units, pairs)
        graph = export_onnx(model, FIELDS)
        int8[name] = int8_of(graph, ids)
        scorers[f"{name} torch"] = torch_scorer(model)
        scorers[f"{name} float32"] = graph_scorer(graph)
        scorers[f"{name} int8"] = graph_scorer(int8[name])
    figures = microseconds_a_row(scorers, ids, rounds=options.rounds)
    print_table(_table(figures))
    print("x: times faster than dense PyTorch at that batch size")
    if options.nodes:
        for (name, graph), rows in itertools.product(int8.items(), (BATCHES[0], BATCHES[-1])):
            print_nodes(f"{name} int8, {rows} rows", graph, {INPUT: ids[:rows]}, options.rounds)
    command.print_json(unit="microseconds a row", embedding_rows=options.rows, figures=figures)


def model_of(fields: Sequence[Field], hidden_units: Sequence[int], pairs: int, dim: int = DIM) -> DeepFwFM:
    """DeepFwFM with random weights and `pairs` pairs of fields left."""
    torch.manual_seed(0)
    every = list(itertools.combinations(range(len(fields)), 2))
    kept = sorted(np.random.default_rng(0).choice(len(every), pairs, replace=False))
    return DeepFwFM(fields, dim, hidden_units, pairs=[every[index] for index in kept]).eval()


def int8_of(graph: bytes, ids: NDArray[np.int32]) -> bytes:
    """The INT8 graph. Raises SystemExit where nothing can be quantized."""
    quantized = quantize_int8(graph, ids)
    if quantized is None:
        raise SystemExit("the model must have tables or layers to quantize")
    return quantized


def products(hidden_units: Sequence[int], pairs: int, dim: int = DIM, *, inputs: float = FIELDS) -> float:
    """Multiplications a row of perceptron and pairs; `inputs` embeddings go into the first layer."""
    widths = (inputs * dim, *hidden_units, 1)
    return sum(a * b for a, b in itertools.pairwise(widths)) + pairs * dim


def _table(figures: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    dense = figures[f"{next(iter(SHAPES))} torch"]
    most = products(*next(iter(SHAPES.values())))
    batches = [cell for batch in BATCHES for cell in (str(batch), "")]
    rows = [["microseconds a row, by batch", *batches, "fewer products"]]
    for name, by_batch in figures.items():
        cells = [(f"{value:.2f}", f"{dense[batch] / value:.1f}x") for batch, value in by_batch.items()]
        fewer = f"{most / products(*SHAPES[name.rpartition(' ')[0]]):.1f}x"
        rows.append([name, *(cell for pair in cells for cell in pair), fewer])
    return rows


def print_nodes(title: str, graph: bytes, inputs: Mapping[str, NDArray[np.int32]], rounds: int) -> None:
    """Microseconds a call of each node; profiling itself adds one or two to each."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS_A_ROUND * rounds):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[str, list[float]] = collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[f"{event['args']['op_name']:18} {event['name'].removesuffix('_kernel_time')}"].append(
                event["dur"]
            )
    print(title)
    for node, microseconds in durations.items():
        print(f"  {np.median(microseconds):8.1f}  {node}")


if __name__ == "__main__":
    sys.exit(ended(main))
