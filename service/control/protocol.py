"""What is said through the control socket: a line of JSON with a command, a line of JSON with its answer.

    {"command": "weights", "weights": {"treatment": 10}}
    {"done": {"revision": 2, "is_changed": true, "reload": null, "notes": []}}

Every answer has one of `done`, `status`, `calibrations` and `error`. It knows no socket and no process.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from service.arms.shadowing import Shadowing, Share
from service.errors import ErrorDetail, MalformedBody
from service.rollout.plan import Plan

# Room for a weight of each of hundreds of arms.
MAX_COMMAND_BYTES = 65_536

ArmName = Annotated[str, Meta(max_length=64)]
Weight = Annotated[float, Meta(ge=0.0)]


class _Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="command", tag=str.lower):
    """A command; the key `command` has its name."""


class Status(_Command, frozen=True):
    """Say what is served."""


class Weights(_Command, frozen=True):
    """Change the weights of some arms."""

    weights: Annotated[dict[ArmName, Weight], Meta(min_length=1)]


class Kill(_Command, frozen=True):
    """Let the control arm answer the requests of an arm."""

    arm: ArmName


class Revive(_Command, frozen=True):
    """Let an arm answer its requests again."""

    arm: ArmName


class Shadow(_Command, frozen=True):
    """Let an arm answer nothing, and score a share of the requests that the arm `of` answers."""

    arm: ArmName
    of: ArmName
    share: Share


class EndShadow(_Command, frozen=True, tag="shadow off"):
    """Let an arm be no shadow any more; it keeps the weight 0."""

    arm: ArmName


class Reload(_Command, frozen=True):
    """Read all bundles again, as SIGHUP does."""


class Rollback(_Command, frozen=True):
    """Serve the bundles that some arms served before; all that can, if none is named."""

    arms: tuple[ArmName, ...] = ()


class Calibration(_Command, frozen=True):
    """Say how the arms are calibrated by what is shown and clicked."""


class Freeze(_Command, frozen=True, tag="calibration freeze"):
    """Let the live calibration of an arm stay as it is."""

    arm: ArmName


class Thaw(_Command, frozen=True, tag="calibration thaw"):
    """Let it change again."""

    arm: ArmName


class Reset(_Command, frozen=True, tag="calibration reset"):
    """Serve an arm without a live calibration until another one is learned, from what is to come."""

    arm: ArmName


class StartCanary(_Command, frozen=True, tag="canary"):
    """Let an arm earn the traffic that it and another arm have: `of`, or else the control arm."""

    arm: ArmName
    of: ArmName | None = None
    plan: Plan = Plan()


class StopCanary(_Command, frozen=True, tag="canary stop"):
    """Take the canary back."""


class PromoteCanary(_Command, frozen=True, tag="canary promote"):
    """Give the canary all the traffic of both arms at once."""


Replacing = Reload | Rollback
Changing = Weights | Kill | Revive | Shadow | EndShadow
Calibrating = Freeze | Thaw | Reset
Leading = StartCanary | StopCanary | PromoteCanary
Command = Status | Replacing | Changing | Calibration | Calibrating | Leading


class ArmStatus(msgspec.Struct, frozen=True):
    """An arm, its part of the split keys (0 to 1), its bundle, the one to go back to, and its last change.

    `since` is a time in UTC, `by` the command (`start`: the settings), `user` a uid. A `shadow` does not
    answer.
    """

    name: str
    weight: float
    share: float
    is_killed: bool
    bundle: str
    previous_bundle: str | None
    since: str
    by: str
    user: int | None
    shadow: Shadowing | None = None


class WorkerStatus(msgspec.Struct, frozen=True):
    """A process, the revision of weights and kills that it serves, and whether its bundles are current."""

    pid: int
    state: Literal["starting", "serving", "stopping"]
    revision: int
    has_current_bundles: bool


class ReloadStatus(msgspec.Struct, frozen=True):
    """The last reload or rollback that has ended. A `reason` says why it was refused, or undone."""

    number: int
    command: Literal["reload", "rollback"]
    outcome: Literal["ok", "refused", "undone"]
    reason: str
    at: str


class GateStatus(msgspec.Struct, frozen=True):
    """What a gate knows against the canary, as a part of what takes it back; None: too little is known."""

    gate: str
    level: float | None
    words: str


class CanaryStatus(msgspec.Struct, frozen=True):
    """A canary under way, or the last one: where it is, why, and what its gates know.

    `step` counts from 1, `share` is the part of both arms' weights that it has now. `gate` is the one that
    has failed. Times are in UTC.
    """

    arm: str
    control: str
    state: Literal["under_way", "over"]
    steps: tuple[float, ...]
    step: int
    share: float
    requests: float
    verdict: str
    gate: str | None
    reason: str
    gates: tuple[GateStatus, ...]
    since: str
    changed: str
    notes: tuple[str, ...] = ()


class ServiceStatus(msgspec.Struct, frozen=True):
    """What a service serves. `revision` counts the changes of weights and kills."""

    revision: int
    control_arm: str
    arms: tuple[ArmStatus, ...]
    workers: tuple[WorkerStatus, ...]
    last_reload: ReloadStatus | None = None
    canary: CanaryStatus | None = None


class CalibrationStatus(msgspec.Struct, frozen=True):
    """The live calibration of an arm: log-odds become intercept + slope * log-odds, or would.

    `clicks` are those that it rests on, `dispersion` how many are worth one of these; the PCOCs are without
    and with it, None without clicks.
    """

    arm: str
    mode: Literal["observe", "on"]
    is_frozen: bool
    revision: int
    intercept: float
    slope: float
    clicks: float
    pcoc_bundle: float | None
    pcoc_live: float | None
    dispersion: float = 1.0


class Done(msgspec.Struct, frozen=True):
    """A command was carried out: all workers serve `revision` soon, or the reload `reload` begins.

    `notes` are for people: what the change means, and what went wrong beside it.
    """

    revision: int
    is_changed: bool = True
    reload: int | None = None
    notes: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a command."""

    done: Done | None = None
    status: ServiceStatus | None = None
    calibrations: tuple[CalibrationStatus, ...] | None = None
    error: ErrorDetail | None = None


_decode_command = msgspec.json.Decoder(Command).decode
_decode_answer = msgspec.json.Decoder(Answer).decode


def command_of(line: bytes) -> Command:
    """The command in a line. Raises MalformedBody."""
    try:
        command: Command = _decode_command(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the line must be a command in JSON ({error}); see docs/operations.md") from None
    return command


def answer_of(line: bytes) -> Answer:
    """The answer in a line. Raises MalformedBody."""
    try:
        return _decode_answer(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(
            f"the answer must be JSON of this version ({error}); ask the service's own "
            "python -m service.control"
        ) from None


def line_of(message: Command | Answer) -> bytes:
    """A command or an answer as a line."""
    return msgspec.json.encode(message) + b"\n"


def name_of(command: Command) -> str:
    """The name of a command."""
    tag = command.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def time_of(seconds: float) -> str:
    """Unix seconds as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
