"""Times a training step at several sizes of the embedding table.

    python -m benchmarks.training_step [--features 100000 1000000 10000000] [--model deep_fwfm]

The same model takes the same batches with tables of 0.1, 1 and 10 million ids, with each optimizer of sparse
gradients and with Adam of dense ones. The ids of a batch follow Zipf's law, as real ids do; `rows touched`
counts the distinct ones, which grow with the table too. The ceiling: the cost follows the batch and not the
table, so the same time at every size.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.command import Command, ended, print_table
from export.train.build import build_from_fields
from export.train.config import TrainConfig
from export.train.optimizers import Optimizers, sparse_gradients
from models import MODELS
from models.fields import Field

N_FIELDS = 39
BATCHES = 8
WARM_UP_STEPS = 3
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
    """One optimizer at one size: elapsed milliseconds of a step, and its processor time, which other work on
    the machine disturbs less; `update_ms` is the optimizer's part of the processor time.
    """

    optimizer: str
    features: int
    rows_touched: int
    step_ms: float
    cpu_ms: float
    update_ms: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table and, on the last line, the same as JSON."""
    command = Command("training_step", __doc__)
    command.add_argument(
        "--model", choices=[*MODELS], default="deep_fwfm", metavar="NAME", help="[%(default)s]"
    )
    command.numbers("--features", [100_000, 1_000_000, 10_000_000], "ids of the table")
    command.number("--batch-size", 2048, "rows a step")
    command.number("--steps", 20, f"timed, after {WARM_UP_STEPS} to warm up")
    command.number("--threads", 1, "of torch")
    options = command.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"{options.model}, {N_FIELDS} fields, {options.batch_size} rows a step, {options.threads} threads")
    points = [_measure(name, size, options) for size in options.features for name in (*WAYS, DENSE)]
    print_table([list(HEAD), *(_cells(point) for point in points)])
    command.print_json(model=options.model, points=[vars(point) for point in points])


def _measure(name: str, features: int, options: argparse.Namespace) -> Point:
    """The fastest of the steps; model and optimizer are freed afterwards."""
    fields = [Field(f"f{i}", features // N_FIELDS) for i in range(N_FIELDS)]
    batches = _batches(features // N_FIELDS, options.batch_size)
    model = build_from_fields(options.model, fields, {}).train()
    with contextlib.ExitStack() as stack:
        tables = [] if name == DENSE else stack.enter_context(sparse_gradients(model))
        update = _update(name, model, tables, options.batch_size)
        steps = [
            _step(model, *batches[step % BATCHES], update) for step in range(WARM_UP_STEPS + options.steps)
        ]
    touched = statistics.mean(len(torch.unique(ids + _offsets(fields))) for ids, _ in batches)
    # The least, not the mean: other work on the machine can only add to it.
    return Point(
        name,
        features,
        round(touched),
        *(min(times) * 1e3 for times in zip(*steps[WARM_UP_STEPS:], strict=True)),
    )


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
    """An update of the rows touched, or of all rows."""
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
    """Elapsed seconds of a step, its processor seconds, and those of the update."""
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
    sys.exit(ended(main))
