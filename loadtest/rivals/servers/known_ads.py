"""A file of ads that a rival knows beforehand -> the encoded features of candidates, by id.

As a competent engineer would write it: a dictionary from an ad's id to its row of a matrix, and one gather a
request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bundle.encoder import Encoder

ADS_AT_ONCE = 4096

Ids = NDArray[np.int32]


class Ad(msgspec.Struct, gc=False):
    """A line of the file."""

    id: str
    features: dict[str, Any]


class KnownAds:
    """All ads of a file, encoded; `ids` int32 [ads + 1, candidate columns], the last row an unknown ad's."""

    def __init__(self, file: Path | str, encoder: Encoder) -> None:
        self._rows: dict[str | None, int] = {}
        encoded = []
        for ads in ads_in(Path(file)):
            self._rows |= {ad.id: row for row, ad in enumerate(ads, start=len(self._rows))}
            encoded.append(encoder.encode_candidates([ad.features for ad in ads]))
        self._unknown = len(self._rows)
        self._ids = np.concatenate([*encoded, encoder.encode_candidates([{}])])

    def encode(self, candidates: Sequence[Any]) -> Ids:
        """ids [n, candidate columns] of anything with an `id`."""
        rows = map(self._rows.get, [each.id for each in candidates], repeat(self._unknown))
        return self._ids.take(np.fromiter(rows, np.intp, len(candidates)), axis=0)


def ads_in(file: Path) -> Iterator[list[Ad]]:
    """The ads of a file, some thousands at a time."""
    decode = msgspec.json.Decoder(Ad).decode
    with file.open("rb") as lines:
        while piece := [decode(line) for line in islice(lines, ADS_AT_ONCE)]:
            yield piece
