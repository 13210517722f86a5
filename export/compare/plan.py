"""What a comparison is told, with the one place of its defaults. It runs nothing and imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.compress.choice import PruneChoice
from export.stages.plan import Plan
from export.train.choices import EmbeddingChoice, TrainChoice

if TYPE_CHECKING:
    from export.data.readers import OnMalformed

ALL = "all"


@dataclass(frozen=True)
class Overrides:
    """Hyperparameters and training choices: for every model that takes them, and for single ones."""

    shared: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by model


@dataclass(frozen=True)
class ComparePlan:
    """Everything that a comparison needs to be told.

    models   names of MODELS, `all` among them for every one
    common   hyperparameters for every model that takes them; `overrides` go before them
    seeds    how often each model is trained, from `training.seed` on
    jobs     how many are trained at the same time, each in a process of its own where more than one
    again    models whose kept results are not used
    """

    data: Path
    schema: str
    out: Path
    work: Path
    models: Sequence[str] = (ALL,)
    split: tuple[float, float, float, float] = Plan.split
    on_malformed: OnMalformed = "error"
    min_count: int | None = None
    common: Mapping[str, Any] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=Overrides)
    embedding: EmbeddingChoice = field(default_factory=EmbeddingChoice)
    training: TrainChoice = field(default_factory=TrainChoice)
    pruning: PruneChoice = field(default_factory=lambda: PruneChoice(preset="none"))
    quantization_rows: int = Plan.quantization_rows
    sampling_rate: float = Plan.sampling_rate
    methods: Sequence[str] = Plan.methods
    seeds: int = 1
    jobs: int = 1
    again: Sequence[str] = ()
