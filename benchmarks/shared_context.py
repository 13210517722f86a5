"""Times DeepFwFM's plain and shared-context graphs by candidates a request: microseconds a row.

    python -m benchmarks.shared_context [--widths 400 400 400] [--pairs 37] [--dim 10] [--student dnn]
        [--nodes]

The weights are random: this is about time only. 31 context and 8 candidate fields, one thread, all rows of
one request. PyTorch scores the dense model of dimension 10, with all pairs and 400x400x400, on the same rows.
Printed for each shape is what to expect where products take all the time: how many times fewer a row needs if
the context's part of the first layer is computed once a request. A student is another model, which has
--widths.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.command import Command, ended, print_table
from benchmarks.graph import ALL_PAIRS, DIM, FIELDS, PAIRS_LEFT, int8_of, model_of, print_nodes, products
from export.graph.onnx import export_onnx
from export.graph.runtime import (
    Scorer,
    graph_scorer,
    microseconds_a_row,
    open_session,
    request_feeds,
    request_scorer,
    torch_scorer,
)
from export.stages.shared_graphs import checked_shared_graph
from models.deep_fwfm import DeepFwFM
from models.dnn import DNN
from models.fields import Field

CONTEXT_FIELDS = 31
CANDIDATE_FIELDS = FIELDS - CONTEXT_FIELDS
IS_CONTEXT = np.arange(FIELDS) < CONTEXT_FIELDS
CANDIDATES = (1, 10, 100, 500)
SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (  # hidden units, pairs
    ((400, 400, 400), ALL_PAIRS),
    ((400, 400, 400), PAIRS_LEFT),
    ((172, 129, 243), PAIRS_LEFT),
    ((96, 96, 96), PAIRS_LEFT),
)
TORCH = "dense PyTorch"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON: microseconds a row by graph and candidates."""
    command = Command("shared_context", __doc__)
    command.numbers("--widths", None, "of the hidden layers")
    command.number("--pairs", PAIRS_LEFT, "of fields left")
    command.number("--dim", DIM, "numbers in an embedding")
    command.add_argument("--student", choices=("dnn",), help="a perceptron alone in place of DeepFwFM")
    command.number("--rows", 100_000, "of the embedding table")
    command.number("--rounds", 11, "timed, interleaved")
    command.add_argument(
        "--nodes", action="store_true", help="print the time of each node of the shared graphs too"
    )
    options = command.parse_args(arguments)
    shapes = SHAPES if options.widths is None else ((tuple(options.widths), options.pairs),)
    random = np.random.default_rng(0)
    fields = _fields(max(2, options.rows // FIELDS))
    ids = random.integers(0, fields[0].cardinality, (max(CANDIDATES), FIELDS)).astype(np.int32)
    ids[:, :CONTEXT_FIELDS] = ids[0, :CONTEXT_FIELDS]
    calibration_ids = random.permuted(np.resize(ids, (2000, FIELDS)), axis=0)
    make = model_of if options.student is None else _student_of
    if options.student is not None:
        shapes = tuple((widths, 0) for widths in dict.fromkeys(widths for widths, _ in shapes))
    titles = {f"{'-'.join(map(str, widths))}, {pairs} pairs": (widths, pairs) for widths, pairs in shapes}
    graphs = {
        f"{title}, {variant}": graph
        for title, shape in titles.items()
        for variant, graph in _variants(make(fields, *shape, options.dim), calibration_ids).items()
    }
    scorers: dict[str, Scorer] = {TORCH: torch_scorer(model_of(fields, *SHAPES[0]))}
    scorers |= {name: _scorer(name, graph) for name, graph in graphs.items()}
    figures = microseconds_a_row(scorers, ids, CANDIDATES, rounds=options.rounds)
    print_table(_table(figures))
    print(f"x: times faster than the plain graph, and than {TORCH}")
    for title, shape in titles.items():
        print(f"{title}: {_fewer_products(*shape, options.dim)} fewer products for {CANDIDATES} candidates")
    if options.nodes:
        for (name, graph), rows in itertools.product(graphs.items(), (1, 100)):
            if _is_shared(name):
                feeds = request_feeds([ids[:rows]], IS_CONTEXT, open_session(graph))
                print_nodes(f"{name}, {rows} candidates", graph, feeds, options.rounds)
    command.print_json(unit="microseconds a row", by="candidates a request", figures=figures)


def _fields(cardinality: int) -> list[Field]:
    return [
        Field(f"f{number}", cardinality, role="context" if is_context else "candidate")
        for number, is_context in enumerate(IS_CONTEXT)
    ]


def _student_of(fields: Sequence[Field], hidden_units: Sequence[int], _: int, dim: int) -> DNN:
    """A perceptron with random weights, which has no pairs."""
    torch.manual_seed(0)
    return DNN(fields, dim, hidden_units).eval()


def _variants(model: DeepFwFM | DNN, ids: NDArray[np.int32]) -> dict[str, bytes]:
    float32 = export_onnx(model, FIELDS)
    variants = {"plain float32": float32, "plain int8": int8_of(float32, ids)}
    for name in ("float32", "int8"):
        shared = checked_shared_graph(variants[f"plain {name}"], ids, IS_CONTEXT, _fail)
        if shared is None:
            raise SystemExit("the model must have context and candidate fields")
        variants[f"shared {name}"] = shared.graph
    return variants


def _fail(why: str) -> None:
    raise SystemExit(f"the graph has no shared-context form: {why}")


def _is_shared(name: str) -> bool:
    return ", shared " in name


def _scorer(name: str, graph: bytes) -> Scorer:
    return request_scorer(graph, IS_CONTEXT) if _is_shared(name) else graph_scorer(graph)


def _table(figures: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    heads = [cell for count in CANDIDATES for cell in (str(count), "", "")]
    rows = [["microseconds a row, by candidates", *heads]]
    for name, by_rows in figures.items():
        cells = []
        for count, value in by_rows.items():
            plain = figures[name.replace(", shared ", ", plain ")][count]
            cells += [f"{value:.2f}", f"{plain / value:.1f}x" if _is_shared(name) else ""]
            cells.append(f"{figures[TORCH][count] / value:.0f}x")
        rows.append([name, *cells])
    return rows


def _fewer_products(hidden_units: Sequence[int], pairs: int, dim: int) -> str:
    """How many times fewer products a row needs if the context meets the first layer once a request."""
    plain = products(hidden_units, pairs, dim)
    shared = [products(hidden_units, pairs, dim, inputs=_inputs(count)) for count in CANDIDATES]
    return ", ".join(f"{plain / each:.1f}x" for each in shared)


def _inputs(count: int) -> float:
    """Embeddings a row that go into the first layer: its candidate's, and its part of the context's."""
    return CANDIDATE_FIELDS + CONTEXT_FIELDS / count


if __name__ == "__main__":
    sys.exit(ended(main))
