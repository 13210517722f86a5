"""Compares Bidlight's INT8 graphs with those of onnxruntime.quantization, made of the same float32 graphs.

    python -m benchmarks.int8_writers [--models deep_fwfm dcn_v2] [--rows 300000]

Each model is trained briefly on a synthetic log and exported; then every writer turns the same graph into
INT8, calibrated on the same training rows where it is static:

bidlight      export.graph.quantize: tables as codes, layers as QGemm, weights of 7 bits.
ort static    quantize_static after quant_pre_process: QDQ, per channel, uint8 activations, int8 weights.
ort 7 bits    the same with `reduce_range`, which a processor without VNNI needs.
ort layers    the same for look-ups and layers alone, whose outputs stay float32: the closest to Bidlight's.
ort dynamic   quantize_dynamic, per channel: weights ahead of time, the range of activations in each batch.

bytes        of the graph. The ceiling is a quarter of float32.
AUC          on the test part; `error` is the standard deviation of the logit's difference to float32.
us/row       processor time of ONNX Runtime on one thread; medians of interleaved rounds.
changed      of 256 rows, those whose logit has other bits in a batch of 64 or 1024 than alone. Bidlight
             promises none, so that an answer does not depend on other requests.

Graphs are kept in the work folder: a second run trains nothing.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import Command, ended, machine, print_table
from benchmarks.synthetic import check_same_options, float_graph, make_log
from export.data.encoded import EncodedLog, open_log
from export.data.synthetic import SyntheticConfig
from export.errors import ExportError
from export.graph.onnx import INPUT, quiet
from export.graph.quantize import quantize_int8
from export.graph.runtime import graph_scorer, microseconds_a_row, run_graph
from export.judge.metrics import auc
from export.stages.quantize import spread_rows
from export.stages.work import Work
from export.train.choices import TrainChoice
from models import MODELS

Ids = NDArray[np.int32]
Writer = Callable[[bytes, Ids], bytes]

DEFAULT = ("deep_fwfm", "deepfm", "dcn_v2", "xdeepfm", "pnn")
CALIBRATION_ROWS = 4096
BATCHES = (1, 1024)
INVARIANCE_ROWS, INVARIANCE_BATCHES = 256, (64, 1024)


@dataclass(frozen=True)
class Point:
    """What one writer made of one model's graph."""

    model: str
    writer: str
    bytes: int
    auc: float
    auc_delta: float  # to the float32 graph
    logit_error: float
    max_logit_error: float
    microseconds_a_row: dict[str, float]
    changed_rows: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON."""
    command = Command("int8_writers", __doc__)
    command.folder("--work", "artifacts/int8_writers")
    command.add_argument(
        "--models", nargs="+", choices=[*MODELS], default=DEFAULT, metavar="NAME", help=" ".join(DEFAULT)
    )
    command.number("--rows", 300_000, "of the log")
    command.number("--features", 50_000, "of the log")
    command.number("--seed", 1, "of the log", least=0)
    command.number("--epochs", 2, "of training")
    command.number("--threads", 1, "of torch")
    options = command.parse_args(arguments)
    kept = {name: vars(options)[name] for name in ("rows", "features", "seed", "epochs")}
    check_same_options(options.work, kept)
    with Work(options.work / "export").held(new=True) as work:
        make_log(work, SyntheticConfig(rows=options.rows, seed=options.seed, features=options.features))
        choice = TrainChoice(epochs=options.epochs, threads=options.threads)
        graphs = {model: float_graph(work, model, choice) for model in options.models}
        log = open_log(work.path("log"))
    points = [point for model, graph in graphs.items() for point in measure(model, graph, log)]
    print(f"{options.rows:,} rows, tested on {len(log.parts['test']):,}; {machine()}")
    print_table(_table(points))
    print(f"changed: of {INVARIANCE_ROWS} rows, alone and in batches of {INVARIANCE_BATCHES}")
    command.print_json(**kept, points=[asdict(point) for point in points])


def measure(model: str, graph: bytes, log: EncodedLog) -> Iterator[Point]:
    """A point of the float32 graph and one of each writer's."""
    test = log.parts["test"]
    ids, labels = np.array(test.ids), np.asarray(test.labels)
    rows = spread_rows(log.parts["train"], CALIBRATION_ROWS)
    graphs = {"float32": graph, **{name: write(graph, rows) for name, write in WRITERS.items()}}
    times = microseconds_a_row({name: graph_scorer(each) for name, each in graphs.items()}, ids, BATCHES)
    expected = run_graph(graph, ids)
    for name, each in graphs.items():
        logits = run_graph(each, ids)
        difference = logits - expected
        yield Point(
            model=model,
            writer=name,
            bytes=len(each),
            auc=auc(labels, logits),
            auc_delta=auc(labels, logits) - auc(labels, expected),
            logit_error=float(difference.std()),
            max_logit_error=float(np.abs(difference).max()),
            microseconds_a_row=times[name],
            changed_rows=changed_rows(each, ids[: max(INVARIANCE_BATCHES)]),
        )


