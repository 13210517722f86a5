"""From answers to tomorrow's training log, by real processes over HTTP."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow.parquet as pq
import pytest

from service import join_examples
from service.bundle.store import load_bundle
from service.examples.join import GRACE_MS, HOUR_MS
from service.feedback.tokens import now_ms
from tests.e2e.raw_http import wait_until
from tests.exporting import export
from tests.running import JSON, MSGPACK, RunningService, running_service
from tests.tiny_bundle import tiny_rows

WINDOW_SECONDS = 60


def arguments_of(folder: Path, bundle: Path, *more: str) -> list[str]:
    """Of a service that logs every request, and all events."""
    (folder / "keys").write_text(f"0 {'5e' * 16}\n", encoding="ascii")
    for name in ("examples", "events", "joined"):
        (folder / name).mkdir()
    return [
        *("--arm", f"only={bundle}", "--feedback-keys", str(folder / "keys"), "--tracking", "all"),
        *("--example-log", str(folder / "examples"), "--example-share", "1"),
        *("--feedback-log", str(folder / "events"), *more),
    ]


def join(folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command as if it were some hours later."""
    later = now_ms() + 2 * HOUR_MS + GRACE_MS
    monkeypatch.setattr(join_examples, "now_ms", lambda: later)
    folders = ["--examples", folder / "examples", "--events", folder / "events", "--out", folder / "joined"]
    given = [*map(str, folders), "--bundle", str(bundle), "--window-seconds", str(WINDOW_SECONDS)]
    assert join_examples.main(given) == 0


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def patiently(client: httpx.Client, path: str, body: bytes, kind: dict[str, str]) -> httpx.Response:
    """POST, again if a loaded machine refuses it."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(httpx.TransportError):
            response = client.post(path, content=body, headers=kind)
            if response.status_code != 429:
                assert response.status_code == 200, response.text
                return response
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ask(client: httpx.Client, request: dict[str, Any], kind: dict[str, str]) -> dict[str, Any]:
    codec = msgspec.json if kind is JSON else msgspec.msgpack
    response = patiently(client, "/predict", codec.encode(request), kind)
    found: dict[str, Any] = codec.decode(response.content)
    return found


def report(client: httpx.Client, events: Sequence[dict[str, Any]]) -> None:
    answer = patiently(client, "/feedback", msgspec.json.encode({"events": events}), JSON)
    assert answer.json()["counted"] + answer.json()["duplicates"] == len(events), answer.text


def written(service: RunningService) -> set[float]:
    """How many requests, and how many events, the disk has."""
    metrics = service.metrics()
    names = "bidlight_example_log_requests_total", "bidlight_feedback_log_events_total"
    return {metrics[f'{name}{{outcome="written"}}'] for name in names}


def test_a_killed_worker_loses_no_more_than_the_last_second(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both workers log to files of their own; what the disk had before the kill is in the Parquet file."""
    arguments = arguments_of(tmp_path, bundles["control"], "--workers", "2")
    context, ad = tiny_rows(1)[0]["context"], {"id": "ad", "features": {"ad": "a1"}}

    def ask_and_show(number: int) -> None:
        with service.client() as client:  # a new connection: any worker
            request = {"id": f"r{number}", "context": context, "candidates": [ad]}
            answer = ask(client, request, JSON if number % 2 else MSGPACK)
            report(client, [{"token": answer["results"][0]["token"], "type": "impression"}])

    with running_service(tmp_path, arguments) as service:
        for number in range(40):
            ask_and_show(number)
        wait_until(lambda: min(written(service)) >= 40)
        victims = service.workers()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(service.workers() - victims) == 2)
        for number in range(40, 60):
            wait_until(service.accepts)
            ask_and_show(number)
    files = [*(tmp_path / "examples").iterdir()]
    assert any(file.name.endswith(".part") for file in files)
    with next(file for file in files if file.name.endswith(".part")).open("ab") as cut:
        cut.write(b'{"at":1,"sha')  # half a line
    join(tmp_path, bundles["control"], monkeypatch)
    rows = rows_of(tmp_path / "joined")
    assert {row["_request_id"] for row in rows} == {f"r{number}" for number in range(60)}
    assert {(row["site"], row["ad"], row["_shown"]) for row in rows} == {(context["site"] or None, "a1", 1)}


