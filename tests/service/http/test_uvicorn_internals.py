"""uvicorn still has every internal that the service relies on, and the service uses no other."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl

from service.http import connection, direct, uvicorn_internals
from service.http.admission import Admission
from service.http.direct import DirectExchange
from service.http.heads import PlainHead
from service.http.intake import Intake
from service.http.uvicorn_internals import (
    ATTRIBUTES,
    LOG_LINES,
    METHODS,
    STATUS_LINE,
    HttpToolsProtocol,
    Method,
    RequestResponseCycle,
    Server,
    ServerState,
)
from service.process import server as server_module

SERVICE = Path(uvicorn_internals.__file__).parents[1]
MODULES = connection, direct, server_module
NAMED = {(use.owner, use.name) for use in (*METHODS, *ATTRIBUTES)}


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    """An application that does nothing."""


class Transport(asyncio.Transport):
    """A transport without a socket."""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop it."""

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def instances() -> dict[type, Any]:
    """One instance of each class; the server listens, and the protocol has read the head of a request."""

    async def make() -> dict[type, Any]:
        config = uvicorn.Config(no_app, port=0, lifespan="off", log_config=None, ws="none")
        config.load()
        server = Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        state = ServerState()
        protocol = HttpToolsProtocol(config, state, {})
        protocol.connection_made(Transport())
        head = b"POST /path HTTP/1.1\r\nName: value\r\nContent-Length: 4\r\n\r\n"
        protocol.data_received(head)
        assert (protocol.url, protocol.headers[0]) == (b"/path", (b"name", b"value"))
        await asyncio.wait(state.tasks)
        for listener in server.servers:
            listener.close()
        made = (config, server, state, protocol, protocol.flow, protocol.cycle)
        return {type(instance): instance for instance in made}

    return asyncio.run(make())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.owner.__name__}.{method.name}")
def test_a_method_has_its_parameters(method: Method) -> None:
    signature = inspect.signature(getattr(method.owner, method.name))
    assert tuple(signature.parameters)[1:] == method.parameters  # without self
    is_async = inspect.iscoroutinefunction(getattr(method.owner, method.name))
    assert is_async is (method.owner is Server and method.name in ("startup", "shutdown"))


def test_every_attribute_exists(instances: dict[type, Any]) -> None:
    for attribute in ATTRIBUTES:
        assert hasattr(instances[attribute.owner], attribute.name), attribute


def test_a_server_listens_at_the_first_socket_of_its_servers(instances: dict[type, Any]) -> None:
    assert instances[Server].started is True
    assert isinstance(instances[Server].servers, list)


def test_status_lines_are_those_of_http() -> None:
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert STATUS_LINE[429] == b"HTTP/1.1 429 Too Many Requests\r\n"


def test_log_lines_are_written() -> None:
    for module, line, _ in LOG_LINES:
        assert line in inspect.getsource(import_module(module))


def test_an_exchange_has_all_that_a_connection_reads_of_a_cycle() -> None:
    """The protocol reads only these; the cycle reads its other attributes itself."""
    read = set(re.findall(r"self\.cycle\.(\w+)", inspect.getsource(HttpToolsProtocol)))
    read |= set(re.findall(r"existing_cycle\.(\w+)", inspect.getsource(HttpToolsProtocol)))
    assert read == {"body", "disconnected", "keep_alive", "message_event", "more_body", "response_complete"}
    exchange = DirectExchange.__new__(DirectExchange)
    head = PlainHead(0, {}, 0, True)
    service = SimpleNamespace(admission=Admission(Intake(1), 1.0))
    DirectExchange.__init__(exchange, service, head, Transport(), [], lambda: None)  # type: ignore[arg-type]
    for name in read - {"body", "more_body"}:  # the parser gets no body for an exchange
        assert hasattr(exchange, name)
        assert (RequestResponseCycle, name) in NAMED


def attributes_of(tree: ast.AST, *path: str) -> Iterator[str]:
    """The names that follow `path` in attribute accesses: `self.cycle.NAME` for ("self", "cycle")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == ".".join(path):
            yield node.attr


def test_every_use_is_named(instances: dict[type, Any]) -> None:
    of_self = {connection: HttpToolsProtocol, server_module: Server}
    for module, owner in of_self.items():
        tree = ast.parse(inspect.getsource(module))
        own = {name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for name in vars_of(node)}
        used = {*attributes_of(tree, "super()")}
        used |= {name for name in attributes_of(tree, "self") if name not in own}
        used |= own & {*vars(owner)}
        used = {name for name in used if hasattr(instances[owner], name)}
        assert {(owner, name) for name in used} <= NAMED
    tree = ast.parse(inspect.getsource(connection))
    parts = {"cycle": RequestResponseCycle, "server_state": ServerState, "config": uvicorn.Config}
    parts["flow"] = type(instances[HttpToolsProtocol].flow)
    for name, owner in parts.items():
        assert {(owner, used) for used in attributes_of(tree, "self", name)} <= NAMED


def vars_of(tree: ast.ClassDef) -> Iterator[str]:
    """The methods that a class defines."""
    yield from (node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_no_other_module_imports_internals() -> None:
    allowed = SERVICE / "http" / "uvicorn_internals.py"
    for file in SERVICE.rglob("*.py"):
        if file == allowed:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                assert not re.match(r"uvicorn\.(?!Config$|Server$)", name), (file, name)
    assert httptools_impl.HttpToolsProtocol is HttpToolsProtocol
