"""Who is compared, and with which settings: a contender's program, its environment and how it is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.server_process import PREDICT, Route

SERVERS = "loadtest.rivals.servers"


@dataclass(frozen=True)
class Contender:
    """A server that does the job.

    `settings` are its ways of batching: arguments by name, "" for a server that has one way only; all are
    measured, and at each point the best counts. `environment` names the virtual environment made for it
    (requirements/NAME.txt), None for the project's own; `system_python` asks for the distribution's Python.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ("--bundle", "{bundle}")
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"": ()})
    variables: Mapping[str, str] = field(default_factory=dict)
    environment: str | None = None
    system_python: bool = False
    route: Route = PREDICT
    seconds_to_start: float = 60.0

    def command(self, setting: str, bundle: Path) -> list[str]:
        """The arguments of one setting's program, but for the port."""
        return [part.format(bundle=bundle) for part in (*self.arguments, *self.settings[setting])]


def _batches(*sizes: int, wait_ms: float = 1.0) -> dict[str, tuple[str, ...]]:
    """The setting without batching, and one for each size of batch."""
    waits = ("--wait-ms", f"{wait_ms:g}")
    return {
        "no batches": (),
        **{f"batch {size}, {wait_ms:g} ms": ("--batch", str(size), *waits) for size in sizes},
    }


def _first_output(answer: bytes) -> Any:
    """Triton's answer: the JSON of the job is the only element of the only output."""
    return json.loads(json.loads(answer)["outputs"][0]["data"][0])


ALL = (
    Contender("bidlight", "service", ("--arm", "control={bundle}:1", "--log-level", "warning")),
    Contender("naive", f"{SERVERS}.naive"),
    Contender("naive_async", f"{SERVERS}.naive", ("--bundle", "{bundle}", "--inline")),
    # Its best batch is the number of connections, so there is a setting for each number that is measured.
    Contender("mosec", f"{SERVERS}.mosec", settings=_batches(8, 32, 128), environment="mosec"),
)
CONTENDERS = {contender.name: contender for contender in ALL}
