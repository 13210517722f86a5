"""Microseconds of processor time that a read of a user from an LMDB file costs, by who reads.

`python -m benchmarks.lmdb_reads` writes a file, reads users that it draws, and prints a line for each: the
service, which reads pages by system calls and sees changes of the file, and LMDB's library, which maps it. A
figure is the best of some timings. The file is in the system's cache.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lmdb

from benchmarks.command import Command, ended, print_table
from service.features.lmdb import LmdbWriter
from service.features.lmdb_file import LmdbFile

ROWS_IN_A_WRITE, READS_A_TIMING, TIMINGS = 1000, 200, 200
Read = Callable[[Sequence[bytes]], object]


def reader_of_service(path: Path) -> Read:
    """As requests of one tick are read."""
    file = LmdbFile(path)

    def read(keys: Sequence[bytes]) -> object:
        values = [file.get(key) for key in keys]
        assert file.is_unchanged
        return values

    return read


def reader_of_library(path: Path) -> Read:
    """One transaction for the requests of a tick."""
    environment = lmdb.open(
        str(path), subdir=False, readonly=True, lock=False, readahead=False, max_spare_txns=2
    )

    def read(keys: Sequence[bytes]) -> object:
        with environment.begin() as transaction:
            get = transaction.get
            return [get(key) for key in keys]

    return read


def measure(read: Read, asked: Sequence[Sequence[bytes]]) -> float:
    """Microseconds a user."""
    best = float("inf")
    for _ in range(TIMINGS):
        started = time.process_time()
        for keys in asked:
            read(keys)
        best = min(best, time.process_time() - started)
    return best / sum(map(len, asked)) * 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures and, on the last line, the same as JSON; the exit status."""
    command = Command("lmdb_reads", __doc__)
    command.number("--users", 200_000, "in the file")
    command.number("--value-bytes", 200, "of a user")
    command.number("--at-once", 4, "users of a read")
    options = command.parse_args(arguments)
    draw = random.Random(0)
    names = [f"user-{number}" for number in range(options.users)]
    draw.shuffle(names)
    with tempfile.TemporaryDirectory() as folder:
        with LmdbWriter(Path(folder), "users") as writer:
            for start in range(0, len(names), ROWS_IN_A_WRITE):
                rows = names[start : start + ROWS_IN_A_WRITE]
                writer.write([(name, bytes(options.value_bytes)) for name in rows])
        readers = {"service": reader_of_service, "lmdb": reader_of_library}
        asked = [
            [draw.choice(names).encode() for _ in range(options.at_once)]
            for _ in range(max(1, READS_A_TIMING // options.at_once))
        ]
        found = {name: measure(make(Path(folder, "users.lmdb")), asked) for name, make in readers.items()}
    print_table([["reader", "us a user"], *([name, f"{us:.2f}"] for name, us in found.items())])
    command.print_json(
        users=options.users,
        value_bytes=options.value_bytes,
        at_once=options.at_once,
        microseconds_a_user=found,
    )
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
