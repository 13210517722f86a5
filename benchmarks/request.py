"""Measures the CPU microseconds of a request in each stage between its bytes and those of its answer.

`python -m benchmarks.request` prints a table. `--against FOLDER` interleaves runs of another checkout with
runs of this one, and shows the ratio of the medians. There is neither a socket nor a client. Each figure is
the best of some timings of this process' CPU time, which other load on the machine disturbs least.

decode is bytes -> a request; encode is that -> ids; answer is pCTRs -> bids and the body; all is from the
bytes that a connection reads to those that it writes, for one request a connection at once; counting is the
part of all that disappears without metrics; refuse is all of a request that waits too long and is refused
unread.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import uvloop

from benchmarks.command import Command, ended
from loadtest.arguments import a_checkout
from service.features.ads import CatalogueBuilder
from service.features.store import pack
from service.http.app import Bidlight, create_app
from service.http.connection import HttpConnection
from service.http.prediction import Prediction
from service.http.uvicorn_internals import ServerState
from service.process.server import server_config
from service.reading import decode_request, read_plain
from service.scoring.meter import OK
from service.settings import Settings
from service.wire import JSON, MSGPACK, Codec, count_rows

REPOSITORY = Path(__file__).parents[1]
# Where a checkout keeps this program: here, and in older ones.
PROGRAMS = "benchmarks/request.py", "tests/bench_request.py"
FORMS = ("features", "catalogue", "columns", "msgpack", "tracking", "examples")
STAGES = ("decode", "encode", "answer", "all", "counting", "refuse")
SECONDS_A_TIMING, TIMINGS = 0.01, 12
# Timings in which a request waits too long are thrown away, up to so many in a row.
TRIES, REST = 50, "let other work on this machine end first"
# Bytes under way, for which all others wait.
OTHER_WORK = 1 << 30
Figures = dict[str, dict[str, float]]


class Sink:
    """A transport that counts answers and keeps the last refusal."""

    def __init__(self) -> None:
        self.answers = 0
        self.refusal = b""

    def write(self, data: bytes) -> None:
        """Count one answer."""
        if not data.startswith(b"HTTP/1.1 200"):
            self.refusal = data
        self.answers += 1

    async def in_time(self, timing: Callable[[], Awaitable[float]]) -> float:
        """What a timing finds; where requests of it come too late it is taken again.

        Raises RuntimeError for a refusal of another kind, and where they are late again and again.
        """
        for _ in range(TRIES):
            found = await timing()
            if not self._had_late():
                return found
        raise RuntimeError(f"requests must not wait for others (got late ones in {TRIES} timings); {REST}")

    def _had_late(self) -> bool:
        """Whether requests waited too long, as where other processes take the machine; forgets it."""
        refusal, self.refusal = self.refusal, b""
        if refusal and not refusal.startswith(b"HTTP/1.1 429"):
            raise RuntimeError(f"an answer must be a 200 (got {refusal!r})")
        return bool(refusal)

    def is_closing(self) -> bool:
        """Return False: it never closes."""
        return False

    def close(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""

    def get_extra_info(self, _: str) -> None:
        """Do nothing."""


def connected(app: Bidlight, sink: Sink, connections: int) -> list[HttpConnection]:
    """New connections of a service, without sockets; all of them answer into one sink."""
    config, state = server_config(app.settings, app), ServerState()
    config.load()
    state.default_headers = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")]
    found = [HttpConnection(config, state, {}) for _ in range(connections)]
    for connection in found:
        connection.connection_made(sink)  # type: ignore[arg-type]
    return found


class Bench:
    """The service on one bundle, and requests for it, in six forms.

    `features`: JSON rows that hold the features of each ad. `catalogue`: JSON rows of ad ids, whose features
    the catalogue holds. `columns`: the same as columns. `msgpack`: `features` in MessagePack. `tracking`:
    `features`, and answers with tokens. `examples`: `tracking`, and all of them are logged, by a thread whose
    time counts too.
    """

    def __init__(self, app: Bidlight, samples: list[dict[str, Any]], connections: int) -> None:
        self.app, self._samples = app, samples
        assert app.predict_service.examples is not None
        self.examples = app.predict_service.examples
        self.predictor = app.arms[0].predictor
        builder = CatalogueBuilder(self.predictor.encoder)
        builder.add([(f"ad-{row}", pack(sample["candidate"])) for row, sample in enumerate(samples)])
        self._catalogue = builder.build()
        self._sink = Sink()
        self._connections = connected(app, self._sink, connections)

    def close(self) -> None:
        """Stop all timers."""
        for connection in self._connections:
            connection.connection_lost(None)

    async def figures(self, form: str, candidates: int) -> dict[str, float]:
        """Microseconds a request, by stage."""
        self.predictor.known_ads.catalogue = self._catalogue if form in ("catalogue", "columns") else None
        self.app.predict_service.examples = self.examples if form == "examples" else None
        codec = MSGPACK if form == "msgpack" else JSON
        body = self._body(form, candidates, codec)
        prediction = Prediction(self.app.predict_service, 0.0)
        prediction.read_headers({b"content-type": codec.media_type})
        pctrs = await prediction.submit(body)
        meter = self.predictor.meter
        message = self._message(body, codec)
        decode, encode = self._steps(body, codec, candidates)
        found = {
            "decode": _best(decode),
            "encode": _best(encode),
            "answer": _best(lambda: prediction.answer(pctrs)),
        }
        prediction.end(OK)
        metered, bare = [], []
        for _ in range(TIMINGS):
            self.predictor.meter = meter
            metered.append(await self._all(message))
            self.predictor.meter = None
            bare.append(await self._all(message))
        self.predictor.meter = meter
        found["all"] = min(metered)
        found["counting"] = min(metered) - min(bare)
        found["refuse"] = min([await self._refuse(message) for _ in range(TIMINGS)])
        return found

    def _steps(
        self, body: bytes, codec: Codec, candidates: int
    ) -> tuple[Callable[[], object], Callable[[], object]]:
        """decode and encode as the service does them: by the native core, or in Python."""
        predictor = self.predictor
        if self.app.predict_service.reads_plain:
            plain = read_plain(body, codec, candidates)
            assert plain is not None
            return lambda: read_plain(body, codec, candidates), lambda: predictor.encode_plain(plain)
        request = decode_request(body, codec)
        return (
            lambda: count_rows(decode_request(body, codec).candidates, candidates),
            lambda: predictor.encode(request, candidates),
        )

    async def _all(self, message: bytes) -> float:
        """Microseconds a request from bytes to bytes. Raises RuntimeError for a refusal."""
        return await self._sink.in_time(lambda: self._timed(message))

    async def _timed(self, message: bytes) -> float:
        requests = 0
        started = now = time.process_time()
        while now - started < SECONDS_A_TIMING:
            for connection in self._connections:
                connection.data_received(message)
            requests += len(self._connections)
            awaited = self._sink.answers + len(self._connections)
            while self._sink.answers < awaited:
                await asyncio.sleep(0)
            now = time.process_time()
        return (now - started) / requests * 1e6

    async def _refuse(self, message: bytes) -> float:
        """Microseconds a request that is refused unread, from bytes to bytes."""
        admission, sink = self.app.predict_service.admission, self._sink
        awaited = sink.answers + len(self._connections)
        work = admission.start(OTHER_WORK)
        started = time.process_time()
        for connection in self._connections:
            connection.data_received(message)
        seconds = time.process_time() - started
        await asyncio.sleep(2e-3 * self.app.settings.max_queue_ms)
        admission.stop(work)
        started = time.process_time()
        while sink.answers < awaited:
            await asyncio.sleep(0)
        seconds += time.process_time() - started
        if not sink.refusal.startswith(b"HTTP/1.1 429"):
            raise RuntimeError(f"an answer must be a 429 (got {sink.refusal!r})")
        sink.refusal = b""
        return seconds / len(self._connections) * 1e6

    def _body(self, form: str, candidates: int, codec: Codec) -> bytes:
        chosen = [row % len(self._samples) for row in range(candidates)]
        ids = [f"ad-{row}" for row in chosen]
        ads: Any = [{"id": ad_id, "value_per_click": 1.25, "bid_floor": 0.002} for ad_id in ids]
        if form == "columns":
            ads = {"id": ids, "value_per_click": [1.25] * candidates, "bid_floor": [0.002] * candidates}
        elif form != "catalogue":
            for ad, row in zip(ads, chosen, strict=True):
                ad["features"] = self._samples[row]["candidate"]
        request = {"id": "req-1", "context": self._samples[0]["context"], "candidates": ads}
        if form in ("tracking", "examples"):
            request["tracking"] = True
        return msgspec.json.encode(request) if codec is JSON else msgspec.msgpack.encode(request)

    def _message(self, body: bytes, codec: Codec) -> bytes:
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        return head % (codec.media_type, len(body)) + body


def _best(call: Callable[[], object]) -> float:
    """Microseconds a call, the best of some timings."""
    calls, seconds = 1, 0.0
    while seconds < SECONDS_A_TIMING / 4:
        calls *= 2
        seconds = _seconds(call, calls)
    calls = max(1, round(calls * SECONDS_A_TIMING / seconds))
    return min(_seconds(call, calls) for _ in range(TIMINGS)) / calls * 1e6


def _seconds(call: Callable[[], object], calls: int) -> float:
    started = time.process_time()
    for _ in range(calls):
        call()
    return time.process_time() - started


async def _measure(options: argparse.Namespace) -> Figures:
    lines = (options.bundle / "report" / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as folder:
        (keys := Path(folder) / "keys").write_text(f"0 {secrets.token_hex(16)}\n", encoding="ascii")
        arm = f"control={options.bundle}:1"
        settings = Settings(arms=(arm,), feedback_keys=str(keys), example_log=folder, example_share=1.0)
        app = create_app(settings)
        await app.served.open()
        bench = Bench(app, [json.loads(line) for line in lines], options.connections)
        gc.collect()
        gc.freeze()
        try:
            return {
                f"{form} {candidates}": await bench.figures(form, candidates)
                for form in options.forms
                for candidates in options.candidates
            }
        finally:
            bench.close()
            await app.served.close()
            bench.examples.close()


def _rounds(folders: list[Path], options: argparse.Namespace) -> Iterator[tuple[Path, Figures]]:
    """The figures of each folder, interleaved, each measured by the folder's own program in a new process."""
    for _ in range(options.rounds):
        for folder in folders:
            # -P: nothing is imported from the program's own folder, everything from the checkout measured.
            command = [sys.executable, "-P", str(_program(folder)), "--once", *options.passed_on]
            variables = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, cwd=folder, env=variables, stdout=subprocess.PIPE, check=True)
            yield folder, json.loads(done.stdout)


