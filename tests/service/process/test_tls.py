"""A TLS context is made of files that fit, and anything else is refused by the name of its setting."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import BadConfiguration
from service.process.tls import tls_context
from service.settings import Settings
from tests.certificates import Authority, Pair


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign("service")


def context_of(certificate: Path, key: Path | None = None, client_ca: Path | None = None) -> ssl.SSLContext:
    given = {"tls_key": key, "tls_client_ca": client_ca}
    files = {name: str(file) for name, file in given.items() if file is not None}
    context = tls_context(Settings(tls_certificate=str(certificate), **files))
    assert context is not None
    return context


def test_without_a_certificate_there_is_no_tls() -> None:
    assert tls_context(Settings()) is None


def test_clients_need_a_certificate_only_where_their_authority_is_named(
    authority: Authority, pair: Pair
) -> None:
    plain = context_of(pair.certificate, pair.key)
    mutual = context_of(pair.certificate, pair.key, authority.certificate)
    assert (plain.verify_mode, mutual.verify_mode) == (ssl.CERT_NONE, ssl.CERT_REQUIRED)
    assert plain.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_one_file_may_hold_both(pair: Pair, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    context_of(both)


def refusal_of(*files: Path) -> str:
    with pytest.raises(BadConfiguration) as refusal:
        context_of(*files)
    return refusal.value.message


def test_files_that_do_not_fit_are_refused(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    absent, text = tmp_path / "absent", tmp_path / "text"
    text.write_text("nonsense", encoding="ascii")
    another, encrypted = authority.sign("another").key, authority.encrypted(pair)
    certificate = pair.certificate
    cannot_be_read = "must be a file that can be read (got "
    for files, start in (
        ((absent,), f"'tls_certificate' {cannot_be_read}'{absent}': No such file or directory"),
        ((tmp_path,), f"'tls_certificate' {cannot_be_read}'{tmp_path}': Is a directory"),
        ((certificate, absent), f"'tls_key' {cannot_be_read}'{absent}"),
        ((certificate, pair.key, absent), f"'tls_client_ca' {cannot_be_read}'{absent}"),
        ((certificate,), "'tls_certificate' must be a certificate and its key as PEM"),
        ((text, pair.key), "'tls_certificate' must be a certificate and its key as PEM"),
        ((certificate, text), "'tls_certificate' must be a certificate and its key as PEM"),
        ((certificate, another), "'tls_key' must be the key of the certificate"),
        ((certificate, encrypted), "'tls_key' must be a key without a password"),
        ((certificate, pair.key, text), "'tls_client_ca' must be certificates of authorities as PEM"),
    ):
        assert refusal_of(*files).startswith(start)


@pytest.mark.parametrize("name", ["tls_key", "tls_client_ca"])
def test_a_port_that_was_meant_to_have_tls_is_not_without(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'tls_certificate' must be given with {name}"):
        Settings(**{name: "some.pem"})
