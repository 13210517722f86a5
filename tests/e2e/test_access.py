"""Who reaches what: TLS and certificates of clients, bearer tokens, and a port of its own for operators."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.certificates import Authority, Pair
from tests.e2e.raw_http import body_of, message, read_answer, wait_until
from tests.e2e.test_process import refusal_of
from tests.running import JSON, RunningService, running_service

TOKEN, NEXT_TOKEN = "first-token-0123456789", "second-token-0123456789"
OPERATION = ("/metrics", "/arms", "/console", "/console.json", "/docs", "/openapi.json")
PROBES = ("/healthz", "/readyz")
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


@dataclass(frozen=True)
class Certificates:
    """Those of a service, of its clients, and of a stranger, whom another authority has signed."""

    authority: Authority
    service: Pair
    client: Pair
    stranger: Pair

    def trusted(self, shown: Pair | None = None) -> ssl.SSLContext:
        """What a client trusts; `shown` is its own certificate."""
        context = ssl.create_default_context(cafile=self.authority.certificate)
        context.check_hostname = False  # RunningService connects to an address
        if shown is not None:
            context.load_cert_chain(shown.certificate, shown.key)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority, another = Authority(folder), Authority(folder, "another")
    return Certificates(
        authority, authority.sign("service"), authority.sign("client"), another.sign("stranger")
    )


def with_tls(pair: Pair, *more: str) -> list[str]:
    return ["--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key), *more]


@pytest.fixture(scope="module")
def encrypted(
    bundles: dict[str, Path], certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """A service with TLS; every test asserts that it has logged nothing."""
    arguments = ["--arm", f"only={bundles['control']}", *with_tls(certificates.service)]
    with running_service(tmp_path_factory.mktemp("tls"), arguments, tls=certificates.trusted()) as service:
        yield service


def test_every_route_is_answered_over_tls(encrypted: RunningService) -> None:
    with encrypted.client() as client:
        for path in (*PROBES, *OPERATION):
            assert client.get(path).status_code == 200
        answer = client.post("/predict", content=body_of(3), headers=JSON)
    assert (answer.status_code, answer.http_version, len(answer.json()["results"])) == (200, "HTTP/1.1", 3)
    assert encrypted.errors.read_text() == ""


def test_the_line_it_prints_works_over_tls(encrypted: RunningService, certificates: Certificates) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = shlex.split(encrypted.output.read_text().splitlines()[-1].removeprefix("Try: "))
    assert str(certificates.service.certificate) in command
    trusting = [
        str(certificates.authority.certificate) if "service.pem" in word else word for word in command
    ]
    ran = subprocess.run(trusting, capture_output=True, timeout=60)
    assert (ran.returncode, b'"pctr"' in ran.stdout) == (0, True), ran


def test_a_tls_connection_is_kept_and_takes_requests_in_any_packets(encrypted: RunningService) -> None:
    sent = message(body_of(200))
    with encrypted.connect() as connection:
        for start in (0, 7, 4000):  # whole, cut within the head, cut within the body
            connection.sendall(sent[:start])
            connection.sendall(sent[start:])
            status, headers, answer = read_answer(connection)
            assert (status, "connection" in headers, len(answer["results"])) == (200, False, 200)
        connection.sendall(sent + sent)
        assert [read_answer(connection)[0] for _ in range(2)] == [200, 200]
    assert encrypted.errors.read_text() == ""


@pytest.mark.parametrize("sent", [message(b"{}"), b"\0" * 300, b"\x16\x03\x01\x7f\xff", b""])
def test_what_is_no_handshake_ends_its_connection_alone(encrypted: RunningService, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", encrypted.port), timeout=20.0) as stranger:
        stranger.sendall(sent)
        if len(sent) < 6:  # the rest is waited for, until the time for a handshake is over
            assert encrypted.post(body_of(1)).status_code == 200
        assert stranger.recv(100) in (b"", b"\x15\x03\x01\x00\x02\x02\x46")  # an alert, perhaps
    assert encrypted.post(body_of(1)).status_code == 200
    assert encrypted.errors.read_text() == ""


def test_a_tls_client_that_ends_its_side_first_harms_nobody(encrypted: RunningService) -> None:
    """It gets no answer: the TLS of the event loop has no connection that is closed on one side."""
    before = encrypted.metrics()
    for _ in range(5):
        connection = encrypted.connect()
        connection.sendall(message(body_of(1)))
        with contextlib.suppress(ssl.SSLError):  # the answer came before the other side's end
            connection.unwrap()
        connection.close()
    assert encrypted.post(body_of(1)).status_code == 200
    assert encrypted.errors.read_text() == ""
    after = encrypted.metrics()
    outcomes = [f'bidlight_requests_total{{arm="only",outcome="{each}"}}' for each in ("ok", "client_left")]
    assert sum(after.get(each, 0) - before.get(each, 0) for each in outcomes) == 6


@WORKERS
def test_a_signal_lets_tls_requests_in_flight_finish(
    bundles: dict[str, Path], certificates: Certificates, tmp_path: Path, workers: str
) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--workers", workers, *with_tls(certificates.service)]
    with running_service(tmp_path, arguments, tls=certificates.trusted()) as service:
        sent = message(body_of(10))
        connections = [service.connect() for _ in range(8)]
        idle = service.connect()
        for connection in connections:
            connection.sendall(sent[:-20])
        for _ in range(8):  # later requests are answered, so the earlier ones have begun
            assert service.post(body_of(1)).status_code == 200
        service.send_signal(signal.SIGTERM)
        wait_until(lambda: not service.accepts())
        for connection in connections:
            connection.sendall(sent[-20:])
            with connection:
                status, headers, _ = read_answer(connection)
            assert (status, headers["connection"]) == (200, "close")
        idle.close()
        assert service.wait() == 0
    assert service.errors.read_text() == ""


@WORKERS
def test_only_clients_whose_certificate_is_signed_are_answered(
    bundles: dict[str, Path], certificates: Certificates, tmp_path: Path, workers: str
) -> None:
    wanted = with_tls(certificates.service, "--tls-client-ca", str(certificates.authority.certificate))
    arguments = ["--arm", f"only={bundles['control']}", "--workers", workers, *wanted]
    with running_service(tmp_path, arguments, tls=certificates.trusted(certificates.client)) as service:
        assert service.post(body_of(1)).status_code == 200
        for shown in (None, certificates.stranger):
            service.tls = certificates.trusted(shown)
            for path in ("/predict", "/metrics", "/healthz"):
                with service.client() as client, pytest.raises(httpx.TransportError):
                    client.post(path, content=body_of(1), headers=JSON)
        service.tls = certificates.trusted(certificates.client)
        assert service.post(body_of(1)).status_code == 200
        assert service.stop() == 0
    assert service.errors.read_text() == ""


def serial_of(service: RunningService) -> str:
    """Of the certificate that it shows."""
    with service.connect() as connection:
        assert isinstance(connection, ssl.SSLSocket)
        shown = connection.getpeercert()
    assert shown is not None
    return str(shown["serialNumber"])


@WORKERS
def test_sighup_reads_certificates_and_tokens_again(
    bundles: dict[str, Path], certificates: Certificates, tmp_path: Path, workers: str
) -> None:
    pair = Pair(tmp_path / "service.pem", tmp_path / "service.key")
    tokens = tmp_path / "tokens"

    def replace(by: Pair, text: str) -> None:
        shutil.copy(by.certificate, pair.certificate)
        shutil.copy(by.key, pair.key)
        tokens.write_text(text, encoding="ascii")

    replace(certificates.service, f"# of the exchange\n{TOKEN}\n")
    options = ["--workers", workers, "--token-file", str(tokens), "--admin-port", "0", *with_tls(pair)]
    arguments = ["--arm", f"only={bundles['control']}", *options]
    with running_service(tmp_path, arguments, tls=certificates.trusted()) as service:

        def status_with(token: str) -> int:
            with service.client(headers={**JSON, "authorization": f"Bearer {token}"}) as client:
                return client.post("/predict", content=body_of(1)).status_code

        def reloads(outcome: str) -> float:
            return service.metrics().get(f'bidlight_reloads_total{{outcome="{outcome}"}}', 0)

        assert (status_with(TOKEN), status_with(NEXT_TOKEN)) == (200, 401)
        before, kept = serial_of(service), service.connect()
        kept.sendall(message(body_of(1), f"Authorization: Bearer {TOKEN}"))
        assert read_answer(kept)[0] == 200
        # A key of another certificate: nothing changes, tokens neither.
        replace(Pair(certificates.client.certificate, certificates.service.key), NEXT_TOKEN)
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads("refused") == 1)
        assert (serial_of(service), status_with(TOKEN), status_with(NEXT_TOKEN)) == (before, 200, 401)
        assert "'tls_key' must be the key of the certificate" in service.errors.read_text()
        replace(certificates.client, f"{TOKEN}\n{NEXT_TOKEN}\n")  # both, for as long as clients change
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads("ok") == 1)
        wait_until(lambda: serial_of(service) != before)
        wait_until(lambda: (status_with(TOKEN), status_with(NEXT_TOKEN)) == (200, 200))
        if workers == "1":  # an open connection goes on, with the new tokens
            kept.sendall(message(body_of(1), f"Authorization: Bearer {NEXT_TOKEN}"))
            assert read_answer(kept)[0] == 200
        kept.close()
        assert service.stop() == 0


@WORKERS
@pytest.mark.parametrize(
    ("options", "part"),
    [
        (
            ["--tls-certificate", "absent.pem"],
            "'tls_certificate' must be a file that can be read (got 'absent.pem'",
        ),
        (
            ["--token-file", "absent"],
            "'token_file' must be a file that can be read (got 'absent': No such file",
        ),
        (["--admin-port", "{taken}"], "'admin_port' must be one to listen on at 127.0.0.1 (got "),
    ],
)
def test_files_and_ports_that_do_not_serve_are_refused_in_one_line(
    bundles: dict[str, Path], tmp_path: Path, options: list[str], part: str, workers: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [option.format(taken=taken.getsockname()[1]) for option in options]
        errors = refusal_of(tmp_path, ["--arm", f"only={bundles['control']}", "--workers", workers, *given])
    assert len(errors.strip().splitlines()) == 1, errors
    assert part in errors


@pytest.fixture(scope="module", params=["parser", "asgi"])
def guarded(
    request: pytest.FixtureRequest, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """A service that wants one of two tokens, by the way that its requests take."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens").write_text(f"{TOKEN}\n\n{NEXT_TOKEN}\n", encoding="ascii")
    options = ["--token-file", str(folder / "tokens"), "--predict-through", request.param]
    with running_service(folder, ["--arm", f"only={bundles['control']}", *options]) as service:
        yield service


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {NEXT_TOKEN} ", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        (f"Bearer {TOKEN} {NEXT_TOKEN}", 401),
        (f"Bearer {TOKEN}\xff", 401),
    ],
)
def test_predict_needs_a_token(guarded: RunningService, authorization: str | None, status: int) -> None:
    headers = [] if authorization is None else [f"Authorization: {authorization}"]
    before = guarded.metrics()
    with guarded.connect() as connection:
        for body in (body_of(2), b"{"):  # refused before the body is looked at
            connection.sendall(message(body, *headers))
            found, answered, answer = read_answer(connection)
            if status == 401:
                assert (found, answered["www-authenticate"]) == (401, "Bearer")
                assert answer["error"]["code"] == "unauthorized"
                assert "x-arm" not in answered
            else:
                assert found == (200 if body != b"{" else 400)
        connection.sendall(message(body_of(2), f"Authorization: Bearer {TOKEN}"))  # the connection stays open
        assert read_answer(connection)[0] == 200
    counted = 'bidlight_requests_total{arm="",outcome="unauthorized"}'
    assert guarded.metrics().get(counted, 0) - before.get(counted, 0) == (2 if status == 401 else 0)
    with guarded.client() as client:  # other routes need none
        assert client.get("/readyz").status_code == 200
        operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert operation["security"] == [{"token": []}]


