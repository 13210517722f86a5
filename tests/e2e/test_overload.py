"""More clients than the service can serve: each request is answered or refused, and then all is as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.raw_http import body_of, flood, message, read_answer
from tests.running import read_metrics, running_service
from tests.tiny_bundle import tiny_prior, write_tiny_bundle

CONNECTIONS, ROUNDS = 240, 4
CANDIDATES = 300


@pytest.mark.parametrize("way", ["parser", "asgi"])
@pytest.mark.parametrize("tmax_ms", [None, 50])
def test_a_flood_is_served_in_part_and_refused_in_part(
    bundles: dict[str, Path], tmp_path: Path, way: str, tmax_ms: int | None
) -> None:
    """All connections send at once, and again when they are answered: many wait for longer than 10 ms."""
    body = body_of(CANDIDATES)
    if tmax_ms is not None:
        body = b'{"tmax_ms": %d, ' % tmax_ms + body[1:]
    request = message(body)
    arguments = ["--arm", f"only={bundles['control']}", "--max-queue-ms", "10", "--predict-through", way]
    with running_service(tmp_path, arguments) as service:

        def told(status: int, headers: dict[str, str], answer: Any) -> int:
            if status == 429:
                assert (headers["retry-after"], answer["error"]["code"]) == ("1", "overloaded")
            else:
                assert len(answer["results"]) == CANDIDATES
            return status

        connections = [service.connect() for _ in range(CONNECTIONS)]
        found = flood(connections, request, ROUNDS, told)
        for connection in connections:
            connection.sendall(message(body_of(1)))
            assert read_answer(connection)[0] == 200
            connection.close()
        assert found.keys() == {200, 429}
        assert found.total() == CONNECTIONS * ROUNDS
        with service.client() as client:
            counted = read_metrics(client.get("/metrics").text)
        refused = sum(value for name, value in counted.items() if name.startswith("bidlight_refusals_total"))
        assert refused == found[429]
        assert counted["bidlight_waiting_requests"] == 0
        assert service.errors.read_text() == ""


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_flood_is_answered_by_the_prior_as_far_as_there_is_time(tmp_path: Path, native: str) -> None:
    """Queues hold two requests: of all that come at once most have no room; the prior answers some."""
    folder = write_tiny_bundle(tmp_path / "bundle", prior=tiny_prior())
    arguments = ["--arm", f"only={folder}", "--native", native, "--when-overloaded", "prior"]
    arguments += ["--max-candidates", "300", "--max-queued-rows", "600", "--max-queue-ms", "10"]
    request = message(body_of(CANDIDATES))
    with running_service(tmp_path, arguments) as service:
        pctrs: dict[str, set[float]] = {}

        def told(status: int, headers: dict[str, str], answer: Any) -> str:
            if status == 429:
                assert (headers["retry-after"], answer["error"]["code"]) == ("1", "overloaded")
                return "refused"
            assert len(answer["results"]) == CANDIDATES
            rung: str = answer.get("quality", "full")
            pctrs.setdefault(rung, set()).add(answer["results"][0]["pctr"])
            return rung

        connections = [service.connect() for _ in range(CONNECTIONS)]
        found = flood(connections, request, ROUNDS, told)
        for connection in connections:
            connection.close()
        assert found.keys() == {"full", "prior", "refused"}
        assert found.total() == CONNECTIONS * ROUNDS
        # The same request has the same answer on its rung, whenever it comes.
        assert [len(pctrs[rung]) for rung in ("full", "prior")] == [1, 1]
        counted = service.metrics()
        unscored = [value for name, value in counted.items() if "bidlight_unscored_answers_total" in name]
        assert sum(unscored) == found["prior"]
        assert counted['bidlight_answers_total{arm="only",quality="full"}'] == found["full"]
        refused = sum(value for name, value in counted.items() if name.startswith("bidlight_refusals_total"))
        assert refused == found["refused"]
        assert service.errors.read_text() == ""
