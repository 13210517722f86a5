"""Decides on live calibrations, in one process of a service: it reads all counts, and writes what is served.

With a store, the services that share it decide together (service.calibration.errand): each of them reports
its counts, and one makes the next step of a ledger that all follow. Without an answer of the store, a service
goes on alone from the last ledger, until it is back. It knows neither bundles nor who runs it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

from service.calibration.decision import (
    MAX_REVISION,
    MAX_SHARED_REVISION,
    Decision,
    LiveCalibration,
    Rules,
    next_revision,
    next_shared_revision,
)
from service.calibration.errand import Errand, Report, Wish, field_of
from service.calibration.fit import NONE
from service.calibration.joint import joint_of
from service.calibration.ledger import FORGET_MS, Account, Ledger, Said
from service.calibration.memory import LiveMemory, LiveState
from service.calibration.places import Places
from service.features.store import StoreUnavailable
from service.metrics.families import Metrics
from service.settings import Settings

if TYPE_CHECKING:
    from service.calibration.ledger_store import Visited

logger = logging.getLogger("bidlight")


class Decider:
    """The live calibrations of a memory, which metrics tell of. `now_ms` are Unix times in milliseconds.

    `in_thread` a store is visited beside the thread that calls. Raises BadConfiguration.
    """

    def __init__(
        self,
        settings: Settings,
        memory: LiveMemory,
        metrics: Metrics,
        now_ms: int,
        *,
        in_thread: bool = False,
    ) -> None:
        self._memory = memory
        self._metrics = metrics
        self._period_ms = 1000 * settings.live_period_seconds
        self._rules = Rules(
            settings.live_half_life_seconds,
            settings.live_min_clicks,
            settings.live_max_step,
            settings.live_max_change,
        )
        self._joint = joint_of(settings.feedback_store, self._period_ms, in_thread=in_thread)
        self._following = next_revision if self._joint is None else next_shared_revision
        self._ledger = Ledger(self._rules, self._following)
        # The last ledger of all, whether this service goes on alone from it, and what others are to be told.
        self._shared = b""
        self._is_alone: bool | None = None
        self._wishes: list[Wish] = []
        self._wished: tuple[Wish, ...] = ()
        # When this service has reported, or has begun anew to count for that, and when it has tried to.
        self._reported_ms = self._visited_ms = now_ms
        self._own_revision = MAX_SHARED_REVISION
        self._arms: dict[int, str] = {}
        self._places = Places(memory)
        self._stepped_ms = now_ms

    def serve(self, arms: Mapping[int, str]) -> None:
        """Decide on these sources, by number with the arm of each; a new one begins without a correction.

        One that is served again, after a rollback perhaps, goes on with its own as long as it has its place.
        Of an arm with several sources, the metrics tell of the last one.
        """
        self._arms = dict(arms)
        self._keep_places()
        for number, arm in arms.items():
            if number in self._places:
                self._ledger.open(number, arm, self._stepped_ms)
            else:
                logger.warning("arm %s has no live calibration now: there is no room for more", arm)
        for arm in arms.values():
            for decision in Decision:  # a counter that begins at 1 has no increase
                self._metrics.live_decisions.labels(arm, decision)
        self._publish_all()

    def _keep_places(self) -> None:
        """Give sources their places: those that are served here, then those that others serve."""
        accounts = self._ledger.accounts
        if self._joint is None:
            for number in self._places.keep(self._arms):
                accounts.pop(number, None)  # its place was taken, and with it its counts
        else:
            # Whose account all have forgotten: if it is served again, what was learned from is not new.
            gone = [number for number, _ in self._places if number not in accounts.keys() | self._arms.keys()]
            self._places.forget(gone)
            self._places.keep(self._arms, accounts, self._visited_ms)

    def state(self, arm: str) -> LiveState | None:
        """What is decided for an arm, of several sources for the last; None: it has no live calibration."""
        number = self._last_of(arm)
        return None if number is None else _state_of(self._ledger.accounts[number].live)

    @property
    def memory(self) -> LiveMemory:
        """What all processes have counted."""
        return self._memory

    def place(self, arm: str) -> int | None:
        """Where the counts of the bundle are that an arm serves last."""
        number = self._last_of(arm)
        place = None if number is None else self._places.get(number)
        return None if place is None else place.number

    def _last_of(self, arm: str) -> int | None:
        """The source that an arm serves last, of those with an account."""
        numbers = [number for number, account in self._served() if account.arm == arm]
        return numbers[-1] if numbers else None

    def freeze(self, arm: str) -> None:
        """What is served for an arm stays, that of bundles to come too: none."""
        self._wish(Wish("freeze", arm))

    def thaw(self, arm: str) -> None:
        """Decisions change again what is served for an arm."""
        self._wish(Wish("thaw", arm))

    def reset(self, arm: str, now_ms: int) -> None:
        """Serve an arm without a correction, and learn from the tokens that are made from now on alone."""
        self._wish(Wish("reset", arm, self._memory.matured_ms(now_ms)))

    def _wish(self, wish: Wish) -> None:
        """Do it here at once, and in all services when the store knows it."""
        self._fulfil(wish)
        if self._joint is not None:
            self._wishes.append(wish)
        self._publish_all()

    def _fulfil(self, wish: Wish) -> None:
        if self._joint is not None:
            # Until the others know, what is served means something here alone: they may give the next number
            # to another correction.
            self._ledger.decide_alone(self._next_own_revision, wish.arm)
        wish.fulfil(self._ledger)

    def _served(self) -> Iterable[tuple[int, Account]]:
        """The sources that are served and have an account, in their order."""
        for number in self._arms:
            if number in self._places and number in self._ledger.accounts:
                yield number, self._ledger.accounts[number]

    def step_if_due(self, now_ms: int) -> None:
        """Decide, if a period has passed since that was done; with a store, when it is the time of all."""
        if self._joint is not None:
            try:
                self._step_jointly(now_ms)
            except Exception:  # whatever it is, requests are answered
                logger.exception("live calibrations stay as they are for now")
        elif not 0 <= now_ms - self._stepped_ms < self._period_ms:  # or the clock was set back
            self.step(now_ms)

    def step(self, now_ms: int) -> None:
        """Decide on all sources, from the counts of this service alone."""
        self._stepped_ms = now_ms
        for number, account in [*self._ledger.accounts.items()]:
            place = self._places.get(number)
            if place is None or (self._joint is None and number not in self._arms):
                continue
            try:
                said = {place.member: Said(now_ms, self._places.counted(place, now_ms))}
                decisions = account.step(said, now_ms)
            except Exception:  # whatever it is, requests are answered and other arms go on
                logger.exception("arm %s: its live calibration stays as it is for now", account.arm)
            else:
                self._tell(number, decisions)
        self._ledger.cut_ms = now_ms
        self._publish_all()

    def _step_jointly(self, now_ms: int) -> None:
        assert self._joint is not None
        self._follow()
        if self._joint.is_due(now_ms):
            self._visited_ms = now_ms
            self._joint.visit(self._errand(now_ms))
            self._follow()
        if self._is_alone and not 0 <= now_ms - self._ledger.cut_ms < self._period_ms:
            self.step(now_ms // self._period_ms * self._period_ms)

    def _errand(self, now_ms: int) -> Errand:
        """What is brought to the ledger of all now."""
        cut_ms = now_ms // self._period_ms * self._period_ms
        if now_ms - self._reported_ms > FORGET_MS // 2:
            # The others may forget these members, and would take all that they say for new.
            self._reported_ms = now_ms
            self._places.begin_anew(cut_ms)
        self._wished = tuple(self._wishes)
        reports = {
            field_of(number, place.member): Report.of(
                now_ms,
                self._arms.get(number, ""),
                self._places.counted(place, cut_ms),
                is_served=number in self._arms,
            )
            for number, place in self._places
        }
        mine = self._ledger.pack() if self._is_alone or not self._shared else self._shared
        served = {number: arm for number, arm in self._arms.items() if number in self._places}
        return Errand(
            *(now_ms, cut_ms, self._period_ms, self._rules, mine, self._ledger.number),
            *(served, reports, self._wished),
        )

    def _follow(self) -> None:
        """See how a visit has ended, if one has."""
        assert self._joint is not None
        visit = self._joint.ended()
        if visit is None:
            return
        error = visit.exception()
        if error is None:
            try:
                self._adopt(visit)
            except ValueError as other:  # somebody has just replaced the ledger by something else
                error = other
        if error is not None:
            if not isinstance(error, StoreUnavailable):
                logger.error("live calibrations could not be decided together", exc_info=error)
            self._go_alone(error)
        self._metrics.live_joined.labels().set(not self._is_alone)
        self._metrics.live_machines.labels().set(1 if self._is_alone else self._ledger.machines)

    def _adopt(self, visit: Future[Visited]) -> None:
        """Go on with the ledger of all."""
        ledger, advanced = visit.result()
        if self._is_alone:
            logger.warning("live calibrations are decided with the other machines again")
        is_new = ledger != self._shared or self._is_alone is not False
        if is_new:
            found = Ledger.unpack(ledger, self._rules, next_shared_revision)
            self._tell_changes(found)
            self._ledger, self._shared = found, ledger
        self._is_alone, self._reported_ms = False, self._visited_ms
        if advanced is not None:
            del self._wishes[: len(self._wished)]
            for number, decision in advanced.decisions:
                if number in self._arms:
                    self._metrics.live_decisions.labels(self._arms[number], decision).inc()
        for wish in self._wishes if is_new else ():  # of since the visit began
            self._fulfil(wish)
        self._keep_places()
        self._publish_all()

    def _go_alone(self, error: BaseException) -> None:
        """Go on alone from the last ledger of all, if that is not so already."""
        if self._is_alone:
            return
        self._is_alone = True
        self._ledger.decide_alone(self._next_own_revision)
        logger.error(
            "live calibrations stay as they are, and are decided from this machine's events alone until the "
            "store of --feedback-store answers: %s",
            error,
        )

    def _next_own_revision(self, _: int) -> int:
        self._own_revision += 1
        if self._own_revision > MAX_REVISION:
            self._own_revision = MAX_SHARED_REVISION + 1
        return self._own_revision

    def _publish_all(self) -> None:
        for number, place in self._places:
            account = self._ledger.accounts.get(number)
            if account is not None:
                state = _state_of(account.live)
                if state != self._memory.read(place.number):
                    self._memory.write(place.number, state)
        metrics = self._metrics
        for _, account in self._served():
            arm, state = account.arm, _state_of(account.live)
            metrics.live_revision.labels(arm).set(state.revision)
            metrics.live_intercept.labels(arm).set(state.intercept)
            metrics.live_slope.labels(arm).set(state.slope)
            metrics.live_clicks.labels(arm).set(state.clicks)
            metrics.live_pcoc.labels(arm, "bundle").set(state.pcoc_bundle)
            metrics.live_pcoc.labels(arm, "live").set(state.pcoc_live)
            metrics.live_frozen.labels(arm).set(state.is_frozen)
            metrics.live_dispersion.labels(arm).set(state.dispersion)

    def _tell(self, number: int, decisions: Iterable[Decision]) -> None:
        """Tell what this service has decided."""
        account = self._ledger.accounts[number]
        for decision in decisions:
            self._metrics.live_decisions.labels(account.arm, decision).inc()
            if decision in (Decision.ADOPTED, Decision.REVERTED) and not account.live.is_frozen:
                _log(account, decision)

    def _tell_changes(self, found: Ledger) -> None:
        """Tell which revisions of all machines are served from now on."""
        for number, before in self._served():
            now = found.accounts.get(number)
            if now is not None and now.live.revision != before.live.revision:
                _log(now, "of all machines")


def _log(account: Account, what: str) -> None:
    correction = account.live.correction
    logger.info(
        "arm %s: live calibration %s, revision %d: log-odds become %s + %s * log-odds",
        *(account.arm, what, account.live.revision, correction.intercept, correction.slope),
    )


def _state_of(live: LiveCalibration) -> LiveState:
    recent, correction = live.recent, live.correction
    return LiveState(
        live.revision,
        correction.intercept,
        correction.slope,
        live.clicks,
        recent.pcoc(NONE),
        recent.pcoc(correction),
        live.is_frozen,
        live.dispersion,
    )
