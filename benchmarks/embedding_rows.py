"""Compares widths of embedding rows, and product quantization of them, on one trained model.

    python -m benchmarks.embedding_rows --work .work/shop [--variant pruned]

The work folder is that of an export, up to its stage `to-onnx`; nothing is written to it. Each line of the
table is an INT8 graph of the same float graph:

8, 4 bits      every number of the tables in as many bits; one scale a field.
mixed          8, 4 or 2 bits by field, within a share of the LogLoss (`--embedding-loss` of the export).
pq N x K       product quantization (Jegou et al., "Product Quantization for Nearest Neighbor Search", PAMI
               2011): a row is N codes of K centroids each, found by k-means, weighted by the square root of a
               row's training rows. No graph looks centroids up: they replace the rows, and `rows` counts what
               codes and centroids would take.

rows           bytes of the embedding rows; `graph` those of the whole graph.
AUC, LogLoss   the change against the float graph on the test part, with 95 % paired bootstrap intervals.
us/row         processor time of ONNX Runtime on one thread; medians of interleaved rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.command import Command, ended, print_table
from export.data.encoded import EncodedLog, open_log
from export.graph.editing import Array, GraphEditor
from export.graph.onnx import serialize
from export.graph.quantize import quantize_int8
from export.graph.row_widths import mixed_rows, narrow_rows
from export.graph.runtime import graph_scorer, microseconds_a_row, run_graph
from export.graph.table_lookups import large_tables
from export.judge.metrics import sigmoid
from export.judge.parity import compare_variants
from export.stages.quantize import spread_rows
from export.stages.row_bits import CHOSEN_ON_ROWS
from export.stages.variants import DENSE, PRUNED, Variant, read_variants
from export.stages.work import Work
from loadtest.arguments import a_folder

CALIBRATION_ROWS = 16_384
BATCHES = (64, 1024)
SHARES = (0.0002, 0.0005, 0.001)
CODES = ((5, 256), (2, 256), (5, 16))  # codes a row, centroids
ROUNDS, CHUNK = 12, 4096


@dataclass(frozen=True)
class Point:
    """One way to write the rows; changes are against the float graph."""

    rows: str
    row_bytes: int
    graph_bytes: int
    auc_delta: float
    auc_interval: tuple[float, float]
    logloss_delta: float
    logloss_interval: tuple[float, float]
    microseconds_a_row: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON."""
    command = Command("embedding_rows", __doc__)
    command.add_argument("--work", type=a_folder, required=True, metavar="FOLDER", help="of an export")
    command.add_argument("--variant", choices=(DENSE, PRUNED), default=DENSE, help=f"[{DENSE}]")
    options = command.parse_args(arguments)
    work = Work(options.work)
    log = open_log(work.path("log"))
    variants = read_variants(work, log.schema)
    if options.variant not in variants:
        command.error(f"'variant' must be in the work folder (got {options.variant!r}); prune first")
    points = measure(variants[options.variant], log)
    print_table([["rows", "rows", "graph", "AUC", "95 %", "LogLoss", *(f"us @{n}" for n in BATCHES)],
                 *map(_told, points)])  # fmt: skip
    command.print_json(points=[asdict(point) for point in points])


def measure(source: Variant, log: EncodedLog) -> list[Point]:
    """All ways, on the test part."""
    part = log.parts["test"]
    labels, before = np.asarray(part.labels), source.score(part)
    graphs = {name: (graph, size) for name, graph, size in _written(source, log)}
    ids = source.ids(np.array(part.ids[: max(BATCHES)]))
    times = microseconds_a_row(
        {name: graph_scorer(graph) for name, (graph, _) in graphs.items()}, ids, BATCHES
    )
    points = []
    for name, (graph, size) in graphs.items():
        after = run_graph(graph, source.ids(np.array(part.ids)))
        change = compare_variants(
            (source.name, name), labels, (before, after), (sigmoid(before), sigmoid(after))
        )
        points.append(
            Point(
                rows=name,
                row_bytes=size,
                graph_bytes=len(graph),
                auc_delta=change.auc_delta,
                auc_interval=change.auc_interval,
                logloss_delta=change.logloss_delta,
                logloss_interval=change.logloss_interval,
                microseconds_a_row=times[name],
            )
        )
    return points


