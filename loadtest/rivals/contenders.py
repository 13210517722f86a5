"""The contenders: each one's program, settings, environment and route."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.processes.server import PREDICT, Route
from loadtest.traffic.known_ads import KnownAds

SERVERS = "loadtest.rivals.servers"
OURS = "service"
# How a program gets the ads to know beforehand: a file, or a feature store. Ours reads the store only once:
# it is paused while others are timed, and would otherwise refresh whenever it is resumed.
ADS_OF_A_FILE = ("--ads", "{ads}")
ADS_OF_A_STORE = ("--feature-store", "{store}", "--catalogue-refresh-seconds", "0")
# Rivals queue without a limit. By default Bidlight refuses requests that would wait tens of milliseconds.
QUEUE = ("--max-queued-rows", "100000", "--max-queue-ms", "10000")
SERVE = ("--arm", "control={bundle}:1", "--log-level", "warning", *QUEUE)


@dataclass(frozen=True)
class Contender:
    """A server that does the job.

    `settings` are its ways of batching: arguments by name, "" for a server with one way only. All are
    measured, and the best one counts at each point. `environment` names its virtual environment
    (requirements/NAME.txt), None for the project's own; `system_python` takes the distribution's Python.
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

    def command(self, setting: str, bundle: Path, known_ads: KnownAds | None = None) -> list[str]:
        """The arguments of one setting's program except the port, with the ads to know if any."""
        parts = [part.format(bundle=bundle) for part in (*self.arguments, *self.settings[setting])]
        if known_ads is not None:
            how = ADS_OF_A_STORE if self.module == OURS else ADS_OF_A_FILE
            parts += [part.format(ads=known_ads.file, store=known_ads.store) for part in how]
        return parts


def _batches(*sizes: int, wait_ms: float = 1.0) -> dict[str, tuple[str, ...]]:
    """The setting without batching, and one for each size of batch."""
    waits = ("--wait-ms", f"{wait_ms:g}")
    return {
        "no batches": (),
        **{f"batch {size}, {wait_ms:g} ms": ("--batch", str(size), *waits) for size in sizes},
    }


def _after_the_header(answer: bytes) -> Any:
    """Triton's answer: JSON that describes the one output, its length in four bytes, and the job's JSON."""
    _, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    return json.loads(answer[end + 4 :])


ALL = (
    Contender("bidlight", "service", SERVE),
    # Without the direct path from the HTTP parser to the batcher: what that path gains.
    Contender("bidlight_asgi", "service", (*SERVE, "--predict-through", "asgi")),
    # With the plain graph that all others run, whatever the size of a request.
    Contender("bidlight_plain", "service", (*SERVE, "--shared-context", "off")),
    # Without metrics: what they cost.
    Contender("bidlight_unmetered", "service", (*SERVE, "--metrics", "off")),
    Contender("naive", f"{SERVERS}.naive"),
    Contender("naive_async", f"{SERVERS}.naive", ("--bundle", "{bundle}", "--inline")),
    # Its best batch size is the number of connections, so there is a setting for each number.
    Contender("mosec", f"{SERVERS}.mosec", settings=_batches(8, 32, 128), environment="mosec"),
    # With Bidlight's native core: what is left is what its server brings.
    Contender(
        "mosec_native",
        f"{SERVERS}.mosec",
        ("--bundle", "{bundle}", "--native"),
        settings=_batches(8, 32, 128),
        environment="mosec",
    ),
    Contender(
        "litserve",
        f"{SERVERS}.litserve",
        settings={**_batches(8, 32), "batch 32, 1 ms, zmq": ("--batch", "32", "--fast-queue")},
        environment="litserve",
    ),
    # With a limit of 1 ms BentoML refuses what it cannot serve in that time; it finds the wait by itself.
    Contender("bentoml", f"{SERVERS}.bentoml", settings=_batches(32, wait_ms=1000.0), environment="bentoml"),
    Contender(
        "ray_serve",
        f"{SERVERS}.ray_serve",
        settings={
            "proxy, batch 32, 1 ms": ("--batch", "32", "--wait-ms", "1"),
            "direct, no batches": ("--direct",),
            "direct, batch 32, 1 ms": ("--direct", "--batch", "32", "--wait-ms", "1"),
        },
        environment="ray",
        seconds_to_start=120.0,
    ),
    Contender("mlserver", f"{SERVERS}.mlserver", settings=_batches(32), environment="mlserver"),
    Contender(
        "pytriton",
        f"{SERVERS}.pytriton",
        settings=_batches(32),
        environment="pytriton",
        system_python=True,
        route=Route("/v2/models/scorer/infer", {"Inference-Header-Content-Length": "0"}, _after_the_header),
        seconds_to_start=120.0,
    ),
)
CONTENDERS = {contender.name: contender for contender in ALL}
