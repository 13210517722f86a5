"""The last stage: judges the graphs on the test part, writes the report, and puts the bundle together.

It knows the work folder and the contract, and nothing of how models are trained or graphs are made.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import nn

from export.compress.perceptrons import find_perceptrons, hidden_widths
from export.data.encoded import EncodedLog, open_log
from export.errors import ExportError
from export.judge.parity import AUC_TOLERANCE
from export.report.findings import DataSummary, FieldMatrix, FieldSummary, Findings
from export.report.page import page
from export.stages.evaluate import (
    Evaluated,
    choose_serving,
    evaluate_variants,
    machine,
    measure_latency,
    shipped_variants,
)
from export.stages.golden import golden_rows
from export.stages.graphs import read_calibrators
from export.stages.records import Calibrated, Graphs, Pruned, Trained
from export.stages.shared_graphs import describe_graphs
from export.stages.variants import CHUNK_ROWS, DENSE, PRUNED, Variant, graph_name, read_variants
from export.stages.work import Say, Work
from export.train.checkpoint import load_checkpoint
from service.bundle.calibration import Calibrator
from service.bundle.manifest import NAME_PATTERN, Compression, Latency, ModelInfo, Parity, Training
from service.bundle.schema import MISSING_ID, OOV_ID
from service.bundle.store import Bundle, check_replaceable, load_bundle, save_bundle


@dataclass(frozen=True)
class Made:
    """All that the stages before left in the work folder."""

    log: EncodedLog
    variants: dict[str, Variant]
    calibrators: dict[str, Calibrator]
    models: dict[str, nn.Module]
    trained: Trained
    pruned: Pruned | None
    calibrated: Calibrated


def package(work: Work, out: Path, *, name: str | None = None, say: Say = print) -> Bundle:
    """WORK -> the bundle in `out`, written whole or not at all, then read back with everything verified.

    `name` is the bundle's, else the folder's. A bundle that was in `out` is replaced. Raises ExportError when
    a stage is missing or `out` holds something else.
    """
    check_out(out, name)
    made = _read(work)
    say(f"evaluating {', '.join(made.variants)} on {len(made.log.parts['test']):,} test rows")
    evaluated = evaluate_variants(made.variants, made.calibrators, made.log.parts["test"])
    latency = measure_latency(made.models[DENSE], made.variants, made.log.parts["test"])
    serving, kept_out = choose_serving(made.variants, latency, evaluated.parity)
    findings = _findings(made, evaluated, latency, serving, kept_out, name or out.resolve().name)
    for warning in findings.warnings:
        say(f"warning: {warning}")
    shipped = {variant: made.variants[variant] for variant in shipped_variants(made.variants)}
    calibrators = {variant: made.calibrators[variant] for variant in shipped}
    described = describe_graphs(shipped, made.log.parts["test"], say=say)
    # All that ship take the same ids: INT8 is made of the float graph that ships beside it.
    schema = made.log.schema.renumbered(next(iter(shipped.values())).renumberings)
    save_bundle(
        out,
        name=findings.bundle,
        model=ModelInfo(made.trained.model, made.trained.hyperparameters, made.trained.parameters),
        schema=schema,
        graphs={variant: one.graph for variant, one in shipped.items()},
        descriptions={variant: one.graph for variant, one in described.items()},
        shared_graphs={v: one.shared for v, one in described.items() if one.shared is not None},
        serving_variant=serving,
        calibrators=calibrators,
        golden=golden_rows(schema, made.log.sample_rows, shipped, calibrators),
        training=_training(made),
        kept_out=kept_out,
        evaluation=evaluated.calibrated,
        uncalibrated=evaluated.uncalibrated,
        parity=evaluated.parity,
        latency=latency,
        machine=findings.machine,
        compression=findings.compression,
        extra_files=_report_files(findings, made.log),
        created_at=datetime.fromisoformat(findings.created_at),
    )
    return load_bundle(out, verify_all=True)


def check_out(out: Path, name: str | None) -> None:
    """Raises for a folder or a name that no bundle can have: better before the work than after it.

    BundleError where `out` holds something else, ExportError for the name, OSError where nothing can be
    written beside `out`, since the bundle is put together there.
    """
    check_replaceable(out)
    name = name or out.resolve().name
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise ExportError(
            f"'name' must be letters, digits, '.', '_' and '-', at most 100 (got {name!r}); "
            "give another with --name"
        )
    out.resolve().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.resolve().parent):
        pass


def _read(work: Work) -> Made:
    log = open_log(work.path("log"))
    work.path(graph_name(DENSE))
    work.read_record("quantize", Graphs)
    variants = read_variants(work, log.schema)
    models = {DENSE: load_checkpoint(work.path("dense.pt"), log.schema).model}
    if PRUNED in variants:
        models[PRUNED] = load_checkpoint(work.path("compact.pt")).model
    return Made(
        log=log,
        variants=variants,
        calibrators=read_calibrators(work, variants),
        models=models,
        trained=work.read_record("train", Trained),
        pruned=work.read_record("prune", Pruned) if PRUNED in variants else None,
        calibrated=work.read_record("calibrate", Calibrated),
    )


def _training(made: Made) -> Training:
    parts = made.log.parts
    return Training(
        source=made.log.source,
        rows={name: len(part) for name, part in parts.items()},
        clicks={name: part.clicks for name, part in parts.items()},
        window=made.log.window,
        split=made.log.split,
        negative_sampling_rate=made.calibrated.sampling_rate,
        epochs=made.trained.epochs,
        seed=made.trained.config.seed,
    )


def _findings(
    made: Made,
    evaluated: Evaluated,
    latency: tuple[Latency, ...],
    serving: str,
    kept_out: dict[str, str],
    name: str,
) -> Findings:
    graph_bytes = {variant: len(one.graph) for variant, one in made.variants.items()}
    return Findings(
        bundle=name,
        model=made.trained.model,
        hyperparameters=made.trained.hyperparameters,
        parameters=made.trained.parameters,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data=_data_summary(made),
        training=made.trained.points,
        pruning=made.pruned.points if made.pruned else (),
        evaluation=evaluated.calibrated,
        uncalibrated=evaluated.uncalibrated,
        calibrators=made.calibrators,
        reliability_before=evaluated.reliability_before,
        reliability_after=evaluated.reliability_after,
        field_matrices=_field_matrices(made.models),
        graph_bytes=graph_bytes,
        parity=evaluated.parity,
        latency=latency,
        machine=machine(),
        compression=_compression(made.pruned, graph_bytes),
        layer_widths=_layer_widths(made.models[DENSE]),
        field_pairs=_field_pairs(made.models[DENSE]),
        serving_variant=serving,
        kept_out=kept_out,
        warnings=warnings_of(made.pruned, evaluated.parity),
    )


def _data_summary(made: Made) -> DataSummary:
    training = _training(made)
    missing, oov = _special_shares(made.log)
    fields = zip(made.log.schema.fields, missing, oov, strict=True)
    return DataSummary(
        source=training.source,
        split=training.split,
        rows=training.rows,
        clicks=training.clicks,
        skipped_rows=made.log.skipped_rows,
        window=training.window,
        negative_sampling_rate=training.negative_sampling_rate,
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


def _report_files(findings: Findings, log: EncodedLog) -> dict[str, bytes]:
    return {
        "report/index.html": page(findings).encode(),
        "report/report.json": msgspec.json.format(msgspec.json.encode(findings), indent=2) + b"\n",
        "report/requests.jsonl": msgspec.json.Encoder().encode_lines(log.sample_rows),
    }
