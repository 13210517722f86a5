"""Bodies of requests -> the files that the closed loop reads (`load/closed_loop.lua`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from loadtest.traffic.bid_requests import BidRequestMaker

BODIES = 256


def write_bodies(maker: BidRequestMaker, sizes: Iterable[int], folder: Path) -> dict[int, Path]:
    """A file of BODIES bodies, one a line, for each size of request."""
    return {size: write_lines(maker, size, BODIES, folder / f"bodies.{size}.jsonl") for size in sizes}


def write_lines(maker: BidRequestMaker, size: int, count: int, file: Path) -> Path:
    """`count` bodies of one size of request, one a line."""
    file.write_bytes(b"".join(maker.make(size).body + b"\n" for _ in range(count)))
    return file


def write_frames(bodies: Iterable[bytes], file: Path) -> None:
    """Bodies that may hold line breaks, each after a line with its length, in a file NAME.frames."""
    file.write_bytes(b"".join(b"%d\n%b" % (len(body), body) for body in bodies))
