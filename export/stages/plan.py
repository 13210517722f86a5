"""What an export is told, with the one place of every default. It runs nothing and imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.compress.choice import PruneChoice
from export.data.splits import DEFAULT_SHARES
from export.stages.calibrate import METHODS
from export.train.choices import EmbeddingChoice, TrainChoice

if TYPE_CHECKING:
    from export.data.readers import OnMalformed


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs to be told."""

    data: Path
    schema: str
    out: Path
    work: Path
    name: str | None = None
    split: tuple[float, float, float, float] = DEFAULT_SHARES
    on_malformed: OnMalformed = "error"
    min_count: int | None = None
    model: str = "deep_fwfm"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    embedding: EmbeddingChoice = field(default_factory=EmbeddingChoice)
    training: TrainChoice = field(default_factory=TrainChoice)
    checkpoint: Path | None = None
    pruning: PruneChoice = field(default_factory=PruneChoice)
    quantization_rows: int = 16_384
    sampling_rate: float = 1.0
    methods: Sequence[str] = tuple(METHODS)


def default_work(out: Path) -> Path:
    """Where the stages of a run hand over when nothing else is said: .work/NAME beside the bundle."""
    out = out.resolve()
    return out.parent / ".work" / out.name
