"""Sample rows -> ads that a server knows beforehand, so that requests name them by id alone.

They are written to a file for servers that read one, and loaded into a feature store by Bidlight's own
program; `BidRequestMaker` makes requests for them. Standard library only.
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loadtest.processes.server import REPOSITORY
from loadtest.traffic.bid_requests import ad_id

# No field of a log has this name, and no value holds a control character.
KEY_COLUMN, LIST_SEPARATOR = "id of the row", "\x1f"
_ABSENT = object()


class CannotLoad(RuntimeError):
    """The ads could not be loaded into a feature store; the message is the loader's."""


@dataclass(frozen=True)
class KnownAds:
    """Where the ads are: `file` has one a line, `{"id": "ad-17", "features": {...}}`; `store` is a URL."""

    file: Path
    store: str


def draw_ads(
    rows: Sequence[dict[str, dict[str, object]]], count: int, *, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """`count` ads as `{"id": ..., "features": {...}}`; the first are the rows' candidates, in their order.

    In the others each field has the value of a random row, and is left out if that row lacks it.
    """
    draw = random.Random(seed)
    candidates = [row["candidate"] for row in rows]
    values = {name: [candidate.get(name, _ABSENT) for candidate in candidates] for name in names_of(rows)}
    for number in range(count):
        if number < len(candidates):
            features = candidates[number]
        else:
            drawn = ((name, draw.choice(column)) for name, column in values.items())
            features = {name: value for name, value in drawn if value is not _ABSENT}
        yield {"id": ad_id(number), "features": features}


def write_known_ads(
    rows: Sequence[dict[str, dict[str, object]]], count: int, bundle: Path, folder: Path
) -> KnownAds:
    """`count` ads as a file and a feature store in `folder`. Raises CannotLoad."""
    known = KnownAds(folder / "ads.jsonl", f"lmdb://{quote(str(folder.resolve()))}")
    with known.file.open("w") as lines:
        lines.writelines(json.dumps(ad) + "\n" for ad in draw_ads(rows, count))
    table = folder / "ads.csv"
    write_table(draw_ads(rows, count), names_of(rows), table)
    load_table("ads", table, bundle, known.store)
    table.unlink()
    return known


def names_of(rows: Sequence[dict[str, dict[str, object]]], part: str = "candidate") -> list[str]:
    """The candidate fields of sample rows, or those of the other part, "context"."""
    return sorted({name for row in rows for name in row[part]})


def write_table(ads: Iterable[dict[str, Any]], names: Sequence[str], file: Path) -> None:
    """Ads, or users, as CSV for the loader: a column a field, lists joined by LIST_SEPARATOR."""
    with file.open("w", newline="", encoding="utf-8") as cells:
        writer = csv.writer(cells)
        writer.writerow([KEY_COLUMN, *names])
        for ad in ads:
            writer.writerow([ad["id"], *(_cell(ad["features"].get(name)) for name in names)])


def _cell(value: object) -> str:
    """A raw value as a cell; an empty cell is a missing value."""
    if value is None:
        return ""
    if isinstance(value, list):
        return LIST_SEPARATOR.join(map(str, value))
    return str(value)


def load_table(kind: str, table: Path, bundle: Path, store: str) -> None:
    """Load "ads" or "users" by the service's program, in a process of its own. Raises CannotLoad."""
    command = [sys.executable, "-m", "service.load_features", kind, str(table.resolve()), "--store", store]
    command += ["--key", KEY_COLUMN, "--separator", LIST_SEPARATOR, "--bundle", str(bundle.resolve())]
    command += ["--delimiter", ",", "--quote", '"']
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise CannotLoad((run.stderr or run.stdout).strip()[-500:])
