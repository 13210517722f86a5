"""What a measurement ran on: the processor, the versions, and how busy other work keeps it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


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
    """How many cores other work keeps busy just now; 0 where the system does not tell."""
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


def tell_machine(what: str = "request") -> float:
    """Print what is measured on, and who disturbs it; how many cores were busy. A figure is of one `what`."""
    busy = busy_cores()
    print(f"{describe_machine()}; {busy:.1f} cores were busy before")
    if busy > 0.3:
        print(f"note: other work disturbs what follows; processor time a {what} suffers least")
    return busy


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
