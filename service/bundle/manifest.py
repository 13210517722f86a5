"""The metadata of a bundle: manifest.json and golden.json as structs; it reads and writes no files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.bundle.bounds import (
    MAX_DIMENSIONS,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_GOLDEN_ROWS,
    MAX_GRAPHS,
    MAX_LOGIT_TOLERANCE,
    MAX_RECORD_BYTES,
    MAX_VOCABULARY_BYTES,
    Count,
    Name,
    NotNegative,
    Number,
    Real,
    Share,
    Size,
    check_plain,
)
from service.bundle.errors import EXPORT_AGAIN, BundleError, show
from service.bundle.json_files import decode_json, encode_json

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.json"
SHARED_INPUTS = ("context_ids", "candidate_ids", "request_index")
ONE_OR_ROWS = "one_or_rows"
"""The name of request_index's axis in a graph that takes one index for all rows of a batch of one request."""
NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
Variant = Annotated[str, Meta(pattern=f"^{NAME_PATTERN}$")]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen and strict about names: a typo in a bundle is an error, never a default."""


class FileEntry(_Record, frozen=True):
    """A file of the bundle: size in bytes, and SHA-256 in hexadecimal."""

    size: Number
    sha256: str


class Tensor(_Record, frozen=True):
    """An input or output of a graph; None is the batch axis."""

    name: Name
    dtype: Annotated[str, Meta(pattern="^(u?int8|int32|int64|float16|float32|float64)$")]
    shape: Annotated[tuple[Size | None, ...], Meta(max_length=MAX_DIMENSIONS)]


class SharedContext(_Record, frozen=True):
    """A graph that computes the same function as another, with the context of a request computed once.

    Inputs: context_ids [requests, context columns], candidate_ids [rows, candidate columns], request_index
    [rows], and the tables of the other graph, which this one does not contain. Where its file names the
    axis of request_index ONE_OR_ROWS, [1] does for all rows of one request. It serves requests from
    `from_candidates` candidates on; with fewer the other graph is as fast.
    """

    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    from_candidates: Annotated[int, Meta(ge=1, le=1 << 31)]
    microseconds_a_row: dict[str, NotNegative] = {}


class Graph(_Record, frozen=True):
    """An ONNX file and how to call it. `tables` are initializers used only to look up rows.

    `depends_on_batch` says that a row's logit depends on the rows that it is scored with; golden rows are
    scored alone then, and no bundle chooses the graph by itself. It is absent otherwise, so that services
    from before know every other manifest.
    """

    file: str
    variant: str
    opset: Annotated[int, Meta(ge=1, le=1000)]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tables: tuple[str, ...] = ()
    shared_context: SharedContext | None = None
    depends_on_batch: Literal[True] | UnsetType = UNSET

    @property
    def is_batch_dependent(self) -> bool:
        """`depends_on_batch`, absent or not."""
        return self.depends_on_batch is True


class ModelInfo(_Record, frozen=True):
    """The trained model and its size."""

    name: str
    hyperparameters: dict[str, Any]
    parameters: Count

    def __post_init__(self) -> None:
        check_plain(self.hyperparameters, "hyperparameters")


class Metrics(_Record, frozen=True):
    """Quality of pCTRs on the test part, with 95 % bootstrap intervals over its rows where they were made.

    `auc_of_true_pctr` is the best AUC possible, for a synthetic log.
    """

    rows: Count
    clicks: Count
    auc: Share
    logloss: NotNegative
    prauc: Share
    rce: Real
    ece: Share
    ne: NotNegative
    pcoc: NotNegative
    auc_of_true_pctr: Share | None = None
    auc_interval: tuple[Real, Real] | None = None
    logloss_interval: tuple[Real, Real] | None = None


Verdict = Literal["better", "no better", "worse"]


class Baseline(_Record, frozen=True, kw_only=True):
    """A plain model that was trained on the same log, and what the serving variant wins over it.

    Differences are the serving variant's minus the baseline's on the test part, with 95 % paired-bootstrap
    intervals. The verdict is "worse" where an interval is on the wrong side of zero, else "better" where one
    is on the right side, else "no better". `graph_bytes` is the size of the baseline's float graph. `command`
    exports its bundle; it is empty where the model is better, or its graph smaller.
    """

    model: str
    graph_bytes: Count
    metrics: Metrics
    auc_delta: Real
    auc_interval: tuple[Real, Real]
    logloss_delta: Real
    logloss_interval: tuple[Real, Real]
    verdict: Verdict
    command: str = ""


class Teacher(_Record, frozen=True):
    """A model that taught another one, and its quality on the test part, LogLoss after a fitted line."""

    name: str
    model: str
    auc: Share
    logloss: NotNegative


class Distillation(_Record, frozen=True, kw_only=True):
    """Who taught the model, beside the labels, and how near it came to them.

    `alpha` is what the teachers counted in the loss, and `temperature` what logits were divided by there.
    Differences are the serving variant's minus those of the teachers together (`auc`, `logloss`) on the test
    part, with 95 % paired-bootstrap intervals.
    """

    alpha: Share
    temperature: NotNegative
    teachers: Annotated[tuple[Teacher, ...], Meta(min_length=1)]
    auc: Share
    logloss: NotNegative
    auc_delta: Real
    auc_interval: tuple[Real, Real]
    logloss_delta: Real
    logloss_interval: tuple[Real, Real]


class Training(_Record, frozen=True, kw_only=True):
    """The training log and its use: rows and clicks by part, window in Unix seconds.

    `missing` is the share of the training part's rows without a value, by field; a sequence is missing if it
    has no element. It is empty where the bundle does not say.
    """

    source: str
    rows: dict[str, Count]
    clicks: dict[str, Count]
    window: tuple[Number, Number] | None = None
    split: Literal["time", "row order"]
    negative_sampling_rate: Share = 1.0
    epochs: Count
    seed: Number
    missing: dict[str, Share] = {}


class Parity(_Record, frozen=True):
    """`variant` minus `reference` on the same rows, with 95 % paired-bootstrap intervals."""

    reference: str
    variant: str
    max_abs_logit: NotNegative
    auc_delta: Real
    logloss_delta: Real
    auc_interval: tuple[Real, Real]
    logloss_interval: tuple[Real, Real]


class Latency(_Record, frozen=True):
    """Microseconds a row by batch size ("1", "64", "1024") on the exporting machine."""

    variant: str
    microseconds_a_row: dict[str, NotNegative]


class Compression(_Record, frozen=True):
    """The target of pruning, the rates it reached, and the sizes after compaction."""

    recipe: str
    rates: dict[str, Real]
    reached: dict[str, Real]
    live_neurons: tuple[Count, ...]
    live_pairs: Count
    embedding_rows: tuple[Count, Count]
    graph_bytes: dict[str, Count]


class EmbeddingRows(_Record, frozen=True):
    """How many bits a number takes in the embedding rows of the INT8 graph, by table and field.

    `asked` is what the export was asked for, `bytes` are those of all rows, and `loss` is the LogLoss that
    they are expected to add, measured on validation rows. A table that is not looked up by the ids as they
    are has one entry, "*".
    """

    asked: Literal["4", "mixed"]
    tables: dict[str, dict[str, Annotated[int, Meta(ge=1, le=8)]]]
    bytes: Count
    loss: NotNegative


class FloatLayer(_Record, frozen=True):
    """A layer by its weights, [inputs, outputs], and what INT8 of it alone moves the AUC by."""

    name: Name
    shape: tuple[Count, Count]
    auc_delta: Real


class FloatLayers(_Record, frozen=True):
    """The layers that stay float32 in the INT8 graph, since INT8 of them costs more AUC than is `allowed`.

    `auc_deltas` is what INT8 of layers moves the AUC of validation rows by, with these and without. `bytes`
    and `microseconds_a_row`, by batch size, are what they add to the graph and its time.
    """

    allowed: Share
    layers: Annotated[tuple[FloatLayer, ...], Meta(min_length=1)]
    auc_deltas: tuple[Real, Real]
    bytes: Count
    microseconds_a_row: dict[str, Real] = {}


class Description(_Record, frozen=True, kw_only=True):
    """What a bundle says of itself. `created_at` is in UTC, as 2026-01-31T12:00:00+00:00.

    `parity` compares graphs on the test part, `ladder` on the validation part, by which the export chose.
    """

    format_version: Number = FORMAT_VERSION
    name: str
    created_at: str
    model: ModelInfo
    graphs: Annotated[dict[Variant, Graph], Meta(min_length=1, max_length=MAX_GRAPHS)]
    serving_variant: str
    kept_out: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    training: Training
    evaluation: dict[str, Metrics] = {}
    uncalibrated: dict[str, Metrics] = {}
    baseline: Baseline | None = None
    parity: tuple[Parity, ...] = ()
    ladder: tuple[Parity, ...] = ()
    latency: tuple[Latency, ...] = ()
    machine: str = ""
    compression: Compression | None = None
    # Absent where nothing was taught, and where INT8 is plain static: services from before know every other
    # manifest.
    distillation: Distillation | UnsetType = UNSET
    quantization: Literal["qat", "dynamic"] | UnsetType = UNSET
    # The same where all rows take 8 bits.
    embedding_rows: EmbeddingRows | UnsetType = UNSET
    # The same where INT8 of no layer costs more than is allowed.
    float_layers: FloatLayers | UnsetType = UNSET


class Manifest(Description, frozen=True, kw_only=True):
    """The contents of manifest.json. `files` lists every other file of the bundle."""

    version: str
    files: Annotated[dict[str, FileEntry], Meta(max_length=MAX_FILES)]

    @property
    def id(self) -> str:
        """`name@version`, as in X-Bundle."""
        return f"{self.name}@{self.version}"

    def validate(self) -> None:
        """Raises BundleError for contradictions, and for file names outside the bundle's folder."""
        if re.fullmatch(NAME_PATTERN, self.name) is None:
            _invalid("name", "letters, digits, '.', '_' and '-', at most 100", self.name)
        for name, entry in self.files.items():
            check_file_name(name)
            most = most_bytes_of(name)
            if not 0 <= entry.size <= most:
                _invalid(f"files[{name}].size", f"from 0 to {most}", str(entry.size))
            if re.fullmatch("[0-9a-f]{64}", entry.sha256) is None:
                _invalid(f"files[{name}].sha256", "64 hexadecimal digits", entry.sha256)
        if self.version != version_of(self.files):
            _invalid("version", f"{version_of(self.files)}, as its files say", self.version)
        for variant, graph in self.graphs.items():
            if graph.variant != variant:
                _invalid(f"graphs[{variant}].variant", f"'{variant}'", graph.variant)
            if graph.file not in self.files:
                _invalid(f"graphs[{variant}].file", "one of 'files'", graph.file)
            _check_shared_context(graph, self.files)
        if self.serving_variant not in self.graphs:
            _invalid(
                "serving_variant", f"one of {', '.join(self.graphs) or 'the graphs'}", self.serving_variant
            )
        if self.graphs[self.serving_variant].is_batch_dependent:
            _invalid("serving_variant", "one whose rows do not depend on their batch", self.serving_variant)
        if self.serving_variant in self.kept_out:
            _invalid("serving_variant", "none that is kept out", self.serving_variant)
        _check_counts(self)
        try:
            utc = datetime.fromisoformat(self.created_at).utcoffset() == timedelta(0)
        except ValueError:
            utc = False
        if not utc:
            _invalid("created_at", "a time in UTC such as 2026-01-31T12:00:00+00:00", self.created_at)


