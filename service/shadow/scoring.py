"""Scores one request for a shadow, in parts: it is read and encoded anew, with the shadow's own encoder.

It knows neither the queue nor how much time there is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
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
from service.shadow.comparison import compare
from service.shadow.copies import Copy, tokens_of
from service.shadow.meter import FAILED, NAN, REFUSED, ShadowMeter
from service.wire import Codec, count_rows

logger = logging.getLogger("bidlight")

# A part that takes longer is followed by smaller ones, and one that takes less than half by larger ones.
PART_SECONDS = 0.001
FIRST_ROWS, MOST_ROWS = 32, 512


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

    def score(self, rows: RequestRows) -> Probabilities:
        """The pCTRs [n] of a part of a request."""
        started = thread_time()
        pctrs = self.shadow.predictor.score_at_once(rows)
        self._learn_size(len(rows), thread_time() - started)
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

    def keep_tokens(self, copy: Copy, pctrs: Probabilities) -> None:
        """Keep what it said of candidates with tokens until their events come."""
        if self.table is None or not copy.answer:
            return
        hashes = hashes_of(tokens_of(copy.answer, copy.codec))
        kept = self.table.put(hashes, log_odds_of(pctrs), self.number, int(time()))
        self.meter.count_tokens(kept, len(hashes))


class ShadowJob:
    """One request for one shadow, as the queue has it."""

    def __init__(self, scorer: Scorer, copy: Copy) -> None:
        self.size = copy.size
        self._scorer, self._copy = scorer, copy
        self._rows: RequestRows | None = None
        self._done = 0
        self._parts: list[Probabilities] = []
        self._seconds = 0.0

    def step(self) -> bool:
        """Do a part of it; whether nothing is left."""
        started = perf_counter()
        try:
            is_over = self._go_on(started)
        except ServiceError:
            self.drop(REFUSED)
            return True
        except Exception as error:  # whatever it is, the bidding arms go on
            self._scorer.tell_failure(error)
            self.drop(FAILED)
            return True
        self._seconds += perf_counter() - started
        return is_over

    def drop(self, reason: str) -> None:
        """It is not scored."""
        self._scorer.meter.drop(reason)

    def _go_on(self, started: float) -> bool:
        """Read it, or score some of its candidates, or compare: one at a time, as each may take a slice."""
        scorer, copy = self._scorer, self._copy
        if self._rows is None:
            self._rows = scorer.encode(copy.body, copy.codec, copy.user)
            if len(self._rows) != len(copy.own):
                raise ValueError(f"a request has {len(self._rows)} candidates (answered: {len(copy.own)})")
            return False
        if self._done < len(self._rows):
            part = self._rows[self._done : self._done + scorer.rows_at_once]
            self._parts.append(scorer.score(part))
            self._done += len(part)
            return False
        pctrs = np.concatenate(self._parts)
        if np.isnan(pctrs).any():
            scorer.tell_failure(None)
            self.drop(NAN)
            return True
        comparison = compare(copy.own, pctrs)
        scorer.meter.count(copy.own, pctrs, comparison, self._seconds + perf_counter() - started)
        scorer.keep_tokens(copy, pctrs)
        return True
