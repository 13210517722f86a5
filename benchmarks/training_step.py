"""Seconds a training step against the size of the embedding table: `python -m benchmarks.training_step`.

A step's cost should follow the batch and not the table. The same model takes the same batches with tables of
0.1, 1 and 10 million ids, by each optimizer with sparse gradients and by Adam with dense ones. Batches are
drawn by Zipf's law, as real ids are: how many rows they touch is printed, since that grows with the table
too. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.cli.parser import Help, Parser
from export.cli.values import positive_int
from export.report.text_table import aligned
from export.train.build import build_from_fields
from export.train.config import TrainConfig
from export.train.optimizers import Optimizers, sparse_gradients
from models.fields import Field

N_FIELDS = 39
BATCHES = 8
ZIPF = 1.5
DENSE = "adam, dense gradients"
HEAD = ("embedding optimizer", "features", "rows touched", "ms a step", "CPU ms", "of it update")
WAYS: dict[str, TrainConfig] = {
    "adam": TrainConfig(),
    "ftrl": TrainConfig(embedding_optimizer="ftrl"),
    "group-lasso-ftrl": TrainConfig(embedding_optimizer="group-lasso-ftrl"),
}


@dataclass(frozen=True)
class Point:
    """One optimizer at one size: milliseconds of a step by the clock and of processors, which other work on
    the machine disturbs less; `update_ms` is the part of the latter that is the optimizer's.
    """

    optimizer: str
    features: int
    rows_touched: int
    step_ms: float
    cpu_ms: float
    update_ms: float


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    print(f"{options.model}, {N_FIELDS} fields, {options.batch_size} rows a step, {options.threads} threads")
    points = [_measure(name, size, options) for size in options.features for name in (*WAYS, DENSE)]
    print("\n".join(aligned([list(HEAD), *(_cells(point) for point in points)])))
    print(json.dumps({"model": options.model, "points": [vars(point) for point in points]}))


def _options() -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.training_step", description=__doc__, formatter_class=Help)
    parser.add_argument("--model", default="deep_fwfm", help="[%(default)s]")
    parser.add_argument(
        "--features", type=positive_int, nargs="+", default=[100_000, 1_000_000, 10_000_000], metavar="N"
    )
    parser.add_argument("--batch-size", type=positive_int, default=2048, metavar="ROWS", help="[%(default)s]")
    parser.add_argument("--steps", type=positive_int, default=20, help="timed, after a few to warm up [20]")
    parser.add_argument("--threads", type=positive_int, default=1, help="[%(default)s]")
    return parser.parse_args()


def _measure(name: str, features: int, options: argparse.Namespace) -> Point:
    """The fastest of the steps; model and optimizer are gone from memory afterwards."""
    fields = [Field(f"f{i}", features // N_FIELDS) for i in range(N_FIELDS)]
    batches = _batches(features // N_FIELDS, options.batch_size)
    model = build_from_fields(options.model, fields, {}).train()
    with contextlib.ExitStack() as stack:
        tables = [] if name == DENSE else stack.enter_context(sparse_gradients(model))
        update = _update(name, model, tables, options.batch_size)
        steps = [_step(model, *batches[step % BATCHES], update) for step in range(options.steps + 3)][3:]
    touched = statistics.mean(len(torch.unique(ids + _offsets(fields))) for ids, _ in batches)
    # The least, not the mean: whatever else the machine does can only add to it.
    return Point(name, features, round(touched), *(min(times) * 1e3 for times in zip(*steps, strict=True)))


def _batches(cardinality: int, rows: int) -> list[tuple[Tensor, Tensor]]:
    """ids [rows, fields], labels [rows]: ranks by Zipf's law, scattered over the field's ids."""
    draw = np.random.default_rng(0)
    places = draw.permutation(cardinality)
    found = []
    for _ in range(BATCHES):
        ids = places[(draw.zipf(ZIPF, (rows, N_FIELDS)) - 1) % cardinality]
        labels = draw.random(rows) < 0.2
        found.append((torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(labels.astype(np.float32))))
    return found


def _offsets(fields: list[Field]) -> Tensor:
    return torch.arange(len(fields)) * fields[0].cardinality


def _update(name: str, model: nn.Module, tables: list[Tensor], rows: int) -> Callable[[], None]:
    """What an update is: of the rows touched, or of all."""
    if name != DENSE:
        optimizers = Optimizers(model, tables, WAYS[name])
        return lambda: optimizers.step(1e-3, rows)
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def update() -> None:
        adam.step()
        adam.zero_grad(set_to_none=True)

    return update


def _step(
    model: nn.Module, ids: Tensor, labels: Tensor, update: Callable[[], None]
) -> tuple[float, float, float]:
    """Seconds of a step by the clock, of processors, and of processors for the update."""
    clock, started = time.perf_counter(), time.process_time()
    torch.autograd.backward(F.binary_cross_entropy_with_logits(model(ids), labels))
    between = time.process_time()
    update()
    ended = time.process_time()
    return time.perf_counter() - clock, ended - started, ended - between


def _cells(point: Point) -> list[str]:
    times = (f"{value:.1f}" for value in (point.step_ms, point.cpu_ms, point.update_ms))
    return [point.optimizer, f"{point.features:,}", f"{point.rows_touched:,}", *times]


if __name__ == "__main__":
    main()
