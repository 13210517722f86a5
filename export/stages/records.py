"""The record that each stage writes of what it did; later stages and the report read it."""

from __future__ import annotations

from typing import Any

import msgspec

from export.data.growth import Changes
from export.report.findings import EvaluationPoint, FieldSummary, SegmentGain
from export.stages.calibration_methods import METHODS
from export.stages.plan import Quantization, ZeroRows
from export.stages.taught import Taught, Untaught
from export.train.config import TrainConfig
from service.bundle.manifest import EmbeddingRows, FloatLayers, Parity


class LogSummary(msgspec.Struct, frozen=True):
    """fit-schema: rows and clicks by part; the window of the training part in unix seconds.

    `options` are those of the command line that read the log so, `key` a hash of all that decides it, `data`
    the file's whole path. A warm start has `earlier_rows`, those that its model was trained on before, and
    `changes` of vocabularies.
    """

    source: str
    schema: str
    split: str
    rows: dict[str, int]
    clicks: dict[str, int]
    skipped_rows: int
    window: tuple[int, int] | None
    columns: int
    fields: tuple[FieldSummary, ...] = ()
    options: tuple[str, ...] = ()
    key: str = ""
    earlier_rows: int = 0
    changes: Changes | None = None
    data: str = ""


class Searched(msgspec.Struct, frozen=True):
    """A short search before a training: its trials, the settings it chose beside defaults, what it won."""

    trials: int
    settings: dict[str, Any]
    verdict: str


class Trained(msgspec.Struct, frozen=True):
    """train: the model, how it was trained (or its checkpoint), and each evaluation on validation."""

    model: str
    hyperparameters: dict[str, Any]
    parameters: int
    config: TrainConfig
    checkpoint: str | None
    epochs: int
    best_epoch: int
    points: tuple[EvaluationPoint, ...]
    seconds_an_epoch: float | None = None  # training steps only; None for a checkpoint
    warnings: tuple[str, ...] = ()
    searched: Searched | None = None  # with the preset `accurate`
    warm_start: str | None = None  # what it went on from
    taught: Taught | None = None  # by whom it was taught, and so is a pruned model
    untaught: Untaught | None = None  # the same model without these teachers


class Twin(msgspec.Struct, frozen=True):
    """A dense model trained as long as pruning takes, beside the one as trained: `metric` on validation.

    The better of the two is the dense graph that a pruned one is compared with. `epochs` are those trained.
    """

    metric: str
    trained: float
    twin: float
    better: bool
    epochs: float
    seconds: float


class Pruned(msgspec.Struct, frozen=True):
    """prune: the rates asked for and reached, and what compaction left; tuples of two are (before, after)."""

    recipe: str
    rates: dict[str, float]
    reached: dict[str, float]
    live_neurons: tuple[int, ...]
    live_pairs: int
    embedding_rows: tuple[int, int]
    parameters: tuple[int, int]
    hyperparameters: dict[str, Any]
    max_abs_diff: float
    notes: tuple[str, ...]
    points: tuple[EvaluationPoint, ...]
    twin: Twin | None = None
    preset_fitted: bool = False  # to the log; else it was chosen


class Unpruned(msgspec.Struct, frozen=True):
    """prune, where nothing is pruned."""

    training_rows: int
    preset_fitted: bool
    model: str = ""
    shrinks: bool = True  # whether pruning could make this model smaller
    twin: Twin | None = None  # which is the dense graph where it is better


class GraphFile(msgspec.Struct, frozen=True):
    """A graph; `max_abs_logit` is its largest difference from its PyTorch model or float graph."""

    size: int
    sha256: str
    max_abs_logit: float


class TrainedBaseline(msgspec.Struct, frozen=True):
    """baseline: the plain model and its graph; no graph where the model of `train` is that one itself."""

    model: str
    graph: GraphFile | None = None
    config: TrainConfig | None = None
    best_epoch: int = 0
    seconds: float = 0.0


class QatRecord(msgspec.Struct, frozen=True):
    """quantize, with qat: the static INT8 graph and the same trained on, by the validation part.

    LogLoss is after a fitted line. `better` says whether the trained one is the INT8 graph.
    """

    epochs: int
    learning_rate: float
    seconds: float
    static_auc: float
    static_logloss: float
    auc: float
    logloss: float
    better: bool


class Graphs(msgspec.Struct, frozen=True):
    """to-onnx and quantize: the graphs by variant.

    Of quantize alone: which float graph is wanted to `ship`, `by` whom, the `steps` between the graphs on the
    validation part, why a graph is `refused`, `losses` that are served all the same, the `quantization` that
    was asked for, with what came of `qat`, and how the INT8 graph's `embedding` rows are written where they
    take fewer than 8 bits, and the `float_layers` that it keeps for what INT8 of them would lose. `zero_rows`
    is as in `GraphPlan`.
    """

    graphs: dict[str, GraphFile]
    refused: dict[str, str] = {}
    ship: str = "auto"
    steps: tuple[Parity, ...] = ()
    losses: tuple[str, ...] = ()
    by: str = ""  # of a choice that no option made
    quantization: Quantization = "static"
    qat: QatRecord | None = None
    embedding: EmbeddingRows | None = None
    float_layers: FloatLayers | None = None
    zero_rows: ZeroRows = "merge"

    @property
    def made_as(self) -> Quantization:
        """How the INT8 graphs that there are were made: static too, where training on made none better."""
        is_made = {
            "static": True,
            "qat": self.qat is not None and self.qat.better,
            "dynamic": "dynamic" in self.graphs,
        }
        return self.quantization if is_made[self.quantization] else "static"


class Calibrated(msgspec.Struct, frozen=True):
    """calibrate: the method chosen for each variant out of `allowed`, and what the log and a field said.

    `sampling_rate` is the log's; `segments` is what the offsets by the values of `segment_field` gain.
    """

    methods: dict[str, str]
    sampling_rate: float
    allowed: tuple[str, ...] = METHODS
    segment_field: str | None = None
    segments: dict[str, SegmentGain] = {}
