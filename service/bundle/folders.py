"""Replaces a file or a folder whole or not at all, even when the process is killed.

New content is written to a hidden sibling and renamed into place. This module does not know what is written.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(target: Path, *, sync: bool = True) -> Iterator[Path]:
    """A path beside `target` to write a file or a folder to; it replaces `target` when the block ends.

    When the block raises, `target` stays as it was. A link stays a link: what it points to is replaced. With
    `sync` the content is on the disk before the rename, so a power failure does not tear it. Only one process
    at a time may replace a target (see `locked`): it removes what a killed one left. Raises OSError.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    incoming, outgoing = _incoming(target), outgoing_of(target)
    restore(target)
    _remove(incoming)
    _remove(outgoing)
    try:
        yield incoming
        if sync:
            for path in (*incoming.rglob("*"), incoming):
                sync_to_disk(path)
        if target.is_dir():  # a rename replaces a file, but not a folder that holds something
            target.rename(outgoing)
        incoming.replace(target)
        if sync:
            sync_to_disk(target.parent)
    finally:
        restore(target)
        with suppress(OSError):
            _remove(incoming)
            _remove(outgoing)


@contextmanager
def whole_file(out: Path, *, replace: bool = True) -> Iterator[Path]:
    """A path to write a file to, in a folder of its own beside `out`; it takes the name `out` at the end.

    So two commands that write the same file do not mix: the later one wins. When the block raises, `out`
    stays as it was. A link stays a link. Raises OSError.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as folder:
        partial = Path(folder) / out.name
        yield partial
        if replace:
            sync_to_disk(partial)
            partial.replace(out)
            sync_to_disk(out.parent)


def discard(target: Path) -> None:
    """Removes a file or a folder, if there is one, and what a killed process left beside it."""
    for path in (target, _incoming(target), outgoing_of(target)):
        _remove(path)


def restore(target: Path) -> None:
    """Undoes the replacement of a folder whose process was killed between its two renames."""
    outgoing = outgoing_of(target)
    if outgoing.exists() and not target.exists():
        outgoing.rename(target)


def outgoing_of(target: Path) -> Path:
    """Where the old folder lies between the two renames."""
    return target.with_name(f".{target.name}.outgoing")


def _incoming(target: Path) -> Path:
    return target.with_name(f".{target.name}.incoming")


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of an existing folder. Raises BlockingIOError if it is taken and `wait` is false."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
