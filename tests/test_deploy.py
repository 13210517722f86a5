"""What docker-compose.yml and the Dockerfile hold containers to; no container runs here, their parts do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.exceptions import AuthenticationError

from service.process.options import build_parser
from service.settings import ENV_PREFIX, Settings
from tests.redis_server import running_redis
from tests.running import running_service
from tests.tiny_bundle import write_tiny_bundle

REPOSITORY = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROMETHEUS = yaml.safe_load((REPOSITORY / "deploy/prometheus.yml").read_text(encoding="utf-8"))
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
EACH_SERVICE = pytest.mark.parametrize("name", SERVICES)


def size_of(text: str) -> int:
    """Bytes of a size as Docker and Redis write it."""
    found = re.fullmatch(r"(\d+)([kmg])b?", text)
    assert found is not None, text
    return int(found[1]) * UNITS[found[2]]


@EACH_SERVICE
def test_a_container_has_no_privilege_and_can_gain_none(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    for key in ("cap_add", "privileged", "devices", "pid", "network_mode", "ipc", "userns_mode"):
        assert key not in service


@EACH_SERVICE
def test_a_container_has_limits(name: str) -> None:
    service = SERVICES[name]
    assert 0 < size_of(service["mem_limit"]) <= 4 << 30
    assert service["memswap_limit"] == service["mem_limit"]  # no swap
    assert 0 < service["cpus"] <= 4
    assert 0 < service["pids_limit"] <= 256


@EACH_SERVICE
def test_a_container_writes_to_sized_and_named_places_only(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    for mount in service["tmpfs"]:
        path, _, options = mount.partition(":")
        values = dict(option.partition("=")[::2] for option in options.split(","))
        assert path == "/tmp"
        assert 0 < size_of(values["size"]) < size_of(service["mem_limit"])
        assert {"noexec", "nosuid", "nodev"} <= values.keys()
    for volume in service.get("volumes", []):
        source = volume.partition(":")[0]
        assert source in COMPOSE["volumes"] or (source.startswith("./") and volume.endswith(":ro")), volume


def test_only_the_bidding_port_is_published() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert published == {
        "service": ["8000:8000"],
        "redis": [],
        "prometheus": [],
        "grafana": ["127.0.0.1:3000:3000"],  # for this machine alone, and to look only
        "locust": ["127.0.0.1:8089:8089"],  # not started unless asked for, and for this machine alone
    }
    assert SERVICES["locust"]["profiles"]
    environment = SERVICES["service"]["environment"]
    (scraped,) = [job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "bidlight"]
    assert scraped["static_configs"] == [{"targets": [f"service:{environment['BIDLIGHT_ADMIN_PORT']}"]}]
    assert environment["BIDLIGHT_ADMIN_PORT"] != "8000"


def test_its_settings_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**SERVICES["service"]["environment"], **variables_of_the_image()}
    for name, value in environment.items():
        assert name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields, name
        monkeypatch.setenv(name, value)
    settings = Settings(**vars(build_parser().parse_args(SERVICES["service"]["command"])))
    assert (settings.port, settings.admin_port, settings.admin_host) == (8000, 8001, "0.0.0.0")
    grace = int(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain_seconds
    # One process for each core, and a core for what reloads do.
    assert SERVICES["service"]["cpus"] >= settings.workers


def variables_of_the_image() -> dict[str, str]:
    return dict(re.findall(rf"({ENV_PREFIX}\w+)=(\S+)", DOCKERFILE))


def test_no_secret_is_in_the_repository() -> None:
    wanted = "${REDIS_PASSWORD:?copy deploy/example.env to .env}"
    assert SERVICES["redis"]["environment"]["REDISCLI_AUTH"] == wanted
    assert f":{wanted}@redis:6379" in SERVICES["service"]["environment"]["BIDLIGHT_FEATURE_STORE"]
    example = (REPOSITORY / "deploy/example.env").read_text(encoding="utf-8")
    assert re.findall(r"^(\w+)=(.*)$", example, flags=re.MULTILINE) == [("REDIS_PASSWORD", "")]
    assert ".env\n" in (REPOSITORY / ".gitignore").read_text(encoding="utf-8")


def test_redis_as_it_is_started_wants_the_password_and_keeps_what_it_has(tmp_path: Path) -> None:
    shell, flag, script = SERVICES["redis"]["command"]
    assert (shell, flag) == ("sh", "-c")
    options = subprocess.run(  # what the shell makes of the line
        [shell, flag, script.replace("$$", "$").replace("exec redis-server", "printf '%s\\n'")],
        env={"REDISCLI_AUTH": "secret", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    given = dict(zip(options[::2], options[1::2], strict=False))
    assert given["--requirepass"] == "secret"
    assert size_of(given["--maxmemory"]) < size_of(SERVICES["redis"]["mem_limit"])
    assert "redis:" + given["--dir"] in SERVICES["redis"]["volumes"]
    options[options.index("--dir") + 1] = str(tmp_path)
    with running_redis(tmp_path, *options, password="secret") as server:
        server.call("SET", "bidlight:user:u1", "x")
        server.stop()
        server.start()
        assert server.call("GET", "bidlight:user:u1") == b"x"
        server.password = None
        with pytest.raises(AuthenticationError):
            server.call("GET", "bidlight:user:u1")


@pytest.mark.parametrize("admin", [(), ("--admin-port", "0")])
def test_the_health_check_of_the_image_asks_the_service(admin: tuple[str, ...], tmp_path: Path) -> None:
    (check,) = re.findall(r"^  CMD (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)
    program, *arguments = json.loads(check)
    assert program == "python"
    bundle = write_tiny_bundle(tmp_path / "bundle")
    with running_service(tmp_path, ["--arm", f"only={bundle}", *admin]) as service:
        environment = {"BIDLIGHT_PORT": str(service.port)}
        if admin:
            environment["BIDLIGHT_ADMIN_PORT"] = service.admin_url.rpartition(":")[2]

        def status() -> int:
            return subprocess.run(
                [sys.executable, *arguments], env=environment, capture_output=True, timeout=60
            ).returncode

        assert status() == 0
        service.stop()
        assert status() != 0


def test_the_image_is_not_run_as_root() -> None:
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, flags=re.MULTILINE) == ["bidlight"]
    assert f"--uid {SERVICES['service']['user'].partition(':')[0]} " in DOCKERFILE
