"""One request to /predict, step by step: decode, choose an arm, admit, encode, submit, and answer or refuse.

It knows neither how the bytes arrive nor how the answer is sent. It has two front ends: ASGI
(service.http.endpoint) and the HTTP parser (service.http.direct).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from functools import partial
from random import random
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from service.arms.split import Arm
from service.bidding import bids
from service.errors import DeadlinePassed, Overloaded, ServiceError
from service.examples.record import SentRequest
from service.features.store import INVALID
from service.feedback.tokens import TokenSigner
from service.http.heads import PREDICT_PATH, AnswerHead, ArmHeads, Headers
from service.http.ladder import Ladder
from service.http.predict_service import PredictService, split_key
from service.quality import FULL, KILLED, NO_BID, PRIOR, TIME
from service.reading import decode_request, read_plain
from service.scoring.batcher import Outcome
from service.scoring.meter import FOUND, OK, ArmMeter
from service.scoring.predictor import Predictor, Probabilities
from service.scoring.rows import RequestRows
from service.shadow.copies import Copy
from service.tracing.trace import ANSWER, DECODE, ENCODE, READ, STORE, RequestTrace
from service.wire import (
    Asked,
    Codec,
    PredictRequest,
    answer_of,
    asked_of,
    codec_for,
    count_rows,
)

if TYPE_CHECKING:
    from service.bundle._native import PlainRequest

logger = logging.getLogger("bidlight")

CLIENT_LEFT = "client_left"
OK_STATUS = 200


class Prediction:
    """A request from its headers to its answer. It ends exactly once, by `end` or by `refuse`.

    The attributes without an underscore are what an arm's meter reads (service.scoring.meter).
    """

    __slots__ = (
        "_arm",
        "_asked",
        "_codec",
        "_copy",
        "_deadline",
        "_example",
        "_headers",
        "_heads",
        "_held_bytes",
        "_is_admitted",
        "_is_explored",
        "_meter",
        "_revision",
        "_rows",
        "_service",
        "_signer",
        "_trace",
        "_unqueued_rows",
        "_work",
        "bids",
        "decode_seconds",
        "encode_seconds",
        "is_plain",
        "no_bids",
        "quality",
        "reason",
        "started",
        "unknown_ads",
        "unknown_names",
        "user_lookup",
    )

    _asked: Asked | PlainRequest
    _codec: Codec
    _deadline: float | None
    _headers: dict[bytes, bytes]
    _heads: ArmHeads
    _rows: int
    decode_seconds: float

    def __init__(self, service: PredictService, started: float) -> None:
        self.started = started
        self._service = service
        self._arm: Arm | None = None
        self._meter: ArmMeter | None = None
        self._is_admitted = False
        self._is_explored = False
        self._held_bytes = 0
        self._unqueued_rows = 0
        self._work = 0  # see Admission.start
        self._signer: TokenSigner | None = None
        self._example: SentRequest | None = None  # for the log of examples
        self._copy: Copy | None = None  # for shadows, if they score this request
        self._revision = 0  # of the live calibration, 0 for none
        self._trace: RequestTrace | None = None
        self.encode_seconds = 0.0
        self.unknown_names: Collection[str] = ()
        self.unknown_ads = 0
        self.user_lookup: str | None = None
        self.bids = self.no_bids = 0
        self.is_plain = False
        self.quality, self.reason = FULL, ""

    def read_headers(self, headers: dict[bytes, bytes]) -> None:
        """Choose the codec. Raises Unauthorized and UnsupportedMediaType, before the body need be read.

        Nobody who is not let in begins a trace.
        """
        self._service.authorize(headers)
        self._headers = headers
        tracer = self._service.tracer
        if tracer is not None:
            self._trace = tracer.begin(headers, self.started)
        self._codec = codec_for(headers.get(b"content-type"))

    def submit(self, body: bytes, outcome: Outcome | None = None) -> Any:
        """Queue the rows of the body; `outcome`, or else the future returned, gets the pCTRs [rows].

        Raises ServiceError. If the user's features must be looked up first, rows are queued later, and what
        is wrong with them goes to the outcome.
        """
        service = self._service
        received = perf_counter()
        trace = self._trace
        if trace is not None:
            trace.mark(READ, received)
        service.intake.take(len(body))
        self._held_bytes = len(body)
        if not self.reason:  # else the ladder says how many there may be, beside the work that is under way
            self._work = service.admission.start(len(body))
        plain = read_plain(body, self._codec, service.max_candidates) if service.reads_plain else None
        request: PredictRequest | PlainRequest = self._decode(body) if plain is None else plain
        rows = self._rows if plain is None else plain.rows
        decoded = perf_counter()
        self.decode_seconds = decoded - received
        if trace is not None:
            trace.candidates = rows
            trace.mark(DECODE, decoded)
        key = split_key(self._headers, request)
        self._arm = arm = service.choose(self._headers, key)
        self._heads = service.heads[arm]
        predictor = arm.predictor
        self._meter = predictor.meter
        self._heed(request.tmax_ms, decoded)
        if arm.quality != FULL:
            self.quality, self.reason = arm.quality, KILLED
        elif service.ladder is not None:
            self._choose_rung(service.ladder, predictor, rows, decoded)
        if self.quality != FULL:
            return self._submit_unscored(request, rows, body, outcome)
        if service.tracks(request):
            self._signer = service.signers.of(arm)
            if service.explore_share and random() < service.explore_share:
                self._is_explored, self._signer = True, self._signer.explored
            if service.examples is not None and service.examples.takes(request.id):
                self._example = SentRequest(body, self._codec.name)
        if service.shadows is not None:
            self._copy = service.shadows.copy_of(arm, key, body, self._codec)
        # Before the costs of encoding or of a lookup: the room is this request's until it ends.
        predictor.admit(rows)
        self._is_admitted = True
        self._unqueued_rows = rows
        users, user_id = service.users, request.user_id
        if users is None or user_id is None or not predictor.lacks_context(request):
            users = None
        encoded = None
        if plain is not None:
            encoded = predictor.encode_plain(plain, with_context=users is None)
            if encoded is None:  # it is not plain to this arm's schema
                request = self._decode(body)
        if users is not None and user_id is not None:
            self.encode_seconds = perf_counter() - decoded
            if trace is not None and encoded is not None:
                trace.mark(ENCODE, decoded + self.encode_seconds)
            if outcome is None:
                outcome = asyncio.get_running_loop().create_future()
            self._pause(is_done=False)
            # The other half of the time that is left is for scoring.
            at_most = None if self._deadline is None else 0.5 * (self._deadline - decoded)
            users.find(user_id, partial(self._queue_with_user, arm, request, encoded, body, outcome), at_most)
            return outcome
        if encoded is None:
            assert isinstance(request, PredictRequest)
            encoded = predictor.encode(request, rows)
        return self._queue(arm, request, encoded, decoded, outcome)

    def submit_late(self, body: bytes, outcome: Outcome | None = None) -> Any:
        """The same for a request that has waited so long that only an answer without the model is left."""
        began = perf_counter()
        self.reason = TIME
        try:
            return self.submit(body, outcome)
        finally:
            ladder = self._service.ladder
            assert ladder is not None
            ladder.spend(perf_counter() - began)

    def _choose_rung(self, ladder: Ladder, predictor: Predictor, rows: int, now: float) -> None:
        """Let the model answer, or the prior if the ladder says so."""
        if not self.reason:
            left = None if self._deadline is None else self._deadline - now
            self.reason = ladder.reason(predictor, rows, left, has_room=self._is_admitted)
        self.quality = PRIOR if self.reason else FULL

    def _submit_unscored(
        self,
        request: PredictRequest | PlainRequest,
        rows: int,
        body: bytes,
        outcome: Outcome | None,
    ) -> Any:
        """Answer by the bundle's prior, or with no bid; no model runs, and nothing is queued.

        No more than the fields of the prior are encoded. There are no tokens: a bundle is not judged by pCTRs
        that are not its model's.
        """
        service, began = self._service, perf_counter()
        if request.tracking is True:
            service.signers.check()
        pctrs = self._unscored(request, rows)
        if pctrs is None:  # it is not plain to these fields
            request = self._decode(body)
            pctrs = self._unscored(request, rows)
            assert pctrs is not None
        self._signer = self._example = self._copy = None
        self._is_explored = False
        self._keep_asked(request)
        loop = asyncio.get_running_loop()
        waiting = loop.create_future() if outcome is None else outcome
        # As a batch does: who submits is not answered meanwhile.
        loop.call_soon(self._deliver, waiting, pctrs)
        if self.reason != TIME:  # else that is a part of what `submit_late` measures
            self._spend(began)
        return waiting

    def _unscored(self, request: PredictRequest | PlainRequest, rows: int) -> Probabilities | None:
        assert self._arm is not None
        return np.zeros(rows) if self.quality == NO_BID else self._arm.predictor.prior(request, rows)

    def _deliver(self, waiting: Outcome, pctrs: Probabilities) -> None:
        """Give what no batch computes to who waits for it."""
        began = perf_counter()
        if not waiting.done():
            waiting.set_result(pctrs)
        self._spend(began)

    def _spend(self, began: float) -> None:
        """Account for the time since then, if it goes into an answer that overload makes."""
        ladder = self._service.ladder
        if ladder is not None and self.reason != KILLED:
            ladder.spend(perf_counter() - began)

    def _decode(self, body: bytes) -> PredictRequest:
        """The request as the Python code reads it. Raises ServiceError."""
        service = self._service
        request = decode_request(body, self._codec, service.known, service.max_candidates)
        self._rows = count_rows(request.candidates, service.max_candidates, service.known.candidate)
        return request

    def _heed(self, tmax_ms: float | None, now: float) -> None:
        """Note how long the client waits. Raises DeadlinePassed if it does no longer."""
        self._service.admission.heed(tmax_ms)
        self._deadline = None
        if tmax_ms is not None:
            self._deadline = self.started + tmax_ms * 0.001
            if now > self._deadline:
                raise DeadlinePassed("'tmax_ms' passed before the request was read; allow more time")

    def _queue_with_user(
        self,
        arm: Arm,
        request: PredictRequest | PlainRequest,
        encoded: RequestRows | None,
        body: bytes,
        outcome: Outcome,
        user: dict[str, Any],
        missing: str | None,
    ) -> None:
        """Queue the rows once the user's features, or the reason why they are missing, are known.

        `encoded` has the ids of a plain request's candidates.
        """
        if outcome.done():
            return
        if self._copy is not None:
            self._copy.user = user
        found = perf_counter()
        if self._example is not None:
            self._example.user = user
        if self._trace is not None:
            self._trace.mark(STORE, found)
        predictor = arm.predictor
        self._work = self._service.admission.start(self._held_bytes)
        try:
            if self._service.ladder is not None:
                self._choose_rung(self._service.ladder, predictor, self._unqueued_rows, found)
                if self.quality != FULL:
                    self._submit_unscored(request, self._unqueued_rows, body, outcome)
                    return
            if isinstance(request, PredictRequest):
                rows, is_valid = predictor.encode_with_user(request, self._rows, user)
            else:
                assert encoded is not None
                rows, is_valid = predictor.complete_plain(encoded, request, user)
            self.user_lookup = (missing or FOUND) if is_valid else INVALID
            self._queue(arm, request, rows, found, outcome)
        except Exception as error:
            outcome.set_exception(error)

    def _queue(
        self,
        arm: Arm,
        request: PredictRequest | PlainRequest,
        rows: RequestRows,
        encoding_since: float,
        outcome: Outcome | None,
    ) -> Any:
        predictor = arm.predictor
        if self._meter is not None:
            self.encode_seconds += perf_counter() - encoding_since
            self.unknown_names = (
                predictor.unknown_names(request)
                if isinstance(request, PredictRequest)
                else rows.unknown_names
            )
            self.unknown_ads = rows.unknown_ads
        if self._trace is not None:
            self._trace.mark(ENCODE, perf_counter())
            rows.trace = self._trace
        outcome = predictor.submit_admitted(rows, self._deadline, outcome)
        if rows.revision is not None:
            self._revision = rows.revision.number
            if self._signer is not None:
                self._signer = self._signer.of_revision(self._revision)
        self._unqueued_rows = 0
        self._keep_asked(request)
        return outcome

    def _keep_asked(self, request: PredictRequest | PlainRequest) -> None:
        """Keep what the answer needs: features take many times the bytes of the body, and rows may wait."""
        if isinstance(request, PredictRequest):
            self._asked = asked_of(request)
        else:
            request.drop_features()
            self._asked, self.is_plain = request, True

    @property
    def is_behind(self) -> bool:
        """Whether the arm has more rows queued than its next batch takes."""
        return self._arm is not None and self._arm.predictor.is_behind

    def answer(self, results: Probabilities) -> tuple[AnswerHead, bytes]:
        """What a predictor gives -> the head and the body of the answer. Call `end(OK)` once it is sent.

        `results` are pCTRs [rows], or [rows, 2] with the bundle's own, which tokens say.
        """
        pctrs = own = results
        if results.ndim == 2:
            pctrs, own = results.T
            if results.strides[0] != results.itemsize:  # parts of a large request that were joined
                pctrs, own = np.ascontiguousarray(pctrs), np.ascontiguousarray(own)
        asked, arm, codec, signer = self._asked, self._arm, self._codec, self._signer
        assert arm is not None
        # How fast requests are answered is measured by those that the model scored.
        self._pause(is_done=self.reason in ("", KILLED))
        head = self._heads.ok[codec.name]
        if not isinstance(asked, Asked):
            before, keys = self._heads.before_results(
                codec, self._revision, self.quality, is_explored=self._is_explored
            )
            policy = self._service.native_policy
            if signer is None:
                body, self.bids = asked.answer(pctrs, before, policy, keys=keys)
            else:
                body, self.bids = signer.answer(asked, pctrs, own, before, policy, keys)
            self.no_bids = len(pctrs) - self.bids
        else:
            offers = bids(pctrs, asked.values_per_click, asked.bid_floors, self._service.policy)
            if self._meter is not None:
                self.no_bids = no_bids = offers.count(None)
                self.bids = len(offers) - no_bids
            tokens = None if signer is None else signer.tokens(own)
            bundle = arm.predictor.manifest.id
            found = answer_of(
                *(asked, arm.name, bundle, pctrs, offers, tokens, self.quality, self._revision),
                is_explored=self._is_explored,
            )
            body = codec.encode(found)
        if self._example is not None:
            assert self._service.examples is not None
            self._service.examples.add(self._example, body)
        if self._copy is not None:
            self._copy.answered(own, b"" if signer is None else body)
        return head, body

    def refuse(self, error: BaseException) -> tuple[int, Headers, bytes]:
        """End the request with an error; the status, the headers and the body of the answer."""
        if not isinstance(error, ServiceError):
            error = unexpected(error, PREDICT_PATH)
        if isinstance(error, Overloaded):
            self._service.count_refusal(error)
        if self._trace is not None:
            self._trace.status = error.status
        self.end(error.outcome)
        of_arm = [] if self._arm is None else self._heads.headers
        headers = [(b"content-type", b"application/json"), *of_arm, *error.headers()]
        return error.status, headers, error.body()

    def _pause(self, *, is_done: bool) -> None:
        """The batch has run, and the work `is_done`; or something else must be waited for first."""
        admission, work, self._work = self._service.admission, self._work, 0
        admission.stop(work, is_done=is_done)
        admission.has_worked = True

    def end(self, outcome: str) -> None:
        """Give back unused room, and count the request as OK, CLIENT_LEFT or the outcome of an error."""
        arm, meter = self._arm, self._meter
        if self._work:
            self._service.admission.stop(self._work)
            self._work = 0
        self._service.intake.give_back(self._held_bytes)
        self._held_bytes = 0
        if self._trace is not None:
            self._end_trace(self._trace, outcome)
        if arm is None:
            self._service.count_unrouted(outcome)
            return
        if self._is_admitted:
            arm.predictor.release(self._unqueued_rows)
        if meter is not None:
            meter.count_request(self, outcome)
        if self._copy is not None and outcome == OK:
            self._copy.end()

    def _end_trace(self, trace: RequestTrace, outcome: str) -> None:
        """Note what became of the request, and send its trace."""
        arm, tracer, now = self._arm, self._service.tracer, perf_counter()
        assert tracer is not None
        if outcome == OK:
            trace.status = OK_STATUS
            trace.mark(ANSWER, now)
        trace.outcome = outcome
        if arm is not None:
            predictor = arm.predictor
            trace.arm, trace.quality = arm.name, self.quality
            trace.bundle, trace.variant = predictor.manifest.id, predictor.variant
        tracer.end(trace, now)


def unexpected(error: BaseException, path: str) -> ServiceError:
    """Log an error that no client can cause, with its traceback, and what its client is told."""
    logger.error("a request to %s failed", path, exc_info=error)
    return ServiceError("the service failed on this request; it has logged why")