def changed_rows(graph: bytes, ids: Ids) -> int:
    """How many of the first rows of `ids` have other bits in a batch than alone."""
    alone = run_graph(graph, ids[:INVARIANCE_ROWS], batch_size=1).view(np.int32)
    changed = np.zeros(len(alone), np.bool_)
    for size in INVARIANCE_BATCHES:
        batch = run_graph(graph, ids, batch_size=size)[:INVARIANCE_ROWS].view(np.int32)
        changed |= batch != alone
    return int(changed.sum())


class _Rows:
    """Calibration rows as onnxruntime.quantization reads them: a batch at a time, then None."""

    def __init__(self, ids: Ids, batch: int = 1024) -> None:
        self._batches = iter([ids[start : start + batch] for start in range(0, len(ids), batch)])

    def get_next(self) -> dict[str, Ids] | None:
        """The next batch."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: np.ascontiguousarray(batch)}


def bidlight(graph: bytes, rows: Ids) -> bytes:
    """By this project's writer."""
    found = quantize_int8(graph, rows)
    if found is None:
        raise ExportError("'--models' must have tables or layers to quantize")
    return found


def ort_static(
    graph: bytes, rows: Ids, *, reduce_range: bool = False, operators: Sequence[str] = ()
) -> bytes:
    """By quantize_static as its documentation advises for x86; of some operators, all by default.

    With `operators` their outputs stay float32.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(_Rows, CalibrationDataReader):  # type: ignore[misc]
        """The base class is what quantize_static asks for."""

    with quiet(None), tempfile.TemporaryDirectory() as name:
        source, prepared, target = (Path(name) / each for each in ("a.onnx", "b.onnx", "c.onnx"))
        source.write_bytes(graph)
        quant_pre_process(source, prepared)
        quantize_static(
            prepared,
            target,
            Reader(rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": list(operators)},
        )
        return target.read_bytes()


def ort_dynamic(graph: bytes, rows: Ids) -> bytes:
    """By quantize_dynamic, which needs no rows."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet(None), tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "a.onnx", Path(name) / "b.onnx"
        source.write_bytes(graph)
        quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
        return target.read_bytes()


WRITERS: Mapping[str, Writer] = {
    "bidlight": bidlight,
    "ort static": ort_static,
    "ort 7 bits": functools.partial(ort_static, reduce_range=True),
    "ort layers": functools.partial(ort_static, reduce_range=True, operators=("Gather", "Gemm", "MatMul")),
    "ort dynamic": ort_dynamic,
}


def _table(points: Sequence[Point]) -> list[list[str]]:
    head = ["model, writer", "bytes", "AUC", "to float32", "error", "largest"]
    lines = [[*head, *(f"us/row @{batch}" for batch in BATCHES), "changed"]]
    lines += [
        [
            f"{point.model}, {point.writer}",
            f"{point.bytes:,}",
            f"{point.auc:.4f}",
            f"{point.auc_delta:+.5f}",
            f"{point.logit_error:.4f}",
            f"{point.max_logit_error:.3f}",
            *(f"{point.microseconds_a_row[str(batch)]:.2f}" for batch in BATCHES),
            str(point.changed_rows),
        ]
        for point in points
    ]
    return lines


if __name__ == "__main__":
    sys.exit(ended(main))
