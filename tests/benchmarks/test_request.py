"""The benchmark of a request's stages: on a busy machine it times again what came too late."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.request import TRIES, Bench, Sink

LATE, WRONG = b"HTTP/1.1 429 Too Many Requests\r\n\r\n", b"HTTP/1.1 422 Unprocessable Entity\r\n\r\n"


class _Timed(Bench):
    """A bench whose timings give answers that are known beforehand."""

    def __init__(self, answers: list[bytes]) -> None:
        self._sink = Sink()
        self.answers = iter(answers)
        self.timings = 0

    async def _timed(self, message: bytes) -> float:
        self.timings += 1
        self._sink.write(next(self.answers))
        return float(self.timings)


def test_a_timing_with_late_answers_is_taken_again() -> None:
    bench = _Timed([LATE, LATE, b"HTTP/1.1 200 OK\r\n\r\n"])
    assert asyncio.run(bench._all(b"")) == 3.0
    with pytest.raises(RuntimeError, match="got late ones in 50 timings"):
        asyncio.run(_Timed([LATE] * TRIES)._all(b""))
    with pytest.raises(RuntimeError, match=r"must be a 200 .*422"):
        asyncio.run(_Timed([WRONG])._all(b""))