@WORKERS
def test_an_admin_port_has_every_route_but_predict_and_the_bidding_port_no_other(
    bundles: dict[str, Path], certificates: Certificates, tmp_path: Path, workers: str
) -> None:
    options = ["--workers", workers, "--admin-port", "0", *with_tls(certificates.service)]
    arguments = ["--arm", f"only={bundles['control']}", *options]
    with running_service(tmp_path, arguments, tls=certificates.trusted()) as service:
        assert service.admin_url.startswith("http://127.0.0.1:")  # without TLS
        for _ in range(6):  # any worker answers
            with service.client() as bidding, service.client(base_url=service.admin_url) as admin:
                for path in PROBES:
                    assert (bidding.get(path).status_code, admin.get(path).status_code) == (200, 200)
                    assert bidding.head(path).status_code == 200
                for path in OPERATION:
                    assert (bidding.get(path).status_code, admin.get(path).status_code) == (404, 200)
                    assert bidding.head(path).status_code == 404
                    assert bidding.get(f"{path}/").status_code == 404
                for path in ("/metrics?x=1", "//metrics", "/predict/../metrics", "/%6Detrics"):
                    assert bidding.get(path).status_code == 404, path
                for path in ("/predict", "/predict/", "/%70redict"):
                    answer = admin.post(path, content=body_of(1), headers=JSON)
                    assert answer.status_code in (404, 307), path
                assert bidding.post("/predict", content=body_of(1), headers=JSON).status_code == 200
                paths = admin.get("/openapi.json").json()["paths"]
                assert {"/predict", "/metrics", "/healthz"} <= set(paths)
        wait_until(lambda: service.metrics()['bidlight_requests_total{arm="only",outcome="ok"}'] == 6)
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: service.metrics().get('bidlight_reloads_total{outcome="ok"}') == 1)
        assert service.stop() == 0
    port = int(service.admin_url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5.0)


def test_operators_reach_the_admin_port_when_clients_have_taken_all_connections(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["--arm", f"only={bundles['control']}", "--admin-port", "0"]
    with running_service(tmp_path, arguments) as service:
        limit = 100
        subprocess.run(
            ["prlimit", "--pid", str(service.process.pid), f"--nofile={limit}"], check=True, timeout=30
        )
        # Within a request, so that none of them is idle and makes room at once.
        greedy = [service.connect() for _ in range(limit)]
        for connection in greedy:
            connection.sendall(message(b"", length=100)[:-2])
        paused = 'bidlight_accept_pauses_total{reason="connections"}'
        wait_until(lambda: service.metrics().get(paused, 0) > 0)
        for _ in range(5):
            with service.client(base_url=service.admin_url) as admin:
                assert admin.get("/healthz").status_code == 200
        for connection in greedy:
            connection.close()
        assert service.stop() == 0
