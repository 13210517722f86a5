"""Every private or undocumented part of uvicorn that the service relies on, named once, with its purpose.

Other modules take uvicorn's internals from here. `pyproject.toml` caps uvicorn to versions in which a test
(tests/service/http/test_uvicorn_internals.py) finds all that this page names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

__all__ = [
    "STATUS_LINE",
    "HttpToolsProtocol",
    "RequestResponseCycle",
    "Server",
    "ServerState",
]


@dataclass(frozen=True)
class Method:
    """A method that is called or overridden, with the parameters it must have."""

    owner: type[Any]
    name: str
    parameters: tuple[str, ...]
    purpose: str


@dataclass(frozen=True)
class Attribute:
    """An attribute of the instances of a class that is read or set."""

    owner: type[Any]
    name: str
    purpose: str


METHODS = (
    Method(
        HttpToolsProtocol,
        "__init__",
        ("config", "server_state", "app_state", "_loop"),
        "uvicorn makes an HttpConnection as it makes its own protocol",
    ),
    Method(HttpToolsProtocol, "connection_made", ("transport",), "starts the timer of the first request"),
    Method(HttpToolsProtocol, "connection_lost", ("exc",), "tells the request under way"),
    Method(HttpToolsProtocol, "data_received", ("data",), "is replaced: one request at a time"),
    Method(
        HttpToolsProtocol,
        "on_message_begin",
        (),
        "is called late, and only for a request that goes through ASGI",
    ),
    Method(HttpToolsProtocol, "on_url", ("url",), "collects `url`"),
    Method(
        HttpToolsProtocol, "on_header", ("name", "value"), "collects `headers`, their names in lower case"
    ),
    Method(HttpToolsProtocol, "on_headers_complete", (), "begins the cycle of a request through ASGI"),
    Method(HttpToolsProtocol, "on_body", ("body",), "gives a part of the body to that cycle"),
    Method(HttpToolsProtocol, "on_message_complete", (), "ends the body of that cycle"),
    Method(HttpToolsProtocol, "on_response_complete", (), "is replaced: nothing is kept of the request"),
    Method(HttpToolsProtocol, "pause_writing", (), "starts the timer of a client that does not read"),
    Method(HttpToolsProtocol, "resume_writing", (), "stops that timer"),
    Method(HttpToolsProtocol, "shutdown", (), "closes an idle connection, or marks its cycle as the last"),
    Method(HttpToolsProtocol, "timeout_keep_alive_handler", (), "closes the connection"),
    Method(FlowControl, "resume_reading", (), "reads on after an answer that came before the body"),
    Method(Server, "__init__", ("config",), "is wrapped: the callbacks of the service"),
    Method(Server, "run", ("sockets",), "is wrapped: the process returns after a signal"),
    Method(Server, "startup", ("sockets",), "is wrapped: the service announces its port"),
    Method(Server, "shutdown", ("sockets",), "is wrapped: the service announces its end"),
    Method(Server, "handle_exit", ("sig", "frame"), "handles signals also before and after uvicorn does"),
)

ATTRIBUTES = (
    Attribute(HttpToolsProtocol, "app", "the application, which may have a direct route"),
    Attribute(HttpToolsProtocol, "client", "the client's address, for the log"),
    Attribute(HttpToolsProtocol, "config", "the Config"),
    Attribute(
        HttpToolsProtocol, "cycle", "the request that is answered, or None; it may be a DirectExchange"
    ),
    Attribute(HttpToolsProtocol, "expect_100_continue", "collected before the cycle exists"),
    Attribute(HttpToolsProtocol, "flow", "whether writing is paused"),
    Attribute(HttpToolsProtocol, "headers", "collected before the cycle exists"),
    Attribute(HttpToolsProtocol, "loop", "timers and the clock"),
    Attribute(HttpToolsProtocol, "parser", "httptools.HttpRequestParser; replaced after an upgrade offer"),
    Attribute(HttpToolsProtocol, "scope", "the path of a request, and nothing once it is answered"),
    Attribute(HttpToolsProtocol, "server_state", "default headers and the count of requests"),
    Attribute(HttpToolsProtocol, "timeout_keep_alive", "seconds of all timers of a connection"),
    Attribute(HttpToolsProtocol, "transport", "what is written to"),
    Attribute(HttpToolsProtocol, "url", "collected before the cycle exists"),
    Attribute(RequestResponseCycle, "disconnected", "whether the client has left"),
    Attribute(RequestResponseCycle, "keep_alive", "whether the connection stays open after the answer"),
    Attribute(RequestResponseCycle, "message_event", "wakes the task of a cycle"),
    Attribute(RequestResponseCycle, "response_complete", "whether the answer is written"),
    Attribute(Config, "loaded_app", "the application; the admin port has another"),
    Attribute(Config, "ssl", "the TLS of new connections, or None; replaced by a reload"),
    Attribute(Config, "timeout_graceful_shutdown", "seconds after which uvicorn cancels what still runs"),
    Attribute(FlowControl, "read_paused", "whether reading waits until the application takes the body"),
    Attribute(FlowControl, "write_paused", "whether the client does not read its answers"),
    Attribute(ServerState, "default_headers", "headers of every answer; replaced when the date changes"),
    Attribute(ServerState, "total_requests", "counted for uvicorn's limit_max_requests"),
    Attribute(Server, "started", "whether startup succeeded"),
    Attribute(Server, "should_exit", "whether a signal has come; nothing is announced then"),
    Attribute(Server, "servers", "the listening sockets; set by startup, and replaced by Listeners"),
    Attribute(Server, "config", "what connections are made with"),
    Attribute(Server, "lifespan", "the state of the application, for its connections"),
    Attribute(Server, "server_state", "the connections that are open"),
)

STARTUP_FAILED = "Application startup failed"
# Module, part of a message that it logs, purpose.
LOG_LINES = (("uvicorn.lifespan.on", STARTUP_FAILED, "is dropped: the service has given the reason"),)
