"""Canaries of bundles that are as good, and worse on purpose: how long each serves, and how many requests.

`python -m benchmarks.canary` starts the service with workers and a control arm of the demo bundle for each
case, sends requests over HTTP and what is shown and clicked of them, and begins a canary: of an equal bundle;
of one whose embeddings are shuffled, that does not see its best field, whose pCTRs are 30 % too low, or that
is 20 ms slower a batch. The log goes on where that of the demo ends; of each request the ads with the highest
pCTRs are shown, and clicked by their true probability. Clicks come at once, and the click window is the
shortest, so that hours become seconds.

`--kill worker redis` kills by SIGKILL, in each case: with `redis` events are claimed in a Redis, which dies
and comes back empty, and with both the worker dies while it is away. Who reports events sends them again
until they are accepted, as a client should.

failed are answers other than 200; broken are requests whose connection broke, which a killed worker costs.
events are all that were accepted, each once; uncounted are those of them that no metric has at the end, and
twice those that metrics have more than there are.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks import canary_bundles
from benchmarks.canary_traffic import Ask, asks_of, rows_of, traffic
from benchmarks.command import Command, ended, print_table
from loadtest.arguments import failed
from loadtest.processes.redis_server import RedisServer, missing_redis, running_redis
from loadtest.processes.server import Server, running
from loadtest.processes.tree import members
from service.control.client import ControlClient
from service.control.protocol import CanaryStatus, StartCanary, Status
from service.rollout.plan import Plan

ARM, CONTROL = "new", "control"
CLICK_WINDOW_SECONDS = 1
# The canary may well be undecided; then it is stopped.
MOST_SECONDS = 900.0
WORKER, REDIS = "worker", "redis"
# When the Redis is killed, when a worker is, and when the Redis comes back.
REDIS_DIES, WORKER_DIES, REDIS_LIVES = 5.0, 10.0, 15.0
# What it has missed is claimed by then.
ALL_QUIET = 25.0
COUNTED = re.compile(rb'bidlight_feedback_events_total\{[^}]*outcome="counted"[^}]*\} (\S+)')


def canary_of(path: str) -> CanaryStatus:
    """The canary of a service."""
    with ControlClient(path, 30.0) as client:
        status = client.ask(Status()).status
    assert status is not None
    assert status.canary is not None
    return status.canary


class Killing:
    """What is killed some seconds after the begin: a worker, and the Redis, which comes back."""

    def __init__(self, server: Server, redis: RedisServer | None, killed: Sequence[str]) -> None:
        self._server = server
        steps: list[tuple[float, Callable[[], object]]] = []
        if redis is not None:
            steps += [(REDIS_DIES, redis.stop), (REDIS_LIVES, redis.start)]
        if WORKER in killed:
            steps.append((WORKER_DIES, self._kill_worker))
        if killed:
            steps.append((ALL_QUIET, lambda: None))
        self._steps = sorted(steps, key=lambda step: step[0])

    @property
    def is_over(self) -> bool:
        """Whether all is done."""
        return not self._steps

    def look(self, seconds: float) -> None:
        """So many seconds have passed."""
        while self._steps and self._steps[0][0] <= seconds:
            _, act = self._steps.pop(0)
            act()

    def _kill_worker(self) -> None:
        workers = {*members(self._server.process_id)} - {self._server.process_id}
        with suppress(OSError):  # it has just ended
            os.kill(max(workers, key=_open_files), signal.SIGKILL)


def _open_files(process: int) -> int:
    """How many it has open: most of them are connections."""
    return len([*Path(f"/proc/{process}/fd").iterdir()])


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
        redis = stack.enter_context(running_redis()) if REDIS in options.kill else None
        if redis is not None:
            arguments += ["--feedback-store", redis.url]
        server = stack.enter_context(running("service", arguments))
        with traffic(server, asks, options.threads, options.rate) as sent:
            time.sleep(2.0)  # it is warm, and control has answered
            with ControlClient(path, 30.0) as client:
                answer = client.ask(StartCanary(ARM, CONTROL, plan))
            if answer.error is not None:
                raise SystemExit(answer.error.message)
            began, killing = time.monotonic(), Killing(server, redis, options.kill)
            seconds = answered = 0.0
            while (now := time.monotonic() - began) < MOST_SECONDS and not (seconds and killing.is_over):
                killing.look(now)
                if not seconds and canary_of(path).state == "over":
                    seconds, answered = now, sent.answered
                time.sleep(0.1)
            found = canary_of(path)
        counted = counted_events(server)
    return {
        "verdict": found.verdict,
        "gate": found.gate,
        "seconds": round(seconds or MOST_SECONDS, 1),
        "step": found.steps[found.step - 1],
        "requests": int(found.requests),
        "answered": int(answered or sent.answered),
        "failed": sent.failed,
        "broken": sent.broken,
        "events": sent.events,
        "unaccepted": sent.unaccepted,
        "uncounted": max(0, sent.events - counted),
        "twice": max(0, counted - sent.events),
        "reason": found.reason,
        "gates": {each.gate: [each.level, each.words] for each in found.gates},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what became of each, and on the last line the same as JSON; the exit status.

    That is 1 if an equal bundle is taken back or a worse one is not.
    """
    command = Command("canary", __doc__)
    command.bundle()
    command.add_argument("--cases", nargs="+", choices=CASES, help="some of them [all]")
    command.add_argument(
        "--kill",
        nargs="*",
        choices=[WORKER, REDIS],
        default=[WORKER],
        help="what is killed by SIGKILL in each case [worker]",
    )
    command.number("--workers", 2, "of the service")
    command.number("--threads", 4, "that ask")
    command.number("--rate", 0, "requests a second at most; 0: as many as are answered", least=0)
    command.number("--hold-seconds", 120, "of each step")
    command.number("--step-requests", 100, "of the canary in each step, at least")
    command.number("--known-clicks", Plan().known_clicks, "of the canary before it has all traffic", least=0)
    command.numbers("--steps", (5, 25, 100), "percent")
    options = command.parse_args(arguments)
    if REDIS in options.kill and (lack := missing_redis()):
        return failed(command.prog, lack)
    plan = Plan(
        steps=tuple(map(float, options.steps)),
        hold_seconds=options.hold_seconds,
        requests=options.step_requests,
        known_clicks=options.known_clicks,
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
    heads = ["bundle", "verdict", "gate", "seconds", "at %", "its requests", "all answers", "failed"]
    heads += ["broken", "events", "unaccepted", "uncounted", "twice"]
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
    *("verdict", "gate", "seconds", "step", "requests", "answered", "failed", "broken"),
    *("events", "unaccepted", "uncounted", "twice"),
)

if __name__ == "__main__":
    sys.exit(ended(main))
