"""The shadows of a process: which requests are copied for them, and where the copies go; it knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from service.arms.shadowing import KeyShare, Shadowing
from service.arms.split import Arm, ArmTable
from service.feedback.shadow_table import ShadowTable
from service.metrics.families import Metrics
from service.settings import Settings
from service.shadow.copies import Copy, NoCopy
from service.shadow.meter import BUSY, GONE, ShadowMeter
from service.shadow.queue import ShadowQueue
from service.shadow.scoring import Scorer, ShadowJob
from service.wire import Codec

# The part of --max-held-bytes that copies may hold beside it.
HELD_SHARE = 8


@dataclass(frozen=True, eq=False)
class Pair:
    """A shadow of an arm: of which keys it scores the requests, and with what."""

    shadowing: Shadowing
    keys: KeyShare
    scorer: Scorer


class Shadows:
    """Copies requests for the shadows of a table of arms, and lets them score copies when nobody waits.

    `is_behind` says whether requests wait to be read, `is_busy` whether anything is under way at all;
    `on_work` is called when the loop has worked for a shadow. The `table` keeps what they say of tokens.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        is_behind: Callable[[], bool],
        is_busy: Callable[[], bool],
        on_work: Callable[[], object],
        table: ShadowTable | None = None,
    ) -> None:
        self._settings, self._metrics, self._table = settings, metrics, table
        self._is_behind = is_behind
        room = max(settings.max_body_bytes, settings.max_held_bytes // HELD_SHARE)
        self._queue = ShadowQueue(is_busy, on_work, room)
        self._served: dict[str, Pair] = {}
        # By the arm that is followed, with what tells whether a key is one of theirs: asked of every request.
        self._pairs: dict[str, tuple[tuple[Callable[[str | None], bool], Pair], ...]] = {}
        self._meters: dict[tuple[str, str], ShadowMeter] = {}

    @property
    def are_any(self) -> bool:
        """Whether an arm has a shadow."""
        return bool(self._served)

    def serve(self, table: ArmTable) -> None:
        """Follow the arms as this table says. Copies that wait for a shadow that has changed are dropped."""
        numbers = {arm.name: number for number, arm in enumerate(table.arms)}
        served: dict[str, Pair] = {}
        if self._settings.metrics == "on":
            for shadows in table.followed.values():
                served.update((arm.name, self._pair(table, arm, numbers[arm.name])) for arm in shadows)
        if served != self._served:
            scorers = [pair.scorer for pair in served.values()]
            self._queue.drop_those(lambda job: job.scorer not in scorers)
        self._served = served
        self._pairs = {
            name: tuple((pair.keys.holds, pair) for arm in shadows if (pair := served.get(arm.name)))
            for name, shadows in table.followed.items()
        }
        for (followed, name), meter in self._meters.items():
            pair = served.get(name)
            is_it = pair is not None and pair.shadowing.of == followed
            meter.follow(pair.shadowing.share if pair is not None and is_it else 0.0)

    def copy_of(self, arm: Arm, key: str | None, body: bytes, codec: Codec) -> Copy | None:
        """What is kept of a request with this split key that the arm is to answer; None if it is not scored.

        Nothing is kept while there is no time for it: that is decided here, so it costs next to nothing.
        """
        chosen: list[Pair] | None = None
        for holds, pair in self._pairs.get(arm.name, ()):
            if holds(key):
                chosen = [pair] if chosen is None else [*chosen, pair]
        if chosen is None:  # as for most
            return None
        refusal = self._queue.refusal
        if refusal is not None:
            return NoCopy(b"", codec, partial(self._refuse, chosen, refusal))
        return Copy(body, codec, partial(self._add, chosen))

    def publish(self) -> None:
        """Add what was counted to the metrics, and tell how many copies wait."""
        if self._meters:
            self._metrics.shadow_waiting.labels().set(len(self._queue))
            self._metrics.shadow_time_share.labels().set(self._queue.measure())
        for meter in self._meters.values():
            meter.publish()

    def close(self) -> None:
        """Nothing more is scored: count what waits as dropped."""
        self._queue.drop_all()
        self.publish()

    def _refuse(self, pairs: Sequence[Pair], reason: str, _: Copy) -> None:
        """The answer to a request of these pairs is out, for which there was no room when it was read."""
        for pair in pairs:
            pair.scorer.meter.drop(reason)

    def _add(self, pairs: Sequence[Pair], copy: Copy) -> None:
        """The answer to a request of these pairs is out."""
        is_behind = self._is_behind()
        for pair in pairs:
            meter = pair.scorer.meter
            if self._served.get(pair.scorer.shadow.name) is not pair:
                meter.drop(GONE)
            elif is_behind:
                meter.drop(BUSY)
            else:
                self._queue.add(ShadowJob(pair.scorer, copy))

    def _pair(self, table: ArmTable, shadow: Arm, number: int) -> Pair:
        """The pair of a shadow: the one that there is, if it does the same."""
        shadowing, known = table.shadows[shadow.name], self._served.get(shadow.name)
        if (
            known is not None
            and known.shadowing == shadowing
            and known.scorer.shadow.predictor is shadow.predictor
        ):
            return known
        key = shadowing.of, shadow.name
        if key not in self._meters:
            self._meters[key] = ShadowMeter(self._metrics, *key)
        keys = KeyShare(table.salt, shadow.name, shadowing.share)
        scorer = Scorer(shadow, self._meters[key], self._settings.max_candidates, self._table, number)
        return Pair(shadowing, keys, scorer)