class GoldenRow(_Record, frozen=True):
    """A raw row, as a client sends it."""

    context: dict[str, Any]
    candidate: dict[str, Any]

    def __post_init__(self) -> None:
        for values in (self.context, self.candidate):
            check_plain(values, "golden row")


class GoldenOutputs(_Record, frozen=True):
    """The answers of a graph to the golden rows; `logit_tolerance` allows for other machines."""

    logits: tuple[Real, ...]
    pctrs: tuple[Share, ...]
    logit_tolerance: Annotated[float, Meta(ge=0.0, le=MAX_LOGIT_TOLERANCE)]


class Golden(_Record, frozen=True):
    """Raw rows with their expected ids, logits and pCTRs; replayed before the service is ready."""

    rows: Annotated[tuple[GoldenRow, ...], Meta(max_length=MAX_GOLDEN_ROWS)]
    ids: tuple[tuple[Size, ...], ...]
    variants: dict[str, GoldenOutputs]

    def validate(self, variants: Mapping[str, Graph]) -> None:
        """Raises BundleError unless every row has ids, and a logit and a pCTR from every graph."""
        rows = len(self.rows)
        if not rows:
            raise BundleError(GOLDEN_FILE, "of at least one row", "none", EXPORT_AGAIN)
        found = {"ids": len(self.ids)}
        for variant in variants:
            outputs = self.variants.get(variant)
            found[f"logits of {variant}"] = -1 if outputs is None else len(outputs.logits)
            found[f"pctrs of {variant}"] = -1 if outputs is None else len(outputs.pctrs)
        for what, count in found.items():
            if count != rows:
                text = f"{count} {what}" if count >= 0 else f"no {what}"
                raise BundleError(GOLDEN_FILE, f"{rows} {what}, as many as rows", text, EXPORT_AGAIN)


