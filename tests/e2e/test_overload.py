"""More clients than the service can serve: each request is answered or refused, and then all is as before."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.raw_http import body_of, message, read_answer
from tests.running import read_metrics, running_service

CONNECTIONS, THREADS, ROUNDS = 240, 4, 4
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
        barrier = threading.Barrier(THREADS)

        def flood(connections: list[socket.socket]) -> Counter[int]:
            barrier.wait()
            found = Counter[int]()
            for _ in range(ROUNDS):
                for connection in connections:
                    connection.sendall(request)
                for connection in connections:
                    status, headers, answer = read_answer(connection)
                    found[status] += 1
                    if status == 429:
                        assert (headers["retry-after"], answer["error"]["code"]) == ("1", "overloaded")
                    else:
                        assert len(answer["results"]) == CANDIDATES
            return found

        connections = [service.connect() for _ in range(CONNECTIONS)]
        with ThreadPoolExecutor(THREADS) as pool:
            parts = [connections[start::THREADS] for start in range(THREADS)]
            found = sum(pool.map(flood, parts), Counter[int]())
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
