"""A bid client with the standard library alone: `python client.py http://localhost:8000`."""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any
from urllib.parse import urlsplit

# Generous, for a machine that does other work too: an exchange gives 100 or so.
TMAX_MS = 1000


class BidClient:
    """One connection to a service, kept open; not for several threads at once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        # A bid after the deadline is worth nothing: wait longer than the service would, then give up.
        self._connection = http.client.HTTPConnection(
            parts.hostname or "localhost", parts.port, timeout=2 * TMAX_MS / 1000
        )

    def bid(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """A result for each candidate; none where the service is overloaded or too late.

        Raises ValueError for a request that the service refuses, OSError where it cannot be reached.
        """
        body = json.dumps({"tmax_ms": TMAX_MS, **request})
        try:
            self._connection.request("POST", "/predict", body, {"content-type": "application/json"})
            response = self._connection.getresponse()
            answer = json.load(response)
        except TimeoutError:
            self._connection.close()
            return []
        if response.status == 429:
            return []
        if response.status != 200:
            error = answer["error"]
            raise ValueError(f"{error['code']} at {error['path']}: {error['message']}")
        results: list[dict[str, Any]] = answer["results"]
        return results

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def main(url: str) -> None:
    """Ask for the bids of two ads, then send a mistake to see what an error looks like."""
    client = BidClient(url)
    request: dict[str, Any] = {
        "id": "req-1",
        "context": {"hour_of_day": 20, "device": "phone", "interests": ["music"]},
        "candidates": [
            {"id": "a", "features": {"ad_id": "ad3", "category": "music"}, "value_per_click": 0.8},
            {"id": "b", "features": {"ad_id": "ad1", "category": "garden"}, "value_per_click": 0.8},
        ],
    }
    for result in client.bid(request):
        print(f"{result['id']}: pctr {result['pctr']:.4f}, bid {result['bid']}")
    try:
        client.bid({"context": {"age": "thirty"}, "candidates": [{"id": "a"}]})
    except ValueError as error:
        print(f"refused: {error}")
    client.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000")
