"""Writes what a command makes: each file whole, or what was there stays."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from export.errors import ExportError
from service.bundle.folders import whole_file
from service.bundle.json_files import encode_json

Say = Callable[[str], None]


def check_out_file(out: Path, endings: tuple[str, ...], data: Path) -> None:
    """Checks, before any row is read, that a file can be written there. Raises ExportError, OSError."""
    if out.suffix not in endings:
        raise ExportError(f"'out' must end in {' or '.join(endings)} (got {out.name!r}); rename it")
    if out.is_dir():
        raise ExportError(f"'out' must be a file (got the folder {out}); name a file in it")
    if out.resolve() == data.resolve():
        raise ExportError(f"'out' must be another file than the log (got {out}); name another")
    with whole_file(out, replace=False):
        pass


def check_out_folder(out: Path) -> None:
    """The same for a folder of files. Raises ExportError, OSError."""
    if out.exists() and not out.is_dir():
        raise ExportError(f"'out' must be a folder (got the file {out}); name another")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial.", dir=out):
        pass


def hand_over(
    found: msgspec.Struct,
    lines: Sequence[str],
    page: Callable[[], str],
    out: Path | None,
    name: str,
    say: Say,
) -> None:
    """What a command found: `lines` for people, NAME.json and NAME.html in the folder `out`, a line of JSON.

    The page is laid out where a folder is named. Raises OSError.
    """
    for line in lines:
        say(line)
    if out is not None:
        for ending, content in ((".json", encode_json(found)), (".html", page().encode())):
            with whole_file(out / f"{name}{ending}") as partial:
                partial.write_bytes(content)
        say(f"wrote {out / name}.html and {name}.json")
    say(msgspec.json.encode(found).decode())
