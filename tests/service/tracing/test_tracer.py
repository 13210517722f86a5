"""Which requests are traced, and what turns traces on and off."""

from __future__ import annotations

import random
import sys

import pytest

from service.errors import BadConfiguration
from service.metrics.families import Metrics
from service.settings import Settings
from service.tracing.environment import BATCH_SPANS, Limits, is_turned_off, limits_of
from service.tracing.sender import Sender
from service.tracing.tracer import Tracer, check_tracing, open_tracer

pytest.importorskip("opentelemetry.sdk.trace")
SAMPLED = {b"traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
UNSAMPLED = {b"traceparent": SAMPLED[b"traceparent"][:-1] + b"0"}
MALFORMED = {b"traceparent": b"00-nonsense-01"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    return monkeypatch


def share_of_traced(share: float, headers: dict[bytes, bytes]) -> float:
    tracer = Tracer(share, Sender(None, Limits()), Metrics())  # type: ignore[arg-type]
    random.seed(7)
    return sum(tracer.begin(headers, 0.0) is not None for _ in range(20_000)) / 20_000


def test_a_parent_decides_and_else_the_share() -> None:
    for share in (0.0, 0.3, 1.0):
        assert share_of_traced(share, SAMPLED) == 1.0
        assert share_of_traced(share, UNSAMPLED) == 0.0
        for headers in ({}, MALFORMED):
            assert share_of_traced(share, headers) == pytest.approx(share, abs=0.02)


def test_it_is_off_unless_it_is_asked_for(environment: pytest.MonkeyPatch) -> None:
    assert open_tracer(Settings(), Metrics()) is None
    on = Settings(trace_share=0.0)
    assert open_tracer(on, Metrics()) is not None
    for name, value in (("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")):
        with environment.context() as patch:
            patch.setenv(name, value)
            assert open_tracer(on, Metrics()) is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "must be otlp or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "must be http/protobuf"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "must be a whole number"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "must be a whole number"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "must be at most OTEL_BSP_MAX_QUEUE_SIZE"),
    ],
)
def test_variables_that_cannot_be_followed_refuse_the_start(
    environment: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(BadConfiguration, match=said):
        check_tracing(Settings(trace_share=0.1))
    check_tracing(Settings())  # nobody asks for traces


def test_empty_variables_are_as_unset(environment: pytest.MonkeyPatch) -> None:
    names = (
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_EXPORTER",
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_BSP_SCHEDULE_DELAY",
    )
    empty = dict.fromkeys(names, "")
    assert not is_turned_off(empty)
    assert limits_of(empty) == Limits()
    assert limits_of({"OTEL_BSP_MAX_QUEUE_SIZE": "8"}) == Limits(8, 8)
    assert limits_of({"OTEL_BSP_SCHEDULE_DELAY": "100"}) == Limits(batch_spans=BATCH_SPANS, delay_seconds=0.1)


def test_without_the_extra_it_says_how_to_install_it(environment: pytest.MonkeyPatch) -> None:
    environment.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadConfiguration, match=r"bidlight\[otel\]"):
        check_tracing(Settings(trace_share=0.1))
