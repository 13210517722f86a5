"""Rows a second of a bundle's graphs on the CPU and on a GPU, their inputs fed plainly and bound.

    python -m benchmarks.device --arm artifacts/demo [--device cuda] [--rows 1024 4096 16384 65536]

Timed is one call of a session, from ids in memory to logits in memory: what a GPU spends on copies is in it.
The CPU is one thread, as a worker has it. Rows are those that a bundle carries, shuffled and repeated: tables
are read in few places, and the CPU finds these in its caches more often than in traffic. It knows no request,
queue or HTTP.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bundle.encoder import InvalidValue
from service.bundle.errors import EXPORT_AGAIN, BundleError
from service.bundle.manifest import GoldenRow
from service.bundle.store import Bundle, load_bundle
from service.errors import BadConfiguration
from service.scoring.rows import BatchRows, Ids
from service.scoring.session import NoCuda, Session

PROGRAM = "python -m benchmarks.device"
ROWS = (1024, 4096, 16384, 65536)
# Rows of the test part, one a line, which an export puts beside the golden ones.
SAMPLE_FILE = "report/requests.jsonl"


@dataclass(frozen=True)
class Contender:
    """A session and how it is used: which graph of which variant, where, and whether its inputs are bound."""

    variant: str
    graph: str  # plain or shared
    device: str
    inputs: str  # fed or bound
    session: Session

    def seconds_a_call(self, ids: Sequence[Ids], milliseconds: int) -> float:
        """Of a burst of calls that takes at least so long."""
        calls, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < milliseconds / 1000:
            self.session.run(*ids)
            calls += 1
        return passed / calls


@dataclass(frozen=True)
class Point:
    """What was measured of one contender at one batch size.

    `times_cpu` is its rows a second over those of the same graph fed on the CPU, `max_abs_difference` how far
    its logits are from those of the variant's plain graph there.
    """

    variant: str
    graph: str
    device: str
    inputs: str
    rows: int
    rows_per_second: float
    microseconds_a_row: float
    times_cpu: float
    max_abs_difference: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table and, on the last line, the same as JSON; the exit status. What is wrong is one line."""
    options = _parser().parse_args(arguments)
    try:
        bundle = load_bundle(options.arm)
        variants = options.variants or list(bundle.manifest.graphs)
        without_cuda = _why_no_cuda(bundle, options.device)
        devices = ("cpu",) if without_cuda else ("cpu", "cuda")
        contenders = [each for variant in variants for each in _contenders(bundle, variant, devices)]
        samples = _Samples(bundle)
    except (BadConfiguration, BundleError, InvalidValue) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1
    machine = _machine("cuda" in devices)
    print(f"{bundle.manifest.id}, {options.candidates} candidates a request; {machine}")
    if without_cuda:
        print(f"no CUDA here: {without_cuda}")
    points: list[Point] = []
    for rows in options.rows:
        batch = samples.batch(rows, options.candidates)
        points += _measure(contenders, bundle, batch, options.rounds, options.milliseconds)
    print("\n".join(_table(points)))
    result = {
        "machine": machine,
        "bundle": bundle.manifest.id,
        "no_cuda": without_cuda,
        "candidates_a_request": options.candidates,
        "points": [asdict(point) for point in points],
    }
    print(json.dumps(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Rows a second of a bundle's graphs on the CPU and on a GPU, by batch size.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=110),
    )
    add = parser.add_argument
    add("--arm", type=Path, required=True, metavar="FOLDER", help="the bundle")
    add(
        "--device",
        choices=("cpu", "cuda", "cuda-required"),
        default="cuda",
        help="what to measure beside the CPU; cuda says so where there is none, cuda-required fails [cuda]",
    )
    add("--variants", nargs="+", metavar="NAME", help="of the bundle's graphs [all]")
    add("--rows", type=_count, nargs="+", default=ROWS, metavar="N", help="rows a call [1024 to 65536]")
    add("--candidates", type=_count, default=100, metavar="N", help="rows of one request [%(default)s]")
    add("--rounds", type=_count, default=7, metavar="N", help="timings of each, in turns [%(default)s]")
    add("--milliseconds", type=_count, default=50, metavar="N", help="of one timing [%(default)s]")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 (got {text!r})")
    return int(text)


def _why_no_cuda(bundle: Bundle, device: str) -> str:
    """Empty where a GPU is wanted and there; raises NoCuda where one is required and is not."""
    if device == "cpu":
        return "it was not asked for (--device cpu)"
    variant = bundle.manifest.serving_variant
    try:
        Session(bundle.graphs[variant], bundle.manifest.graphs[variant], "cuda-required")
    except NoCuda as error:
        if device == "cuda-required":
            raise
        return error.reason
    return ""


def _contenders(bundle: Bundle, variant: str, devices: Sequence[str]) -> Iterator[Contender]:
    """The variant's graphs in every way. Raises BadConfiguration for a variant that is not there."""
    graph = bundle.manifest.graphs.get(variant)
    if graph is None:
        expected = f"one of {', '.join(bundle.manifest.graphs)}"
        raise BadConfiguration(f"'--variants' must be {expected} (got {variant!r}); or leave it out")
    tables = bundle.tables(variant)
    for device in devices:
        for is_bound in (False, True):
            how = "bound" if is_bound else "fed"
            session = Session(bundle.graphs[variant], graph, device, tables, is_bound)
            yield Contender(variant, "plain", device, how, session)
            if graph.shared_context is not None:
                session = Session(
                    bundle.shared_graphs[variant], graph.shared_context, device, tables, is_bound
                )
                yield Contender(variant, "shared", device, how, session)


class _Samples:
    """The ids of the rows that a bundle carries, to make batches of."""

    def __init__(self, bundle: Bundle) -> None:
        rows = list(bundle.golden.rows)
        file = bundle.folder / SAMPLE_FILE
        if file.is_file():
            try:
                rows += msgspec.json.Decoder(GoldenRow).decode_lines(file.read_bytes())
            except msgspec.DecodeError as error:
                raise BundleError(str(file), "a row a line, as JSON", str(error), EXPORT_AGAIN) from None
        encoder = bundle.encoder
        self._contexts = np.stack([encoder.encode_context(row.context) for row in rows])
        self._candidates = encoder.encode_candidates([row.candidate for row in rows])
        self._random = np.random.default_rng(0)

    def batch(self, rows: int, candidates: int) -> BatchRows:
        """Requests of so many candidates, the last of what is left."""
        sizes = np.full(-(-rows // candidates), candidates, np.int32)
        sizes[-1] -= sizes.sum() - rows
        contexts = self._contexts[self._shuffled(len(sizes))]
        is_large = np.zeros(len(sizes), np.bool_)
        return BatchRows(contexts, sizes, self._candidates[self._shuffled(rows)], is_large)

    def _shuffled(self, count: int) -> NDArray[np.int64]:
        """So many of the samples: all of them equally often, and in any order."""
        return self._random.permutation(np.resize(np.arange(len(self._contexts)), count))


def _measure(
    contenders: Sequence[Contender], bundle: Bundle, batch: BatchRows, rounds: int, milliseconds: int
) -> Iterator[Point]:
    """One point a contender: the medians of `rounds` bursts, which contenders take in turns."""
    rows = len(batch.candidates)
    ids: dict[str, tuple[Ids, ...]] = {
        "plain": (bundle.encoder.join(batch.contexts_by_row(), batch.candidates),),
        "shared": (batch.contexts, batch.candidates, batch.request_index),
    }
    # The first call of a size allocates: none is timed.
    logits = [each.session.run(*ids[each.graph]) for each in contenders]
    timings = [
        [each.seconds_a_call(ids[each.graph], milliseconds) for each in contenders] for _ in range(rounds)
    ]
    seconds = [median(of_one) for of_one in zip(*timings, strict=True)]
    places = {(each.variant, each.graph, each.device, each.inputs): n for n, each in enumerate(contenders)}
    for each, found, taken in zip(contenders, logits, seconds, strict=True):
        expected = logits[places[each.variant, "plain", "cpu", "fed"]]
        yield Point(
            each.variant,
            each.graph,
            each.device,
            each.inputs,
            rows,
            round(rows / taken),
            round(taken / rows * 1e6, 4),
            round(seconds[places[each.variant, each.graph, "cpu", "fed"]] / taken, 3),
            float(np.abs(found - expected).max()),
        )


def _table(points: Sequence[Point]) -> list[str]:
    """Lines of the points, those of a graph and a batch size together."""
    cells = [["variant", "graph", "rows", "device", "inputs", "rows/s", "us a row", "x CPU", "difference"]]
    cells += [
        [
            *(point.variant, point.graph, str(point.rows), point.device, point.inputs),
            *(f"{point.rows_per_second:,.0f}", f"{point.microseconds_a_row:.3f}"),
            *(f"{point.times_cpu:.2f}", f"{point.max_abs_difference:.1e}"),
        ]
        for point in sorted(points, key=lambda point: (point.variant, point.graph, point.rows))
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]


def _machine(has_gpu: bool) -> str:
    """Processor, GPU and version: figures mean nothing without them."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ())
        if line.startswith("model name")
    ]
    parts = [f"one core of {os.cpu_count()} of {names[0] if names else platform.machine()}"]
    if has_gpu and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        parts.append(told.stdout.partition("\n")[0])
    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
