"""How far dynamic INT8 moves a row's pCTR with the rows that are scored with it, and how fast it is.

    python -m benchmarks.dynamic_int8 [--models deep_fwfm dcn_v2] [--rows 200000] [--companies 20]

Each model is trained briefly on a synthetic log and exported as float32; static INT8 and dynamic INT8 are
made of the same graph, as `--quantization dynamic` does. Then the first test rows are scored alone, and in
several companies: batches of each size with other rows, drawn anew each time.

AUC          on the test part, in batches of 4,096; `error` is the standard deviation of the logit's
             difference to float32.
changed      of the rows, those whose logit has other bits in any company than alone.
|logit|      the largest move of a row's logit between two companies of one size, and the median.
pCTR         the same largest move, as a share of the row's pCTR.
first        of requests of 100 candidates, those where another candidate has the highest logit once the same
             request is scored with 900 rows of others.
us/row       processor time of ONNX Runtime on one thread; medians of interleaved rounds.

float32 and static INT8 promise no change at all.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from benchmarks.command import Command, ended, machine, print_table
from benchmarks.synthetic import check_same_options, float_graph, make_log
from export.data.encoded import EncodedLog, open_log
from export.data.synthetic import SyntheticConfig
from export.errors import ExportError
from export.graph.quantize import quantize_dynamic, quantize_int8
from export.graph.runtime import (
    BATCHES,
    graph_scorer,
    microseconds_a_row,
    open_session,
    run_graph,
    run_session,
)
from export.judge.metrics import auc, sigmoid
from export.stages.plan import Plan
from export.stages.quantize import spread_rows
from export.stages.work import Work
from export.train.choices import TrainChoice
from models import MODELS

DEFAULT = ("deep_fwfm", "dnn", "dcn_v2")
COMPANIES = (8, 64, 1024)  # rows
CANDIDATES, OTHERS, REQUESTS = 100, 900, 50

Ids = NDArray[np.int32]
Logits = NDArray[np.float32]
Score = Callable[[Ids], Logits]


@dataclass(frozen=True)
class Point:
    """One graph of one model; a move is between two companies of the same size, the largest of all sizes."""

    model: str
    graph: str
    bytes: int
    auc: float
    logit_error: float
    changed_rows: int
    largest_move: float
    median_move: float
    largest_pctr_move: float
    other_first: int
    microseconds_a_row: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON."""
    command = Command("dynamic_int8", __doc__)
    command.folder("--work", "artifacts/dynamic_int8")
    command.add_argument(
        "--models", nargs="+", choices=[*MODELS], default=DEFAULT, metavar="NAME", help=" ".join(DEFAULT)
    )
    command.number("--rows", 200_000, "of the log")
    command.number("--features", 50_000, "of the log")
    command.number("--seed", 1, "of the log, and of companies", least=0)
    command.number("--epochs", 2, "of training")
    command.number("--watched", 256, "rows whose moves are measured")
    command.number("--companies", 20, "of each size", least=2)
    options = command.parse_args(arguments)
    kept = {name: vars(options)[name] for name in ("rows", "features", "seed", "epochs")}
    check_same_options(options.work, kept)
    with Work(options.work / "export").held(new=True) as work:
        make_log(work, SyntheticConfig(rows=options.rows, seed=options.seed, features=options.features))
        choice = TrainChoice(epochs=options.epochs, threads=1)
        graphs = {model: float_graph(work, model, choice) for model in options.models}
        log = open_log(work.path("log"))
    points = [point for model, graph in graphs.items() for point in measure(model, graph, log, options)]
    print(f"{options.rows:,} rows, tested on {len(log.parts['test']):,}; {machine()}")
    print_table(_table(points))
    print(
        f"changed: of {options.watched} rows, in {options.companies} companies of each of {COMPANIES}; "
        f"first: of {REQUESTS} requests of {CANDIDATES}"
    )
    command.print_json(
        **kept,
        watched=options.watched,
        companies=options.companies,
        points=[asdict(point) for point in points],
    )


