"""`python -m service.control` and a real service, of one process and of two: all workers do what it says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.control.protocol import Answer, Status, answer_of, line_of
from tests.e2e.commanded import KEYS, WORKERS, Commanded, arms_of, ask, commanded
from tests.e2e.raw_http import body_of, wait_until
from tests.e2e.test_process import refusal_of
from tests.running import REPOSITORY, running_service
from tests.tiny_bundle import write_tiny_bundle

NOBODY = 65534


@pytest.fixture(scope="module", params=["1", "2"])
def shared(
    request: pytest.FixtureRequest, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Commanded]:
    """Services for tests that leave their processes alive, and the arms as they were."""
    arguments = [*arms_of(bundles), "--workers", request.param]
    with commanded(tmp_path_factory.mktemp("shared"), arguments) as running:
        yield running


def test_weights_change_while_serving_and_keys_that_need_not_move_stay(shared: Commanded) -> None:
    before = shared.answering()
    assert shared.do("weights", "treatment=3")["status"]["arms"][1]["share"] == 0.5
    raised = shared.answering()
    moved = [key for key in KEYS if before[key] != raised[key]]
    assert {raised[key] for key in moved} == {"treatment"}
    assert 0.1 * len(KEYS) < len(moved) < 0.45 * len(KEYS)
    shared.do("weights", "treatment=1", "control=3")
    assert shared.answering() == before
    assert shared.do("weights", "treatment=1")["done"]["is_changed"] is False


def test_a_killed_arm_is_answered_by_the_first_until_it_is_revived(shared: Commanded) -> None:
    before = shared.answering()
    shared.do("kill", "treatment")
    assert set(shared.answering().values()) == {"control"}
    assert set(shared.answering("treatment", KEYS[:20]).values()) == {"control"}
    killed = shared.arms()["treatment"]
    assert (killed["is_killed"], killed["by"], killed["user"]) == (True, "kill", os.geteuid())
    with shared.service.client() as client:
        described = {arm["name"]: arm["is_killed"] for arm in client.get("/arms").json()["arms"]}
    assert described == {"control": False, "treatment": True}
    shared.do("revive", "treatment")
    assert shared.answering() == before
    assert set(shared.answering("treatment", KEYS[:20]).values()) == {"treatment"}


def test_without_the_control_arm_there_is_no_bid_and_the_command_says_so(shared: Commanded) -> None:
    for arm in ("control", "treatment"):
        outcome = ask(shared.path, "kill", arm)
        assert outcome.status == 0
    assert "warning: the control arm is killed: requests of killed arms are answered with no bid" in (
        outcome.errors
    )
    for _ in range(8):
        answer = shared.service.post(body_of(3)).json()
        assert (answer["arm"], answer["quality"]) == ("control", "no-bid")
        assert [(row["pctr"], row["bid"]) for row in answer["results"]] == [(0.0, None)] * 3
    assert shared.service.metrics()['bidlight_arm_killed{arm="control"}'] == 1.0
    for arm in ("control", "treatment"):
        ask(shared.path, "revive", arm)
    assert "quality" not in shared.service.post(body_of(3)).json()


def test_what_is_refused_changes_nothing_and_says_why(shared: Commanded) -> None:
    before, events = shared.arms(), shared.events()
    for command, reason in {
        ("kill", "nobody"): "'arm' must be one of control, treatment (got 'nobody')",
        ("revive", "nobody"): "'arm' must be one of control, treatment (got 'nobody')",
        ("weights", "nobody=1"): "'arm' must be one of control, treatment (got 'nobody')",
        ("weights", "treatment=0", "control=0"): "'weight' must be above 0 for one arm or more",
        ("calibration",): "'live_calibration' must be observe or on for this command (got off)",
        ("calibration", "freeze", "control"): "'live_calibration' must be observe or on for this command",
    }.items():
        outcome = ask(shared.path, *command)
        assert (outcome.status, outcome.output) == (1, "")
        assert outcome.errors.startswith("python -m service.control: error: ")
        assert outcome.errors.count("\n") == 1
        assert reason in outcome.errors
    assert (shared.arms(), shared.events()) == (before, events)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["weights", "treatment"], "must be ARM=WEIGHT with a number (got 'treatment')"),
        (["weights", "treatment=ten"], "must be ARM=WEIGHT with a number (got 'treatment=ten')"),
        (["weights", "treatment=-1"], "'weight' of arm treatment must be a finite number from 0"),
        (["weights", "treatment=inf"], "'weight' of arm treatment must be a finite number from 0"),
        (["weights"], "the following arguments are required"),
        (["calibration", "melt", "only"], "invalid choice: 'melt'"),
        (["calibration", "reset"], "the following arguments are required: ARM"),
        (["launch"], "invalid choice: 'launch'"),
        (["status", "--control-socket", ""], "'--control-socket' must be the path"),
    ],
)
def test_a_command_that_cannot_be_read_is_one_line_and_status_2(command: list[str], message: str) -> None:
    outcome = ask(Path("nowhere"), *command)
    assert (outcome.status, outcome.output) == (2, "")
    assert outcome.errors.count("\n") == 1
    assert message in outcome.errors


def test_where_no_service_answers_the_status_is_3(tmp_path: Path) -> None:
    path = tmp_path / "control.socket"
    absent = ask(path, "status")
    assert absent.status == 3
    assert absent.errors.startswith(f"python -m service.control: error: there is no socket at {path}; ")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)
        silent = ask(path, "status", "--timeout-seconds", "0.2")
    dead = ask(path, "status")
    assert (silent.status, dead.status) == (3, 3)
    assert "does not answer in time" in silent.errors
    assert "no process answers at" in dead.errors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_another_user_may_not_command(shared: Commanded) -> None:
    for folder in (shared.path.parent, *shared.path.parent.parents[:2]):
        folder.chmod(0o755)
    program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    found = subprocess.run(
        ["/usr/bin/env", "python3", "-c", program, str(shared.path)],
        capture_output=True,
        text=True,
        user=NOBODY,
    )
    assert "PermissionError" in found.stderr


def test_the_socket_may_be_named_by_the_environment_and_people_get_a_table(shared: Commanded) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.control", "status"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "BIDLIGHT_CONTROL_SOCKET": str(shared.path)},
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[2] == ["arm", "weight", "share", "state", "bundle", "before", "since", "by"]
    assert lines[3][:4] == ["control", "3", "75.0%", "control"]
    assert lines[4][:4] == ["treatment", "1", "25.0%", "serves"]
    workers = shared.do("status")["status"]["workers"]
    assert [line[:2] for line in lines[7 : 7 + len(workers)]] == [
        [str(one["pid"]), "serving"] for one in workers
    ]


def test_clients_that_hang_delay_neither_commands_nor_requests(shared: Commanded) -> None:
    hanging = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    for number, connection in enumerate(hanging):
        connection.connect(str(shared.path))
        if number % 2:
            connection.send(b'{"command":')
    started = time.monotonic()
    assert set(shared.arms()) == {"control", "treatment"}
    assert shared.service.post(body_of(1)).status_code == 200
    assert time.monotonic() - started < 2.0
    for connection in hanging:
        connection.close()


def test_what_is_no_command_is_refused_and_the_next_is_answered(shared: Commanded) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10.0)
        connection.connect(str(shared.path))
        for line in (
            b"\n",
            b"{}\n",
            b'{"command":"launch"}\n',
            b'{"command":"kill"}\n',
            b"\xff\n",
            b"[" * 999 + b"\n",
        ):
            connection.sendall(line)
            error = answer_of(connection.recv(1 << 16)).error
            assert error is not None
            assert error.code == "malformed_body"
        connection.sendall(line_of(Status()))
        assert isinstance(answer_of(connection.recv(1 << 16)), Answer)


def test_no_port_has_a_route_that_changes_what_is_served(shared: Commanded) -> None:
    with shared.service.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        methods = {path: sorted(operations) for path, operations in paths.items()}
        assert methods.pop("/predict") == methods.pop("/feedback") == ["post"]  # they score, and count
        assert {method for each in methods.values() for method in each} == {"get"}
        for path in ("/control", "/arms", "/kill", "/weights"):
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                answer = client.request(method, path, json={"command": "kill", "arm": "treatment"})
                assert answer.status_code in (404, 405)
    assert not shared.arms()["treatment"]["is_killed"]


@WORKERS
def test_changes_outlive_reloads_and_are_logged_with_who_made_them(
    bundles: dict[str, Path], tmp_path: Path, workers: str
) -> None:
    folders = {
        name: write_tiny_bundle(tmp_path / name, name=f"first-{name}", seed=number)
        for number, name in enumerate(bundles)
    }
    with commanded(tmp_path, [*arms_of(folders), "--workers", workers]) as running:
        running.do("weights", "treatment=6", "control=2")
        running.do("kill", "treatment")
        old = running.arms()["control"]["bundle"]
        write_tiny_bundle(folders["control"], name="second", seed=5)
        new = running.do("reload")["status"]["arms"][0]["bundle"]
        assert new.startswith("second@")
        wait_until(lambda: len(running.do("status")["status"]["workers"]) == int(workers))
        found = running.arms()
        assert [arm["weight"] for arm in found.values()] == [2.0, 6.0]
        assert [arm["is_killed"] for arm in found.values()] == [False, True]
        assert set(running.answering(keys=KEYS[:20]).values()) == {"control"}
        (folders["control"] / "manifest.json").write_text("{}")
        refused = ask(running.path, "reload")
        assert refused.status == 1
        assert "the reload was refused: arm control: " in refused.errors
        assert running.arms() == found
        running.service.send_signal(signal.SIGHUP)
        wait_until(lambda: len(running.events()) == 5)
        assert running.service.stop() == 0
        assert not running.path.exists()
        events = running.events()
    user = os.geteuid()
    assert [(each["command"], each["user"], each.get("outcome", "ok")) for each in events] == [
        ("weights", user, "ok"),
        ("kill", user, "ok"),
        ("reload", user, "ok"),
        ("reload", user, "refused"),
        ("reload", None, "refused"),
    ]
    assert events[0]["before"] == {
        "control": {"weight": 3.0, "is_killed": False},
        "treatment": {"weight": 1.0, "is_killed": False},
    }
    assert events[1]["after"] == {"treatment": {"weight": 6.0, "is_killed": True}}
    assert (events[2]["before"], events[2]["after"]) == (
        {"control": {"bundle": old}},
        {"control": {"bundle": new}},
    )
    assert "arm control: " in events[3]["reason"]
    lines = running.service.errors.read_text()
    assert (
        f"INFO weights by user {user}: control has weight 2 (before: 3), treatment has weight 6 (before: 1)"
        in lines
    )
    assert f"INFO kill by user {user}: treatment is killed" in lines


def test_a_change_outlives_a_worker_that_is_killed_right_after_it(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with commanded(tmp_path, [*arms_of(bundles), "--workers", "2"]) as running:
        for round_number in range(2):
            command = ("kill", "revive")[round_number]
            victim = min(running.service.workers())
            running.do(command, "treatment")
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: victim not in (now := running.service.workers()) and len(now) == 2)  # noqa: B023
            expected = {"control"} if command == "kill" else {"treatment"}
            assert set(running.answering("treatment", KEYS[:40]).values()) == expected
        workers = running.do("status")["status"]["workers"]
        assert {worker["revision"] for worker in workers if worker["state"] == "serving"} == {3}


def test_a_second_service_is_refused_the_socket_of_the_first(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    with commanded(tmp_path, arms_of(bundles)) as running:
        for workers in ("1", "2"):
            arguments = [*arms_of(bundles), "--control-socket", str(running.path), "--workers", workers]
            refusal = refusal_of(tmp_path, arguments)
            assert "'control_socket' must be a path at which a socket can be made" in refusal
            assert "the socket of a living process" in refusal
        assert set(running.arms()) == {"control", "treatment"}


def test_what_a_killed_service_has_left_is_replaced(bundles: dict[str, Path], tmp_path: Path) -> None:
    with commanded(tmp_path, [*arms_of(bundles), "--workers", "2"]) as running:
        left = running.service.workers()
        running.service.process.kill()
        running.service.wait()
        assert running.path.exists()
        wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in left))
    with commanded(tmp_path, arms_of(bundles)) as running:
        assert set(running.arms()) == {"control", "treatment"}


def test_a_full_disk_under_the_log_of_changes_keeps_no_command_from_being_done(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "control.socket"
    options = ["--control-socket", str(path), "--control-log", "/dev/full"]
    with running_service(tmp_path, [*arms_of(bundles), *options]) as service:
        outcome = ask(path, "kill", "treatment")
        assert outcome.status == 0
        assert "warning: it is not in /dev/full: No space left on device" in outcome.errors
        assert Commanded(service, path, Path("/dev/full")).arms()["treatment"]["is_killed"]
        assert service.stop() == 0
    assert "a change was made, and it is not in /dev/full" in service.errors.read_text()


def test_a_log_of_changes_that_cannot_be_written_is_refused_at_the_start(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "control.socket"
    for workers in ("1", "2"):
        options = ["--workers", workers, "--control-socket", str(path), "--control-log", str(tmp_path)]
        refusal = refusal_of(tmp_path, [*arms_of(bundles), *options])
        assert "'control_log' must be a file that can be appended to" in refusal
        assert not path.exists()
