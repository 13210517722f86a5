"""What the service prints when it is ready: address, arms and a request to try; it knows no process."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from service.bundle.manifest import Golden, Manifest
from service.bundle.native import IS_BUILT
from service.settings import Settings

logger = logging.getLogger("bidlight")

STDOUT = 1


class AnnouncedArm(NamedTuple):
    """What the announcement says of an arm."""

    name: str
    weight: float
    variant: str
    manifest: Manifest
    folder: Path
    follows: str = ""
    """The arm of which it is a shadow."""


def announcement(
    settings: Settings, port: int, admin_port: int | None, served: Sequence[AnnouncedArm], golden: Golden
) -> str:
    """The address, a line for each arm, and a `curl` command that sends the first golden row."""
    total = sum(arm.weight for arm in served)
    url = _url("https" if settings.tls_certificate else "http", settings.host, port)
    described = url if admin_port is None else _url("http", settings.admin_host, admin_port)
    workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
    lines = [f"Bidlight serves on {url} with {workers}; {described}/docs describes it"]
    lines += [
        f"  arm {arm.name}: {_part_of(arm, total)}, {arm.manifest.id} ({arm.variant}) from {arm.folder}"
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
        options = "".join(
            [
                f" --cacert {shlex.quote(settings.tls_certificate)}" * bool(settings.tls_certificate),
                " --cert CLIENT.pem" * bool(settings.tls_client_ca),
                " -H 'authorization: Bearer TOKEN'" * bool(settings.token_file),
            ]
        )
        lines.append(f"Try: curl -s{options} {url}/predict -H 'content-type: application/json' -d {sent}")
    return "\n".join(lines)


def _part_of(arm: AnnouncedArm, total: float) -> str:
    return f"a shadow of {arm.follows}" if arm.follows else f"{arm.weight / total:.1%} of requests"


def announce(text: str) -> None:
    """Write an announcement to stdout; where there is no room for it, the service serves all the same."""
    try:
        os.write(STDOUT, f"{text}\n".encode())
    except OSError as error:
        logger.warning("the announcement cannot be written to stdout: %s", error)


def _url(scheme: str, host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
