"""TLS on the bidding port: the files of the settings become a context; it knows no connection."""

from __future__ import annotations

import ssl
from pathlib import Path

from service.errors import BadConfiguration
from service.settings import Settings

# What OpenSSL says of a certificate and a key that do not belong together.
_MISMATCH = "KEY_VALUES_MISMATCH"


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The context of the files as they are now; None without a certificate. Raises BadConfiguration."""
    if not settings.tls_certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, settings.tls_certificate, settings.tls_key or settings.tls_certificate)
    if settings.tls_client_ca:
        _load_authorities(context, settings.tls_client_ca)
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    _check_readable("tls_certificate", certificate)
    _check_readable("tls_key", key)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_to_ask)
    except _IsEncrypted:
        raise _refusal("tls_key", "a key without a password", key, "an encrypted key", "decrypt it") from None
    except ssl.SSLError as error:
        if error.reason == _MISMATCH:
            expected, found = "the key of the certificate", f"another's than {certificate}'s"
            raise _refusal("tls_key", expected, key, found, "give the pair that belongs together") from None
        expected = "a certificate and its key as PEM"
        remedy = "write both as PEM, the certificate before those that signed it"
        raise _refusal("tls_certificate", expected, certificate, _reason(error), remedy) from None


def _load_authorities(context: ssl.SSLContext, file: str) -> None:
    _check_readable("tls_client_ca", file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        expected, remedy = "certificates of authorities as PEM", "write them as PEM, one after the other"
        raise _refusal("tls_client_ca", expected, file, _reason(error), remedy) from None
    context.verify_mode = ssl.CERT_REQUIRED


def _check_readable(setting: str, file: str) -> None:
    """Raises BadConfiguration: OpenSSL does not say which of several files is absent."""
    try:
        Path(file).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise _refusal(setting, "a file that can be read", file, reason, "check its path and owner") from None


class _IsEncrypted(Exception):
    """The key has a password."""


def _refuse_to_ask() -> str:
    """OpenSSL calls this for a password; without it, it would ask at the terminal."""
    raise _IsEncrypted


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _refusal(setting: str, expected: str, file: str, found: str, remedy: str) -> BadConfiguration:
    return BadConfiguration(f"'{setting}' must be {expected} (got {file!r}: {found}); {remedy}")
