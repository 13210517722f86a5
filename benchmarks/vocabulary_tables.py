"""What a wide vocabulary costs as a table of the bundle, beside a dictionary: seconds, bytes, look-ups.

`python -m benchmarks.vocabulary_tables` saves a bundle with one field of `--values` values, and loads it in a
process of its own for each way, in turns: from its table, and as it is without the native core. It prints
medians of `--rounds` rounds. Files are in the system's cache. A process has `own` bytes a value for itself;
those of the `file` are shared by all processes that serve the bundle. Look-ups of values that were drawn at
random are timed in the Python encoder and in the core. 10,000,000 values take gigabytes and minutes to save.
"""

from __future__ import annotations

import gc
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from benchmarks.command import Command, ended, print_table
from service.bundle.calibration import Calibrator, Quality
from service.bundle.manifest import (
    Description,
    Golden,
    GoldenOutputs,
    GoldenRow,
    Graph,
    ModelInfo,
    Tensor,
    Training,
)
from service.bundle.native import IS_BUILT
from service.bundle.schema import Field, Kind, Role, Schema, Vocabulary
from service.bundle.store import Contents, load_bundle, save_bundle
from service.reading import read_plain
from service.wire import MSGPACK

FIELD, VARIANT = "f", "float32"
TABLES, DICTIONARIES = "table", "dictionary"


@dataclass(frozen=True)
class Cost:
    """Of one load. Look-ups are per second; those of the core None where it packs a table of its own."""

    load_seconds: float
    own_bytes_a_value: float
    file_bytes_a_value: float
    python_lookups: float
    core_lookups: float | None


def value_of(number: int) -> str:
    """8 characters, in no order."""
    return f"{number * 2_654_435_761 % 2**32:08x}"


def save(folder: Path, values: int) -> None:
    """A bundle whose field has so many values; its graph is no graph, as none is run."""
    encoding = Vocabulary(tuple(map(value_of, range(values))))
    schema = Schema((Field(FIELD, Kind.CATEGORICAL, Role.CANDIDATE, encoding),))
    graph, quality = b"no graph", Quality(0.5, 0.0, 1.0)
    calibrator = Calibrator(
        variant=VARIANT,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        method="identity",
        sampling_rate=1.0,
        fit_rows=1,
        fit_clicks=0,
        before=quality,
        after=quality,
    )
    tensors = (Tensor("ids", "int32", (None, 1)),), (Tensor("logits", "float32", (None,)),)
    description = Description(
        name="wide",
        created_at="2026-01-31T12:00:00+00:00",
        model=ModelInfo("none", {}, 0),
        graphs={VARIANT: Graph("model.float32.onnx", VARIANT, 17, *tensors)},
        serving_variant=VARIANT,
        training=Training(source="none", rows={}, clicks={}, split="row order", epochs=0, seed=0),
    )
    outputs = {VARIANT: GoldenOutputs((0.0,), (0.5,), 1e-4)}
    golden = Golden((GoldenRow({}, {FIELD: value_of(values - 1)}),), ((values + 1,),), outputs)
    save_bundle(folder, description, Contents(schema, {VARIANT: graph}, {VARIANT: calibrator}, golden))


def measure(folder: Path, way: str, lookups: int) -> Cost:
    """Load the bundle in this process, which must have loaded nothing before."""
    before = _own_bytes()
    started = time.perf_counter()
    bundle = load_bundle(folder, native=way == TABLES)
    encoder = bundle.encoder
    native = encoder.native if way == TABLES else None
    loaded = time.perf_counter()
    gc.collect()
    own = _own_bytes() - before
    table = bundle.manifest.files.get("vocabulary/0.table")
    values = encoder.schema.fields[0].encoding.size
    draw = random.Random(0)
    asked = [value_of(draw.randrange(values)) for _ in range(lookups)]
    in_python = _seconds(lambda: encoder.encode_column(FIELD, asked))
    in_core = None
    if native is not None:
        body = msgspec.msgpack.encode({"candidates": {"features": {FIELD: asked}}})
        request = read_plain(body, MSGPACK, lookups)
        assert request is not None
        found = np.zeros((lookups, 1), np.int32)
        in_core = _seconds(lambda: request.encode(native, None, np.empty(0, np.int32), found))
        assert found.min() > 1
    return Cost(
        load_seconds=loaded - started,
        own_bytes_a_value=own / values,
        file_bytes_a_value=table.size / values if way == TABLES and table is not None else 0.0,
        python_lookups=lookups / in_python,
        core_lookups=None if in_core is None else lookups / in_core,
    )


def _seconds(step: Callable[[], Any]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _own_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def in_turns(folder: Path, lookups: int, rounds: int) -> dict[str, Cost]:
    """The medians of each way, each load in a new process."""
    found: dict[str, list[Cost]] = {TABLES: [], DICTIONARIES: []}
    for _ in range(rounds):
        for way, costs in found.items():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                costs.append(alone.submit(measure, folder, way, lookups).result())
    return {way: _median(costs) for way, costs in found.items()}


def _median(costs: Sequence[Cost]) -> Cost:
    found: dict[str, Any] = {}
    for name in asdict(costs[0]):
        figures = [getattr(cost, name) for cost in costs]
        found[name] = None if None in figures else median(figures)
    return Cost(**found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures and, on the last line, the same as JSON; the exit status."""
    command = Command("vocabulary_tables", __doc__)
    command.number("--values", 1_000_000, "of the field")
    command.number("--lookups", 200_000, "of values drawn at random")
    command.number("--rounds", 3, "of loads")
    options = command.parse_args(arguments)
    if not IS_BUILT:
        command.error("the native core must be built; install it where there is a C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "wide"), options.values)
        costs = in_turns(Path(folder, "wide"), options.lookups, options.rounds)
    head = ["way", "load, s", "own B a value", "file B a value", "look-ups/s in Python", "in the core"]
    print_table([head, *([way, *_shown(cost)] for way, cost in costs.items())])
    ways = {way: asdict(cost) for way, cost in costs.items()}
    command.print_json(values=options.values, lookups=options.lookups, ways=ways)
    return 0


def _shown(cost: Cost) -> list[str]:
    core = "" if cost.core_lookups is None else f"{cost.core_lookups:,.0f}"
    bytes_ = f"{cost.own_bytes_a_value:.1f}", f"{cost.file_bytes_a_value:.1f}"
    return [f"{cost.load_seconds:.2f}", *bytes_, f"{cost.python_lookups:,.0f}", core]


if __name__ == "__main__":
    sys.exit(ended(main))
