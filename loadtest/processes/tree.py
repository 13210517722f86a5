"""The processes of a server: their processor time, memory and core; Linux only.

Without /proc the figures are None and nothing is pinned or paused.
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
    """The process `root`, its descendants, and all of its session (an orphan has another parent)."""
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


def living(processes: Iterable[int]) -> list[int]:
    """Those of the processes that have not ended; one that nobody has waited for has ended."""
    return [each for each in processes if (fields := _stat(each)) is not None and fields[0] != "Z"]


def cpu_seconds(processes: Iterable[int]) -> float | None:
    """Processor time that they have used so far, in user and system mode; None without /proc."""
    stats = [fields for process in processes if (fields := _stat(process)) is not None]
    if not stats:
        return None
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


def memory_mb(processes: Iterable[int]) -> float | None:
    """Resident memory in MB: the private memory of each, plus the largest shared memory once.

    The sum of PSS would be less where other programs map the same libraries. Pages that only some of these
    processes share may be left out. None without /proc.
    """
    found = [memory for process in processes if (memory := memory_of(process)) is not None]
    if not found:
        return None
    return sum(memory.private for memory in found) + max(memory.shared for memory in found)


@dataclass(frozen=True)
class Memory:
    """The memory of one process in MB: resident, proportional (PSS) and private."""

    resident: float
    proportional: float
    private: float

    @property
    def shared(self) -> float:
        """Memory that other processes may map too."""
        return self.resident - self.private


def memory_of(process: int) -> Memory | None:
    """The memory of one process; None if it is gone, or without /proc."""
    sizes = _sizes_kb(process)
    if "Rss" not in sizes:
        return None
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return Memory(*(kilobytes / 1000.0 for kilobytes in (sizes["Rss"], sizes["Pss"], private)))


def hold(processes: Iterable[int], core: int) -> None:
    """Pin every thread to `core`: some servers place their workers on cores by themselves."""
    for process in processes:
        for task in (PROC / str(process) / "task").glob("[0-9]*"):
            with suppress(OSError):
                os.sched_setaffinity(int(task.name), {core})


def send(processes: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each that still runs."""
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
