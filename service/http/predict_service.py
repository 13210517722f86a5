"""What all requests to /predict share: limits, tokens, signers, the bid policy, and the arms that answer.

It knows no request's steps (service.http.prediction).
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING

import numpy as np

from service.arms.split import Arm, ArmTable
from service.bidding import BidPolicy, native_policy
from service.bundle.native import is_native
from service.errors import NotReady, Overloaded, Unauthorized, Unread
from service.examples.sampling import open_examples
from service.features.users import UserFeatures
from service.feedback.signers import Signers
from service.http.admission import SLICE_SHARE, Admission
from service.http.heads import ArmHeads, header_lines
from service.http.intake import Intake
from service.http.ladder import Ladder
from service.http.tokens import read_tokens
from service.metrics.families import Metrics
from service.metrics.tally import HistogramTally
from service.quality import PRIOR
from service.reading import KnownFields
from service.settings import Settings
from service.shadow.shadows import Shadows
from service.tracing.tracer import Tracer
from service.wire import PredictRequest

if TYPE_CHECKING:
    from service.bundle._native import PlainRequest


class PredictService:
    """What all requests to /predict share: limits, bid policy, tokens and arms; before `open` it has no arms.

    Raises BadConfiguration for a file that holds no tokens, or no keys.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        policy: BidPolicy,
        users: UserFeatures | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.max_body_bytes = settings.max_body_bytes
        self.max_candidates = settings.max_candidates
        self.explore_share = settings.explore_share
        self.policy = policy
        self._token_file = settings.token_file
        self.tokens = read_tokens(settings.token_file)
        self.signers = Signers(settings.feedback_keys)
        self.tracks_all = settings.tracking == "all"
        self.examples = open_examples(settings, metrics)
        self.users = users
        self.shadows: Shadows | None = None
        """What copies requests for shadow arms, if there are any."""
        self.tracer = tracer
        self.max_queue_ms = settings.max_queue_ms
        self.intake = Intake(settings.max_held_bytes)
        self.ladder: Ladder | None = None
        if settings.when_overloaded == PRIOR:
            self.ladder = Ladder(SLICE_SHARE * settings.max_queue_ms * 1e-3)
        self.admission = Admission(self.intake, settings.max_queue_ms * 1e-3, ladder=self.ladder)
        self.known = KnownFields(frozenset(), frozenset())
        self.heads: dict[Arm, ArmHeads] = {}
        self.reads_plain = is_native(settings.native)
        if self.reads_plain:
            self.native_policy = native_policy(policy)
        self._metrics = metrics if settings.metrics == "on" else None
        self._waits, self._unread = HistogramTally(metrics.wait.labels()), 0
        unread = self.unread()
        self.unread_lines = header_lines([(b"content-type", b"application/json"), *unread.headers()])
        self.unread_body = unread.body()
        self._arms: ArmTable | None = None

    def open(self, arms: ArmTable) -> None:
        """Send requests to these arms from now on."""
        self.heads = {arm: ArmHeads(arm) for arm in arms.answering}
        # Not those of shadows: they must change no answer.
        encoders = [arm.predictor.encoder for arm in arms.arms if arm.name not in arms.shadows]
        self.known = KnownFields(
            frozenset().union(*[encoder.context_names for encoder in encoders]),
            frozenset().union(*[encoder.candidate_names for encoder in encoders]),
        )
        self._arms = arms
        self.signers.serve({arm: arm.source for arm in arms.arms})

    def knows(self, headers: dict[bytes, bytes]) -> bool:
        """Whether no token is needed, or the headers have one that is known."""
        return self.tokens is None or self.tokens.accept(headers.get(b"authorization"))

    def authorize(self, headers: dict[bytes, bytes]) -> None:
        """Raises Unauthorized if a token is needed and the headers have none that is known."""
        if not self.knows(headers):
            raise Unauthorized("'Authorization' must be Bearer and a token of this service; ask its operator")

    def read_tokens(self) -> Callable[[], object]:
        """Read the file of tokens again; what is returned puts them into place. Raises BadConfiguration."""
        tokens = read_tokens(self._token_file)
        return lambda: setattr(self, "tokens", tokens)

    def tracks(self, request: PredictRequest | PlainRequest) -> bool:
        """Whether the answer to a request has tokens: as it says, or else as the service is set."""
        said = request.tracking
        return said is True or (self.tracks_all and said is not False)

    def choose(self, headers: dict[bytes, bytes], key: str | None) -> Arm:
        """The arm of a request with this split key. Raises NotReady, UnknownArm."""
        if self._arms is None:
            raise NotReady("the arms must replay their golden rows first; try again in a moment")
        pinned = headers.get(b"x-arm")
        return self._arms.choose(None if pinned is None else pinned.decode("utf-8", "surrogateescape"), key)

    def count_unrouted(self, outcome: str) -> None:
        """Count a request that ended before an arm was chosen."""
        if self._metrics is not None:
            self._metrics.refuse("", outcome)

    def count_refusal(self, error: Overloaded) -> None:
        """Count a 429 by its reason."""
        if self._metrics is not None:
            self._metrics.refusals.labels(error.reason).inc()
            self._metrics.refusal_time.labels(error.reason).set(time())

    def unread(self) -> Unread:
        """Why a request is refused that was not read."""
        return Unread(
            f"a request must wait {self.max_queue_ms:g} ms at most, and others were first; try again soon"
        )

    def count_unread(self) -> None:
        """Count a request that was refused unread."""
        self._unread += 1

    def publish(self) -> None:
        """Add what was counted before requests were read to the metrics."""
        metrics, admission = self._metrics, self.admission
        if self.examples is not None:
            self.examples.publish()
        if metrics is not None:
            self._waits.observe_many(np.array(admission.take_waits()))
            self._waits.publish()
            if self._unread:
                metrics.requests.labels("", Unread.code).inc(self._unread)
                metrics.refusals.labels(Unread.reason).inc(self._unread)
                metrics.refusal_time.labels(Unread.reason).set(time())
                self._unread = 0
            metrics.waiting.labels().set(admission.waiting)
            metrics.oldest_wait.labels().set(admission.oldest_wait())


def split_key(headers: dict[bytes, bytes], request: PredictRequest | PlainRequest) -> str | None:
    """What stands for a request in the split; None if nothing does."""
    key = headers.get(b"x-split-key")
    # As UTF-8 a key gives the same arm in the header as in user_id. Any other bytes are a key too.
    return key.decode("utf-8", "surrogateescape") if key else request.user_id or request.id
