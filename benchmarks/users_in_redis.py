"""Requests a second of a service that looks up each request's user in Redis.

`python -m benchmarks.users_in_redis --against FOLDER` measures this checkout and another one in turn; without
`--against` it measures this one alone. The service holds one core; wrk and a redis-server, which this program
starts, share another. `x req/s` is this checkout's requests a second as a multiple of the other's; `x cpu` is
the other's processor time a request as a multiple of this one's. Above 1, this checkout is better.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import redis

from benchmarks.command import Command, ended
from loadtest.arguments import a_checkout, failed
from loadtest.load.closed_loop import Case, Key, Point, measure
from loadtest.processes.machine import missing_tools
from loadtest.processes.redis_server import missing_redis, running_redis
from loadtest.processes.server import REPOSITORY, Server, running
from loadtest.reports.pairs import ratios, table
from loadtest.traffic.bid_requests import BidRequestMaker, read_samples
from loadtest.traffic.body_files import BODIES
from service.features.store import pack

HERE, THERE = "here", "there"
USERS = 10_000


def fill(address: str, samples: Sequence[dict[str, dict[str, object]]]) -> None:
    """Set the users, each with a sample row's context."""
    client = redis.Redis.from_url(address)
    contexts = [pack(sample["context"]) for sample in samples]
    client.mset({f"bidlight:user:u{user}": contexts[user % len(contexts)] for user in range(USERS)})
    client.close()


def write_bodies(
    samples: Sequence[dict[str, dict[str, object]]], sizes: Sequence[int], folder: Path
) -> dict[int, Path]:
    """Of each size a file of requests that name a user and have no context."""
    maker = BidRequestMaker(samples, user_ids=USERS)
    files = {}
    for size in sizes:
        requests = [json.loads(maker.make(size).body) for _ in range(BODIES)]
        files[size] = folder / f"bodies.{size}.jsonl"
        files[size].write_text("".join(json.dumps({**each, "context": {}}) + "\n" for each in requests))
    return files


@contextmanager
def running_services(
    folders: Sequence[Path], bundle: Path, address: str, core: int
) -> Iterator[list[Server]]:
    """The service of each checkout, ready, on `core`."""
    arguments = ["--arm", f"control={bundle.resolve()}:1", "--log-level", "warning"]
    # A loaded machine may be late, and requests without their users would cost less.
    arguments += ["--feature-store", address, "--feature-timeout-ms", "1000"]
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                running(
                    "service",
                    arguments,
                    # Nothing is imported from the current folder, all from the checkout that is measured.
                    environment={"PYTHONSAFEPATH": "1", "PYTHONPATH": str(folder)},
                    core=core,
                )
            )
            for folder in folders
        ]


def missing_users(server: Server) -> float:
    """How many requests went on without their user: they would cost less. The server is resumed."""
    server.resume()
    with urlopen(f"{server.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith("bidlight_user_is_missing_total{")
    )


def summary(points: Mapping[Key, Point], cases: Sequence[Case]) -> str:
    """The medians of the ratios over all cases, to two digits more than the table has."""
    found = [ratios(points, case, HERE, THERE) for case in cases]
    requests = median(each for each, _ in found)
    cpu = median(each for _, each in found if each is not None)
    return f"medians of all cases: x req/s {requests:.3f}, x cpu {cpu:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the figures and, on the last line, the same as JSON; the exit status."""
    command = Command("users_in_redis", __doc__)
    add = command.add_argument
    command.bundle()
    add("--against", type=a_checkout, metavar="FOLDER", help="another checkout")
    command.numbers("--candidates", (1, 10), "of a request")
    command.numbers("--connections", (1, 8, 32, 128), "of wrk")
    command.number("--rounds", 5, "of all cases")
    command.number("--seconds", 2, "of each round and case")
    options = command.parse_args(arguments)
    if lack := missing_tools() or missing_redis():
        return failed(command.prog, lack)
    service_core, client_core = sorted(os.sched_getaffinity(0))[:2]
    samples = read_samples(options.bundle)
    folders = {HERE: REPOSITORY} if options.against is None else {HERE: REPOSITORY, THERE: options.against}
    cases = [Case(size, count) for size in options.candidates for count in options.connections]
    with tempfile.TemporaryDirectory() as folder, running_redis(client_core) as store:
        fill(store.url, samples)
        bodies = write_bodies(samples, options.candidates, Path(folder))
        checkouts = [each.resolve() for each in folders.values()]
        with running_services(checkouts, options.bundle, store.url, service_core) as servers:
            points, failures = measure(
                dict(zip(folders, servers, strict=True)),
                cases,
                lambda _, case: bodies[case.candidates],
                seconds=options.seconds,
                repetitions=options.rounds,
                core=client_core,
                tell=lambda line: print(line, file=sys.stderr),
            )
            missed = [missing_users(server) for server in servers]
    if failures:
        (name, case), reason = next(iter(failures.items()))
        return failed(command.prog, f"{name} at {case}: {reason}")
    if any(missed):
        print(f"note: requests went on without their user: {missed}", file=sys.stderr)
    if THERE in folders:
        print(table(points, HERE, THERE))
        print(summary(points, cases))
    else:
        for (_, case), point in points.items():
            print(f"{case}: {point.requests_a_second:.0f} req/s, p99 {point.p99_ms:.2f} ms")
    command.print_json(
        points=[{"checkout": name, **asdict(case), **asdict(point)} for (name, case), point in points.items()]
    )
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
