"""A real service that obeys commands, and `python -m service.control` run for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.raw_http import body_of
from tests.running import JSON, REPOSITORY, RunningService, running_service

WORKERS = pytest.mark.parametrize("workers", ["1", "2"])
KEYS = [f"user-{number}" for number in range(100)]


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
