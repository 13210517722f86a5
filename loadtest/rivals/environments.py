"""requirements/NAME.txt -> a virtual environment under `.rivals/`, kept until the file changes.

A file lists every package with its version, so that two machines install the same; pip resolves nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loadtest.processes.server import REPOSITORY

REQUIREMENTS = Path(__file__).parent / "requirements"
CACHE = REPOSITORY / ".rivals"
SYSTEM_PYTHON = Path("/usr/bin/python3")
SECONDS_TO_INSTALL = 600.0


class CannotInstall(RuntimeError):
    """The environment could not be made; the message is one line, and names the log."""


@dataclass(frozen=True)
class Environments:
    """Environments in `cache`, made of the files in `requirements`."""

    requirements: Path = REQUIREMENTS
    cache: Path = CACHE

    def python_of(self, name: str, *, system_python: bool = False) -> Path:
        """The interpreter of the environment `name`, which is made if missing. Raises CannotInstall.

        `system_python` builds it on the distribution's Python, for packages that link its library.
        """
        wanted = self.requirements / f"{name}.txt"
        folder = self.cache / name
        python, stamp = folder / "bin" / "python", folder / "installed"
        version = f"{hashlib.sha256(wanted.read_bytes()).hexdigest()} {system_python}"
        if stamp.is_file() and stamp.read_text() == version and python.exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        log = self.cache / f"{name}.log"
        with log.open("wb") as output:
            _run([_base(system_python), "-m", "venv", "--without-pip", str(folder)], output, log)
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
            _run([*pip, "install", "--quiet", "--no-deps", "--requirement", str(wanted)], output, log)
        stamp.write_text(version)
        return python


def _base(system_python: bool) -> str:
    if not system_python:
        return sys.executable
    if not SYSTEM_PYTHON.exists():
        raise CannotInstall(f"it needs the distribution's Python, and there is no {SYSTEM_PYTHON}")
    return str(SYSTEM_PYTHON)


def _run(command: list[str], output: BinaryIO, log: Path) -> None:
    try:
        subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=SECONDS_TO_INSTALL,
        )
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"pip took over {SECONDS_TO_INSTALL:g} s; see {log}") from None
    except subprocess.CalledProcessError:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("ERROR")]
        raise CannotInstall(f"{lines[-1][:300] if lines else 'pip failed'}; see {log}") from None