def measure(model: str, graph: bytes, log: EncodedLog, options: Namespace) -> Iterator[Point]:
    """A point of the float32 graph and one of each INT8 graph."""
    test = log.parts["test"]
    ids, labels = np.array(test.ids), np.asarray(test.labels)
    rows = spread_rows(log.parts["train"], Plan.quantization_rows)
    static, dynamic = quantize_int8(graph, rows), quantize_dynamic(graph, rows)
    if static is None or dynamic is None:
        raise ExportError(f"'--models' must have layers whose inputs are not codes (got {model!r})")
    graphs = {"float32": graph, "static": static, "dynamic": dynamic}
    times = microseconds_a_row({name: graph_scorer(each) for name, each in graphs.items()}, ids, BATCHES)
    expected = run_graph(graph, ids)
    for name, each in graphs.items():
        logits = run_graph(each, ids)
        score = partial(_together, open_session(each))
        moved = moves(score, ids, options.watched, options.companies, options.seed)
        yield Point(
            model=model,
            graph=name,
            bytes=len(each),
            auc=auc(labels, logits),
            logit_error=float((logits - expected).std()),
            changed_rows=moved.changed,
            largest_move=float(moved.logits.max()),
            median_move=float(np.median(moved.logits)),
            largest_pctr_move=float(moved.pctrs.max()),
            other_first=other_first(score, ids, options.seed),
            microseconds_a_row=times[name],
        )


def _together(session: InferenceSession, rows: Ids) -> Logits:
    """The logits of rows in one batch."""
    return run_session(session, rows, len(rows))


@dataclass(frozen=True)
class Moves:
    """How far each watched row moved between companies, [rows], and how many differ from alone."""

    logits: NDArray[np.float64]
    pctrs: NDArray[np.float64]
    changed: int


def moves(score: Score, ids: Ids, rows: int, companies: int, seed: int) -> Moves:
    """Of the first `rows` rows, in companies drawn from all."""
    random = np.random.default_rng(seed)
    watched = ids[:rows]
    alone = np.concatenate([score(row[None]) for row in watched])
    changed = np.zeros(len(watched), np.bool_)
    logits, pctrs = np.zeros(len(watched)), np.zeros(len(watched))
    for size in COMPANIES:
        found = np.empty((companies, len(watched)), np.float32)
        for company in range(companies):
            for at, row in enumerate(watched):
                others = ids[random.integers(0, len(ids), size - 1)]
                found[company, at] = score(np.concatenate([row[None], others]))[0]
        changed |= (found.view(np.int32) != alone.view(np.int32)).any(axis=0)
        logits = np.maximum(logits, np.ptp(found.astype(np.float64), axis=0))
        rates = sigmoid(found)
        pctrs = np.maximum(pctrs, np.ptp(rates, axis=0) / rates.mean(axis=0))
    return Moves(logits, pctrs, int(changed.sum()))


def other_first(score: Score, ids: Ids, seed: int) -> int:
    """Of REQUESTS requests, those whose best candidate is another one in company."""
    random = np.random.default_rng(seed)
    found = 0
    for _ in range(REQUESTS):
        request = ids[random.integers(0, len(ids), CANDIDATES)]
        others = ids[random.integers(0, len(ids), OTHERS)]
        alone, together = score(request), score(np.concatenate([request, others]))[:CANDIDATES]
        found += int(alone.argmax() != together.argmax())
    return found


def _table(points: Sequence[Point]) -> list[list[str]]:
    head = ["model", "graph", "bytes", "AUC", "error", "changed", "max |logit|", "median", "max pCTR"]
    lines = [[*head, "first", *(f"us/row @{batch}" for batch in BATCHES)]]
    lines += [
        [
            one.model,
            one.graph,
            f"{one.bytes:,}",
            f"{one.auc:.5f}",
            f"{one.logit_error:.4f}",
            str(one.changed_rows),
            f"{one.largest_move:.4f}",
            f"{one.median_move:.4f}",
            f"{one.largest_pctr_move:.2%}",
            str(one.other_first),
            *(f"{one.microseconds_a_row[str(batch)]:.2f}" for batch in BATCHES),
        ]
        for one in points
    ]
    return lines


if __name__ == "__main__":
    sys.exit(ended(main))
