"""Sample rows of a log -> the bodies of bid requests of any size; it does not know how they are sent.

A bundle carries `report/requests.jsonl`, a raw test row a line: `{"context": {...}, "candidate": {...}}`. A
request takes the context of one line and the candidates of others: real values with the frequencies of the
log, in any number of combinations. Standard library only, so that it runs in Locust's own image.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_FILE = Path("report") / "requests.jsonl"


class SampleError(ValueError):
    """The sample rows cannot be used; the message is one line and names the file."""


@dataclass(frozen=True)
class BidRequest:
    """One request: its body, its id, and the ids of its candidates, in order."""

    body: bytes
    id: str
    candidate_ids: tuple[str, ...]


class BidRequestMaker:
    """Draws bid requests. Contexts and candidates are encoded as JSON once; a request only joins them."""

    def __init__(
        self,
        rows: Sequence[dict[str, dict[str, object]]],
        *,
        user_ids: int = 10_000,
        known_ads: int | None = None,
        seed: int = 0,
    ):
        """`rows` are those of `read_samples`; users are drawn from `user_ids`; `seed` repeats a run.

        With `known_ads` the server knows that many ads beforehand, and candidates have no features. Requests
        have no user then: a server with a feature store would look the user up.
        """
        self._random = random.Random(seed)
        self._user_ids = user_ids if known_ads is None else 0
        self._contexts = [json.dumps(row["context"]) for row in rows]
        ads: list[dict[str, object]] = [{"features": row["candidate"]} for row in rows]
        if known_ads is not None:
            ads = [{}] * known_ads
        self._candidates = [
            (ad_id(number), self._candidate({"id": ad_id(number), **ad})) for number, ad in enumerate(ads)
        ]
        self._made = 0

    def _candidate(self, ad: dict[str, object]) -> str:
        """A candidate as JSON: a click is worth about 1, most ads have a small floor."""
        candidate = {**ad, "value_per_click": round(self._random.lognormvariate(0.0, 0.7), 2)}
        if self._random.random() < 0.7:
            candidate["bid_floor"] = round(self._random.uniform(0.001, 0.02), 4)
        return json.dumps(candidate)

    def make(self, candidates: int) -> BidRequest:
        """The next request with this many candidates; ads repeat only if there are fewer."""
        draw = self._random
        if candidates <= len(self._candidates):
            chosen = draw.sample(self._candidates, candidates)
        else:
            chosen = draw.choices(self._candidates, k=candidates)
        identifier = f"req-{self._made}"
        self._made += 1
        user = f'"user_id":"u{draw.randrange(self._user_ids)}",' if self._user_ids else ""
        body = (
            f'{{"id":"{identifier}",{user}'
            f'"context":{draw.choice(self._contexts)},'
            f'"candidates":[{",".join(text for _, text in chosen)}]}}'
        )
        return BidRequest(body.encode(), identifier, tuple(ad for ad, _ in chosen))


def ad_id(number: int) -> str:
    """The id of an ad: first the candidates of the sample rows in their order, then ads made of them."""
    return f"ad-{number}"


def read_samples(path: Path) -> list[dict[str, dict[str, object]]]:
    """The rows of a `requests.jsonl`, or of the one in a bundle's folder.

    Raises SampleError, naming file and line.
    """
    if path.is_dir():
        path = path / SAMPLE_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SampleError(
            f"'{path}' must be a file of sample rows ({error.strerror}); name a bundle's folder"
        ) from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            usable = isinstance(row["context"], dict) and isinstance(row["candidate"], dict)
        except (ValueError, TypeError, KeyError):
            usable = False
        if not usable:
            raise SampleError(
                f'{path}:{number} must be {{"context": {{...}}, "candidate": {{...}}}} (got {line[:80]!r})'
            )
        rows.append(row)
    if not rows:
        raise SampleError(f"'{path}' must hold one sample row or more (got none); export the bundle again")
    return rows


def parse_sizes(text: str) -> dict[int, float]:
    """`1:6,10:3,100:1` -> {candidates a request: its weight among the requests}, 1 where it is left out.

    Raises ValueError.
    """
    sizes: dict[int, float] = {}
    for part in text.split(","):
        size, colon, weight = part.partition(":")
        try:
            sizes[int(size)] = float(weight) if colon else 1.0
        except ValueError:
            raise ValueError(
                f"sizes must be like 1:6,10:3,100:1 (got {text!r}); COUNT:WEIGHT, by commas"
            ) from None
    if any(size < 1 for size in sizes) or any(not 0.0 < weight < float("inf") for weight in sizes.values()):
        raise ValueError(f"sizes and weights must be above 0 (got {text!r}); for example 1:6,10:3,100:1")
    return sizes
