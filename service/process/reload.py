"""The arms that the workers serve, and a reload of them: committed when all workers serve it, or undone.

It knows no worker.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from service.arms.kept import KeptArms
from service.arms.loading import LoadedArm, freeze_anew, read_arms, too_late
from service.arms.reloads import RELOAD, ROLLBACK, Kind, Reloads
from service.arms.trial import Trial
from service.arms.unlike import warn_of_unlike_arms
from service.bundle.schema import Schema
from service.metrics.families import Metrics
from service.process.signals import Interrupted, interrupted_by
from service.settings import Settings


class ReloadableArms:
    """The arms of `settings`; `metrics` are the supervisor's.

    `current` are to be served; `previous` were served before the reload under way, None without one.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.reloads = Reloads(metrics)
        self.kept: KeptArms[LoadedArm] = KeptArms(_bundle_of, is_on=settings.keep_previous == "on")
        self._settings = settings
        self._trial: Trial | None = None
        self.current: Sequence[LoadedArm] = ()
        self.previous: Sequence[LoadedArm] | None = None

    def read(self) -> None:
        """Read the arms for the first time. Raises BadConfiguration."""
        self.current = self._read_frozen()
        warn_of_unlike_arms(_schemas_of(self.current))

    @property
    def bundles(self) -> dict[str, str]:
        """The ids of the bundles to serve, by arm."""
        return _bundles_of(self.current)

    def request(self, command: Kind, arms: Sequence[str], user: int) -> int:
        """Ask for a reload or a rollback of arms; its number. Raises BadConfiguration if it cannot be."""
        if command == ROLLBACK and not self._is_reloading:
            self.kept.check(arms)
        return self.reloads.request(command, arms, user)

    @property
    def _is_reloading(self) -> bool:
        """Whether workers change to what a reload, not a rollback, has brought."""
        return self.previous is not None and self.reloads.under_way.command == RELOAD

    def undo_if_asked(self) -> None:
        """Let a rollback undo the reload under way, of all arms, before all workers serve that.

        A rollback under way is ended first: the next one may be of other arms.
        """
        if self._is_reloading and self.reloads.next_command == ROLLBACK:
            undone = self.bundles
            self._restore()
            self.reloads.undo("a rollback was asked for before all workers served it", self.bundles)
            self.reloads.begin()
            self.reloads.succeed(undone, self.bundles)

    def advance(self) -> None:
        """Commit the reload that all workers serve, and begin the one that was requested.

        Its bundles are tried first in a process of their own, while the workers go on. Those of a rollback
        have served before, and go straight to the workers.
        """
        if self.previous is not None:
            before, self.previous = self.previous, None
            self.kept.replace(_by_name(before), _by_name(self.current))
            self.reloads.succeed(_bundles_of(before), self.bundles)
        try:
            self._begin_requested()
        except Interrupted:
            pass  # the signal is handled next
        except Exception as error:  # whatever it is, the workers go on
            self._refuse(error)

    def _begin_requested(self) -> None:
        digests = None
        if self._trial is not None:
            digests = self._tried(self._trial)
            if digests is None:
                return
        elif self.reloads.is_requested:
            wanted = self.reloads.begin()
            if wanted.command == ROLLBACK:
                self._replace(self.kept.restored(_by_name(self.current), wanted.arms))
                return
            if self._settings.try_reloads == "on":
                self._trial = Trial(self._settings)
                return
        else:
            return
        self._replace(self._read_frozen(digests))

    def _replace(self, arms: Sequence[LoadedArm]) -> None:
        """Let workers serve these arms, one after the other."""
        self.previous, self.current = self.current, arms
        warn_of_unlike_arms(_schemas_of(self.current), _schemas_of(self.previous))

    def _tried(self, trial: Trial) -> Sequence[str] | None:
        """What the trial found, and it is over; None while it is not."""
        self._trial = None
        digests = trial.poll()
        if digests is None:
            self._trial = trial
        return digests

    def stop(self) -> None:
        """End the trial that is under way."""
        if self._trial is not None:
            self._trial.stop()
            self._trial = None

    def undo(self, reason: str) -> None:
        """Serve the previous arms again: a worker has refused the new ones."""
        self._restore()
        self._refuse(reason)

    def _restore(self) -> None:
        assert self.previous is not None
        self.current, self.previous = self.previous, None

    def forget_previous(self) -> None:
        """Release what was served before, in a worker that serves the current arms."""
        self.previous = None
        self.kept.forget()

    def _refuse(self, reason: Exception | str) -> None:
        self.reloads.refuse(reason, self.bundles)

    def _read_frozen(self, digests: Sequence[str] | None = None) -> list[LoadedArm]:
        """The arms as their folders hold them now, frozen to the garbage collector. Raises BadConfiguration.

        A collection would write to every page that the workers share. SIGTERM and SIGINT end it during a
        reload, by Interrupted; at the start they end the process.
        """
        stopping = (signal.SIGTERM, signal.SIGINT) if self.current else ()
        try:
            with interrupted_by(*stopping, after_seconds=self._settings.load_seconds):
                arms = read_arms(self._settings, digests)
        except Interrupted as interrupted:
            if interrupted.args[0] is signal.SIGALRM:
                raise too_late(self._settings) from None
            raise
        freeze_anew()
        return arms


def _bundle_of(arm: LoadedArm) -> str:
    return arm.bundle.manifest.id


def _bundles_of(arms: Sequence[LoadedArm]) -> dict[str, str]:
    return {arm.spec.name: _bundle_of(arm) for arm in arms}


def _by_name(arms: Sequence[LoadedArm]) -> dict[str, LoadedArm]:
    return {arm.spec.name: arm for arm in arms}


def _schemas_of(arms: Sequence[LoadedArm]) -> dict[str, Schema]:
    return {arm.spec.name: arm.bundle.schema for arm in arms}