def _written(source: Variant, log: EncodedLog) -> Iterator[tuple[str, bytes, int]]:
    """Each way's name, graph and bytes of rows."""
    training = source.ids(spread_rows(log.parts["train"], CALIBRATION_ROWS))
    validation = source.ids(spread_rows(log.parts["validation"], CHOSEN_ON_ROWS))
    chosen = {f"{bits} bits": narrow_rows(source.graph, validation, bits) for bits in (8, 4)}
    chosen |= {f"mixed {share:g}": mixed_rows(source.graph, validation, share) for share in SHARES}
    for name, rows in chosen.items():
        graph = quantize_int8(source.graph, training, rows.forms)
        if graph is not None:
            yield name, graph, sum(segment.bytes for segment in rows.segments)
    for codes, centroids in CODES:
        graph, size = with_product_codes(source.graph, training, codes, centroids)
        int8 = quantize_int8(graph, training)
        if int8 is not None:
            yield f"pq {codes} x {centroids}", int8, size


def with_product_codes(graph: bytes, ids: NDArray[np.int32], codes: int, centroids: int) -> tuple[bytes, int]:
    """The graph with the rows of large tables replaced by centroids, and the bytes that they would take."""
    editor, size = GraphEditor.of_bytes(graph), 0
    for table in large_tables(editor):
        counts = np.zeros(len(table.values))
        for lookup in table.lookups:
            if lookup.segments.shape == ids.shape[1:]:
                counts += np.bincount((ids + table.starts[lookup.segments]).ravel(), minlength=len(counts))
        parts = np.array_split(np.arange(table.columns), min(codes, table.columns))
        found = [nearest_centroids(table.values[:, part], centroids, np.sqrt(counts + 1.0)) for part in parts]
        table.value.const_value = ir.tensor(np.concatenate(found, axis=1).astype(np.float32))
        bits = (centroids - 1).bit_length()
        size += len(table.values) * -(-len(parts) * bits // 8) + 4 * centroids * table.columns
    return serialize(editor.proto()), size


def nearest_centroids(points: Array, count: int, weights: Array) -> Array:
    """points [n, d] -> the centroid of each, of at most `count` that k-means finds; the same every time."""
    draw = np.random.default_rng(0)
    chosen = draw.choice(len(points), min(count, len(points)), replace=False, p=weights / weights.sum())
    centroids = points[chosen].astype(np.float64)
    for _ in range(ROUNDS):
        own = np.concatenate([
            np.square(points[at : at + CHUNK, None] - centroids).sum(axis=2).argmin(axis=1)
            for at in range(0, len(points), CHUNK)
        ])  # fmt: skip
        held = np.bincount(own, weights, len(centroids))
        for axis in range(points.shape[1]):
            sums = np.bincount(own, weights * points[:, axis], len(centroids))
            centroids[:, axis] = np.where(held > 0, sums / np.maximum(held, 1e-12), centroids[:, axis])
    nearest: Array = centroids[own]
    return nearest


def _told(point: Point) -> list[str]:
    low, high = point.auc_interval
    return [
        point.rows,
        f"{point.row_bytes:,}",
        f"{point.graph_bytes:,}",
        f"{point.auc_delta:+.5f}",
        f"{low:+.5f} to {high:+.5f}",
        f"{point.logloss_delta:+.5f}",
        *(f"{point.microseconds_a_row[str(batch)]:.2f}" for batch in BATCHES),
    ]


if __name__ == "__main__":
    sys.exit(ended(main))