def write_shop_log(folder: Path, rows: int) -> list[str]:
    """A log with an hour derived from its time and columns of other names than fields; its options."""
    draw = random.Random(3)
    lines = ["ts,clicked,page,item,price,seen"]
    for number in range(rows):
        page, item = draw.randrange(5), draw.randrange(20)
        clicked = draw.random() < 0.1 + 0.04 * page + 0.01 * item
        seen = " ".join(f"i{draw.randrange(20)}" for _ in range(3))
        cells = 1_700_000_000 + 60 * number, int(clicked), f"p{page}", f"i{item}", draw.random(), seen
        lines.append(",".join(map(str, cells)))
    (folder / "shop.csv").write_text("\n".join(lines) + "\n", encoding="ascii")
    (folder / "shop.toml").write_text(
        """
name = "shop"
format = "csv"
label = {column = "clicked"}
timestamp = {column = "ts"}
[[field]]
name = "site"
column = "page"
kind = "categorical"
role = "context"
[[field]]
name = "hour"
derive = "hour_of_day"
kind = "categorical"
role = "context"
[[field]]
name = "history"
column = "seen"
kind = "sequence"
role = "context"
separator = " "
same_values_as = "ad"
[[field]]
name = "ad"
column = "item"
kind = "categorical"
role = "candidate"
[[field]]
name = "price"
kind = "numeric"
role = "candidate"
""",
        encoding="ascii",
    )
    return ["--data", str(folder / "shop.csv"), "--schema", str(folder / "shop.toml")]


TRAINING = ["--model", "lr", "--preset", "none", "--epochs", "1", "--threads", "1"]


@pytest.mark.slow
def test_what_was_served_today_is_trained_on_tomorrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log is trained on and served; what comes back is joined, and trained on by its bundle."""
    first, second = tmp_path / "first", tmp_path / "second"
    export("run", *write_shop_log(tmp_path, 4000), *TRAINING, "--out", str(first))
    draw = random.Random(4)
    shown = clicked = 0
    with running_service(tmp_path, arguments_of(tmp_path, first)) as service, service.client() as client:
        started = time.monotonic()
        number = 0
        while number < 150 or time.monotonic() - started < 8:  # the export splits by the second
            page = draw.randrange(5)
            context = {"site": f"p{page}", "hour": "13", "history": [f"i{page}", "i29"]}
            items = [draw.randrange(30) for _ in range(20)]
            candidates = [{"id": f"ad{item}", "features": {"ad": f"i{item}", "price": 0.5}} for item in items]
            request = {"id": f"r{number}", "context": context, "candidates": candidates}
            results = ask(client, request, draw.choice([JSON, MSGPACK]))["results"]
            events = [{"token": result["token"], "type": "impression"} for result in results[:15]]
            clicks = [
                {"token": result["token"], "type": "click"}
                for result, item in zip(results[:15], items, strict=False)
                if draw.random() < 0.1 + 0.04 * page + 0.01 * item
            ]
            report(client, events + clicks)
            shown, clicked = shown + len(events), clicked + len(clicks)
            number += 1
            time.sleep(0.05)
    join(tmp_path, first, monkeypatch)
    rows = rows_of(tmp_path / "joined")
    assert (len(rows), sum(row["_clicked"] for row in rows)) == (shown, clicked)
    options = ["--data", str(tmp_path / "joined"), "--schema", str(first)]
    export("run", *options, *TRAINING, "--out", str(second))
    fields = load_bundle(second).schema.fields
    assert [field.name for field in fields] == ["site", "hour", "history", "ad", "price"]
    assert json.loads((second / "report" / "log.json").read_text())["label"]["column"] == "_clicked"
    assert "i29" in fields[3].encoding.values  # which the first log has not
    export("run", *options, *TRAINING, "--warm-start", str(first), "--out", str(tmp_path / "third"))
    export("evaluate", "--bundle", str(first), *options, "--out", str(tmp_path / "evaluation"))
    with running_service(tmp_path, ["--arm", f"only={second}"]) as service, service.client() as client:
        assert len(ask(client, {"candidates": candidates}, JSON)["results"]) == 20
