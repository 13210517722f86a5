"""`python -m service`: options -> settings -> one serving process, or several under a supervisor.

It knows no route and no model. NumPy, ONNX Runtime and Prometheus are imported after the environment is
final: the first two may start threads at import, and Prometheus decides then whether it counts for one
process or for several.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from service.errors import STARTUP_FAILURE, BadConfiguration
from service.settings import ENV_PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from service.bundle.manifest import Golden, Manifest

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# A service is a process a core: no library shall start a thread a core behind its back.
LIBRARY_VARIABLES = {"OMP_NUM_THREADS": "1"}
# A field is an option of its own name, but for those that are repeated.
_REPEATED = {"arms": "--arm"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; the exit status. What is wrong with the options is one line and status 2."""
    parser = build_parser()
    given = vars(parser.parse_args(arguments))
    try:
        settings = Settings(**given)
        if not settings.arms:
            raise BadConfiguration(
                "'--arm' must name a bundle (got none); for example control=artifacts/demo"
            )
    except ValidationError as error:
        parser.error("; ".join(_one_line(detail) for detail in error.errors()))
    except BadConfiguration as error:
        parser.error(str(error))
    for name, value in LIBRARY_VARIABLES.items():
        os.environ.setdefault(name, value)
    for name in unknown_variables(os.environ):
        print(f"{parser.prog}: warning: no setting is named {name}; it is ignored", file=sys.stderr)
    _heed_signals()
    return _serve_alone(settings) if settings.workers == 1 else _serve_workers(settings)


def _heed_signals() -> None:
    """What signals do until those who serve handle them: the first process of a container ignores SIGTERM.

    SIGHUP asks for bundles to be read, which nobody has yet.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """The variables that look like settings and are none: a mistyped bid cap must not go unseen."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in environment if name.startswith(ENV_PREFIX) and name not in known)


def build_parser() -> argparse.ArgumentParser:
    """An option for every setting; those that are not given are absent from the result."""
    parser = _Parser(
        prog="python -m service",
        description="Serve bundles: POST /predict gives the click probability and the bid of each candidate.",
        epilog="Example: python -m service --arm control=artifacts/A:90 --arm treatment=artifacts/B:10",
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
    )
    for name, field in Settings.model_fields.items():
        option: dict[str, Any] = {"dest": name, "help": _help(name, field)}
        if get_origin(field.annotation) is Literal:
            option["choices"] = get_args(field.annotation)
        elif name in _REPEATED:
            option.update(action="append", metavar="NAME=FOLDER[:WEIGHT]")
        else:
            option["metavar"] = "TEXT" if field.annotation is str else "N"
        parser.add_argument(_option(name), **option)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def _option(name: str) -> str:
    return _REPEATED.get(name, "--" + name.replace("_", "-"))


def _help(name: str, field: FieldInfo) -> str:
    default = "" if field.default in ((), "", None) else f"default {field.default}; "
    separator = ", separated by commas" if name in _REPEATED else ""
    return f"{field.description} [{default}{ENV_PREFIX}{name.upper()}{separator}]".replace("%", "%%")


def _one_line(detail: ErrorDetails) -> str:
    """One thing wrong with the settings, named as it was given."""
    reason = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return reason
    name = str(detail["loc"][0])
    reason = reason.replace("Input should be", "must be")
    return f"'{_option(name)}' {reason} (got {detail['input']!r}); also read from {ENV_PREFIX}{name.upper()}"


def _serve_alone(settings: Settings) -> int:
    os.environ.pop(MULTIPROCESS_VARIABLE, None)
    from service.http.app import create_app
    from service.process.server import Server, server_config

    try:
        app = create_app(settings)
    except BadConfiguration as error:
        return _refuse(error)

    def announce(port: int) -> None:
        served = [
            _Served(arm.name, arm.weight, arm.predictor.variant, arm.predictor.manifest, arm.predictor.folder)
            for arm in app.arms
        ]
        print(announcement(settings, port, served, app.arms[0].predictor.golden), flush=True)

    server = Server(server_config(settings, app), announce)
    server.run()
    return 0 if server.started else STARTUP_FAILURE


def _serve_workers(settings: Settings) -> int:
    """Several processes on one port, forked of this one."""
    folder = tempfile.mkdtemp(prefix="bidlight-metrics-")
    os.environ[MULTIPROCESS_VARIABLE] = folder
    try:
        from logging.config import dictConfig

        from service.features.open import store_at
        from service.http.app import bid_policy
        from service.process.server import log_config
        from service.process.supervisor import Supervisor

        dictConfig(log_config(settings.log_level))
        try:
            bid_policy(settings)
            if settings.feature_store:
                store_at(settings.feature_store)
            supervisor = Supervisor(settings)
        except BadConfiguration as error:
            return _refuse(error)

        def announce() -> None:
            served = [
                _Served(arm.spec.name, arm.spec.weight, arm.variant, arm.bundle.manifest, arm.bundle.folder)
                for arm in supervisor.arms
            ]
            golden = supervisor.arms[0].bundle.golden
            print(announcement(settings, supervisor.port, served, golden), flush=True)

        return supervisor.run(announce)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse(error: BadConfiguration) -> int:
    print(f"python -m service: error: {error}", file=sys.stderr)
    return STARTUP_FAILURE


class _Served(NamedTuple):
    """What is said of an arm."""

    name: str
    weight: float
    variant: str
    manifest: Manifest
    folder: Path


def announcement(settings: Settings, port: int, served: Sequence[_Served], golden: Golden) -> str:
    """What is served where, and a line to try it with, made of the first of the golden rows."""
    import shlex

    import msgspec

    total = sum(arm.weight for arm in served)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{port}"
    workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
    lines = [f"Bidlight serves on {url} with {workers}; {url}/docs describes it"]
    lines += [
        f"  arm {arm.name}: {arm.weight / total:.1%} of requests, {arm.manifest.id} "
        f"({arm.variant}) from {arm.folder}"
        for arm in served
    ]
    for row in golden.rows[:1]:
        body = {
            "id": "try-1",
            "context": row.context,
            "candidates": [{"id": "ad-1", "features": row.candidate, "value_per_click": 1.25}],
        }
        sent = shlex.quote(msgspec.json.encode(body).decode())
        lines.append(f"Try: curl -s {url}/predict -H 'content-type: application/json' -d {sent}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
