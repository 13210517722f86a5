"""What commands see and change of live calibrations; it knows no socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from service.calibration.decider import Decider
from service.calibration.memory import LiveState
from service.control.protocol import Calibrating, CalibrationStatus, Freeze, Reset, Thaw
from service.errors import BadConfiguration
from service.feedback.tokens import now_ms


class Calibrations:
    """The live calibrations of a service in a mode. Raises BadConfiguration where it has none."""

    def __init__(self, decider: Decider | None, mode: Literal["off", "observe", "on"]) -> None:
        if decider is None or mode == "off":
            raise BadConfiguration(
                "'live_calibration' must be observe or on for this command (got off); start the service with "
                "--live-calibration observe"
            )
        self._decider = decider
        self._mode: Literal["observe", "on"] = mode

    def of(self, arms: Sequence[str]) -> tuple[CalibrationStatus, ...]:
        """Those of the arms that have one."""
        states = [(arm, self._decider.state(arm)) for arm in arms]
        return tuple(self._status(arm, state) for arm, state in states if state is not None)

    def change(self, command: Calibrating) -> tuple[dict[str, Any], dict[str, Any]]:
        """Carry out a command; the arm as it was and as it is, equal if nothing has changed.

        Raises BadConfiguration for an arm without one.
        """
        decider, arm = self._decider, command.arm
        before = self._state(arm)
        match command:
            case Freeze():
                decider.freeze(arm)
            case Thaw():
                decider.thaw(arm)
            case Reset():
                decider.reset(arm, now_ms())
        return {arm: _shown(before)}, {arm: _shown(self._state(arm))}

    def _state(self, arm: str) -> LiveState:
        state = self._decider.state(arm)
        if state is None:
            raise BadConfiguration(
                f"arm {arm!r} must have a live calibration for this command, and has none now; try again "
                "after the reload, or look at the log of the service"
            )
        return state

    def _status(self, arm: str, state: LiveState) -> CalibrationStatus:
        return CalibrationStatus(
            arm,
            self._mode,
            state.is_frozen,
            state.revision,
            state.intercept,
            state.slope,
            state.clicks,
            *state.pcocs,
            state.dispersion,
        )


def told(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The change of an arm in words."""
    ((arm, was),), ((_, now),) = before.items(), after.items()
    if was["is_frozen"] != now["is_frozen"]:
        return f"the live calibration of {arm} {'stays as it is' if now['is_frozen'] else 'changes again'}"
    return f"{arm} has no live calibration, revision {now['revision']} (before: revision {was['revision']})"


def _shown(state: LiveState) -> dict[str, Any]:
    return {
        "is_frozen": state.is_frozen,
        "revision": state.revision,
        "intercept": state.intercept,
        "slope": state.slope,
    }
