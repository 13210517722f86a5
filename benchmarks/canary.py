"""Canaries of bundles that are as good, and worse on purpose: how long each serves, and how many requests.

`python -m benchmarks.canary` starts the service with workers and a control arm of the demo bundle for each
case, sends requests over HTTP and what is shown and clicked of them, and begins a canary: of an equal bundle;
of one whose embeddings are shuffled, that does not see its best field, whose pCTRs are 30 % too low, or that
is 20 ms slower a batch. In each of them a worker is killed by SIGKILL. The log goes on where that of the demo
ends; of each request the ads with the highest pCTRs are shown, and clicked by their true probability. Clicks
come at once, and the click window is the shortest, so that hours become seconds.

failed are answers other than 200; lost are requests whose connection broke, which a killed worker costs.

With `--kill-redis` events are claimed in a Redis, and in place of a worker that is killed, by SIGKILL, and
started again, empty. events are those that /feedback has said it counts, uncounted those of them that no
metric has at the end.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks import canary_bundles
from benchmarks.command import Command, ended, print_table
from export.data.synthetic import BLOCK_ROWS, SyntheticLog
from export.data.synthetic_file import block_frame
from export.stages.pipeline import demo_log
from loadtest.arguments import a_bundle, failed
from loadtest.processes.redis_server import RedisServer, missing_redis, running_redis
from loadtest.processes.server import Server, running
from loadtest.processes.tree import members
from service.bundle.store import load_bundle
from service.control.client import ControlClient
from service.control.protocol import CanaryStatus, StartCanary, Status
from service.rollout.plan import Plan

ARM, CONTROL = "new", "control"
CANDIDATES, SHOWN = 16, 4
CLICK_WINDOW_SECONDS = 1
# The canary may well be undecided; then it is stopped.
MOST_SECONDS = 900.0
KILLED_AFTER_SECONDS = 5.0
# How long the Redis is away.
AWAY_SECONDS = 10.0
COUNTED = re.compile(rb'bidlight_feedback_events_total\{[^}]*outcome="counted"[^}]*\} (\S+)')


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
    answered: int = 0
    failed: int = 0
    lost: int = 0
    events: int = 0
    is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, seed: int) -> None:
        chosen = random.Random(seed)
        address = urlsplit(self.server.url).netloc
        connection = http.client.HTTPConnection(address, timeout=10.0)
        while not self.is_over:
            try:
                self._send_one(connection, chosen)
            except (OSError, http.client.HTTPException):
                connection.close()
                with self._lock:
                    self.lost += 1
        connection.close()

    def _send_one(self, connection: http.client.HTTPConnection, chosen: random.Random) -> None:
        ask = chosen.choice(self.asks)
        body = json.dumps({**ask.body, "id": f"{chosen.random()}"}).encode()
        status, answer = _post(connection, "/predict", body)
        with self._lock:
            self.answered += 1
            self.failed += status != 200
        if status == 200:
            results = json.loads(answer)["results"]
            events = list(_events(results, ask.truth, chosen))
            status, told = _post(connection, "/feedback", json.dumps({"events": events}).encode())
            with self._lock:
                self.failed += status != 200
                self.events += json.loads(told)["counted"] if status == 200 else 0


def _events(
    results: Sequence[dict[str, Any]], truth: Sequence[float], chosen: random.Random
) -> Iterator[dict[str, Any]]:
    best = sorted(range(len(results)), key=lambda place: -results[place]["pctr"])[:SHOWN]
    for place in best:
        token = results[place]["token"]
        yield {"token": token, "type": "impression"}
        if chosen.random() < truth[place]:
            yield {"token": token, "type": "click"}


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[int, bytes]:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    if connection.sock is not None:
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answer = connection.getresponse()
    return answer.status, answer.read()


@contextmanager
def traffic(server: Server, asks: Sequence[Ask], threads: int) -> Iterator[Traffic]:
    """Traffic while this lasts."""
    sent = Traffic(server, asks, threads)
    running_threads = [threading.Thread(target=sent.run, args=(seed,)) for seed in range(threads)]
    for thread in running_threads:
        thread.start()
    try:
        yield sent
    finally:
        sent.is_over = True
        for thread in running_threads:
            thread.join()


def canary_of(path: str) -> CanaryStatus:
    """The canary of a service."""
    with ControlClient(path, 30.0) as client:
        status = client.ask(Status()).status
    assert status is not None
    assert status.canary is not None
    return status.canary


class Killing:
    """What is killed some seconds after the begin: a worker, or the Redis, which comes back."""

    def __init__(self, server: Server, redis: RedisServer | None) -> None:
        self._server, self._redis = server, redis
        self._is_done = self._is_back = False

    def look(self, seconds: float) -> None:
        """So many seconds have passed."""
        if not self._is_done and seconds > KILLED_AFTER_SECONDS:
            self._is_done = True
            if self._redis is not None:
                self._redis.stop()
            else:
                workers = {*members(self._server.process_id)} - {self._server.process_id}
                with suppress(ProcessLookupError):
                    os.kill(min(workers), signal.SIGKILL)
        if self._redis is not None and not self._is_back and seconds > KILLED_AFTER_SECONDS + AWAY_SECONDS:
            self._is_back = True
            self._redis.start()


def counted_events(server: Server) -> int:
    """Events that the service has counted."""
    time.sleep(2.0)  # metrics are published every second at least
    return round(sum(map(float, COUNTED.findall(server.get("/metrics")[1]))))


def rolled_out(
    control: Path, new: Path, asks: Sequence[Ask], plan: Plan, options: Any, folder: Path
) -> dict[str, Any]:
    """What becomes of a canary of a bundle beside the control arm."""
    (folder / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    path = str(folder / "control.socket")
    arguments = [
        "--arm",
        f"{CONTROL}={control}:1",
        "--arm",
        f"{ARM}={new}:0",
        "--workers",
        str(options.workers),
    ]
    arguments += ["--feedback-keys", str(folder / "keys"), "--live-calibration", "observe"]
    arguments += ["--click-window-seconds", str(CLICK_WINDOW_SECONDS), "--control-socket", path]
    arguments += ["--control-log", str(folder / "changes.jsonl")]
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis()) if options.kill_redis else None
        if redis is not None:
            arguments += ["--feedback-store", redis.url]
        server = stack.enter_context(running("service", arguments))
        with traffic(server, asks, options.threads) as sent:
            time.sleep(2.0)  # it is warm, and control has answered
            with ControlClient(path, 30.0) as client:
                answer = client.ask(StartCanary(ARM, CONTROL, plan))
            if answer.error is not None:
                raise SystemExit(answer.error.message)
            began, killing = time.monotonic(), Killing(server, redis)
            while (found := canary_of(path)).state != "over" and time.monotonic() - began < MOST_SECONDS:
                killing.look(time.monotonic() - began)
                time.sleep(0.1)
            seconds = time.monotonic() - began
        counted = counted_events(server)
    return {
        "verdict": found.verdict,
        "gate": found.gate,
        "seconds": round(seconds, 1),
        "step": found.steps[found.step - 1],
        "requests": int(found.requests),
        "answered": sent.answered,
        "failed": sent.failed,
        "lost": sent.lost,
        "events": sent.events,
        "uncounted": sent.events - counted,
        "reason": found.reason,
        "gates": {each.gate: [each.level, each.words] for each in found.gates},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what became of each, and on the last line the same as JSON; the exit status.

    That is 1 if an equal bundle is taken back or a worse one is not.
    """
    command = Command("canary", __doc__)
    command.add_argument(
        "--bundle", type=a_bundle, default=Path("artifacts/demo"), help="a demo [artifacts/demo]"
    )
    command.add_argument("--cases", nargs="+", choices=CASES, help="some of them [all]")
    command.add_argument("--kill-redis", action="store_true", help="claim events in a Redis, and kill that")
    command.number("--workers", 2, "of the service")
    command.number("--threads", 4, "that ask")
    command.number("--hold-seconds", 120, "of each step")
    command.number("--step-requests", 100, "of the canary in each step, at least")
    command.numbers("--steps", (5, 25, 100), "percent")
    options = command.parse_args(arguments)
    if options.kill_redis and (lack := missing_redis()):
        return failed(command.prog, lack)
    plan = Plan(
        steps=tuple(map(float, options.steps)),
        hold_seconds=options.hold_seconds,
        requests=options.step_requests,
    )
    asks = asks_of(options.bundle, 4_096)
    ids, truth = rows_of(options.bundle, asks[:512])
    best = canary_bundles.best_field(options.bundle, ids, truth)
    cases: dict[str, Callable[[Path], Path]] = {
        "equal": lambda _: options.bundle,
        "shuffled": lambda to: canary_bundles.shuffled(options.bundle, to),
        f"without {best}": lambda to: canary_bundles.without(options.bundle, to, best),
        "30 % too low": lambda to: canary_bundles.scaled(options.bundle, to, ids, 0.7),
        "20 ms slower": lambda to: canary_bundles.slower(options.bundle, to, 20.0),
    }
    found = {}
    for name, make in cases.items():
        if options.cases and name.split()[0] not in options.cases:
            continue
        with tempfile.TemporaryDirectory() as at:
            folder = Path(at)
            figures = rolled_out(options.bundle, make(folder / "new"), asks, plan, options, folder)
        found[name] = figures
        print(f"{name}: {figures['verdict']}, {figures['reason']}", file=sys.stderr)
    heads = ["bundle", "verdict", "gate", "seconds", "at %", "its requests", "all answers", "failed", "lost"]
    heads += ["events", "uncounted"]
    rows = [
        [name, *(str(each[key] or "-") if key == "gate" else str(each[key]) for key in FIGURES)]
        for name, each in found.items()
    ]
    print_table([heads, *rows])
    command.print_json(cases=found, best_field=best)
    right = all(
        each["verdict"] == ("finished" if name == "equal" else "taken_back") for name, each in found.items()
    )
    return 0 if right else 1


CASES = ("equal", "shuffled", "without", "30", "20")
"""By the first word of what is done to the bundle."""
FIGURES = (
    *("verdict", "gate", "seconds", "step", "requests", "answered", "failed", "lost"),
    *("events", "uncounted"),
)

if __name__ == "__main__":
    sys.exit(ended(main))
