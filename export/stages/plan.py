"""The options of an export, with their defaults. It runs nothing and imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from export.compress.choice import PruneChoice
from export.data.errors import OnMalformed
from export.data.growth import FORGET_AFTER, WhichBins
from export.data.log_schema import BUILT_IN
from export.data.splits import DEFAULT_SHARES, are_shares
from export.knobs import (
    AT_LEAST_ONE,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    OneOf,
    Rule,
    UsedBy,
    as_options,
    check,
    described,
    knob,
)
from export.stages.calibration_methods import METHODS
from export.train.choices import EmbeddingChoice, TrainChoice

Ship = Literal["auto", "dense", "pruned"]
Quantization = Literal["static", "qat", "dynamic"]


@dataclass(frozen=True)
class QatChoice:
    """How long to train on as INT8, and with what step size of Adam."""

    epochs: int = 1
    learning_rate: float = 1e-4


EmbeddingBits = Literal["8", "4", "mixed"]
ZeroRows = Literal["merge", "forget"]
BundleContents = Literal["whole", "lean"]


@dataclass(frozen=True, kw_only=True)
class LogPlan:
    """Which log, and how it is read."""

    data: Path = field(
        metadata=described("the log: TSV, CSV (also .gz), Parquet, or a folder of Parquet files", unit="FILE")
    )
    schema: str = field(
        metadata=described(
            f"{', '.join(BUILT_IN)}, a TOML file that describes the log, or, for examples that a service has "
            "logged, a bundle",
            unit="NAME|FILE|BUNDLE",
        )
    )
    split: tuple[float, float, float, float] = knob(
        DEFAULT_SHARES,
        "shares of training, validation, calibration and test, in time order",
        POSITIVE_SHARE,
        "A,B,C,D",
        rule=Rule("four shares that add up to 1", are_shares),
    )
    on_malformed: OnMalformed = knob(
        "error", "what a malformed row does: end the export, or be skipped and counted"
    )
    min_count: int | None = knob(
        None,
        "training rows a value needs to get an id of its own",
        AT_LEAST_ONE,
        "ROWS",
        otherwise="the schema's, else by field and log, 8 at most",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def log_options(self) -> tuple[str, ...]:
        """The command line's options that read the same log in the same way, without defaults."""
        return as_options(self, LogPlan)


