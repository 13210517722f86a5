"""`POST /control`: commands over HTTP, on the admin port alone, for whoever has a token."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.control.protocol import MAX_COMMAND_BYTES
from tests.e2e.commanded import Commanded, arms_of, commanded
from tests.e2e.raw_http import body_of, wait_until
from tests.e2e.test_process import refusal_of
from tests.running import JSON
from tests.tiny_bundle import write_tiny_bundle

TOKEN, NEXT_TOKEN = "first-token-0123456789", "second-token-0123456789"


@pytest.fixture(scope="module", params=["1", "2"])
def running(
    request: pytest.FixtureRequest, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Commanded]:
    """Services of one process and of two that take commands over HTTP."""
    folder = tmp_path_factory.mktemp("http")
    (folder / "tokens").write_text(f"{TOKEN}\n")
    options = ["--admin-port", "0", "--control-token-file", str(folder / "tokens")]
    with commanded(folder, [*arms_of(bundles), "--workers", request.param, *options]) as service:
        yield service


def post(
    running: Commanded, command: Any, token: str | None = TOKEN, url: str | None = None
) -> httpx.Response:
    """POST /control; a command other than bytes is sent as JSON."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    content = command if isinstance(command, bytes) else json.dumps(command, indent=1).encode()
    with running.service.client(base_url=url or running.service.admin_url) as client:
        return client.post("/control", content=content, headers=headers)


def test_commands_are_carried_out_for_whoever_has_a_token(running: Commanded) -> None:
    done = post(running, {"command": "kill", "arm": "treatment"}).json()["done"]
    assert done == {"revision": 2, "is_changed": True, "reload": None, "notes": []}
    status = post(running, {"command": "status"}).json()["status"]
    assert [arm["is_killed"] for arm in status["arms"]] == [False, True]
    wait_until(lambda: {each["revision"] for each in running.do("status")["status"]["workers"]} == {2})
    assert set(running.answering("treatment", [f"u{number}" for number in range(10)]).values()) == {"control"}
    assert post(running, {"command": "revive", "arm": "treatment"}).status_code == 200
    assert "asks over HTTP to kill" in running.service.errors.read_text()


def test_without_one_of_its_tokens_nothing_is_done(running: Commanded) -> None:
    before = running.arms()
    for token in (None, TOKEN[:-1], TOKEN + "x", NEXT_TOKEN):
        answer = post(running, {"command": "kill", "arm": "treatment"}, token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert running.arms() == before


def test_the_bidding_port_has_no_such_route(running: Commanded) -> None:
    before = running.arms()
    answer = post(running, {"command": "kill", "arm": "treatment"}, url=running.service.url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert running.arms() == before


def test_what_cannot_be_done_is_refused_with_its_reason(running: Commanded) -> None:
    for command, status, code in (
        ({"command": "kill", "arm": "nobody"}, 404, "unknown_arm"),
        ({"command": "weights", "weights": {"control": 0, "treatment": 0}}, 422, "bad_configuration"),
        ({"command": "rollback"}, 422, "bad_configuration"),
        ({"command": "launch"}, 400, "malformed_body"),
        (b"\xff", 400, "malformed_body"),
        (b"x" * (MAX_COMMAND_BYTES + 1), 413, "body_too_large"),
    ):
        answer = post(running, command)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    with running.service.client(base_url=running.service.admin_url) as client:
        assert client.get("/control", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 405


def test_a_client_that_leaves_within_its_command_is_no_error_of_the_service(running: Commanded) -> None:
    head = f"POST /control HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 99\r\n\r\n"
    port = int(running.service.admin_url.rsplit(":", 1)[1])
    for _ in range(4):  # any worker may have it
        with socket.create_connection(("127.0.0.1", port), timeout=20.0) as connection:
            connection.sendall(head.encode() + b"{")
            time.sleep(0.1)  # the command has begun to be read
    assert post(running, {"command": "status"}).status_code == 200
    assert "Traceback" not in running.service.errors.read_text()


def test_sighup_reads_the_tokens_again(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    folder = write_tiny_bundle(tmp_path / "bundle")
    options = ["--admin-port", "0", "--control-token-file", str(tmp_path / "tokens"), "--try-reloads", "off"]
    with commanded(tmp_path, ["--arm", f"only={folder}", *options]) as running:
        (tmp_path / "tokens").write_text(f"{NEXT_TOKEN}\n")
        assert post(running, {"command": "status"}, NEXT_TOKEN).status_code == 401
        running.service.send_signal(signal.SIGHUP)
        wait_until(lambda: post(running, {"command": "status"}, NEXT_TOKEN).status_code == 200)
        assert post(running, {"command": "status"}).status_code == 401
        (tmp_path / "tokens").write_text("short\n")
        assert post(running, {"command": "reload"}, NEXT_TOKEN).json()["done"]["reload"] == 2
        wait_until(
            lambda: "'control_token_file' must be a file of tokens" in running.service.errors.read_text()
        )
        assert post(running, {"command": "status"}, NEXT_TOKEN).status_code == 200
        with running.service.client(headers=JSON) as client:
            assert client.post("/predict", content=body_of(1)).status_code == 200


@pytest.mark.parametrize("missing", ["--admin-port", "--control-socket"])
def test_tokens_without_a_port_and_a_socket_are_refused(tmp_path: Path, missing: str) -> None:
    given = {"--admin-port": "0", "--control-socket": str(tmp_path / "control.socket")}
    del given[missing]
    options = [part for option in given.items() for part in option]
    message = refusal_of(tmp_path, ["--arm", "a=b", "--control-token-file", "tokens", *options])
    assert "'control_token_file' must be given with admin_port and control_socket" in message
