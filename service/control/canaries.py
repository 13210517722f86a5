"""Takes a canary through its steps in the process that takes commands; it knows no socket and no test.

At most one canary is under way. It lives with the service: another start begins with the weights of the
settings.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from service.arms.reloads import TOLD
from service.arms.steering import Change, Steering
from service.arms.steering_memory import SteeringMemory
from service.calibration.decider import Decider
from service.control.canary_counts import FeedbackOfPair, pair_counts
from service.control.events import Event
from service.control.protocol import (
    CanaryStatus,
    Changing,
    GateStatus,
    Kill,
    Shadow,
    StartCanary,
    Weights,
    time_of,
)
from service.errors import BadConfiguration
from service.feedback.tokens import now_ms
from service.metrics.buckets import LATENCY_BUCKETS
from service.metrics.families import Metrics
from service.rollout.canary import Canary, Ruling, Verdict
from service.rollout.gates import Gate
from service.rollout.plan import check_plan
from service.settings import Settings

logger = logging.getLogger("bidlight")

# A little less than a second: who is asked each second looks each time.
LOOK_SECONDS = 0.9
# The upper bounds of the buckets of latency.
BOUNDS = (*LATENCY_BUCKETS, math.inf)
COMMAND = "canary"
STARTED = "started"
_NO_FEEDBACK = (
    "only errors, latency and pCTRs are watched: clicks need --feedback-keys, and --live-calibration "
    "observe or on"
)


class Serving(Protocol):
    """A service as a canary sees it."""

    @property
    def steering(self) -> SteeringMemory:
        """Its weights and kills."""

    @property
    def bundles(self) -> dict[str, str]:
        """The ids of the bundles to serve, by arm."""

    @property
    def control_arm(self) -> str:
        """The arm that answers for killed ones."""

    @property
    def decider(self) -> Decider | None:
        """What decides on live calibrations, if anything does."""

    def follow(self) -> None:
        """The weights and kills have changed."""


@dataclass(eq=False)
class _Run:
    """A canary under way, or the last one that was."""

    arm: str
    control: str
    total: float
    """The weights of both."""
    bundles: tuple[str, str]
    canary: Canary
    feedback: FeedbackOfPair | None
    user: int | None
    since: float = field(default_factory=time.time)
    ruling: Ruling = field(default_factory=lambda: Ruling(Verdict.HELD, "it has just begun"))
    changed: float = field(default_factory=time.time)
    is_over: bool = False

    def weights(self, share: float) -> dict[str, float]:
        """Those of both arms if the canary has this share of their traffic."""
        return {self.arm: share * self.total, self.control: self.total - share * self.total}


class Canaries:
    """The canary of a service. `keep` keeps an event in the log of changes, and says what is lost of it."""

    def __init__(
        self, service: Serving, metrics: Metrics, settings: Settings, keep: Callable[[Event], tuple[str, ...]]
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._settings = settings
        self._keep = keep
        self._run: _Run | None = None
        self._looked = -math.inf

    @property
    def is_under_way(self) -> bool:
        """Whether a canary is."""
        return self._run is not None and not self._run.is_over

    def start(self, command: StartCanary, user: int) -> tuple[str, ...]:
        """Begin one with its first step; notes for people. Raises UnknownArm, BadConfiguration."""
        arm, control = command.arm, command.of or self._service.control_arm
        _, steering = self._service.steering.read()
        self._check(command, control, steering)
        weights = steering.weights
        decider, plan = self._service.decider, command.plan
        notes: tuple[str, ...] = ()
        if decider is None:
            notes, plan = (_NO_FEEDBACK,), msgspec.structs.replace(plan, known_clicks=0)
        elif (
            plan.hold_seconds < self._settings.click_window_seconds
            and not plan.impressions
            and not plan.known_clicks
        ):
            notes = (
                (
                    "steps may end before any of their clicks are known: 'hold_seconds' is below "
                    f"--click-window-seconds ({self._settings.click_window_seconds})"
                ),
            )
        bundles = self._service.bundles
        run = _Run(
            arm,
            control,
            weights[arm] + weights[control],
            (bundles[arm], bundles[control]),
            Canary(plan, pair_counts(self._metrics, arm, control), BOUNDS, time.monotonic()),
            None if decider is None else FeedbackOfPair(decider, arm, control, now_ms()),
            user,
        )
        # What cannot have these weights raises before anything has begun.
        steering.with_weights(run.weights(run.canary.share), Change(run.since, COMMAND, user))
        self._run = run
        self._show_zeros(arm)
        self._count(STARTED, "")
        words = f"{arm} begins against {control}, bundle {bundles[arm]}"
        return (*self._steer(run.canary.share, STARTED, words, user), *notes)

    def _check(self, command: StartCanary, control: str, steering: Steering) -> None:
        """Raises UnknownArm, BadConfiguration for a canary that cannot begin."""
        arm = command.arm
        steering.check_names([arm, control])
        check_plan(command.plan)
        if self.is_under_way:
            assert self._run is not None
            raise BadConfiguration(
                f"'canary' must be the only one (got {arm!r} while {self._run.arm} is one); "
                "stop or promote that first"
            )
        if arm == control:
            raise BadConfiguration(
                f"'of' must be another arm than the canary (got {arm!r}); name the one to compare it with"
            )
        for name in (arm, control):
            if name in steering.killed:
                raise BadConfiguration(f"'arm' must not be killed (got {name!r}); revive it first")
            if name in steering.shadows:
                raise BadConfiguration(
                    f"'arm' must not be a shadow, which answers nothing (got {name!r}); "
                    f"end that first: shadow {name} off"
                )
        if self._settings.metrics == "off":
            raise BadConfiguration(
                "'metrics' must be on for a canary, whose gates read counts (got off); use --metrics on"
            )
        if not steering.weights[arm] + steering.weights[control] > 0.0:
            raise BadConfiguration(
                f"'weight' of {arm} or {control} must be above 0 (got 0 for both); give one traffic"
            )

    def stop(self, user: int) -> tuple[str, ...]:
        """Take the canary back. Raises BadConfiguration if there is none."""
        return self._end(Ruling(Verdict.TAKEN_BACK, "a command has stopped it"), 0.0, user)

    def promote(self, user: int) -> tuple[str, ...]:
        """Give it all the traffic of both arms. Raises BadConfiguration if there is none."""
        return self._end(Ruling(Verdict.FINISHED, "a command has promoted it"), 1.0, user)

    def step_if_due(self) -> None:
        """Look at the canary, if there is one and it was not looked at within LOOK_SECONDS."""
        now = time.monotonic()
        if self.is_under_way and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            try:
                self._look(now)
            except Exception:  # whatever it is, requests are answered, and the next look may work
                logger.exception("the canary cannot be looked at; it stays as it is for now")

    def follow_command(self, command: Changing, user: int) -> tuple[str, ...]:
        """A command has changed arms: of those of the canary, that ends it."""
        if not self.is_under_way:
            return ()
        run = self._run
        assert run is not None
        match command:
            case Kill(arm) if arm == run.arm:
                return self._end(Ruling(Verdict.TAKEN_BACK, "a command has killed it"), 0.0, user)
            case Kill(arm) if arm == run.control:
                words = f"a command has killed {arm}, with which it was compared"
                return self._end(Ruling(Verdict.ENDED, words), None, user)
            case Shadow(arm) if arm == run.arm:
                words = "a command has made it a shadow, which answers nothing"
                return self._end(Ruling(Verdict.TAKEN_BACK, words), 0.0, user)
            case Shadow(arm) if arm == run.control:
                words = f"a command has made {arm} a shadow, with which it was compared"
                return self._end(Ruling(Verdict.ENDED, words), None, user)
            case Weights(weights) if {run.arm, run.control} & weights.keys():
                words = "a command has changed its weight, or that of control"
                return self._end(Ruling(Verdict.ENDED, words), None, user)
        return ()

    def status(self) -> CanaryStatus | None:
        """The canary under way, or else the last one."""
        run = self._run
        if run is None:
            return None
        canary, ruling = run.canary, run.ruling
        weights = self._service.steering.read()[1].weights
        pair = weights[run.arm] + weights[run.control]
        return CanaryStatus(
            run.arm,
            run.control,
            "over" if run.is_over else "under_way",
            canary.plan.steps,
            canary.step + 1,
            weights[run.arm] / pair if pair else 0.0,
            canary.requests,
            ruling.verdict.value,
            None if ruling.gate is None else ruling.gate.value,
            ruling.words,
            tuple(GateStatus(each.gate.value, each.level, each.words) for each in canary.readings),
            time_of(run.since),
            time_of(run.changed),
            () if run.feedback is not None else (_NO_FEEDBACK,),
        )

    def _look(self, now: float) -> None:
        run = self._run
        assert run is not None
        bundles = self._service.bundles
        if (bundles.get(run.arm), bundles.get(run.control)) != run.bundles:
            words = "the bundle of it, or of control, was replaced: what it has earned was another's"
            self._end(Ruling(Verdict.TAKEN_BACK, words), 0.0)
            return
        counts = pair_counts(self._metrics, run.arm, run.control)
        if run.feedback is not None:
            for ours, theirs in run.feedback.read(counts, now_ms()):
                run.canary.learn(ours, theirs)
        ruling = run.canary.look(counts, now)
        match ruling.verdict:
            case Verdict.HELD:
                run.ruling = ruling
                self._publish()
            case Verdict.RAISED:
                run.ruling, run.changed = ruling, time.time()
                self._count(ruling.verdict, "")
                self._steer(run.canary.share, ruling.verdict, ruling.words, None)
            case Verdict.FINISHED:
                self._end(ruling, run.canary.share)
            case _:
                self._end(ruling, 0.0)

    def _end(self, ruling: Ruling, share: float | None, user: int | None = None) -> tuple[str, ...]:
        """End the canary with this share, or with the weights that there are. Raises BadConfiguration."""
        run = self._run
        if run is None or run.is_over:
            raise BadConfiguration("'canary' must be under way for this command (got none); start one first")
        run.ruling, run.is_over, run.changed = ruling, True, time.time()
        self._count(ruling.verdict, ruling.gate or "")
        return self._steer(share, ruling.verdict, ruling.words, user, ruling.gate)

    def _steer(
        self, share: float | None, verdict: str, words: str, user: int | None, gate: Gate | None = None
    ) -> tuple[str, ...]:
        """Give the canary a share of both arms' traffic, unless it is None, and keep what has happened."""
        run, service = self._run, self._service
        assert run is not None
        revision, before = service.steering.read()
        after, now = before, time.time()
        if share is not None:
            after = before.with_weights(run.weights(share), Change(now, COMMAND, user))
        if after != before:
            revision = service.steering.write(after)
            service.follow()
        self._publish()
        arms = (run.arm, run.control)
        answered = f"{run.canary.requests:.0f} requests in {now - run.since:.0f} s"
        logger.log(
            logging.WARNING if verdict == Verdict.TAKEN_BACK else logging.INFO,
            *(
                "canary %s is %s after %s%s: %s",
                run.arm,
                verdict,
                answered,
                f", by {gate}" if gate else "",
                words,
            ),
            extra=TOLD,
        )
        return self._keep(
            Event(
                time_of(now),
                COMMAND,
                user,
                {arm: {"weight": before.weights[arm]} for arm in arms},
                {arm: {"weight": after.weights[arm]} for arm in arms},
                revision,
                f"{verdict}: {gate}" if gate else verdict,
                f"after {answered}: {words}",
            )
        )

    def _publish(self) -> None:
        """Let the metrics show the canary under way, and none that is over."""
        metrics, run = self._metrics, self._run
        assert run is not None
        if run.is_over:
            for family in (metrics.canary_share, metrics.canary_step, metrics.canary_gate):
                family.retain(())
            return
        metrics.canary_share.labels(run.arm, run.control).set(run.canary.share)
        metrics.canary_step.labels(run.arm).set(run.canary.step + 1)
        known = {each.gate: each.level for each in run.canary.readings if each.level is not None}
        metrics.canary_gate.retain({(run.arm, gate) for gate in known})
        for gate, level in known.items():
            metrics.canary_gate.labels(run.arm, gate).set(level)

    def _count(self, verdict: str, gate: str) -> None:
        assert self._run is not None
        self._metrics.canary_verdicts.labels(self._run.arm, verdict, gate).inc()

    def _show_zeros(self, arm: str) -> None:
        """Show what is alerted on before it happens: a series that begins at 1 has no increase."""
        for gate in ("", *Gate):
            self._metrics.canary_verdicts.labels(arm, Verdict.TAKEN_BACK, gate)
