"""Reads a file of secrets, an entry a line; it knows neither what an entry is nor shows one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from service.errors import BadConfiguration

Refusal = Callable[[str], BadConfiguration]


def read_entries(file: str, refusal: Refusal) -> Iterator[tuple[int, bytes]]:
    """The lines of a file and their numbers, without empty ones and those that begin with `#`.

    Raises what `refusal` makes of what a file must be, if this one cannot be read.
    """
    try:
        lines = Path(file).read_bytes().splitlines()
    except OSError as error:
        raise refusal(f"a file that can be read (got {file!r}: {error.strerror or error})") from None
    for number, line in enumerate(map(bytes.strip, lines), start=1):
        if line and not line.startswith(b"#"):
            yield number, line
