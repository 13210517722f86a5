"""The options of an export, with their defaults. It runs nothing and imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from export.compress.choice import PruneChoice
from export.data.errors import OnMalformed
from export.data.log_schema import BUILT_IN
from export.data.splits import DEFAULT_SHARES, are_shares
from export.knobs import AT_LEAST_ONE, POSITIVE_SHARE, Knob, OneOf, Rule, check
from export.stages.calibrate import METHODS
from export.train.choices import EmbeddingChoice, TrainChoice


@dataclass(frozen=True, kw_only=True)
class LogPlan:
    """Which log, and how it is read."""

    data: Annotated[Path, Knob("the log: TSV, CSV (also .gz) or Parquet", "FILE")]
    schema: Annotated[str, Knob(f"{', '.join(BUILT_IN)} or a TOML file that describes the log", "NAME|FILE")]
    split: Annotated[
        tuple[float, float, float, float],
        POSITIVE_SHARE,
        Rule("four shares that add up to 1", are_shares),
        Knob("shares of training, validation, calibration and test, in time order", "A,B,C,D"),
    ] = DEFAULT_SHARES
    on_malformed: Annotated[
        OnMalformed, Knob("what a malformed row does: end the export, or be skipped and counted")
    ] = "error"
    min_count: Annotated[
        int | None,
        AT_LEAST_ONE,
        Knob("training rows a value needs to get an id of its own", "ROWS", otherwise="the schema's"),
    ] = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ExportPlan(LogPlan):
    """What the export of one model and a comparison of several share."""

    work: Annotated[Path, Knob("where the stages hand over", "FOLDER", otherwise=".work/NAME beside --out")]
    embedding: EmbeddingChoice = field(default_factory=EmbeddingChoice)
    training: TrainChoice = field(default_factory=TrainChoice)
    pruning: PruneChoice = field(default_factory=PruneChoice)
    quantization_rows: Annotated[
        int, AT_LEAST_ONE, Knob("training rows on which the ranges of activations are found", "ROWS")
    ] = 16_384
    sampling_rate: Annotated[
        float, POSITIVE_SHARE, Knob("share of the non-clicks that the log itself kept; 1: all of them")
    ] = 1.0
    calibration_methods: Annotated[
        tuple[str, ...],
        OneOf(tuple(METHODS)),
        Knob("methods to choose from by held-out LogLoss and ECE", "NAME,.."),
    ] = tuple(METHODS)


@dataclass(frozen=True, kw_only=True)
class Plan(ExportPlan):
    """Everything that a run depends on."""

    out: Annotated[Path, Knob("where to write the bundle; one that is there is replaced", "FOLDER")]
    name: Annotated[
        str | None, Knob("the bundle's name, which answers carry", "TEXT", otherwise="the folder's")
    ] = None
    model: Annotated[str, Knob("which model to train; `python -m export models` lists them", "NAME")] = (
        "deep_fwfm"
    )
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Annotated[
        Path | None,
        Knob(
            "take this trained model instead of training one; the log must give it the same schema, and "
            "--loss and --negative-rate must say how it was trained",
            "FILE",
        ),
    ] = None


def default_work(out: Path) -> Path:
    """The default work folder of a run: .work/NAME beside the bundle."""
    out = out.resolve()
    return out.parent / ".work" / out.name
