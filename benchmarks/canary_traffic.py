"""Requests to a service, and what is shown and clicked of their ads, from threads that keep asking.

It knows no canary: which arm answers makes no difference to it. Who reports events sends them again until
they are accepted.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from export.data.synthetic import BLOCK_ROWS, SyntheticLog
from export.data.synthetic_file import block_frame
from export.stages.pipeline import demo_log
from loadtest.processes.server import Server
from service.bundle.store import load_bundle

CANDIDATES, SHOWN = 16, 4
# A list of events is sent so often, with a pause; a slice that waits for a Redis takes a while.
TRIES, PAUSE_SECONDS = 20, 0.25


@dataclass(frozen=True)
class Ask:
    """A request, and the true click probability of each of its candidates."""

    body: dict[str, Any]
    truth: list[float]


def asks_of(bundle: Path, count: int) -> list[Ask]:
    """Requests with rows of the demo's log after its end; those of a request share its context."""
    found = load_bundle(bundle)
    rows = sum(found.manifest.training.rows.values())
    config = demo_log(rows, found.manifest.training.seed)
    log = SyntheticLog(config)
    asks: list[Ask] = []
    number = -(-rows // BLOCK_ROWS)
    while len(asks) < count:
        block, number = log.block(number), number + 1
        first = np.arange(BLOCK_ROWS) // CANDIDATES * CANDIDATES
        for name, numbers in block.numbers.items():
            block.numbers[name] = numbers[first]
        for name in block.ranks.keys() - set(config.candidate_names):
            block.ranks[name] = block.ranks[name][first]
        truth = log.true_pctr(block)
        records = block_frame(config, block).drop("click", "timestamp", "true_pctr").to_dicts()
        asks += [
            _ask(records[start : start + CANDIDATES], truth[start : start + CANDIDATES], config)
            for start in range(0, BLOCK_ROWS, CANDIDATES)
        ]
    return asks[:count]


def _ask(records: Sequence[dict[str, Any]], truth: Any, config: Any) -> Ask:
    given = [{name: value for name, value in row.items() if value is not None} for row in records]
    ads = set(config.candidate_names)
    context = {name: value for name, value in given[0].items() if name not in ads}
    candidates = [
        {"features": {name: value for name, value in row.items() if name in ads}, "value_per_click": 1.0}
        for row in given
    ]
    return Ask({"context": context, "candidates": candidates, "tracking": True}, truth.tolist())


def rows_of(bundle: Path, asks: Sequence[Ask]) -> tuple[Any, Any]:
    """The ids [n, fields] of all candidates, and their true click probabilities [n]."""
    encoder = load_bundle(bundle).encoder
    ids = [
        encoder.join(
            encoder.encode_context(ask.body["context"])[None].repeat(CANDIDATES, axis=0),
            encoder.encode_candidates([each["features"] for each in ask.body["candidates"]]),
        )
        for ask in asks
    ]
    return np.concatenate(ids), np.concatenate([ask.truth for ask in asks])


@dataclass
class Traffic:
    """Requests to a server by some threads, until it ends, and what is shown and clicked of them."""

    server: Server
    asks: Sequence[Ask]
    threads: int
    rate: float = 0.0
    answered: int = 0
    failed: int = 0
    broken: int = 0
    events: int = 0
    unaccepted: int = 0
    is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, seed: int) -> None:
        chosen = random.Random(seed)
        address = urlsplit(self.server.url).netloc
        connection = http.client.HTTPConnection(address, timeout=10.0)
        pause = self.threads / self.rate if self.rate else 0.0
        following = time.monotonic() + pause * chosen.random()
        while not self.is_over:
            time.sleep(max(0.0, following - time.monotonic()))
            following = max(following + pause, time.monotonic() - pause)
            self._send_one(connection, chosen)
        connection.close()

    def _send_one(self, connection: http.client.HTTPConnection, chosen: random.Random) -> None:
        ask = chosen.choice(self.asks)
        body = json.dumps({**ask.body, "id": f"{chosen.random()}"}).encode()
        status, answer = self._post(connection, "/predict", body)
        with self._lock:
            self.answered += status != 0
            self.failed += status not in (0, 200)
        if status == 200:
            self._report(connection, list(_events(json.loads(answer)["results"], ask.truth, chosen)))

    def _report(self, connection: http.client.HTTPConnection, events: Sequence[dict[str, Any]]) -> None:
        """Send events until they are accepted; some of a list that was not may be counted already."""
        body = json.dumps({"events": events}).encode()
        for _ in range(TRIES):
            status, told = self._post(connection, "/feedback", body)
            if status == 200:
                found = json.loads(told)
                with self._lock:
                    self.events += len(events)
                    self.failed += found["counted"] + found["duplicates"] != len(events)
                return
            time.sleep(PAUSE_SECONDS)
        with self._lock:
            self.unaccepted += len(events)

    def _post(self, connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[int, bytes]:
        """The status and the body of an answer; 0 where the connection broke."""
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            with self._lock:
                self.broken += 1
            return 0, b""


def _events(
    results: Sequence[dict[str, Any]], truth: Sequence[float], chosen: random.Random
) -> Iterator[dict[str, Any]]:
    best = sorted(range(len(results)), key=lambda place: -results[place]["pctr"])[:SHOWN]
    for place in best:
        token = results[place]["token"]
        yield {"token": token, "type": "impression"}
        if chosen.random() < truth[place]:
            yield {"token": token, "type": "click"}


@contextmanager
def traffic(server: Server, asks: Sequence[Ask], threads: int, rate: float) -> Iterator[Traffic]:
    """Traffic while this lasts, of so many requests a second at most; 0: as many as are answered."""
    sent = Traffic(server, asks, threads, rate)
    running_threads = [threading.Thread(target=sent.run, args=(seed,)) for seed in range(threads)]
    for thread in running_threads:
        thread.start()
    try:
        yield sent
    finally:
        sent.is_over = True
        for thread in running_threads:
            thread.join()
