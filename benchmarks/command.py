"""What the commands of all benchmarks share: options, a table for people, and one line of JSON for machines.

It imports no torch, so that a benchmark of the service runs where only the service is installed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.report.text_table import aligned
from loadtest.arguments import Parser, a_bundle, a_folder_to_write, whole
from loadtest.arguments import ended as arguments_ended
from loadtest.processes.machine import describe_machine
from loadtest.processes.server import REPOSITORY
from loadtest.traffic.bid_requests import SampleError
from service.bundle.errors import BundleError, InvalidValue
from service.errors import BadConfiguration

VERSIONS = ("onnxruntime-gpu", "onnxruntime", "torch")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of a description."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


CORRECTABLE = (ExportError, BundleError, InvalidValue, BadConfiguration, SampleError)
"""What a person can correct: a schema, a name, a file that is no log, a bundle that is none."""


def ended(main: Callable[[Sequence[str] | None], int | None], arguments: Sequence[str] | None = None) -> int:
    """The exit status of a benchmark; for what a person can correct 2, and one line."""
    return arguments_ended(main, arguments, correctable=CORRECTABLE)


class Command(Parser):
    """The command line of one benchmark, `python -m benchmarks.NAME`; `about` is its module's docstring."""

    def __init__(self, name: str, about: str | None) -> None:
        super().__init__(prog=f"python -m benchmarks.{name}", description=about, formatter_class=_Help)
        self.name = name

    def bundle(self) -> None:
        """`--bundle`: that of the demo, of this checkout, unless told otherwise."""
        demo, about = REPOSITORY / "artifacts" / "demo", "the bundle that scores [artifacts/demo]"
        self.add_argument("--bundle", type=a_bundle, default=demo, metavar="FOLDER", help=about)

    def folder(self, flag: str, default: str) -> None:
        """An option of a folder that the benchmark makes, or goes on with."""
        self.add_argument(
            flag, type=a_folder_to_write, default=Path(default), metavar="FOLDER", help="[%(default)s]"
        )

    def number(self, flag: str, default: int, about: str, *, least: int = 1) -> None:
        """An option of one whole number, `least` or more."""
        self.add_argument(flag, type=whole(least), default=default, metavar="N", help=f"{about} [{default}]")

    def numbers(self, flag: str, default: Sequence[int] | None, about: str) -> None:
        """An option of one or more whole numbers from 1."""
        shown = "" if default is None else f" [{' '.join(map(str, default))}]"
        self.add_argument(
            flag, type=whole(1), nargs="+", default=default, metavar="N", help=f"{about}{shown}"
        )

    def print_json(self, **figures: Any) -> None:
        """The last line: the benchmark, the machine and all its figures."""
        print(json.dumps({"benchmark": self.name, "machine": machine(), **figures}))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """A head and the rows below it, in columns."""
    print("\n".join(aligned(rows)))


def machine() -> str:
    """The processor, its cores and the versions of what computes: figures mean nothing without them."""
    return ", ".join([describe_machine(), *_versions()])


def _versions() -> list[str]:
    found = []
    for package in VERSIONS:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
