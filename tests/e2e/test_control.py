"""`python -m service.control` and a real service, of one process and of two: all workers do what it says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.control.protocol import Answer, Status, answer_of, line_of
from tests.e2e.raw_http import body_of, message, read_answer, wait_until
from tests.e2e.test_process import refusal_of
from tests.running import JSON, REPOSITORY, RunningService, running_service
from tests.tiny_bundle import write_tiny_bundle

WORKERS = pytest.mark.parametrize("workers", ["1", "2"])
KEYS = [f"user-{number}" for number in range(100)]
NOBODY = 65534
ROLLOUTS = 5


@dataclass(frozen=True)
class Outcome:
    """What a command has printed, and its exit status."""

    status: int
    output: str
    errors: str


def ask(path: Path, *command: str, **options: Any) -> Outcome:
    """Run `python -m service.control` for the service at a path."""
    done = subprocess.run(
        [sys.executable, "-m", "service.control", "--control-socket", str(path), *command],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60.0,
        **options,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Commanded:
    """A running service with a control socket and a log of changes."""

    service: RunningService
    path: Path
    log: Path

    def do(self, *command: str) -> dict[str, Any]:
        """Carry out a command; the answer."""
        outcome = ask(self.path, *command, "--json")
        assert (outcome.status, outcome.errors) == (0, "")
        answer: dict[str, Any] = json.loads(outcome.output)
        return answer

    def arms(self) -> dict[str, dict[str, Any]]:
        """What `status` says of each arm."""
        return {arm["name"]: arm for arm in self.do("status")["status"]["arms"]}

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def answering(self, arm: str | None = None, keys: Sequence[str] = KEYS) -> dict[str, str]:
        """Which arm answers each key, or those that pin one; a new connection each, so any worker answers."""
        found = {}
        for key in keys:
            headers = {**JSON, "x-split-key": key, **({} if arm is None else {"x-arm": arm})}
            with self.service.client(headers=headers) as client:
                answer = client.post("/predict", content=body_of(1))
            assert answer.status_code == 200
            assert answer.json()["arm"] == answer.headers["x-arm"]
            found[key] = answer.headers["x-arm"]
        return found


def arms_of(folders: Mapping[str, Path], weights: str = "3:1") -> list[str]:
    shares = dict(zip(folders, weights.split(":"), strict=True))
    return [part for name, folder in folders.items() for part in ("--arm", f"{name}={folder}:{shares[name]}")]


@contextmanager
def commanded(folder: Path, arguments: Sequence[str]) -> Iterator[Commanded]:
    """A service that obeys commands."""
    path, log = folder / "control.socket", folder / "changes.jsonl"
    options = ["--control-socket", str(path), "--control-log", str(log)]
    with running_service(folder, [*arguments, *options]) as service:
        yield Commanded(service, path, log)


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


@WORKERS
def test_the_bundle_before_a_reload_is_one_command_away(tmp_path: Path, workers: str) -> None:
    folders = {
        name: write_tiny_bundle(tmp_path / name, name=f"first-{name}", seed=number)
        for number, name in enumerate(("control", "treatment"))
    }
    options = ["--workers", workers, "--try-reloads", "off"]
    with commanded(tmp_path, [*arms_of(folders), *options]) as running:

        def serving(*command: str) -> list[str]:
            """The names of the bundles after a command, as answers have them."""
            status = running.do(*command)["status"]
            wait_until(lambda: len(running.do("status")["status"]["workers"]) == int(workers))
            for arm in status["arms"]:
                headers = {**JSON, "x-arm": arm["name"]}
                for _ in range(6):
                    with running.service.client(headers=headers) as client:
                        assert client.post("/predict", content=body_of(1)).json()["bundle"] == arm["bundle"]
            return [arm["bundle"].partition("@")[0] for arm in status["arms"]]

        refused = ask(running.path, "rollback")
        assert refused.status == 1
        assert "no arm has served another bundle since the start" in refused.errors
        for number, (name, folder) in enumerate(folders.items()):
            write_tiny_bundle(folder, name=f"second-{name}", seed=5 + number)
        assert serving("reload") == ["second-control", "second-treatment"]
        assert serving("rollback", "treatment") == ["second-control", "first-treatment"]
        assert serving("rollback") == ["first-control", "second-treatment"]
        running.do("weights", "treatment=2")
        running.do("kill", "treatment")
        if workers == "2":
            victim = min(running.service.workers())
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: victim not in (now := running.service.workers()) and len(now) == 2)
        running.do("revive", "treatment")
        assert serving("status") == ["first-control", "second-treatment"]
        assert running.arms()["treatment"]["weight"] == 2.0
        assert ask(running.path, "rollback", "nobody").status == 1
        assert serving("reload") == ["second-control", "second-treatment"]
        kinds = [each["command"] for each in running.events()]
        assert kinds == ["reload", "rollback", "rollback", "weights", "kill", "revive", "reload"]
        assert list(running.events()[1]["after"]) == ["treatment"]
        assert running.service.stop() == 0
    assert "rolled back control (second-control@" in running.service.errors.read_text()


def test_a_rollback_undoes_a_reload_that_does_not_come_to_its_end(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", name="first")
    options = ["--arm", f"only={folder}", "--workers", "2", "--try-reloads", "off"]
    with commanded(tmp_path, options) as running, ThreadPoolExecutor() as pool:
        before = running.service.workers()
        write_tiny_bundle(folder, name="second", seed=3)
        reload = pool.submit(ask, running.path, "reload")
        wait_until(lambda: bool(running.service.workers() - before))
        os.kill(max(running.service.workers() - before), signal.SIGSTOP)  # it never serves
        status = running.do("rollback")["status"]
        assert (status["last_reload"]["command"], status["last_reload"]["outcome"]) == ("rollback", "ok")
        assert reload.result().status == 1
        assert "a rollback has undone the reload" in reload.result().errors
        wait_until(lambda: running.service.workers() == before)
        assert running.arms()["only"]["bundle"].startswith("first@")
        assert running.service.post(body_of(1)).json()["bundle"].startswith("first@")
        assert [(each["command"], each.get("outcome", "ok")) for each in running.events()] == [
            ("reload", "undone"),
            ("rollback", "ok"),
        ]
        counted = running.service.metrics()
        outcomes = [counted[f'bidlight_reloads_total{{outcome="{each}"}}'] for each in ("refused", "undone")]
        assert outcomes == [0, 1]
        assert running.service.stop() == 0
    assert "the reload is undone" in running.service.errors.read_text()


def test_rollbacks_that_come_together_are_all_carried_out(tmp_path: Path) -> None:
    folders = {name: write_tiny_bundle(tmp_path / name, name=f"first-{name}") for name in ("a", "b", "c")}
    options = ["--workers", "2", "--try-reloads", "off"]
    with commanded(tmp_path, [*arms_of(folders, "1:1:1"), *options]) as running:
        for number, (name, folder) in enumerate(folders.items()):
            write_tiny_bundle(folder, name=f"second-{name}", seed=5 + number)
        running.do("reload")
        with ThreadPoolExecutor() as pool:
            outcomes = [*pool.map(lambda name: ask(running.path, "rollback", name), folders)]
        assert [(outcome.status, outcome.errors) for outcome in outcomes] == [(0, "")] * 3
        bundles = {name: arm["bundle"].partition("@")[0] for name, arm in running.arms().items()}
        assert bundles == {name: f"first-{name}" for name in folders}
        assert [each.get("outcome", "ok") for each in running.events()] == ["ok"] * 4
        assert running.service.stop() == 0


@WORKERS
def test_no_request_fails_while_bundles_are_rolled_out_and_back(tmp_path: Path, workers: str) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", name="zero", seed=1)
    answers: list[tuple[int, str]] = []
    failures: list[BaseException] = []
    is_over = threading.Event()

    def keep_sending(service: RunningService) -> None:
        try:
            while not is_over.is_set():
                with service.connect() as connection:
                    is_kept = True
                    while is_kept and not is_over.is_set():
                        connection.sendall(message(body_of(1)))
                        status, headers, answer = read_answer(connection)
                        answers.append((status, answer["bundle"].partition("@")[0]))
                        is_kept = headers.get("connection") != "close"
        except BaseException as error:
            failures.append(error)

    options = ["--arm", f"only={folder}", "--workers", workers, "--try-reloads", "off"]
    with commanded(tmp_path, options) as running:
        threads = [threading.Thread(target=keep_sending, args=[running.service]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(ROLLOUTS):
            write_tiny_bundle(folder, name=f"new-{number}", seed=number + 7)
            running.do("reload")
            running.do("rollback")
        wait_until(lambda: answers[-1][1] == "zero")  # until then a worker that stops answers its clients
        is_over.set()
        for thread in threads:
            thread.join()
        assert running.service.stop() == 0
    assert failures == []
    assert {status for status, _ in answers} == {200}
    assert {bundle for _, bundle in answers} <= {"zero", *(f"new-{number}" for number in range(ROLLOUTS))}


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
