"""Scores requests for a shadow, in parts: they are read and encoded anew, with the shadow's own encoder.

It knows neither the queue nor how much time there is.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from time import perf_counter, thread_time, time
from typing import Any

import numpy as np

from service.arms.split import Arm
from service.bundle.log_odds import log_odds_of
from service.errors import ServiceError
from service.feedback.shadow_table import ShadowTable
from service.feedback.tokens import hashes_of
from service.reading import KnownFields, decode_request, read_plain
from service.scoring.predictor import Probabilities
from service.scoring.rows import RequestRows
from service.shadow.comparison import compare, slices_of
from service.shadow.copies import Copy, tokens_of
from service.shadow.meter import FAILED, NAN, REFUSED, ShadowMeter
from service.wire import Codec, count_rows

logger = logging.getLogger("bidlight")

# A part that takes longer is followed by smaller ones, and one that takes less than half by larger ones.
PART_SECONDS = 0.001
FIRST_ROWS, MOST_ROWS = 32, 512
# So many requests are scored together, of MOST_ROWS candidates at most: they are compared in one slice.
MOST_REQUESTS = 64


@dataclass(eq=False)
class Scorer:
    """A shadow's bundle at work. `rows_at_once` is how many candidates it has time for in a part."""

    shadow: Arm
    meter: ShadowMeter
    max_candidates: int
    table: ShadowTable | None = None
    number: int = 0
    """Its number in the table."""
    rows_at_once: int = FIRST_ROWS
    _has_told: bool = False

    def __post_init__(self) -> None:
        encoder = self.shadow.predictor.encoder
        self._known = KnownFields(encoder.context_names, encoder.candidate_names)

    def encode(self, body: bytes, codec: Codec, user: dict[str, Any] | None) -> RequestRows:
        """The ids of a request, with a user's stored features. Raises ServiceError as a bidding arm does."""
        predictor = self.shadow.predictor
        if predictor.is_native:
            plain = read_plain(body, codec, self.max_candidates)
            encoded = None if plain is None else predictor.encode_plain(plain, with_context=user is None)
            if plain is not None and encoded is not None:
                return encoded if user is None else predictor.complete_plain(encoded, plain, user)[0]
        request = decode_request(body, codec, self._known, self.max_candidates)
        rows = count_rows(request.candidates, self.max_candidates, self._known.candidate)
        if user is None:
            return predictor.encode(request, rows)
        return predictor.encode_with_user(request, rows, user)[0]

    def score(self, part: Sequence[RequestRows]) -> Probabilities:
        """The pCTRs [n] of requests, or of parts of them."""
        started = thread_time()
        pctrs = self.shadow.predictor.score_at_once(part)
        self._learn_size(len(pctrs), thread_time() - started)
        return pctrs

    def _learn_size(self, rows: int, seconds: float) -> None:
        if seconds > PART_SECONDS:
            self.rows_at_once = max(1, rows // 2)
        elif rows == self.rows_at_once and 2.0 * seconds < PART_SECONDS:
            self.rows_at_once = min(2 * rows, MOST_ROWS)

    def tell_failure(self, error: BaseException | None) -> None:
        """Log the first failure; others are counted alone."""
        if not self._has_told:
            self._has_told = True
            told = "gives no finite number for" if error is None else "fails on"
            logger.error(
                "the shadow %s %s a request of another arm; no client notices, and this is not logged again",
                self.shadow.name,
                told,
                exc_info=error,
            )

    def keep_tokens(self, copies: Sequence[Copy], pctrs: Probabilities) -> None:
        """Keep what it said of candidates with tokens until their events come; pCTRs [n] of all of these."""
        if self.table is None:
            return
        tokens: list[str] = []
        said: list[Probabilities] = []
        for copy, part in zip(copies, slices_of(_sizes_of(copies)), strict=True):
            if copy.answer:
                tokens += tokens_of(copy.answer, copy.codec)
                said.append(pctrs[part])
        if tokens:
            hashes, log_odds = hashes_of(tokens), log_odds_of(np.concatenate(said))
            kept = self.table.put(hashes, log_odds, self.number, int(time()))
            self.meter.count_tokens(kept, len(tokens))


class ShadowJob:
    """Requests for one shadow, as the queue has them: those that came while the first one waited are joined.

    It reads them one after the other, then scores their candidates, some at a time, whose requests they are
    does not matter, and compares.
    """

    def __init__(self, scorer: Scorer, copy: Copy) -> None:
        self.size = copy.size
        self.requests, self._candidates = 1, len(copy.own)
        self.scorer = scorer
        self._unread = deque([copy])
        self._copies: list[Copy] = []
        self._unscored: deque[RequestRows] = deque()
        self._parts: list[Probabilities] = []
        self.has_begun = False
        self._seconds = 0.0

    def join(self, other: ShadowJob) -> bool:
        """Do the requests of another job of the shadow too, unless these are too many, or it has begun."""
        if (
            self.has_begun
            or other.scorer is not self.scorer
            or self.requests + other.requests > MOST_REQUESTS
            or self._candidates + other._candidates > MOST_ROWS
        ):
            return False
        self._unread += other._unread
        self.requests += other.requests
        self._candidates += other._candidates
        self.size += other.size
        return True

    def step(self) -> bool:
        """Do a part of it; whether nothing is left."""
        started = perf_counter()
        self.has_begun = True
        try:
            is_over = self._go_on(started)
        except Exception as error:  # whatever it is, the bidding arms go on
            self.scorer.tell_failure(error)
            self.drop(FAILED)
            return True
        self._seconds += perf_counter() - started
        return is_over

    def drop(self, reason: str) -> None:
        """What is left is not scored."""
        self.scorer.meter.drop(reason, len(self._unread) + len(self._copies))

    def _go_on(self, started: float) -> bool:
        """Read one, score some of the candidates, or compare: one at a time, as each may take a slice."""
        if self._unread:
            self._read(self._unread.popleft())
            return False
        if self._unscored:
            self._parts.append(self.scorer.score(self._next_part()))
            return False
        if self._copies:
            self._compare(started)
        return True

    def _read(self, copy: Copy) -> None:
        """Read a request; without it, if that fails, the others go on."""
        scorer = self.scorer
        try:
            rows = scorer.encode(copy.body, copy.codec, copy.user)
            if len(rows) != len(copy.own):
                raise ValueError(f"a request has {len(rows)} candidates (answered: {len(copy.own)})")
        except ServiceError:
            scorer.meter.drop(REFUSED)
        except Exception as error:  # as above
            scorer.tell_failure(error)
            scorer.meter.drop(FAILED)
        else:
            self._copies.append(copy)
            self._unscored.append(rows)

    def _next_part(self) -> list[RequestRows]:
        """As many candidates as are scored at once, in order."""
        part, room = [], self.scorer.rows_at_once
        while self._unscored and room:
            rows = self._unscored.popleft()
            if len(rows) > room:
                self._unscored.appendleft(rows[room:])
                rows = rows[:room]
            part.append(rows)
            room -= len(rows)
        return part

    def _compare(self, started: float) -> None:
        """All are scored: compare those that have numbers."""
        scorer, copies, pctrs = self.scorer, self._copies, np.concatenate(self._parts)
        is_nan = np.isnan(pctrs)
        if is_nan.any():
            scorer.tell_failure(None)
            sizes = _sizes_of(copies)
            is_good = [not is_nan[part].any() for part in slices_of(sizes)]
            scorer.meter.drop(NAN, is_good.count(False))
            pctrs = pctrs[np.repeat(is_good, sizes)]
            self._copies = copies = [*compress(copies, is_good)]
            if not copies:
                return
        own, sizes = np.concatenate([copy.own for copy in copies]), _sizes_of(copies)
        comparison = compare(own, pctrs, sizes)
        scorer.keep_tokens(copies, pctrs)  # first: if that fails, they are not counted as scored, too
        scorer.meter.count(own, pctrs, sizes, comparison, self._seconds + perf_counter() - started)


def _sizes_of(copies: Sequence[Copy]) -> list[int]:
    """How many candidates each has."""
    return [len(copy.own) for copy in copies]