def _check_shared_context(graph: Graph, files: Mapping[str, FileEntry]) -> None:
    shared, where = graph.shared_context, f"graphs[{graph.variant}].shared_context"
    if shared is None:
        return
    if graph.is_batch_dependent:
        _invalid(where, "absent, as of a graph whose rows depend on their batch", shared.file)
    if shared.file not in files:
        _invalid(f"{where}.file", "one of 'files'", shared.file)
    names = tuple(tensor.name for tensor in shared.inputs)
    if names[:3] != SHARED_INPUTS or not set(names[3:]) <= set(graph.tables):
        expected = f"{', '.join(SHARED_INPUTS)} and tables of {graph.file}"
        _invalid(f"{where}.inputs", expected, ", ".join(names))


def _check_counts(manifest: Manifest) -> None:
    """Raises BundleError for more clicks than rows, and for a log that ends before it begins."""
    training = manifest.training
    for part, clicks in training.clicks.items():
        if clicks > training.rows.get(part, 0):
            _invalid(f"training.clicks[{part}]", "at most its rows", str(clicks))
    for kind in ("evaluation", "uncalibrated"):
        for variant, metrics in getattr(manifest, kind).items():
            if metrics.clicks > metrics.rows:
                _invalid(f"{kind}[{variant}].clicks", "at most its rows", str(metrics.clicks))
    if training.window is not None and training.window[0] > training.window[1]:
        _invalid("training.window", "a time and a later one", show(list(training.window)))


