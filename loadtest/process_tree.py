"""All processes of a server, which may be many: their processor time, their memory, their core; Linux only.

Where /proc is absent the figures are None and nothing is held or paused.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def members(root: int) -> list[int]:
    """The process `root`, its descendants, and whoever is of its session (an orphan has another parent)."""
    parents: dict[int, int] = {}
    found = {root}
    for folder in PROC.glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields is None or fields[0] == "Z":
            continue
        parents[int(folder.name)] = int(fields[1])
        if int(fields[3]) == root:
            found.add(int(folder.name))
    size = 0
    while size != len(found):
        size = len(found)
        found |= {process for process, parent in parents.items() if parent in found}
    return sorted(found)


def cpu_seconds(processes: Iterable[int]) -> float | None:
    """Processor time that they have used so far, in user and system mode; None where /proc is absent."""
    stats = [fields for process in processes if (fields := _stat(process)) is not None]
    if not stats:
        return None
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


def memory_mb(processes: Iterable[int]) -> float | None:
    """Resident memory in MB, pages that they share counted once (PSS); None where /proc is absent."""
    kilobytes = [size for process in processes if (size := _proportional_kb(process)) is not None]
    return sum(kilobytes) / 1000.0 if kilobytes else None


def hold(processes: Iterable[int], core: int) -> None:
    """Keep every thread on `core`: some servers spread their workers by themselves."""
    for process in processes:
        for task in (PROC / str(process) / "task").glob("[0-9]*"):
            with suppress(OSError):
                os.sched_setaffinity(int(task.name), {core})


def send(processes: Iterable[int], number: signal.Signals) -> None:
    """A signal to each that still lives."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _stat(process: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, group, session, ...; None if it is gone."""
    try:
        return (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _proportional_kb(process: int) -> int | None:
    try:
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), None)
