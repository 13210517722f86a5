"""Gathers what the report says of one export, and makes the report's files; `export.report` draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import numpy as np
from torch import nn

from export.compress.perceptrons import find_perceptrons, hidden_widths
from export.data.encoded import EncodedLog
from export.data.log_schema import LOG_FILE
from export.judge.fields import field_warnings
from export.judge.metrics import lack_of_evidence
from export.judge.parity import AUC_TOLERANCE
from export.report.findings import (
    DataSummary,
    FieldMatrix,
    FieldSummary,
    Findings,
    PriorFindings,
    RateWindow,
    pctr_histogram,
)
from export.report.gain_text import gain_warning
from export.report.machine import machine
from export.report.page import page
from export.report.settings_text import said
from export.stages.artifacts import Artifacts
from export.stages.base_rate import rate_by_window
from export.stages.calibrator_fit import in_log_distribution
from export.stages.evaluate import Judged
from export.stages.fit_schema import few_warnings
from export.stages.records import Pruned, Searched
from export.stages.segment_findings import segment_findings
from export.stages.variants import DENSE, PRUNED
from service.bundle.json_files import encode_json
from service.bundle.manifest import Baseline, Compression, Distillation, Metrics, Parity
from service.bundle.prior import Prior
from service.bundle.schema import FIRST_ID, MISSING_ID, OOV_ID

# Half the 95 % interval of an AUC. Most models of one real log are within .05 of each other, LR among them
# (docs/comparison.md): rows that know a single AUC no better cannot rank models, nor a model's variants.
COARSEST_AUC = 0.05
# A PCOC that is off by more than a tenth, and by more than three standard errors, is told in red.
PCOC_TOLERANCE, PCOC_ERRORS = 0.1, 3.0


def gather_findings(
    made: Artifacts,
    judged: Judged,
    won: Baseline | None,
    prior: Prior | None,
    bundle: str,
    distillation: Distillation | None,
    shipped: Sequence[str],
) -> Findings:
    """Everything the report says.

    `won` is what is won over the baseline, `bundle` the bundle's name, `shipped` the variants that it holds.
    """
    graph_bytes = {variant: len(one.graph) for variant, one in made.variants.items()}
    quality, serving = judged.quality, judged.serving_variant
    return Findings(
        bundle=bundle,
        model=made.trained.model,
        hyperparameters=made.trained.hyperparameters,
        parameters=made.trained.parameters,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data=_data_summary(made, serving),
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
        serving_variant=serving,
        kept_out=judged.kept_out,
        warnings=(
            *noise_warnings(quality.calibrated[serving], won),
            *few_warnings(made.summary),
            *gain_warnings(serving, won),
            *rate_warnings(serving, quality.calibrated[serving]),
            *made.trained.warnings,
            *made.quantized.losses,
            *warnings_of(made.pruned, quality.parity, judged.kept_out, shipped),
            *field_warnings(made.summary.fields),
        ),
        rate_windows=_rate_windows(made, serving),
        histogram=pctr_histogram(np.asarray(made.test.labels), quality.pctr[serving]),
        segments=segment_findings(made, serving),
        baseline=won,
        ladder=made.quantized.steps,
        choices=made.choices,
        search=_told_search(made.trained.searched),
        prior=_prior_findings(prior),
        distillation=distillation,
        quantization=made.quantized.made_as,
        embedding_rows=made.quantized.embedding,
        float_layers=made.quantized.float_layers,
    )


def report_files(findings: Findings, log: EncodedLog) -> dict[str, bytes]:
    """The page, the findings as JSON, how the log is read, and rows of the test part to send as requests."""
    read_by = {} if log.description is None else {LOG_FILE: encode_json(log.description)}
    return {
        **read_by,
        "report/index.html": page(findings).encode(),
        "report/report.json": encode_json(findings),
        "report/requests.jsonl": msgspec.json.Encoder().encode_lines(log.sample_rows),
    }


def _prior_findings(prior: Prior | None) -> PriorFindings | None:
    if prior is None or prior.validation is None or prior.test is None:
        return None
    offsets = sum(len(field.offsets) for field in prior.fields)
    return PriorFindings(prior.names, offsets, prior.validation, prior.test)


def _told_search(searched: Searched | None) -> str | None:
    if searched is None:
        return None
    return f"A search of {searched.trials} trials chose {said(searched.settings)}: {searched.verdict}."


def _data_summary(made: Artifacts, serving: str) -> DataSummary:
    log = made.summary
    return DataSummary(
        source=log.source,
        split=log.split,
        rows=log.rows,
        clicks=log.clicks,
        skipped_rows=log.skipped_rows,
        window=log.window,
        negative_sampling_rate=made.calibrated.sampling_rate,
        fields=tuple(_without_forgotten(one, made, serving) for one in log.fields),
    )


def _without_forgotten(field: FieldSummary, made: Artifacts, serving: str) -> FieldSummary:
    """The same, and values that pruning forgot are unseen, as the bundle's own vocabulary has them."""
    variant = made.variants[serving]
    new_ids = variant.renumberings.get(field.name)
    if new_ids is None or OOV_ID not in new_ids[FIRST_ID:]:
        return field
    unseen, columns = {}, variant.schema.column_slices[field.name]
    for name, part in made.log.parts.items():
        counts = np.bincount(new_ids[np.asarray(part.ids[:, columns])].ravel(), minlength=FIRST_ID)
        unseen[name] = float(counts[OOV_ID] / max(1, counts.sum() - counts[MISSING_ID]))
    return msgspec.structs.replace(field, unseen=unseen)


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


