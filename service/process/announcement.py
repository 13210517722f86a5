"""What the service prints when it is ready: address, arms and a request to try; it knows no process."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from service.bundle.manifest import Golden, Manifest
from service.bundle.native import IS_BUILT
from service.settings import Settings


class AnnouncedArm(NamedTuple):
    """What the announcement says of an arm."""

    name: str
    weight: float
    variant: str
    manifest: Manifest
    folder: Path


def announcement(settings: Settings, port: int, served: Sequence[AnnouncedArm], golden: Golden) -> str:
    """The address, a line for each arm, and a `curl` command that sends the first golden row."""
    total = sum(arm.weight for arm in served)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{port}"
    workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
    lines = [f"Bidlight serves on {url} with {workers}; {url}/docs describes it"]
    lines += [
        f"  arm {arm.name}: {arm.weight / total:.1%} of requests, {arm.manifest.id} "
        f"({arm.variant}) from {arm.folder}"
        for arm in served
    ]
    if settings.native == "on" and not IS_BUILT:
        lines.append(
            "The native core was not built, so Python reads requests, which is slower; with a C++ compiler, "
            "`make setup` builds it"
        )
    for row in golden.rows[:1]:
        body = {
            "id": "try-1",
            "context": row.context,
            "candidates": [{"id": "ad-1", "features": row.candidate, "value_per_click": 1.25}],
        }
        sent = shlex.quote(msgspec.json.encode(body).decode())
        lines.append(f"Try: curl -s {url}/predict -H 'content-type: application/json' -d {sent}")
    return "\n".join(lines)
