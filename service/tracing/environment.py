"""What OpenTelemetry's own variables say of traces; those of the exporter and the resource its SDK reads.

Empty ones are as if they were unset, as its specification wants. It knows no setting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from service.errors import BadConfiguration, shorten

# A batch is encoded in one go while requests wait: smaller than OpenTelemetry's own default of 512.
QUEUED_SPANS, BATCH_SPANS, DELAY_MS = 2048, 64, 5000


@dataclass(frozen=True)
class Limits:
    """How many spans wait at most, how many are sent at once, and how long they wait for others."""

    queued_spans: int = QUEUED_SPANS
    batch_spans: int = BATCH_SPANS
    delay_seconds: float = 1e-3 * DELAY_MS


def is_turned_off(environment: Mapping[str, str]) -> bool:
    """Whether the variables turn traces off. Raises BadConfiguration for what this service cannot do."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return True
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if exporter not in ("otlp", "none"):
        raise BadConfiguration(
            f"'OTEL_TRACES_EXPORTER' must be otlp or none (got {shorten(repr(exporter), 64)}); "
            "a collector passes traces on to others"
        )
    return exporter == "none"


def check_protocol(environment: Mapping[str, str]) -> None:
    """Raises BadConfiguration for a protocol other than that of the exporter."""
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environment.get(name, "").strip()
        if protocol == "http/protobuf":
            return
        if protocol:
            raise BadConfiguration(
                f"'{name}' must be http/protobuf (got {shorten(repr(protocol), 64)}); set "
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL to it, and the endpoint to the collector's port for it"
            )


def limits_of(environment: Mapping[str, str]) -> Limits:
    """The limits that the variables set. Raises BadConfiguration."""
    queued = _positive(environment, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUED_SPANS)
    batch = _positive(environment, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(BATCH_SPANS, queued))
    if batch > queued:
        raise BadConfiguration(
            f"'OTEL_BSP_MAX_EXPORT_BATCH_SIZE' must be at most OTEL_BSP_MAX_QUEUE_SIZE, {queued} "
            f"(got {batch}); so many spans never wait"
        )
    return Limits(queued, batch, 1e-3 * _positive(environment, "OTEL_BSP_SCHEDULE_DELAY", DELAY_MS))


def _positive(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if re.fullmatch("0*[1-9][0-9]{0,8}", text) is None:
        raise BadConfiguration(
            f"'{name}' must be a whole number from 1 to 999999999 (got {shorten(repr(text), 64)}); unset it "
            f"for {default}"
        )
    return int(text)