def manifest_of(description: Description, files: Mapping[str, bytes]) -> Manifest:
    """The manifest of a bundle of these files; hashes, sizes and the version are computed here."""
    entries = {
        name: FileEntry(len(files[name]), hashlib.sha256(files[name]).hexdigest()) for name in sorted(files)
    }
    return Manifest(**msgspec.structs.asdict(description), version=version_of(entries), files=entries)


def version_of(files: Mapping[str, FileEntry]) -> str:
    """8 hexadecimal digits: the SHA-256 of the sorted lines `sha256  name` (as `sha256sum` prints them)."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{files[name].sha256}  {name}\n".encode())
    return digest.hexdigest()[:8]


def check_file_name(name: str) -> None:
    """Raises BundleError unless `name` is a plain relative path inside the bundle."""
    path = PurePosixPath(name)
    plain = name.isprintable() and "\\" not in name and ":" not in name and path.as_posix() == name
    if not plain or path.is_absolute() or ".." in path.parts or name in (".", MANIFEST_FILE):
        _invalid("files", "named by plain paths inside the bundle", name)


def most_bytes_of(name: str) -> int:
    """The most bytes of the file of that name."""
    if name.startswith("vocabulary/"):
        return MAX_VOCABULARY_BYTES
    return MAX_RECORD_BYTES if name.endswith(".json") else MAX_FILE_BYTES


def manifest_to_file(manifest: Manifest) -> bytes:
    """The bytes of manifest.json."""
    return encode_json(manifest)


class _FormatOnly(msgspec.Struct):
    format_version: Number


def manifest_from_file(data: bytes) -> Manifest:
    """The validated manifest. Raises BundleError; another format is refused before the rest is read."""
    found = decode_json(MANIFEST_FILE, data, _FormatOnly).format_version
    if found != FORMAT_VERSION:
        remedy = "upgrade the service" if found > FORMAT_VERSION else EXPORT_AGAIN
        raise BundleError(MANIFEST_FILE, f"of format_version {FORMAT_VERSION}", str(found), remedy)
    manifest = decode_json(MANIFEST_FILE, data, Manifest)
    manifest.validate()
    return manifest


def _invalid(name: str, expected: str, found: str) -> NoReturn:
    raise BundleError(MANIFEST_FILE, f"valid, with '{name}' {expected}", show(found), EXPORT_AGAIN)
