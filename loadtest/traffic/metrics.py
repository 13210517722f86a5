"""The figures that a service states of itself at GET /metrics."""

from __future__ import annotations

from loadtest.processes.server import Server


def sum_of(server: Server, name: str, *labels: str) -> float:
    """The sum of a counter over all of its series that have these labels, such as `outcome="ok"`.

    0 where /metrics cannot be read: a service that counts nothing is another's business.
    """
    try:
        status, text = server.get("/metrics")
    except OSError:
        return 0.0
    lines = text.decode().splitlines() if status == 200 else []
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith((f"{name}{{", f"{name} ")) and all(label in line for label in labels)
    )