def _program(folder: Path) -> Path:
    """This program in a checkout; raises FileNotFoundError."""
    for name in PROGRAMS:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"'against' must be a checkout with {' or '.join(PROGRAMS)} (got {folder})")


def _print_table(found: dict[Path, list[Figures]], here: Path) -> None:
    others = [folder for folder in found if folder != here]
    print("microseconds a request" + (", and by how much less than the other" if others else ""))
    print(f"{'candidates':<16}" + "".join(f"{stage:>18}" for stage in STAGES))
    for case in found[here][0]:
        cells = []
        for stage in STAGES:
            ours, *theirs = (
                # An older program may not measure all that this one does.
                median(figures[case].get(stage, math.nan) for figures in found[folder])
                for folder in (here, *others)
            )
            # `counting` is a small difference of large figures: a ratio would mean nothing.
            shown = [
                f" ({other / ours:.2f}x)" if stage != "counting" else f" ({other:.1f})"
                for other in theirs
                if not math.isnan(other)
            ]
            cells.append(f"{ours:.1f}{''.join(shown)}")
        print(f"{case:<16}" + "".join(f"{cell:>18}" for cell in cells))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    command = Command("request", __doc__)
    add = command.add_argument
    command.bundle()
    command.numbers("--candidates", (1, 10, 100, 500), "of a request")
    forms = f"forms of a request: {', '.join(FORMS)} [{' '.join(FORMS[:2])}]"
    add("--forms", nargs="+", choices=FORMS, default=FORMS[:2], metavar="FORM", help=forms)
    command.number("--connections", 8, "requests at once")
    command.number("--rounds", 3, "interleaved")
    add("--against", type=a_checkout, metavar="FOLDER", help="another checkout")
    add("--once", action="store_true", help=argparse.SUPPRESS)
    options = command.parse_args(arguments)
    options.bundle = options.bundle.resolve()
    if options.once:
        print(json.dumps(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_measure(options))))
        return
    options.passed_on = [
        *("--bundle", str(options.bundle), "--connections", str(options.connections)),
        *("--candidates", *map(str, options.candidates), "--forms", *options.forms),
    ]
    folders = [REPOSITORY] if options.against is None else [REPOSITORY, options.against.resolve()]
    found: dict[Path, list[Figures]] = {folder: [] for folder in folders}
    for folder, figures in _rounds(folders, options):
        found[folder].append(figures)
    _print_table(found, REPOSITORY)


if __name__ == "__main__":
    sys.exit(ended(main))