@dataclass(frozen=True, kw_only=True)
class GraphPlan:
    """How the graphs of a trained model are made and calibrated."""

    ship: Ship = knob(
        "auto",
        "the float graph that ships, and that INT8 is made of: auto is pruned, and dense where pruning lost "
        "on the validation part; dense and pruned are these whatever was lost",
    )
    quantization: Quantization = knob(
        "static",
        "how INT8 is made: static, with ranges found on training rows; qat, trained on as INT8, and the "
        "better of both by the validation part; dynamic, static and beside it a graph that finds ranges in "
        "each batch, so that a row's pCTR depends on the others, which serves only by its name",
    )
    qat_epochs: int = knob(
        QatChoice.epochs,
        "passes over the training part as INT8, at most",
        AT_LEAST_ONE,
        used_by=UsedBy(("quantization",), ("qat",)),
    )
    qat_learning_rate: float = knob(
        QatChoice.learning_rate,
        "step size of Adam there, in tables' own unit, and in shares of the largest weight of an output",
        POSITIVE,
        used_by=UsedBy(("quantization",), ("qat",)),
    )
    quantization_rows: int = knob(
        16_384, "training rows on which the ranges of activations are found", AT_LEAST_ONE, "ROWS"
    )
    layer_loss: float = knob(
        0.0001,
        "AUC that INT8 of layers may lose on validation rows; those that lose most stay float32 until the "
        "others lose no more. 1: none stays",
        SHARE,
        "AUC",
    )
    embedding_bits: EmbeddingBits = knob(
        "8",
        "bits of a number in the INT8 graph's embedding tables; mixed is 8, 4 or 2 by field, as few as "
        "--embedding-loss allows on validation rows",
    )
    embedding_loss: float = knob(
        0.0005,
        "the share of the LogLoss that narrower rows may add",
        POSITIVE_SHARE,
        used_by=UsedBy(("embedding_bits",), ("mixed",)),
    )
    zero_rows: ZeroRows = knob(
        "merge",
        "values whose embedding rows pruning zeroed: merge gives all of a field one id, forget leaves all "
        "but the first out of the vocabulary, so that they are unknown values and take no bytes",
    )
    sampling_rate: float = knob(
        1.0, "share of the non-clicks that the log itself kept; 1: all of them", POSITIVE_SHARE
    )
    calibration_methods: tuple[str, ...] = knob(
        tuple(METHODS), "methods to choose from by held-out LogLoss and ECE", OneOf(tuple(METHODS)), "NAME,.."
    )
    calibrate_by: str | None = knob(
        None,
        "a field whose values get an offset each on top of the method, if held-out LogLoss says so",
        unit="FIELD",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def qat(self) -> QatChoice:
        """What concerns training as INT8."""
        return QatChoice(self.qat_epochs, self.qat_learning_rate)


@dataclass(frozen=True, kw_only=True)
class ExportPlan(LogPlan, GraphPlan):
    """What the export of one model and a comparison of several share."""

    work: Path = field(
        metadata=described("where the stages hand over", unit="FOLDER", otherwise=".work/NAME beside --out")
    )
    embedding: EmbeddingChoice = field(default_factory=EmbeddingChoice)
    training: TrainChoice = field(default_factory=TrainChoice)
    pruning: PruneChoice = field(default_factory=PruneChoice)

    @property
    def graphs(self) -> GraphPlan:
        """What concerns the graphs alone."""
        return GraphPlan(**{one.name: getattr(self, one.name) for one in fields(GraphPlan)})


_WARM_START = UsedBy(("warm_start",))


@dataclass(frozen=True, kw_only=True)
class Plan(ExportPlan):
    """Everything that a run depends on."""

    out: Path = field(
        metadata=described("where to write the bundle; one that is there is replaced", unit="FOLDER")
    )
    name: str | None = knob(
        None, "the bundle's name, which answers carry", unit="TEXT", otherwise="the folder's"
    )
    contents: BundleContents = knob(
        "whole",
        "whole: every graph, the report, what the next export goes on from; lean: one graph, INT8 unless it "
        "lost on the validation part, and what it answers with; the rest stays in the work folder",
    )
    model: str = knob("deep_fwfm", "which model to train; `python -m export models` lists them", unit="NAME")
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = knob(
        None,
        "take this trained model instead of training one; the log must give it the same schema, and --loss "
        "and --negative-rate must say how it was trained",
        unit="FILE",
    )
    teachers: tuple[Path, ...] = ()  # --teacher, once or several times
    warm_start: Path | None = knob(
        None,
        "go on from the weights of this bundle, or of a run's work folder or its dense.pt: the log holds the "
        "rows since then, vocabularies grow, and model and hyperparameters are those of before",
        unit="BUNDLE|WORK|FILE",
    )
    forget_after: int | None = knob(
        None,
        "runs in a row whose training rows lack a value, after which it has no id any more",
        AT_LEAST_ONE,
        "RUNS",
        otherwise=str(FORGET_AFTER),
        used_by=_WARM_START,
    )
    bins: WhichBins | None = knob(
        None,
        "bins of numbers stay as they were (keep), or are fitted to this log, each going on from the one "
        "that it lies in (refit)",
        OneOf(get_args(WhichBins)),
        otherwise="keep",
        used_by=_WARM_START,
    )


def default_work(out: Path) -> Path:
    """The default work folder of a run: .work/NAME beside the bundle."""
    out = out.resolve()
    return out.parent / ".work" / out.name
