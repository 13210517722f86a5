"""What is noted of one request that is traced: moments, and what became of it. It knows no OpenTelemetry."""

from __future__ import annotations

from typing import NamedTuple

from service.tracing.context import Parent

READ, DECODE, STORE, ENCODE = "read", "decode", "store", "encode"
QUEUE, INFERENCE, CALIBRATION, ANSWER = "queue", "inference", "calibration", "answer"
# A request with many candidates runs in parts; of one that has more steps, those beyond are left out.
MAX_STEPS = 32


class Step(NamedTuple):
    """A step that ended at `at`, a perf_counter(); `rows` is the size of the batch of a step that has one."""

    name: str
    at: float
    rows: int = 0


class RequestTrace:
    """A request that is traced, from its head, at `started`, to `ended`, each a perf_counter().

    Steps follow each other: one begins where the one before it ended. After its end nothing is noted, so that
    another thread may read it.
    """

    __slots__ = (
        "arm",
        "bundle",
        "candidates",
        "ended",
        "outcome",
        "parent",
        "quality",
        "started",
        "status",
        "steps",
        "variant",
    )

    def __init__(self, parent: Parent | None, started: float) -> None:
        self.parent = parent
        self.started = started
        self.ended = 0.0
        self.steps: list[Step] = []
        self.candidates = 0
        self.status = 0
        """Of the answer, 0 if there was none."""
        self.outcome = self.quality = ""
        self.arm = self.bundle = self.variant = ""
        """Empty if no arm was chosen."""

    def mark(self, name: str, at: float, rows: int = 0) -> None:
        """A step of that name ends."""
        if not self.ended and len(self.steps) < MAX_STEPS:
            self.steps.append(Step(name, at, rows))

    @property
    def spans(self) -> int:
        """How many spans it becomes."""
        return 1 + len(self.steps)
