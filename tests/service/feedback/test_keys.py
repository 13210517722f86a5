"""A file of keys is read in whole or refused without showing one."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import BadConfiguration
from service.feedback.keys import Key, read_keys

HEX = "000102030405060708090a0b0c0d0e0F"


def keys_of(path: Path, text: str) -> tuple[Key, ...]:
    file = path / "keys"
    file.write_text(text, encoding="latin-1")
    return read_keys(str(file))


def test_a_file_has_keys_comments_and_empty_lines_and_the_first_key_is_first(tmp_path: Path) -> None:
    found = keys_of(tmp_path, f"# new\n15 {HEX}\r\n\n  3\t{'ab' * 16}  \n")
    assert found == (Key(15, bytes(range(16))), Key(3, b"\xab" * 16))
    assert HEX[:8] not in repr(found)
    assert read_keys("") == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a file of one key or more (got none"),
        ("# only\n", "a file of one key or more (got none"),
        (f"0 {HEX}\n{HEX}\n", "(got another line 2"),
        (f"16 {HEX}\n", "(got another line 1"),
        (f"-1 {HEX}\n", "(got another line 1"),
        (f"0 {HEX}00\n", "(got another line 1"),
        (f"0 {HEX[:-1]}\n", "(got another line 1"),
        (f"0 {HEX} {HEX}\n", "(got another line 1"),
        (f"1 {HEX}\n01 {'ab' * 16}\n", "(got 1 twice"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BadConfiguration) as refusal:
        keys_of(tmp_path, text)
    assert reason in refusal.value.message
    assert "openssl rand -hex 16" in refusal.value.message
    assert HEX[:8] not in refusal.value.message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="'feedback_keys' must be a file that can be read"):
        read_keys(str(tmp_path))
