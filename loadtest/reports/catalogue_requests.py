"""The requests of `make catalogue`, by id alone and with features, in every form, all with equal answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtest.processes.server import Server
from loadtest.reports.catalogue_figures import SENT, Way
from loadtest.traffic.answers import Answer, ask, compare
from loadtest.traffic.bid_requests import BidRequestMaker
from loadtest.traffic.body_files import BODIES, write_frames
from loadtest.traffic.body_forms import Request
from loadtest.traffic.known_ads import draw_ads

CHECKED_BODIES, CHECKED_AT_ONCE = 16, 4


class Requests:
    """The same requests of each size twice: with ads by id alone, and with the features of every ad."""

    def __init__(
        self, samples: Sequence[dict[str, dict[str, object]]], known_ads: int, sizes: Sequence[int]
    ) -> None:
        maker = BidRequestMaker(samples, known_ads=known_ads)
        self._features = {ad["id"]: ad["features"] for ad in draw_ads(samples, known_ads)}
        self._by_id = {size: [json.loads(maker.make(size).body) for _ in range(BODIES)] for size in sizes}
        self._sent = {size: [self._with_features(each) for each in self._by_id[size]] for size in sizes}

    def _with_features(self, request: Request) -> Request:
        candidates = [{**each, "features": self._features[each["id"]]} for each in request["candidates"]]
        return {**request, "candidates": candidates}

    def bodies(self, way: Way, size: int) -> list[bytes]:
        """The bodies of one way and size."""
        requests = self._sent if way.ads == SENT else self._by_id
        return [way.form.body_of(each) for each in requests[size]]

    def write(self, ways: Sequence[Way], folder: Path) -> dict[tuple[str, int], Path]:
        """A file of bodies for each way and size."""
        files = {}
        for number, way in enumerate(ways):
            for size in self._by_id:
                file = files[str(way), size] = folder / f"bodies.{number}.{size}.frames"
                write_frames(self.bodies(way, size), file)
        return files

    def check(self, servers: Mapping[Way, Server]) -> tuple[int, str]:
        """The number of answers compared, and the id of the bundle that gave them.

        Raises WrongAnswer unless all servers answer as the first does when asked one request at a time.
        """
        rows, bundle = 0, ""
        for size in self._by_id:
            expected: list[Answer] = []
            for way, server in servers.items():
                bodies = self.bodies(way, size)[:CHECKED_BODIES]
                found = ask(server, bodies, CHECKED_AT_ONCE if expected else 1)
                expected = expected or found
                rows += compare(expected, found)
            bundle = str(expected[0]["bundle"])
        return rows, bundle
