"""A file of tokens is read in whole or refused without showing one, and only its tokens are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadConfiguration
from service.http.tokens import Tokens, read_tokens

TOKEN = "abc-._~+/0123456789=="


def tokens_of(path: Path, text: str) -> Tokens | None:
    file = path / "tokens"
    file.write_text(text, encoding="latin-1")
    return read_tokens(str(file))


def test_a_file_has_tokens_comments_and_empty_lines(tmp_path: Path) -> None:
    found = tokens_of(tmp_path, f"# old\n{TOKEN}\r\n\n  {'x' * 16}  \n")
    assert found is not None
    assert found.accept(f"Bearer {TOKEN}".encode())
    assert found.accept(b"BEARER " + b"x" * 16)
    assert not found.accept(b"Bearer # old")
    assert read_tokens("") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a file of one token or more (got none"),
        ("# only\n\n", "a file of one token or more (got none"),
        (f"{TOKEN}\ntoo-short\n", "(got another line 2"),
        (f"two {TOKEN}\n", "(got another line 1"),
        (f"{TOKEN}\xe9\n", "(got another line 1"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BadConfiguration) as refusal:
        tokens_of(tmp_path, text)
    assert reason in refusal.value.message
    assert "too-short" not in refusal.value.message
    assert TOKEN not in refusal.value.message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="Is a directory"):
        read_tokens(str(tmp_path))


@given(st.one_of(st.none(), st.binary(), st.binary().map(lambda value: b"Bearer " + value)))
def test_nothing_else_is_accepted(authorization: bytes | None) -> None:
    assert not Tokens([TOKEN.encode()]).accept(authorization)
