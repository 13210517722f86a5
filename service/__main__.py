"""`python -m service`: options -> settings -> one serving process, or several under a supervisor.

It knows no route and no model. Modules that import NumPy or ONNX Runtime are imported after the environment
is final: both may start threads at import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from service.errors import STARTUP_FAILURE, BadConfiguration
from service.process.options import build_parser, read_settings, unknown_variables
from service.process.signals import blocked_signals, end_at_once, handle_signals_during_startup
from service.settings import Settings

# The service runs one process a core, so no library may start a thread for each core.
LIBRARY_VARIABLES = {"OMP_NUM_THREADS": "1"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status. Invalid options end in one line and status 2."""
    _open_standard_streams()
    parser = build_parser()
    settings = read_settings(parser, arguments)
    for name, value in LIBRARY_VARIABLES.items():
        os.environ.setdefault(name, value)
    for name in unknown_variables(os.environ):
        _complain(f"{parser.prog}: warning: no setting is named {name}; it is ignored")
    if settings.workers == 1:
        handle_signals_during_startup(end_at_once)
        return _serve_alone(settings)
    handle_signals_during_startup(sys.exit)
    return _serve_workers(settings)


def _serve_alone(settings: Settings) -> int:
    """Serve in this process."""
    from service.arms.loading import is_loading
    from service.control.socket import control_socket
    from service.features.open import check_address
    from service.http.app import create_app
    from service.process.alone import CommandedProcess
    from service.process.announcement import AnnouncedArm, announce, announcement
    from service.process.server import Server, server_config
    from service.process.sockets import bind_admin

    sockets = ExitStack()
    try:
        if settings.feature_store:
            check_address(settings.feature_store)
        app = create_app(settings)
        config = server_config(settings, app)
        admin = bind_admin(settings)
        control = sockets.enter_context(control_socket(settings))
        commanded = CommandedProcess(settings, app.served, control, app.metrics, app.decider)
    except BadConfiguration as error:
        sockets.close()
        return _refuse(error)

    def on_started(port: int) -> None:
        commanded.start()
        follows = {name: shadowing.of for name, shadowing in app.served.shadows.items()}
        served = [
            AnnouncedArm(
                arm.name,
                arm.weight,
                arm.predictor.variant,
                arm.predictor.manifest,
                arm.predictor.folder,
                follows.get(arm.name, ""),
            )
            for arm in app.arms
        ]
        admin_port = None if admin is None else admin.getsockname()[1]
        golden = app.arms[0].predictor.golden
        announce(announcement(settings, port, admin_port, served, golden))

    server = Server(config, on_started, commanded.stop, admin)
    try:
        server.run()
        status = 0 if server.started else STARTUP_FAILURE
    except BadConfiguration as error:
        status = _refuse(error)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else STARTUP_FAILURE
    finally:
        sockets.close()
    if is_loading():
        end_at_once(status)
    return status


def _serve_workers(settings: Settings) -> int:
    """Serve in processes on one port, forked from this one."""
    with blocked_signals():
        from logging.config import dictConfig

        from service.control.socket import control_socket
        from service.features.open import check_address, check_redis
        from service.feedback.keys import read_keys
        from service.http.app import bid_policy
        from service.http.tokens import read_tokens
        from service.process.announcement import AnnouncedArm, announce, announcement
        from service.process.logs import log_config
        from service.process.supervisor import Supervisor
        from service.process.tls import tls_context
        from service.tracing.tracer import check_tracing

    dictConfig(log_config(settings.log_level))

    def on_ready() -> None:
        steering = supervisor.steering.read()[1]
        follows = {name: shadowing.of for name, shadowing in steering.shadows.items()}
        served = [
            AnnouncedArm(
                arm.spec.name,
                steering.weights[arm.spec.name],
                arm.variant,
                arm.bundle.manifest,
                arm.bundle.folder,
                follows.get(arm.spec.name, ""),
            )
            for arm in supervisor.arms
        ]
        golden = supervisor.arms[0].bundle.golden
        ports = supervisor.port, supervisor.admin_port
        announce(announcement(settings, *ports, served, golden))

    try:
        bid_policy(settings)
        read_tokens(settings.token_file)
        read_tokens(settings.control_token_file, "control_token_file")
        read_keys(settings.feedback_keys)
        tls_context(settings)
        check_tracing(settings)
        if settings.feature_store:
            check_address(settings.feature_store)
        if settings.feedback_store:
            check_redis(settings.feedback_store, "feedback_store")
        with control_socket(settings) as control:
            supervisor = Supervisor(settings, control)
            return supervisor.run(on_ready)
    except BadConfiguration as error:
        return _refuse(error)


def _refuse(error: BadConfiguration) -> int:
    _complain(f"python -m service: error: {error}")
    return STARTUP_FAILURE


def _complain(message: str) -> None:
    """Write a line to stderr, unless there is no room for it."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def _open_standard_streams() -> None:
    """Put /dev/null in place of a standard stream that is closed, or a socket would get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    sys.exit(main())
