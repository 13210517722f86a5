"""The options of a comparison, with their defaults. It runs nothing and imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.compress.choice import PruneChoice
from export.knobs import AT_LEAST_ONE, described, knob
from export.stages.plan import ExportPlan

ALL = "all"
UNPRUNED = PruneChoice(preset="none")


@dataclass(frozen=True)
class Overrides:
    """Hyperparameters and training choices: for every model that takes them, and for single ones."""

    shared: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by model


@dataclass(frozen=True, kw_only=True)
class ComparePlan(ExportPlan):
    """Everything that a comparison depends on.

    common   hyperparameters for every model that takes them; `overrides` win over them
    """

    work: Path = field(
        metadata=described(
            "where results are kept as they come", unit="FOLDER", otherwise=".work/NAME beside --out"
        )
    )
    out: Path = field(
        metadata=described("where to write compare.json, compare.txt and compare.html", unit="FOLDER")
    )
    models: tuple[str, ...] = knob(
        (ALL,), "which ones; `python -m export models` lists them", unit=f"{ALL}|NAME,.."
    )
    common: Mapping[str, Any] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=Overrides)
    pruning: PruneChoice = UNPRUNED
    seeds: int = knob(1, "how often each model is trained, with seeds from --seed on", AT_LEAST_ONE)
    jobs: int = knob(
        1,
        "models trained at the same time, each in a process with its share of the cores or --threads",
        AT_LEAST_ONE,
    )
    again: tuple[str, ...] = knob(
        (), "models to train anew, whatever is kept of them", unit="NAME,..", otherwise="none"
    )
