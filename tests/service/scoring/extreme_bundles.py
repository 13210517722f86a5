"""Loads tiny bundles in which one value of a JSON file is extreme, as many as are asked for.

It fails, by an exception or by its death, unless each load works or ends in a BundleError, within some memory
and time. It runs in a process of its own because its memory is limited.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.traffic.forged import replace_in
from service.arms.loading import read_arms, start_arms
from service.errors import BadConfiguration
from service.settings import Settings
from tests.forged_bundle import Place, places_in
from tests.tiny_bundle import write_tiny_bundle

MORE_BYTES = 1 << 30
SECONDS = 60
NUMBERS = [0, -1, 1, 2, 7, 256, 10**9, 2**31 - 1, 2**31, 2**53, 2**63, 2**64, 10**30, 10**400]
FLOATS = [0.5, -0.5, 1e-320, 1e15, 1e300, -1e300, math.inf, -math.inf, math.nan]
OTHERS: list[Any] = [None, True, "", "x", "x" * 100_000, "\udc00", "../up", "NaN", [], {}, [[]] * 3]
LARGE = [[0] * 200_000, ["x"] * 200_000, {str(number): number for number in range(100_000)}]


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def replaced(value: Any, path: Place, new: Any) -> Any:
    if not path:
        return new
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def main(folder: Path, examples: int) -> None:
    write_tiny_bundle(folder, calibration={"segment_field": "campaign", "segment_offsets": ((3, 0.5),)})
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    records = {name: json.loads(data) for name, data in files.items() if name.endswith(".json")}
    places = [(name, place) for name, record in records.items() for place in places_in(record)]
    extremes = st.sampled_from([*NUMBERS, *FLOATS, *OTHERS, *LARGE, nested(50), nested(3000)])
    loads = Settings(arms=(f"only={folder}",), max_batch_rows=8)

    @settings(max_examples=examples, deadline=None, database=None)
    @given(st.sampled_from(places), extremes)
    def check(place: tuple[str, Place], new: Any) -> None:
        name, path = place
        for each, data in files.items():
            (folder / each).write_bytes(data)
        sys.setrecursionlimit(10_000)
        changed = json.dumps(replaced(records[name], path, new)).encode()
        sys.setrecursionlimit(1000)
        if name == "manifest.json":
            (folder / name).write_bytes(changed)
        else:
            replace_in(folder, {name: changed})
        signal.alarm(SECONDS)
        with suppress(BadConfiguration):
            arms = start_arms(loads, read_arms(loads))
            msgspec.json.encode(arms[0].predictor.manifest)  # as GET /arms does
        signal.alarm(0)

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    check()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
