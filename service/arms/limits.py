"""Bounds the memory of a load, in proportion to what is loaded; it knows no bundle.

The bounds of a bundle's numbers and the check of its graphs leave one thing open: how large the intermediate
values of a graph become. So a load may allocate what its files and its batches need, several times over, and
no more; then an allocation fails instead of the machine.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FREE_BYTES = 2 << 30  # for a batch of usual size, and for what needs no file
USUAL_BATCH_ROWS = 1024
# The text of a short value takes 7 bytes in a vocabulary, and 300 in memory until all look-ups are built.
BYTES_A_FILE_BYTE = 64


@contextmanager
def limited_memory(file_bytes: int, batch_rows: int, *, device: str) -> Iterator[None]:
    """Let allocations fail that a load of so many bytes, run in batches of so many rows, does not need.

    The limit holds for the whole process: use it where nothing else runs. Where the system does not say how
    much a process has, and with a GPU, whose driver reserves memory of its own, there is no limit.
    """
    used = _allocated()
    if used is None or device != "cpu":
        yield
        return
    free = FREE_BYTES * max(1, -(-batch_rows // USUAL_BATCH_ROWS))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = used + free + BYTES_A_FILE_BYTE * file_bytes
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _allocated() -> int | None:
    """The bytes that RLIMIT_DATA counts, of this process."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmData:")]
    return int(found[0]) * 1024 if found else None
