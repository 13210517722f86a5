"""The service gives the same answer to every form of a request, and wrk sends bodies unchanged."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadtest.load import closed_loop
from loadtest.processes.machine import missing_tools
from loadtest.processes.server import Server
from loadtest.traffic.answers import compare
from loadtest.traffic.body_files import write_frames
from loadtest.traffic.body_forms import FORMS, columns_of
from service.settings import Settings
from tests.running import RunningApp
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

needs_wrk = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())


def test_all_forms_are_answered_alike(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    rows = tiny_rows(40)
    candidates = [
        {"id": f"ad-{number}", "features": row["candidate"], "value_per_click": 0.5 + number}
        | ({"bid_floor": 0.4} if number % 3 else {})
        for number, row in enumerate(rows)
    ]
    request = {"id": "r", "context": rows[0]["context"], "candidates": candidates}
    app = RunningApp(Settings(arms=(f"control={bundle}",)))
    try:
        answers = {}
        for name, form in FORMS.items():
            response = app.post(form.body_of(request), {"content-type": form.content_type})
            assert response.status_code == 200, response.text
            assert response.headers["content-type"] == form.content_type
            answers[name] = form.route.read(response.content)
    finally:
        app.close()
    expected = answers["rows-json"]
    assert [each["id"] for each in expected["results"]] == [each["id"] for each in candidates]
    assert {each["bid"] is None for each in expected["results"]} == {True, False}
    for found in answers.values():
        assert compare([expected], [found]) == len(candidates)


def test_columns_have_null_where_a_row_has_nothing() -> None:
    rows = [{"id": "a", "features": {"x": 1}}, {"id": "b", "features": {"y": [2]}, "bid_floor": 0.1}]
    assert columns_of(rows) == {
        "id": ["a", "b"],
        "features": {"x": [1, None], "y": [None, [2]]},
        "bid_floor": [None, 0.1],
    }
    assert columns_of([{"id": "a"}, {"id": "b"}]) == {"id": ["a", "b"]}


class Recorder(BaseHTTPRequestHandler):
    """Keeps what it is sent, in the order of one connection."""

    protocol_version = "HTTP/1.1"
    bodies: list[tuple[str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append((self.headers["Content-Type"], body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_request(self, *_: object) -> None:
        """Say nothing."""


@needs_wrk
@pytest.mark.parametrize("kind", ["frames", "lines"])
def test_wrk_sends_bodies_as_they_are(tmp_path: Path, kind: str) -> None:
    bodies = [b"one", b'{"two": 2}']
    file = tmp_path / f"bodies.{'frames' if kind == 'frames' else 'jsonl'}"
    if kind == "frames":
        bodies += [b"\n", b"7\nbodies", bytes(range(256)), b"x" * 100_000]
        write_frames(bodies, file)
    else:
        file.write_bytes(b"".join(body + b"\n" for body in bodies))
    route = FORMS["rows-msgpack" if kind == "frames" else "rows-json"].route
    recorder = type("Here", (Recorder,), {"bodies": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), recorder) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            server = Server(f"http://127.0.0.1:{listener.server_port}", os.getpid(), file, route)
            point = closed_loop.run_wrk(server, file, connections=1, seconds=1, core=None)
        finally:
            listener.shutdown()
            thread.join()
    assert point.errors == 0
    assert {content_type for content_type, _ in recorder.bodies} == {route.headers["Content-Type"]}
    found = [body for _, body in recorder.bodies]
    assert len(found) > 2 * len(bodies)
    start = bodies.index(found[0])  # wrk asks for one that it does not send
    assert all(body == bodies[number % len(bodies)] for number, body in enumerate(found, start))
