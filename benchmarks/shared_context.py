"""Times DeepFwFM's plain and shared-context graphs by candidates a request: microseconds a row.

    python -m benchmarks.shared_context [--widths 400 400 400] [--pairs 37] [--nodes]

The weights are random: this is about time only. 31 context and 8 candidate fields, dimension 10, one thread,
all rows of one request. PyTorch scores the dense model, all pairs and 400x400x400, on the same rows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.graph import print_nodes
from export.cli.parser import Help, Parser
from export.cli.values import positive_int
from export.graph.onnx import export_onnx
from export.graph.quantize import quantize_int8
from export.graph.runtime import (
    Scorer,
    graph_scorer,
    microseconds_a_row,
    request_feeds,
    request_scorer,
    torch_scorer,
)
from export.graph.shared_context import share_context
from export.report.text_table import aligned
from models.deep_fwfm import DeepFwFM
from models.fields import Field

CONTEXT_FIELDS, CANDIDATE_FIELDS, DIM = 31, 8, 10
FIELDS = CONTEXT_FIELDS + CANDIDATE_FIELDS
IS_CONTEXT = np.arange(FIELDS) < CONTEXT_FIELDS
ALL_PAIRS, PAIRS_LEFT = FIELDS * (FIELDS - 1) // 2, 37
CANDIDATES = (1, 10, 100, 500)
SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (  # hidden units, pairs
    ((400, 400, 400), ALL_PAIRS),
    ((400, 400, 400), PAIRS_LEFT),
    ((172, 129, 243), PAIRS_LEFT),
    ((96, 96, 96), PAIRS_LEFT),
)
TORCH = "dense PyTorch"


def main() -> None:
    """Prints a table and, on the last line, the same as JSON: microseconds a row by graph and candidates."""
    parser = Parser(prog="python -m benchmarks.shared_context", description=__doc__, formatter_class=Help)
    parser.add_argument("--widths", type=positive_int, nargs="+", metavar="N", help="of the hidden layers")
    parser.add_argument(
        "--pairs", type=positive_int, default=PAIRS_LEFT, metavar="N", help="left [%(default)s]"
    )
    parser.add_argument(
        "--rows", type=positive_int, default=100_000, metavar="N", help="of the embedding table [%(default)s]"
    )
    parser.add_argument(
        "--nodes", action="store_true", help="print each node's share of the shared graphs too"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shapes = SHAPES if arguments.widths is None else ((tuple(arguments.widths), arguments.pairs),)
    random = np.random.default_rng(0)
    cardinality = max(2, arguments.rows // FIELDS)
    ids = random.integers(0, cardinality, (max(CANDIDATES), FIELDS)).astype(np.int32)
    ids[:, :CONTEXT_FIELDS] = ids[0, :CONTEXT_FIELDS]
    graphs: dict[str, bytes] = {}
    for hidden_units, pairs in shapes:
        title = f"{'-'.join(map(str, hidden_units))}, {pairs} pairs"
        model = model_of(hidden_units, pairs, cardinality)
        for variant, graph in _variants(
            model, random.permuted(np.resize(ids, (2000, FIELDS)), axis=0)
        ).items():
            graphs[f"{title}, {variant}"] = graph
    dense = model_of(*SHAPES[0], cardinality)
    scorers: dict[str, Scorer] = {TORCH: torch_scorer(dense)}
    scorers |= {name: _scorer(name, graph) for name, graph in graphs.items()}
    figures = microseconds_a_row(scorers, ids, CANDIDATES)
    _print_table(figures)
    if arguments.nodes:
        for (name, graph), rows in itertools.product(graphs.items(), (1, 100)):
            if _is_shared(name):
                print_nodes(f"{name}, {rows} candidates", graph, request_feeds([ids[:rows]], IS_CONTEXT))
    print(json.dumps({"unit": "microseconds a row", "by": "candidates a request", "figures": figures}))


def model_of(hidden_units: Sequence[int], pairs: int, cardinality: int) -> DeepFwFM:
    """DeepFwFM of random weights, with so many pairs left."""
    torch.manual_seed(0)
    fields = [
        Field(f"f{number}", cardinality, role="context" if IS_CONTEXT[number] else "candidate")
        for number in range(FIELDS)
    ]
    every = list(itertools.combinations(range(FIELDS), 2))
    kept = sorted(np.random.default_rng(0).choice(len(every), pairs, replace=False))
    return DeepFwFM(fields, DIM, hidden_units, pairs=[every[index] for index in kept]).eval()


def _variants(model: DeepFwFM, ids: NDArray[np.int32]) -> dict[str, bytes]:
    float32 = export_onnx(model, FIELDS)
    int8 = quantize_int8(float32, ids)
    if int8 is None:
        raise SystemExit("'--widths' must leave something to quantize")
    variants = {"plain float32": float32, "plain int8": int8}
    for name in ("float32", "int8"):
        shared = share_context(variants[f"plain {name}"], IS_CONTEXT.tolist())
        if shared is None:
            raise SystemExit("both sides have fields")
        variants[f"shared {name}"] = shared
    return variants


def _is_shared(name: str) -> bool:
    return ", shared " in name


def _scorer(name: str, graph: bytes) -> Scorer:
    return request_scorer(graph, IS_CONTEXT) if _is_shared(name) else graph_scorer(graph)


def _print_table(figures: dict[str, dict[str, float]]) -> None:
    lines = [["microseconds a row, by candidates", *(cell for n in CANDIDATES for cell in (str(n), "", ""))]]
    for name, by_rows in figures.items():
        cells = []
        for rows, value in by_rows.items():
            plain = figures[name.replace(", shared ", ", plain ")][rows]
            cells += [f"{value:.2f}", f"{plain / value:.1f}x" if _is_shared(name) else ""]
            cells.append(f"{figures[TORCH][rows] / value:.0f}x")
        lines.append([name, *cells])
    print("\n".join(aligned(lines)))
    print(f"x: times faster than the plain graph, and than {TORCH}")


if __name__ == "__main__":
    main()
