"""All processes of a server, which may be many: their processor time, their memory, their core; Linux only.

Where /proc is absent the figures are None and nothing is held or paused.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
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
    """Resident memory in MB: what each has to itself, and once what the one that shares most shares.

    Not the sum of PSS, which is less where programs that are none of these map the same libraries. Pages that
    only others of these share are left out. None where /proc is absent.
    """
    found = [memory for process in processes if (memory := memory_of(process)) is not None]
    if not found:
        return None
    return sum(memory.private for memory in found) + max(memory.shared for memory in found)


@dataclass(frozen=True)
class Memory:
    """What one process holds, in MB: in all, its share of it (PSS), and what nobody shares with it."""

    resident: float
    proportional: float
    private: float

    @property
    def shared(self) -> float:
        """What others may have in memory too: all the rest."""
        return self.resident - self.private


def memory_of(process: int) -> Memory | None:
    """The memory of one process; None where /proc is absent, or the process."""
    sizes = _sizes_kb(process)
    if "Rss" not in sizes:
        return None
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return Memory(*(kilobytes / 1000.0 for kilobytes in (sizes["Rss"], sizes["Pss"], private)))


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


def _sizes_kb(process: int) -> dict[str, int]:
    """The sums over all mappings of a process, by their names in /proc/PID/smaps_rollup."""
    try:
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
