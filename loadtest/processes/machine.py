"""The machine of a measurement: its processor and cores, the tools it needs, and how busy other work is."""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path

TOOLS = {"wrk": "wrk", "taskset": "util-linux"}  # and the packages of Debian that hold them


def missing_tools() -> str:
    """What has to be installed to hold servers and wrk on cores; empty if nothing has."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    packages = " and ".join(TOOLS[tool] for tool in absent)
    return f"{' and '.join(absent)} must be installed (Debian: {packages})" if absent else ""


def describe_machine() -> str:
    """Processor, cores and versions: figures mean nothing without them."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    system = f"{platform.system()} {platform.release()}"
    return f"{model}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def busy_cores(seconds: float = 0.5) -> float:
    """How many cores other work keeps busy at the moment; 0 where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0

    def ticks() -> tuple[int, int]:
        user, nice, system, idle, waiting, *others = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
        return user + nice + system + sum(others[:3]), idle + waiting

    used, idle = ticks()
    time.sleep(seconds)
    used_after, idle_after = ticks()
    share = (used_after - used) / max(1, used_after - used + idle_after - idle)
    return share * (os.cpu_count() or 1)


def usable_cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def pinned(core: int | None) -> list[str]:
    """The words before a command that hold it on `core`; none without a core, or without taskset."""
    if core is None or shutil.which("taskset") is None:
        return []
    return ["taskset", "--cpu-list", str(core)]
