"""Certificates for tests, made by the openssl program: an authority, and pairs that it has signed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates for 127.0.0.1; its own is in the file `certificate`. Skips without openssl."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("needs openssl")
        self._folder = folder
        self._own = self._pair(name)
        self.certificate = self._own.certificate
        self._run("req", "-x509", "-new", "-days", "2", "-subj", f"/CN={name}", *self._files(self._own))

    def sign(self, name: str) -> Pair:
        """A pair whose certificate names 127.0.0.1."""
        pair, request = self._pair(name), self._folder / f"{name}.csr"
        self._run("req", "-new", "-subj", f"/CN={name}", "-key", str(pair.key), "-out", str(request))
        names = self._folder / f"{name}.names"
        names.write_text("subjectAltName=IP:127.0.0.1", encoding="ascii")
        signer = ["-CA", str(self._own.certificate), "-CAkey", str(self._own.key), "-CAcreateserial"]
        self._run(
            *("x509", "-req", "-days", "2", "-in", str(request), "-out", str(pair.certificate)),
            *("-extfile", str(names), *signer),
        )
        return pair

    def encrypted(self, pair: Pair) -> Path:
        """The pair's key behind a password."""
        file = self._folder / "encrypted.pem"
        self._run("ec", "-in", str(pair.key), "-aes256", "-passout", "pass:secret", "-out", str(file))
        return file

    def _pair(self, name: str) -> Pair:
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        self._run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(pair.key))
        return pair

    def _files(self, pair: Pair) -> tuple[str, ...]:
        return "-key", str(pair.key), "-out", str(pair.certificate)

    def _run(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)
