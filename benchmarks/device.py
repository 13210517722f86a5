"""Measures rows a second of a bundle's graphs on the CPU and on a GPU, with inputs fed and with inputs bound.

    python -m benchmarks.device --arm artifacts/demo [--device cuda] [--rows 1024 4096 16384 65536]

One call of a session is timed, from ids in memory to logits in memory, so copies to and from a GPU count. The
CPU runs one thread, as a worker does. The rows are those that a bundle carries, shuffled and repeated: they
read few places of the tables, so the CPU finds them in its caches more often than in traffic. No ceiling is
known: it depends on the graph. Requests, queues and HTTP are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.command import Command, ended, machine, print_table
from loadtest.arguments import a_bundle
from service.bundle.errors import EXPORT_AGAIN, BundleError
from service.bundle.manifest import GoldenRow
from service.bundle.store import Bundle, load_bundle
from service.errors import BadConfiguration
from service.scoring.graphs import shared_inputs
from service.scoring.rows import BatchRows, Ids
from service.scoring.session import NoCuda, Session

ROWS = (1024, 4096, 16384, 65536)
# Rows of the test part, one a line, which an export puts beside the golden ones.
SAMPLE_FILE = "report/requests.jsonl"


@dataclass(frozen=True)
class Contender:
    """A session: the graph of a variant, the device, and whether its inputs are bound."""

    variant: str
    graph: str  # plain or shared
    device: str
    inputs: str  # fed or bound
    session: Session

    def seconds_a_call(self, ids: Sequence[Ids], milliseconds: int) -> float:
        """The mean of a burst of calls that takes at least so many milliseconds."""
        calls, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < milliseconds / 1000:
            self.session.run(*ids)
            calls += 1
        return passed / calls


@dataclass(frozen=True)
class Point:
    """The figures of one contender at one batch size.

    `times_cpu` is its rows a second over those of the same graph, fed, on the CPU; `max_abs_difference` is
    the largest difference of its logits from those of the variant's plain graph, fed, on the CPU.
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
    """Prints a table and, on the last line, the same as JSON; the exit status. An error is one line."""
    command = _command()
    options = command.parse_args(arguments)
    bundle = load_bundle(options.arm)
    variants = options.variants or list(bundle.manifest.graphs)
    without_cuda = _why_no_cuda(bundle, options.device)
    devices = ("cpu",) if without_cuda else ("cpu", "cuda")
    contenders = [each for variant in variants for each in _contenders(bundle, variant, devices)]
    samples = _Samples(bundle)
    gpu = _gpu() if "cuda" in devices else ""
    print(f"{bundle.manifest.id}, {options.candidates} candidates a request; one core of {machine()}{gpu}")
    if without_cuda:
        print(f"no CUDA here: {without_cuda}")
    points: list[Point] = []
    for rows in options.rows:
        batch = samples.batch(rows, options.candidates)
        points += _measure(contenders, bundle, batch, options.rounds, options.milliseconds)
    print_table(_table(points))
    command.print_json(
        gpu=gpu.removeprefix(", "),
        bundle=bundle.manifest.id,
        no_cuda=without_cuda,
        candidates_a_request=options.candidates,
        points=[asdict(point) for point in points],
    )
    return 0


def _command() -> Command:
    command = Command("device", __doc__)
    add = command.add_argument
    add("--arm", type=a_bundle, required=True, metavar="FOLDER", help="the bundle")
    add(
        "--device",
        choices=("cpu", "cuda", "cuda-required"),
        default="cuda",
        help="measured beside the CPU; cuda says if there is none, cuda-required fails then [cuda]",
    )
    add("--variants", nargs="+", metavar="NAME", help="of the bundle's graphs [all]")
    command.numbers("--rows", ROWS, "rows a call")
    command.number("--candidates", 100, "rows of one request")
    command.number("--rounds", 7, "timings of each, interleaved")
    command.number("--milliseconds", 50, "of one timing")
    return command


def _why_no_cuda(bundle: Bundle, device: str) -> str:
    """The reason to measure no GPU, empty if there is one. Raises NoCuda if one is required and missing."""
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
    """The variant's graphs on every device, fed and bound. Raises BadConfiguration for an unknown variant."""
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
    """The ids of the rows that a bundle carries, to draw batches from."""

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
        """Requests of `candidates` rows each; the last has the rest."""
        sizes = np.full(-(-rows // candidates), candidates, np.int32)
        sizes[-1] -= sizes.sum() - rows
        contexts = self._contexts[self._shuffled(len(sizes))]
        is_large = [False] * len(sizes)
        return BatchRows(contexts, sizes, self._candidates[self._shuffled(rows)], is_large)

    def _shuffled(self, count: int) -> NDArray[np.int64]:
        """Positions of `count` samples, all of them equally often, in random order."""
        return self._random.permutation(np.resize(np.arange(len(self._contexts)), count))


def _measure(
    contenders: Sequence[Contender], bundle: Bundle, batch: BatchRows, rounds: int, milliseconds: int
) -> Iterator[Point]:
    """One point a contender: the medians of `rounds` bursts, interleaved."""
    rows = len(batch.candidates)
    whole = bundle.encoder.join(batch.contexts_by_row(), batch.candidates)
    inputs: list[tuple[Ids, ...]] = [
        shared_inputs(each.session, batch) if each.graph == "shared" else (whole,) for each in contenders
    ]
    # The first call of a size allocates, so it is not timed.
    logits = [each.session.run(*ids) for each, ids in zip(contenders, inputs, strict=True)]
    timings = [
        [each.seconds_a_call(ids, milliseconds) for each, ids in zip(contenders, inputs, strict=True)]
        for _ in range(rounds)
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


def _table(points: Sequence[Point]) -> list[list[str]]:
    """A line a point, those of a graph and a batch size together."""
    heads = ["variant", "graph", "rows", "device", "inputs", "rows/s", "us a row", "x CPU", "difference"]
    return [heads] + [
        [
            *(point.variant, point.graph, str(point.rows), point.device, point.inputs),
            *(f"{point.rows_per_second:,.0f}", f"{point.microseconds_a_row:.3f}"),
            *(f"{point.times_cpu:.2f}", f"{point.max_abs_difference:.1e}"),
        ]
        for point in sorted(points, key=lambda point: (point.variant, point.graph, point.rows))
    ]


def _gpu() -> str:
    """The GPU's name after a comma; empty if nvidia-smi is not there to tell it."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return f", {run.stdout.partition(chr(10))[0]}"


if __name__ == "__main__":
    sys.exit(ended(main))
