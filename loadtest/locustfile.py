"""Locust users that send bid requests and check the answers; the exit code says whether an SLO was kept.

    locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8000 --users 8 --run-time 10s \
        --bundle artifacts/demo --sizes 1:6,10:3,100:1 --slo-p99-ms 20 --slo-error-rate 0.001 --slo-rps 500

Options of this file (`locust --help` ends before it reads them; a wrong value is explained):
  --bundle FOLDER  --sizes COUNT:WEIGHT,... (candidates a request)  --pin-arms NAME,... (by X-Arm)
  --user-ids COUNT  --target-rps REQUESTS  --report-json FILE
  --slo-p99-ms MS (of each size of request)  --slo-error-rate SHARE  --slo-rps REQUESTS

A user waits for its answer before it sends again, so the offered rate falls when the service is slow, unless
`--target-rps` paces the users. It knows the HTTP interface only. The folder above `loadtest/` must be on the
path: `make setup` puts it there, and docker-compose.yml does in Locust's own image. What is imported from
there needs the standard library only.
"""

from __future__ import annotations

import json
import random
import sys
import time
from argparse import ArgumentTypeError
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import Runner, WorkerRunner

from loadtest.arguments import at_least_one, number, positive
from loadtest.load.latency import Latencies, Slo, format_summary, summary
from loadtest.traffic.bid_requests import BidRequest, BidRequestMaker, SampleError, parse_sizes, read_samples


class Run:
    """What this process sends, and its results; a Locust master adds up those of its workers."""

    def __init__(self) -> None:
        self.sizes: dict[int, float] = {}
        self.pins: list[str] = []
        self.slo = Slo()
        self.report_json: Path | None = None
        self.is_worker = False
        self.reset()

    def reset(self) -> None:
        self.by_size = {named(size): Latencies() for size in sorted(self.sizes)}
        self.arms: Counter[str] = Counter()
        self.first = self.last = 0.0

    def cover(self, first: float, last: float) -> None:
        """Extend the time in which requests ran, in unix seconds."""
        self.first = min(self.first or first, first)
        self.last = max(self.last, last)

    @property
    def seconds(self) -> float:
        return max(self.last - self.first, 1e-3)

    def missed(self) -> list[str]:
        return self.slo.missed(self.by_size, self.seconds) if self.slo.given else []


def named(size: int) -> str:
    """The name in the table of a request with `size` candidates."""
    return "1 candidate" if size == 1 else f"{size} candidates"


RUN = Run()
MAKER: BidRequestMaker


class AdServer(FastHttpUser):
    """An ad server's connection: one request after another, each answer checked."""

    network_timeout = 10.0
    connection_timeout = 5.0

    def wait_time(self) -> float:
        target, runner = self.environment.parsed_options.target_rps, self.environment.runner
        if target is None or runner is None:
            return 0.0
        return float(constant_throughput(target / max(1, runner.target_user_count))(self))

    @task
    def bid(self) -> None:
        size = random.choices([*RUN.sizes], [*RUN.sizes.values()])[0]
        request = MAKER.make(size)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        pin = random.choice(RUN.pins) if RUN.pins else None
        if pin is not None:
            headers["X-Arm"] = pin
        with self.client.post(
            "/predict",
            data=request.body,  # type: ignore[arg-type]  # it takes bytes too
            headers=headers,
            name=named(size),
            catch_response=True,
        ) as answer:
            wrong = check(answer.status_code, answer.content, request, pin)
            if wrong is None:
                RUN.arms[answer.headers.get("X-Arm", "?")] += 1
                answer.success()
            else:
                answer.failure(wrong)


def check(status: int, body: bytes | None, request: BidRequest, pin: str | None) -> str | None:
    """What is wrong with an answer, in one line; None for nothing."""
    if status != 200:
        return f"status {status}: {(body or b'').decode('utf-8', 'replace')[:200]}"
    try:
        answer = json.loads(body or b"")
        results = answer["results"]
        if answer["id"] != request.id:
            return "'id' is not that of the request"
        if pin is not None and answer["arm"] != pin:
            return f"'arm' is {answer['arm']!r} and not the pinned {pin!r}"
        if tuple(result["id"] for result in results) != request.candidate_ids:
            return (
                f"{len(results)} results, not those of the {len(request.candidate_ids)} candidates in order"
            )
        for result in results:
            if not 0.0 < result["pctr"] < 1.0:
                return f"'pctr' is {result['pctr']!r} and not between 0 and 1"
            if result["bid"] is not None and not result["bid"] >= 0.0:
                return f"'bid' is {result['bid']!r}"
    except (ValueError, KeyError, TypeError) as error:
        return f"not an answer of /predict: {type(error).__name__} {error}"
    return None


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    # Text and numbers only: a Locust master sends its options to its workers.
    add = parser.add_argument_group("Bid requests").add_argument
    add(
        "--bundle",
        default="artifacts/demo",
        metavar="FOLDER",
        help="a bundle, whose report/requests.jsonl the requests are made of, or such a file",
    )
    add(
        "--sizes",
        type=_sizes,
        default="1:6,10:3,100:1",
        metavar="COUNT:WEIGHT,...",
        help="candidates a request, and how often",
    )
    add(
        "--pin-arms",
        type=_names,
        default="",
        metavar="NAME,...",
        help="arms that X-Arm pins, one drawn a request; none: the service splits",
    )
    add(
        "--user-ids",
        type=at_least_one,
        default=10_000,
        metavar="COUNT",
        help="distinct user_id values, the sticky unit of the split",
    )
    add(
        "--target-rps",
        type=positive,
        metavar="REQUESTS",
        help="pace all users together to so many requests a second; none: as fast as the answers come",
    )
    add("--report-json", metavar="FILE", help="also write the table to FILE as JSON")
    add = parser.add_argument_group(
        "SLO: exit code 1, and a line for each limit that a run misses"
    ).add_argument
    add(
        "--slo-p99-ms",
        type=positive,
        metavar="MS",
        help="highest p99 in milliseconds, of each size of request",
    )
    add("--slo-error-rate", type=_share, metavar="SHARE", help="highest share of requests that fail, 0 to 1")
    add("--slo-rps", type=positive, metavar="REQUESTS", help="fewest right answers a second")


