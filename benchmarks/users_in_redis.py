"""Requests a second of a service that looks up each request's user in Redis.

`python -m benchmarks.users_in_redis` prints a table; `--against FOLDER` measures another checkout in turn
with this one. The service holds one core; wrk and a redis-server, which this program starts, share another.
`x req/s` is how many times the requests of the other checkout this one answers, `x cpu` for how much less
processor time each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import redis

from loadtest.load.closed_loop import BODIES, Case, Point, lack_of_tools, measure, missing, ratios, table
from loadtest.load.server_process import REPOSITORY, Server, free_port, running
from loadtest.traffic.bid_requests import BidRequestMaker, read_samples
from service.features.store import pack

USERS = 10_000
SECONDS_TO_START = 20.0


@contextmanager
def running_redis(core: int | None = None) -> Iterator[str]:
    """The address of a new redis-server, on `core` or anywhere."""
    port = free_port()
    command = ["taskset", "--cpu-list", str(core)] if core is not None else []
    command += [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def fill(address: str, samples: Sequence[dict[str, dict[str, object]]]) -> None:
    """Set the users, each with a sample row's context. Raises redis.ConnectionError."""
    client = redis.Redis.from_url(address)
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
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


def summary(points: Mapping[tuple[str, Case], Point], cases: Sequence[Case]) -> str:
    """The medians of the ratios over all cases, to two digits more than the table has."""
    found = [ratios(points, case, "here", "there") for case in cases]
    requests = median(each for each, _ in found)
    cpu = median(each for _, each in found if each is not None)
    return f"medians of all cases: x req/s {requests:.3f}, x cpu {cpu:.3f}"


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.users_in_redis", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=REPOSITORY / "artifacts" / "demo")
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each round and case")
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    options = parser.parse_args()
    lack = lack_of_tools() or ", ".join(f"{tool} must be installed" for tool in missing(["redis-server"]))
    if lack:
        print(f"users_in_redis: error: {lack}", file=sys.stderr)
        return 1
    service_core, client_core = sorted(os.sched_getaffinity(0))[:2]
    samples = read_samples(options.bundle)
    folders = [REPOSITORY] if options.against is None else [REPOSITORY, options.against.resolve()]
    cases = [Case(size, count) for size in options.candidates for count in options.connections]
    with tempfile.TemporaryDirectory() as folder, running_redis(client_core) as address:
        fill(address, samples)
        bodies = write_bodies(samples, options.candidates, Path(folder))
        with running_services(folders, options.bundle, address, service_core) as servers:
            points, failures = measure(
                dict(zip(("here", "there"), servers, strict=False)),
                cases,
                lambda _, case: bodies[case.candidates],
                seconds=options.seconds,
                repetitions=options.rounds,
                core=client_core,
                tell=lambda line: print(line, file=sys.stderr),
            )
            missed = [missing_users(server) for server in servers]
    for (name, case), reason in failures.items():
        print(f"users_in_redis: error: {name} at {case}: {reason}", file=sys.stderr)
    if any(missed):
        print(f"users_in_redis: requests without their user: {missed}", file=sys.stderr)
    if failures:
        return 1
    print(table(points))
    if len(folders) == 2:
        print(summary(points, cases))
    return 0


if __name__ == "__main__":
    sys.exit(main())
