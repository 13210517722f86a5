"""Rows of a log a second that the export fits, and encodes in Python and in the native core.

`python -m benchmarks.log_rows` writes synthetic logs and prints a line for each. fit counts the values of
typed rows and makes vocabularies and bins of them; encode makes ids of the rows, in memory; prepare is the
whole way from the file to arrays of ids; x is how many times as fast it is with the core. `--against FOLDER`
runs the stage fit-schema of another checkout in turns with this one's, each in a process of its own.

A figure is the median of some rounds in turns, by the processor time of all threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.command import Command, ended, print_table
from benchmarks.timing import median_in_turns
from export.data.encode import Ids, write_ids, write_ids_in_python
from export.data.encoded import prepare_log
from export.data.fit import FieldCounts, fit_schema
from export.data.log_schema import LogSchema, load_log_schema
from export.data.readers import read_log
from export.data.spill import Spill, SpilledChunk
from export.data.synthetic_config import PRESETS, SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from loadtest.arguments import a_checkout
from service.bundle.encoder import Encoder
from service.bundle.native import IS_BUILT

REPOSITORY = Path(__file__).parents[1]
LOGS = {
    "display": PRESETS["criteo"],  # 39 fields
    "wide": replace(PRESETS["criteo"], features=5_000_000),  # most values are rare
    "histories": PRESETS["zoo"],  # one field is a list
}
STAGE = """
import sys, time
from pathlib import Path
from export.stages.fit_schema import fit_schema
from export.stages.plan import LogPlan
from export.stages.work import Work
log, schema, folder = sys.argv[1:]
started = time.process_time()
fit_schema(Work(Path(folder)), LogPlan(data=Path(log), schema=schema), say=lambda line: None)
print(time.process_time() - started)
"""


class Bench:
    """One synthetic log in `folder`, and the steps to its ids. Each returns its seconds."""

    def __init__(self, config: SyntheticConfig, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "log.parquet"
        self.schema_file = write_synthetic_log(config, self._path, report=_quiet)
        self._log_schema: LogSchema = load_log_schema(self.schema_file)
        spill = Spill(folder)
        for chunk in read_log(self._path, self._log_schema):
            spill.write(chunk)
        self._chunks: list[SpilledChunk] = list(spill.read())
        self.encoder = Encoder(fit_schema(self._log_schema, self._counts()))
        self.ids = [np.zeros((len(chunk), self.encoder.schema.columns), np.int32) for chunk in self._chunks]

    def _counts(self) -> FieldCounts:
        counts = FieldCounts(self._log_schema)
        for chunk in self._chunks:
            counts.add(chunk.fields, chunk.texts)
        return counts

    def fit(self) -> float:
        started = time.process_time()
        fit_schema(self._log_schema, self._counts())
        return time.process_time() - started

    def encode(self, write: Callable[..., None]) -> float:
        """By `write_ids`, or `write_ids_in_python`."""
        started = time.process_time()
        for chunk, ids in zip(self._chunks, self.ids, strict=True):
            write(self.encoder, chunk.fields, chunk.texts, ids)
        return time.process_time() - started

    def prepare(self, *, native: bool) -> float:
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            started = time.process_time()
            prepare_log(self._path, self._log_schema, Path(out) / "ids", native=native, report=_quiet)
            return time.process_time() - started

    def stage(self, checkout: Path) -> float:
        """fit-schema, which also describes the fields, in a process of its own with the checkout's code."""
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            command = [sys.executable, "-c", STAGE, str(self._path), str(self.schema_file), f"{out}/work"]
            variables = {**os.environ, "PYTHONPATH": str(checkout)}
            done = subprocess.run(command, cwd=checkout, env=variables, stdout=subprocess.PIPE, check=True)
            return float(done.stdout)


def _quiet(_: str) -> None:
    """Says nothing."""


def core_ids(bench: Bench) -> list[Ids]:
    """The ids that the core, or where it was not built Python, gives; Python's are found with them equal."""
    bench.encode(write_ids_in_python)
    expected = [ids.copy() for ids in bench.ids]
    bench.encode(write_ids)
    for ids, same in zip(bench.ids, expected, strict=True):
        np.testing.assert_array_equal(ids, same)
    return bench.ids


def measure(bench: Bench, rows: int, rounds: int, against: Path | None) -> dict[str, float]:
    """Rows a second, by step."""
    steps: dict[str, Callable[[], float]] = {
        "fit": bench.fit,
        "encode in Python": partial(bench.encode, write_ids_in_python),
        "prepare in Python": partial(bench.prepare, native=False),
    }
    if IS_BUILT:
        steps["encode in the core"] = partial(bench.encode, write_ids)
        steps["prepare with the core"] = partial(bench.prepare, native=True)
    if against is not None:
        steps["fit-schema there"] = partial(bench.stage, against)
        steps["fit-schema here"] = partial(bench.stage, REPOSITORY)
    return {name: rows / seconds for name, seconds in median_in_turns(steps, rounds).items()}


def table_row(name: str, found: dict[str, float]) -> list[str]:
    """The cells of a log's line; a dash where there is no core, or no other checkout."""
    cells = [name, f"{found['fit']:,.0f}"]
    for before, after in (
        ("encode in Python", "encode in the core"),
        ("prepare in Python", "prepare with the core"),
        ("fit-schema there", "fit-schema here"),
    ):
        ratio = f"{found[after] / found[before]:.1f}x" if before in found and after in found else "-"
        cells += [f"{found[each]:,.0f}" if each in found else "-" for each in (before, after)] + [ratio]
    return cells


HEAD = [
    "rows a second", "fit", "encode: Python", "core", "x", "prepare: Python", "core", "x",
    "fit-schema: there", "here", "x",
]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures and, on the last line, the same as JSON; the exit status."""
    command = Command("log_rows", __doc__)
    command.number("--rows", 400_000, "rows of each log", least=1000)
    command.number("--rounds", 3, "in turns")
    command.add_argument("--logs", nargs="+", choices=LOGS, default=tuple(LOGS), metavar="LOG",
                         help=f"logs to prepare [{' '.join(LOGS)}]")  # fmt: skip
    command.add_argument("--against", type=a_checkout, metavar="FOLDER", help="another checkout")
    options = command.parse_args(arguments)
    found = {}
    for name in options.logs:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(replace(LOGS[name], rows=options.rows), Path(folder))
            core_ids(bench)
            against = None if options.against is None else options.against.resolve()
            found[name] = measure(bench, options.rows, options.rounds, against)
    print_table([HEAD, *(table_row(name, figures) for name, figures in found.items())])
    command.print_json(rows=options.rows, is_built=IS_BUILT, rows_a_second=found)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