def _sizes(text: str) -> str:
    try:
        parse_sizes(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _share(text: str) -> float:
    value = number(text)
    if not 0.0 <= value <= 1.0:
        raise ArgumentTypeError(f"must be between 0 and 1 (got {text!r}); 0.001 is one in a thousand")
    return value


@events.init.add_listener
def set_up(environment: Environment, runner: Runner | None, **_: Any) -> None:
    global MAKER
    options: Any = environment.parsed_options
    RUN.sizes, RUN.pins = parse_sizes(options.sizes), options.pin_arms
    RUN.report_json = Path(options.report_json) if options.report_json else None
    RUN.slo = Slo(options.slo_p99_ms, options.slo_error_rate, options.slo_rps)
    RUN.is_worker = isinstance(runner, WorkerRunner)
    RUN.reset()
    try:
        # Another seed in each process, so that several of them do not send the same.
        MAKER = BidRequestMaker(
            read_samples(Path(options.bundle)), user_ids=options.user_ids, seed=random.getrandbits(32)
        )
    except SampleError as error:
        print(f"locust: error: {error}", file=sys.stderr)
        sys.exit(2)
    # Locust times the run from here on by gevent's clock, which stands still while files are read: on a busy
    # machine it is seconds behind, and a short run would end before it sends anything.
    gevent.get_hub().loop.update_now()


@events.test_start.add_listener
def start(**_: Any) -> None:
    RUN.reset()


@events.request.add_listener
def count(
    name: str, response_time: float, exception: BaseException | None, start_time: float, **_: Any
) -> None:
    if exception is None:
        RUN.by_size[name].add(response_time)
    else:
        RUN.by_size[name].errors += 1
    RUN.cover(start_time, time.time())


@events.report_to_master.add_listener
def send_counts(data: dict[str, Any], **_: Any) -> None:
    """A worker's part of the table since its last report."""
    parts = {name: (dict(part.buckets), part.errors, part.largest_ms) for name, part in RUN.by_size.items()}
    data["bid_requests"] = {"sizes": parts, "arms": dict(RUN.arms), "ran": (RUN.first, RUN.last)}
    RUN.reset()


@events.worker_report.add_listener
def receive_counts(data: dict[str, Any], **_: Any) -> None:
    sent = data["bid_requests"]
    for name, (buckets, errors, largest_ms) in sent["sizes"].items():
        RUN.by_size[name].merge(Latencies(Counter(buckets), errors, largest_ms))
    RUN.arms.update(sent["arms"])
    if sent["ran"][1]:
        RUN.cover(*sent["ran"])


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Set the exit code by the SLO if there is one; otherwise it is Locust's own: 1 after any failure."""
    if RUN.slo.given and not RUN.is_worker:
        environment.process_exit_code = 1 if RUN.missed() else 0


@events.quit.add_listener
def report(**_: Any) -> None:
    """Print the table below Locust's own statistics, and whether the SLO was kept."""
    if RUN.is_worker:
        return
    figures = summary(RUN.by_size, RUN.seconds)
    print(f"\n{format_summary(figures)}")
    if answers := RUN.arms.total():
        shares = (f"{name} {100 * found / answers:.1f} %" for name, found in sorted(RUN.arms.items()))
        print(f"arms: {', '.join(shares)}")
    missed = RUN.missed()
    for line in missed:
        print(f"SLO missed: {line}")
    if RUN.slo.given and not missed:
        print("SLO kept")
    sys.stdout.flush()
    if RUN.report_json is not None:
        found = {"sizes": figures, "arms": dict(RUN.arms), "missed": missed}
        RUN.report_json.write_text(json.dumps(found), encoding="utf-8")
