"""Carries out commands: changes what all processes follow, logs it and keeps it; it knows no socket."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

from service.arms.kept import KeptArms
from service.arms.reloads import RELOAD, ROLLBACK, TOLD, Ended, Kind, Reloads
from service.arms.shadowing import Shadowing, check_answers
from service.arms.steering import Change, SteeredArm, Steering
from service.arms.steering_memory import SteeringMemory
from service.calibration.decider import Decider
from service.control.calibrations import Calibrations, told
from service.control.canaries import Canaries
from service.control.events import Event, EventLog
from service.control.protocol import (
    Answer,
    ArmStatus,
    Calibrating,
    Calibration,
    Changing,
    Command,
    Done,
    EndShadow,
    Kill,
    Leading,
    PromoteCanary,
    ReloadStatus,
    Replacing,
    Revive,
    Rollback,
    ServiceStatus,
    Shadow,
    StartCanary,
    Status,
    StopCanary,
    Weights,
    WorkerStatus,
    command_of,
    line_of,
    name_of,
    time_of,
)
from service.errors import BadConfiguration, ErrorDetail, ServiceError
from service.metrics.families import Metrics
from service.quality import PRIOR
from service.settings import Settings

logger = logging.getLogger("bidlight")


class Controlled(Protocol):
    """A service, of one process or of several, as commands see it."""

    @property
    def steering(self) -> SteeringMemory:
        """Its weights and kills, which nobody else changes."""

    @property
    def reloads(self) -> Reloads:
        """Its reloads."""

    @property
    def bundles(self) -> dict[str, str]:
        """The ids of the bundles to serve, by arm."""

    @property
    def control_arm(self) -> str:
        """The arm that answers for killed ones."""

    def workers(self) -> Sequence[WorkerStatus]:
        """The processes that serve."""

    def follow(self) -> None:
        """The weights and kills have changed."""

    @property
    def kept(self) -> KeptArms[Any]:
        """What arms served before."""

    @property
    def decider(self) -> Decider | None:
        """What decides on live calibrations, if anything does."""

    def request(self, command: Kind, arms: Sequence[str], user: int) -> int:
        """Ask for a reload or a rollback of arms; its number. Raises BadConfiguration if it cannot be."""


class Commands:
    """Answers lines; `events` keeps what changes, by reloads and canaries too."""

    def __init__(self, service: Controlled, events: EventLog, settings: Settings, metrics: Metrics) -> None:
        self._service = service
        self._events = events
        self._settings = settings
        self._canaries = Canaries(service, metrics, settings, self._keep)
        service.reloads.on_end = self._keep_reload

    def step(self) -> None:
        """Look at the canary if it is time for that."""
        self._canaries.step_if_due()

    def answer(self, line: bytes, user: int) -> bytes:
        """The answer to a line of a user (a uid); whatever is wrong with it is an answer too."""
        try:
            answer = self._carry_out(command_of(line), user)
        except ServiceError as error:
            answer = Answer(error=ErrorDetail(error.code, error.message))
        except Exception:  # the next command must still be possible
            logger.exception("a command failed")
            answer = Answer(
                error=ErrorDetail("internal_error", "the service failed on it; it has logged why")
            )
        return line_of(answer)

    def _carry_out(self, command: Command, user: int) -> Answer:
        if isinstance(command, Status):
            return Answer(status=self._status())
        if isinstance(command, Replacing):
            return Answer(done=self._replace(command, user))
        if isinstance(command, Calibration):
            return Answer(calibrations=self._calibrations().of([*self._service.bundles]))
        if isinstance(command, Calibrating):
            return Answer(done=self._calibrate(command, user))
        if isinstance(command, Leading):
            return Answer(done=self._lead(command, user))
        return Answer(done=self._change(command, user))

    def _replace(self, command: Replacing, user: int) -> Done:
        """Ask for a reload or a rollback. Raises UnknownArm, BadConfiguration."""
        service = self._service
        if isinstance(command, Rollback):
            service.steering.read()[1].check_names(command.arms)
            number = service.request(ROLLBACK, command.arms, user)
        else:
            number = service.request(RELOAD, (), user)
        logger.info("%s by user %d is asked for", name_of(command), user, extra=TOLD)
        return Done(service.steering.version, reload=number)

    def _change(self, command: Changing, user: int) -> Done:
        """Change weights, kills or shadows. Raises UnknownArm, BadConfiguration."""
        service, name = self._service, name_of(command)
        if isinstance(command, Shadow):
            self._check_shadow(command)
        revision, before = service.steering.read()
        now = time.time()
        after = _changed(before, command, Change(now, name, user))
        if after == before:
            return Done(revision, is_changed=False)
        revision = service.steering.write(after)
        service.follow()
        was, now_is = _differences(before, after)
        lost = self._tell(Event(time_of(now), name, user, was, now_is, revision), _told(was, now_is))
        ended = self._canaries.follow_command(command, user)
        notes = (*lost, *_consequences_of(command, before), *ended, *self._consequences(after))
        return Done(service.steering.version, notes=notes)

    def _check_shadow(self, command: Shadow) -> None:
        """Raises BadConfiguration for a shadow that must answer, or of which nobody would learn."""
        check_answers(command.arm, self._service.control_arm)
        if self._settings.metrics == "off":
            raise BadConfiguration(
                "'metrics' must be on for this command (got off); a shadow answers nothing: it only counts"
            )

    def _lead(self, command: Leading, user: int) -> Done:
        """Begin or end a canary. Raises UnknownArm, BadConfiguration."""
        match command:
            case StartCanary():
                notes = self._canaries.start(command, user)
            case StopCanary():
                notes = self._canaries.stop(user)
            case PromoteCanary():
                notes = self._canaries.promote(user)
        return Done(self._service.steering.version, notes=notes)

    def _calibrations(self) -> Calibrations:
        return Calibrations(self._service.decider, self._settings.live_calibration)

    def _calibrate(self, command: Calibrating, user: int) -> Done:
        """Change the live calibration of an arm. Raises UnknownArm, BadConfiguration."""
        revision, steering = self._service.steering.read()
        calibrations = self._calibrations()
        steering.check_names([command.arm])
        was, now_is = calibrations.change(command)
        if was == now_is:
            return Done(revision, is_changed=False)
        event = Event(time_of(time.time()), name_of(command), user, was, now_is, revision)
        return Done(revision, notes=self._tell(event, told(was, now_is)))

    def _consequences(self, steering: Steering) -> tuple[str, ...]:
        """What people must know of the arms as they are now."""
        if self._service.control_arm not in steering.killed:
            return ()
        is_prior = self._settings.when_killed == PRIOR
        answer = "one click rate for all candidates" if is_prior else "no bid"
        return (f"the control arm is killed: requests of killed arms are answered with {answer}",)

    def _keep_reload(self, ended: Ended) -> None:
        before, after = ended.before, ended.after
        changed = [arm for arm in after if before.get(arm) != after[arm]]
        self._keep(
            Event(
                time_of(ended.at),
                ended.wanted.command,
                ended.wanted.user,
                {arm: {"bundle": before.get(arm)} for arm in changed},
                {arm: {"bundle": after[arm]} for arm in changed},
                self._service.steering.version,
                ended.outcome,
                ended.reason,
            )
        )

    def _tell(self, event: Event, words: str) -> tuple[str, ...]:
        """Log and keep what a user has changed; what to say of it that is not kept."""
        logger.info("%s by user %d: %s", event.command, event.user, words, extra=TOLD)
        return self._keep(event)

    def _keep(self, event: Event) -> tuple[str, ...]:
        """Keep an event; what to say of it that is not kept."""
        lost = self._events.append(event)
        if not lost:
            return ()
        logger.error("a change was made, and %s", lost)
        return (lost,)

    def _status(self) -> ServiceStatus:
        service = self._service
        revision, steering = service.steering.read()
        bundles, kept = service.bundles, service.kept.bundles
        return ServiceStatus(
            revision,
            service.control_arm,
            tuple(
                _status_of(arm, arm.weight / steering.total, bundles[arm.name], kept.get(arm.name))
                for arm in steering.arms
            ),
            tuple(service.workers()),
            _status_of_reload(service.reloads.last),
            self._canaries.status(),
        )


def _changed(steering: Steering, command: Changing, change: Change) -> Steering:
    """The weights, kills and shadows after a command. Raises UnknownArm, BadConfiguration."""
    match command:
        case Weights(weights):
            return steering.with_weights(weights, change)
        case Kill(arm):
            return steering.with_killed(arm, change, is_killed=True)
        case Revive(arm):
            return steering.with_killed(arm, change, is_killed=False)
        case Shadow(arm, of, share):
            return steering.with_shadow(arm, Shadowing(of, share), change)
        case EndShadow(arm):
            return steering.with_shadow(arm, None, change)


def _consequences_of(command: Changing, before: Steering) -> tuple[str, ...]:
    """What people must know of what a command has done to the arms as they were `before`."""
    match command:
        case Shadow(arm) if before.weights[arm] > 0.0:
            return (f"{arm} has weight 0 now (before: {before.weights[arm]:g}): other arms get its keys",)
        case EndShadow(arm):
            return (f"{arm} has weight 0, and answers requests that name it; raise it: weights {arm}=WEIGHT",)
    return ()


def _status_of(arm: SteeredArm, share: float, bundle: str, previous: str | None) -> ArmStatus:
    changed = arm.changed
    return ArmStatus(
        arm.name,
        arm.weight,
        share,
        arm.is_killed,
        bundle,
        previous,
        time_of(changed.at),
        changed.command,
        changed.user,
        arm.shadow,
    )


def _status_of_reload(last: Ended | None) -> ReloadStatus | None:
    if last is None:
        return None
    wanted = last.wanted
    return ReloadStatus(wanted.number, wanted.command, last.outcome, last.reason, time_of(last.at))


def _differences(before: Steering, after: Steering) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arms that differ, as they were and as they are."""
    pairs = [(old, new) for old, new in zip(before.arms, after.arms, strict=True) if old != new]
    return {old.name: _shown(old) for old, _ in pairs}, {new.name: _shown(new) for _, new in pairs}


def _shown(arm: SteeredArm) -> dict[str, Any]:
    shown: dict[str, Any] = {"weight": arm.weight, "is_killed": arm.is_killed}
    if arm.shadow is not None:
        shown["shadow"] = {"of": arm.shadow.of, "share": arm.shadow.share}
    return shown


def _told(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The differences in words."""
    words = []
    for name, now in after.items():
        was = before[name]
        if now["weight"] != was["weight"]:
            words.append(f"{name} has weight {now['weight']:g} (before: {was['weight']:g})")
        if now["is_killed"] != was["is_killed"]:
            words.append(f"{name} {'is killed' if now['is_killed'] else 'answers again'}")
        if now.get("shadow") != was.get("shadow"):
            shadow = now.get("shadow")
            words.append(f"{name} is no shadow" if shadow is None else f"{name} {told_shadow(**shadow)}")
    return ", ".join(words)


def told_shadow(of: str, share: float) -> str:
    """What a shadow does, in words."""
    return f"is a shadow of {of} for {share:.4g} of its keys"