def _rate_windows(made: Artifacts, variant: str) -> tuple[RateWindow, ...]:
    calibrator, graph = in_log_distribution(made.calibrators[variant]), made.variants[variant]
    segments = partial(graph.segments, calibrator=calibrator)
    return rate_by_window(made.log.parts, graph.score, calibrator, segments)


def noise_warnings(metrics: Metrics, won: Baseline | None) -> tuple[str, ...]:
    """Whether the test part is too small to tell models apart: by the interval of the AUC, and in fact.

    One that tells the serving variant from the baseline, row by row, is large enough for that. With very few
    clicks intervals themselves are wrong: resamples of one click know nothing of others.
    """
    if metrics.auc_interval is None:
        return ()
    low, high = metrics.auc_interval
    if few := lack_of_evidence(metrics.clicks, metrics.rows):
        text = (
            f"the test part can tell nothing: it has {few}, so its metrics are luck, and their intervals "
            f"(AUC {low:.3f} to {high:.3f}) too narrow; take a longer log, or give the test part a larger "
            "share with --split"
        )
        return (text,)
    if high - low <= 2 * COARSEST_AUC or (won is not None and won.verdict != "no better"):
        return ()
    text = (
        f"the test part can tell nothing apart: with {metrics.clicks:,} clicks in {metrics.rows:,} rows it "
        f"knows the AUC only to ±{(high - low) / 2:.3f} ({low:.3f} to {high:.3f}), and models of one log "
        "differ by less; take a longer log, or give the test part a larger share with --split"
    )
    return (text,)


def gain_warnings(variant: str, won: Baseline | None) -> tuple[str, ...]:
    """Whether the serving variant is worse than the baseline beyond noise."""
    return (gain_warning(variant, won),) if won is not None and won.verdict == "worse" else ()


def rate_warnings(variant: str, metrics: Metrics) -> tuple[str, ...]:
    """Whether the serving variant's PCOC on the test part is off by a tenth, and beyond sampling noise."""
    expected = metrics.pcoc * metrics.clicks
    noise = math.sqrt(expected * max(1 - expected / metrics.rows, 0.0))
    errors = abs(expected - metrics.clicks) / noise if noise else 0.0
    if abs(metrics.pcoc - 1) <= PCOC_TOLERANCE or errors <= PCOC_ERRORS:
        return ()
    text = (
        f"{variant} predicts {metrics.pcoc:.3f} times the clicks of the test part, {errors:.1f} standard "
        f"errors from 1: bids are too {'high' if metrics.pcoc > 1 else 'low'}; the report's calibration "
        "section shows whether the click rate moved or the model is off"
    )
    return (text,)


def warnings_of(
    pruned: Pruned | None,
    parities: Sequence[Parity],
    kept_out: Mapping[str, str],
    shipped: Sequence[str],
) -> tuple[str, ...]:
    """What a reader should not have to find in a table: of the variants that are not kept out."""
    found = list(pruned.notes) if pruned and PRUNED not in kept_out else []
    for parity in parities:
        low, high = parity.auc_interval
        if parity.variant not in kept_out and parity.auc_delta < -AUC_TOLERANCE and high < 0.0:
            found.append(
                f"{parity.variant} lost {-parity.auc_delta:.4f} AUC against {parity.reference} on the test "
                f"part (95 % interval of the change {low:+.4f} to {high:+.4f}); {_way_out(parity, shipped)}"
            )
    return tuple(found)


def _way_out(parity: Parity, shipped: Sequence[str]) -> str:
    """How to serve the graph that a smaller one lost against."""
    if parity.variant == PRUNED:
        return "--ship dense, a milder --preset or none would keep it"
    if parity.reference not in shipped:
        return f"without --contents lean a service could keep {parity.reference}"
    return f"a service with --variant {parity.reference} keeps it"
