"""The core reads no byte that is not its own, whatever bodies and tables hold: checked by sanitizers."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from loadtest.traffic.hostile import FieldNames, hostile_bodies
from tests.running import REPOSITORY

SECONDS = 20.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("c++", "cmake", "ninja"))), reason="there is no compiler, CMake or Ninja"
    ),
]


def bodies() -> list[bytes]:
    """Requests with every kind of value, in both encodings, and bodies that aim to be dear."""
    draw = random.Random(3)
    texts = ["s1", "a5", "", "é", "1005", "x" * 40, "no such value"]
    found = [body.content for body in hostile_bodies(FieldNames("site", "ad"), 10_000)]
    for count in (1, 2, 7, 40):
        context = {"site": draw.choice(texts), "hour": 7.25, "history": texts[:5], "visited": [1, None]}
        features = [
            {
                "ad": draw.choice(texts),
                "campaign": draw.randrange(-5, 2000),
                "tags": [draw.choice(texts), 7][: draw.randrange(3)],
                "shown": draw.choice([None, "", texts]),
                "price": draw.choice([-1.5, 0, 1e300, None, 0.1234567890123456]),
                "word": draw.choice(texts),
                "other": True,
            }
            for _ in range(count)
        ]
        rows = [
            {"id": f"ad-{row}", "features": given, "value_per_click": draw.random() * 3, "bid_floor": 0.002}
            for row, given in enumerate(features)
        ]
        columns = {
            "id": [f"ad-{row}" for row in range(count)],
            "features": {name: [given[name] for given in features] for name in features[0]},
            "value_per_click": [1.25] * count,
        }
        for candidates in (rows, columns, [{"id": "ad-3"}, {}]):
            request = {
                "id": "r",
                "user_id": "u1",
                "tmax_ms": 50,
                "context": context,
                "candidates": candidates,
            }
            found += [msgspec.json.encode(request), msgspec.msgpack.encode(request)]
    return found


def test_no_body_and_no_table_makes_the_core_leave_its_memory(tmp_path: Path) -> None:
    corpus, build = tmp_path / "corpus", tmp_path / "build"
    corpus.mkdir()
    for number, body in enumerate(bodies()):
        (corpus / str(number)).write_bytes(body)
    for command in (
        ["cmake", "-S", str(REPOSITORY / "native"), "-B", str(build), "-G", "Ninja", "-DFUZZ=ON"],
        ["cmake", "--build", str(build)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    seed = random.randrange(2**32)
    fed = subprocess.run(
        [build / "fuzz", str(SECONDS), str(seed), corpus], capture_output=True, text=True, check=False
    )
    assert fed.returncode == 0, f"with seed {seed}:\n{fed.stderr[-5000:]}"
    count, plain = (int(word) for word in fed.stdout.split() if word.isdigit())
    # Most mutations make a body that is not plain: some must still be.
    assert count > 1000
    assert plain > count / 100
