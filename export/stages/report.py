"""Gathers what the report says of one export, and makes the report's files; `export.report` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from torch import nn

from export.compress.perceptrons import find_perceptrons, hidden_widths
from export.data.encoded import EncodedLog
from export.judge.parity import AUC_TOLERANCE
from export.report.findings import DataSummary, FieldMatrix, FieldSummary, Findings
from export.report.machine import machine
from export.report.page import page
from export.stages.artifacts import Artifacts
from export.stages.evaluate import Judged
from export.stages.records import Pruned
from export.stages.variants import CHUNK_ROWS, DENSE, PRUNED
from service.bundle.json_files import encode_json
from service.bundle.manifest import Compression, Parity
from service.bundle.schema import MISSING_ID, OOV_ID


def gather_findings(made: Artifacts, judged: Judged, bundle: str) -> Findings:
    """Everything the report says; `bundle` is the bundle's name."""
    graph_bytes = {variant: len(one.graph) for variant, one in made.variants.items()}
    quality = judged.quality
    return Findings(
        bundle=bundle,
        model=made.trained.model,
        hyperparameters=made.trained.hyperparameters,
        parameters=made.trained.parameters,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data=_data_summary(made),
        training=made.trained.points,
        pruning=made.pruned.points if made.pruned else (),
        evaluation=quality.calibrated,
        uncalibrated=quality.uncalibrated,
        calibrators=made.calibrators,
        reliability_before=quality.reliability_before,
        reliability_after=quality.reliability_after,
        field_matrices=_field_matrices(made.models),
        graph_bytes=graph_bytes,
        parity=quality.parity,
        latency=judged.latency,
        machine=machine(),
        compression=_compression(made.pruned, graph_bytes),
        layer_widths=_layer_widths(made.models[DENSE]),
        field_pairs=_field_pairs(made.models[DENSE]),
        serving_variant=judged.serving_variant,
        kept_out=judged.kept_out,
        warnings=(*made.trained.warnings, *warnings_of(made.pruned, quality.parity)),
    )


def report_files(findings: Findings, log: EncodedLog) -> dict[str, bytes]:
    """The page, the findings as JSON, and rows of the test part to send as requests."""
    return {
        "report/index.html": page(findings).encode(),
        "report/report.json": encode_json(findings),
        "report/requests.jsonl": msgspec.json.Encoder().encode_lines(log.sample_rows),
    }


def _data_summary(made: Artifacts) -> DataSummary:
    log = made.log
    missing, oov = _special_shares(log)
    fields = zip(log.schema.fields, missing, oov, strict=True)
    return DataSummary(
        source=log.source,
        split=log.split,
        rows={name: len(part) for name, part in log.parts.items()},
        clicks={name: part.clicks for name, part in log.parts.items()},
        skipped_rows=log.skipped_rows,
        window=log.window,
        negative_sampling_rate=made.calibrated.sampling_rate,
        fields=tuple(
            FieldSummary(f.name, str(f.kind), str(f.role), f.cardinality, *shares) for f, *shares in fields
        ),
    )


def _special_shares(log: EncodedLog) -> tuple[list[float], list[float]]:
    """For each field the shares of its ids in the test part that are missing, and out of vocabulary."""
    ids = log.parts["test"].ids
    counts = np.zeros((2, log.schema.columns))
    for start in range(0, len(ids), CHUNK_ROWS):
        chunk = ids[start : start + CHUNK_ROWS]
        counts += [(chunk == special).sum(axis=0) for special in (MISSING_ID, OOV_ID)]
    columns = [log.schema.column_slices[field.name] for field in log.schema.fields]
    missing, oov = ([float(row[place].mean() / len(ids)) for place in columns] for row in counts)
    return missing, oov


def _field_matrices(models: Mapping[str, nn.Module]) -> dict[str, FieldMatrix]:
    found = {}
    for name, model in models.items():
        pairs: Any = getattr(model, "pairs", None)
        if pairs is not None:
            fields: Any = model.fields
            values = tuple(tuple(row) for row in pairs.matrix().detach().tolist())
            found[name] = FieldMatrix(tuple(field.name for field in fields), values)
    return found


def _layer_widths(model: nn.Module) -> tuple[int, ...]:
    """Of the hidden layers whose live neurons are counted, in the same order."""
    return tuple(width for layers in find_perceptrons(model) for width in hidden_widths(layers))


def _field_pairs(model: Any) -> int:
    return len(model.pairs.pairs) if hasattr(model, "pairs") else 0


def _compression(pruned: Pruned | None, graph_bytes: dict[str, int]) -> Compression | None:
    if pruned is None:
        return None
    return Compression(
        recipe=pruned.recipe,
        rates=pruned.rates,
        reached=pruned.reached,
        live_neurons=pruned.live_neurons,
        live_pairs=pruned.live_pairs,
        embedding_rows=pruned.embedding_rows,
        graph_bytes=graph_bytes,
    )


def warnings_of(pruned: Pruned | None, parities: Sequence[Parity]) -> tuple[str, ...]:
    """What a reader should not have to find in a table."""
    found = list(pruned.notes) if pruned else []
    for parity in parities:
        low, high = parity.auc_interval
        if parity.variant == PRUNED and parity.auc_delta < -AUC_TOLERANCE:
            found.append(
                f"pruning lost {-parity.auc_delta:.4f} AUC on the test part (95 % interval of the change "
                f"{low:+.4f} to {high:+.4f}); a milder --preset or none would keep it"
            )
    return tuple(found)
