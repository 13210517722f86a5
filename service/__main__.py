"""`python -m service`: options -> settings -> one serving process, or several under a supervisor.

It knows no route and no model. Modules that import NumPy or ONNX Runtime are imported after the environment
is final: both may start threads at import.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence

from service.errors import STARTUP_FAILURE, BadConfiguration
from service.process.options import build_parser, read_settings, unknown_variables
from service.process.signals import blocked_signals, end_at_once, handle_signals_during_startup
from service.settings import Settings

# The service runs one process a core, so no library may start a thread for each core.
LIBRARY_VARIABLES = {"OMP_NUM_THREADS": "1"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status. Invalid options end in one line and status 2."""
    parser = build_parser()
    settings = read_settings(parser, arguments)
    for name, value in LIBRARY_VARIABLES.items():
        os.environ.setdefault(name, value)
    for name in unknown_variables(os.environ):
        print(f"{parser.prog}: warning: no setting is named {name}; it is ignored", file=sys.stderr)
    if settings.workers == 1:
        handle_signals_during_startup(end_at_once)
        return _serve_alone(settings)
    handle_signals_during_startup(sys.exit)
    return _serve_workers(settings)


def _serve_alone(settings: Settings) -> int:
    """Serve in this process."""
    from service.metrics.prometheus_internals import count_in_memory

    count_in_memory()
    from service.arms.loading import is_loading
    from service.http.app import create_app
    from service.process.announcement import AnnouncedArm, announcement
    from service.process.server import Server, server_config

    try:
        app = create_app(settings)
    except BadConfiguration as error:
        return _refuse(error)

    def announce(port: int) -> None:
        served = [
            AnnouncedArm(
                arm.name, arm.weight, arm.predictor.variant, arm.predictor.manifest, arm.predictor.folder
            )
            for arm in app.arms
        ]
        print(announcement(settings, port, served, app.arms[0].predictor.golden), flush=True)

    server = Server(server_config(settings, app), announce)
    try:
        server.run()
        status = 0 if server.started else STARTUP_FAILURE
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else STARTUP_FAILURE
    if is_loading():
        end_at_once(status)
    return status


def _serve_workers(settings: Settings) -> int:
    """Serve in processes on one port, forked from this one."""
    with blocked_signals():
        from service.metrics.prometheus_internals import count_in_files

    folder = tempfile.mkdtemp(prefix="bidlight-metrics-")
    count_in_files(folder)
    try:
        with blocked_signals():
            from logging.config import dictConfig

            from service.features.open import store_at
            from service.http.app import bid_policy
            from service.process.announcement import AnnouncedArm, announcement
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
                AnnouncedArm(
                    arm.spec.name, arm.spec.weight, arm.variant, arm.bundle.manifest, arm.bundle.folder
                )
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


if __name__ == "__main__":
    sys.exit(main())
