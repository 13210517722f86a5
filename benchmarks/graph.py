"""Times PyTorch, the float32 and the INT8 graph of DeepFwFM at several stages of compression in one run.

    python -m benchmarks.graph [--rows 100000] [--nodes]

The weights are random: this is about time only. 39 fields, dimension 10, one thread.
"""

from __future__ import annotations

import collections
import itertools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.cli.parser import Help, Parser
from export.cli.values import positive_int
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
from export.report.text_table import aligned
from models.deep_fwfm import DeepFwFM
from models.fields import Field

FIELDS, DIM, PAIRS_LEFT = 39, 10, 37
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {  # hidden units, pairs
    "dense 400-400-400": ((400, 400, 400), FIELDS * (FIELDS - 1) // 2),
    "compacted 172-129-243": ((172, 129, 243), PAIRS_LEFT),
    "compacted 96-96-96": ((96, 96, 96), PAIRS_LEFT),
}


def main() -> None:
    """Prints a table and, on the last line, the same as JSON: microseconds a row by candidate and batch."""
    parser = Parser(prog="python -m benchmarks.graph", description=__doc__, formatter_class=Help)
    parser.add_argument(
        "--rows", type=positive_int, default=100_000, metavar="N", help="of the embedding table [%(default)s]"
    )
    parser.add_argument("--nodes", action="store_true", help="print each node's share of the INT8 graphs too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    fields = [Field(f"f{number}", max(2, arguments.rows // FIELDS)) for number in range(FIELDS)]
    ids = random.integers(0, fields[0].cardinality, (4096, FIELDS)).astype(np.int32)
    candidates: dict[str, Scorer] = {}
    int8: dict[str, bytes] = {}
    for name, (hidden_units, pairs) in SHAPES.items():
        model = _model(fields, hidden_units, pairs, random)
        graph = export_onnx(model, FIELDS)
        quantized = quantize_int8(graph, ids)
        if quantized is None:
            raise SystemExit(f"'{name}' must have something to quantize")
        int8[name] = quantized
        candidates[f"{name} torch"] = torch_scorer(model)
        candidates[f"{name} float32"] = graph_scorer(graph)
        candidates[f"{name} int8"] = graph_scorer(int8[name])
    figures = microseconds_a_row(candidates, ids)
    _print_table(figures)
    if arguments.nodes:
        for (name, graph), rows in itertools.product(int8.items(), (BATCHES[0], BATCHES[-1])):
            print_nodes(f"{name} int8, {rows} rows", graph, {INPUT: ids[:rows]})
    print(json.dumps({"unit": "microseconds a row", "embedding_rows": arguments.rows, "figures": figures}))


def _model(
    fields: list[Field], hidden_units: tuple[int, ...], pairs: int, random: np.random.Generator
) -> DeepFwFM:
    every = list(itertools.combinations(range(len(fields)), 2))
    kept = sorted(random.choice(len(every), pairs, replace=False))
    torch.manual_seed(0)
    return DeepFwFM(fields, DIM, hidden_units, pairs=[every[index] for index in kept]).eval()


def _print_table(figures: dict[str, dict[str, float]]) -> None:
    dense = figures[f"{next(iter(SHAPES))} torch"]
    lines = [["microseconds a row, by batch", *(cell for batch in BATCHES for cell in (str(batch), ""))]]
    for name, by_batch in figures.items():
        cells = [(f"{value:.2f}", f"{dense[batch] / value:.1f}x") for batch, value in by_batch.items()]
        lines.append([name, *(cell for pair in cells for cell in pair)])
    print("\n".join(aligned(lines)))
    print("x: times faster than dense PyTorch at that batch size")


def print_nodes(title: str, graph: bytes, inputs: Mapping[str, NDArray[np.int32]], runs: int = 200) -> None:
    """What each node takes, in microseconds a call; profiling itself adds one or two to each."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
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
    main()
