"""The stage package: judges the graphs on the test part, writes the report, and puts the bundle together.

It does not know how models are trained or graphs are made.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from msgspec import UNSET, UnsetType

from export.data.log_schema import LOG_FILE
from export.errors import ExportError
from export.report.findings import Findings
from export.stages.artifacts import Artifacts, read_artifacts
from export.stages.baseline import baseline, read_baseline
from export.stages.beside_teachers import beside_teachers
from export.stages.evaluate import judge_variants, shipped_variants, smallest_serving
from export.stages.field_prior import fit_prior
from export.stages.gain import gain_over_baseline
from export.stages.golden import golden_rows
from export.stages.plan import BundleContents
from export.stages.report import gather_findings, report_files
from export.stages.shared_graphs import describe_graphs
from export.stages.trained_file import TRAINED_FILE, TrainedModel, trained_file
from export.stages.variants import DENSE, DYNAMIC, INT8, Variant
from export.stages.work import Say, Work
from export.train.carry import past_after
from export.train.config import odds_of
from service.bundle.graph_check import check_graph
from service.bundle.manifest import NAME_PATTERN, Description, ModelInfo, Training
from service.bundle.prior import Prior
from service.bundle.schema import Schema
from service.bundle.store import Bundle, Contents, check_replaceable, load_bundle, save_bundle


def package(
    work: Work,
    out: Path,
    *,
    name: str | None = None,
    contents: BundleContents = "whole",
    say: Say = print,
) -> Bundle:
    """WORK -> the bundle in `out`, written whole or not at all, then read back with everything verified.

    `name` is the bundle's, else the folder's. A bundle in `out` is replaced. A baseline is trained where the
    stage for it was left out. Its warnings are in the bundle, for `export.report.summary`. Raises ExportError
    when a stage is missing or `out` holds something else. Of a lean bundle the report stays in WORK/report.
    """
    check_out(out, name)
    made = read_artifacts(work)
    if not work.has("baseline.json"):
        baseline(work, say=say)
    beside = read_baseline(work, made.log.schema)
    say(f"evaluating {', '.join(made.variants)} on {len(made.test):,} test rows")
    judged = judge_variants(made.variants, made.calibrators, made.models[DENSE], made.test)
    if contents == "lean":
        judged = smallest_serving(judged, made.variants)
        if DYNAMIC in made.variants:
            say(f"warning: a lean bundle has one graph, so {DYNAMIC} stays in {work.folder}")
    won = None if beside is None else gain_over_baseline(beside, made, judged, out)
    taught = beside_teachers(work, made, judged)
    names = shipped_variants(made.variants) if contents == "whole" else (judged.serving_variant,)
    shipped = {variant: made.variants[variant] for variant in names}
    # All graphs that ship take the same ids: INT8 is made of the float graph that ships beside it. The dense
    # and the pruned one number ids differently, so a bundle holds one of the two.
    one = next(iter(shipped.values()))
    schema = one.own_schema
    prior = fit_prior(made.log.parts, one, schema, sampling_rate=made.calibrated.sampling_rate)
    findings = gather_findings(made, judged, won, prior, name or out.resolve().name, taught, names)
    description, parts = _parts(made, findings, shipped, schema, prior, say)
    save_bundle(out, description, parts if contents == "whole" else _lean(parts, work, say))
    return load_bundle(out)


def _lean(parts: Contents, work: Work, say: Say) -> Contents:
    """What a service answers with; the report goes into the work folder, which has all else."""
    (work.folder / "report").mkdir(exist_ok=True)
    for file, data in parts.extra_files.items():
        work.write(file, data)
    say(f"the report stays in {work.folder / 'report'}")
    kept = {file: data for file, data in parts.extra_files.items() if file == LOG_FILE}
    return replace(parts, extra_files=kept, unlisted_files={}, vocabulary_tables=False)


def _parts(
    made: Artifacts,
    findings: Findings,
    shipped: Mapping[str, Variant],
    schema: Schema,
    prior: Prior | None,
    say: Say,
) -> tuple[Description, Contents]:
    """What the bundle says of itself, and what it holds: the graphs of the `shipped` variants."""
    calibrators = {variant: made.calibrators[variant] for variant in shipped}
    described = describe_graphs(shipped, made.test, say=say)
    description = Description(
        name=findings.bundle,
        created_at=findings.created_at,
        model=ModelInfo(findings.model, findings.hyperparameters, findings.parameters),
        graphs={variant: one.graph for variant, one in described.items()},
        serving_variant=findings.serving_variant,
        kept_out=findings.kept_out,
        warnings=findings.warnings,
        training=_training(made, findings),
        evaluation=findings.evaluation,
        uncalibrated=findings.uncalibrated,
        baseline=findings.baseline,
        parity=findings.parity,
        ladder=findings.ladder,
        latency=findings.latency,
        machine=findings.machine,
        compression=findings.compression,
        distillation=findings.distillation or UNSET,
        quantization=_quantization(findings, shipped),
        embedding_rows=(findings.embedding_rows if INT8 in shipped else None) or UNSET,
        float_layers=(findings.float_layers if INT8 in shipped else None) or UNSET,
    )
    graphs = {variant: one.graph for variant, one in shipped.items()}
    shared_graphs = {v: one.shared for v, one in described.items() if one.shared is not None}
    for variant, graph in (*graphs.items(), *shared_graphs.items()):
        depends = described[variant].graph.is_batch_dependent
        check_graph(graph, f"graph of {variant}", depends_on_batch=depends)
    contents = Contents(
        schema=schema,
        graphs=graphs,
        shared_graphs=shared_graphs,
        calibrators=calibrators,
        prior=prior,
        golden=golden_rows(schema, made.log.sample_rows, shipped, calibrators),
        extra_files=report_files(findings, made.log),
        unlisted_files={TRAINED_FILE: trained_file(_dense_model(made), schema)},
    )
    return description, contents


def _quantization(findings: Findings, shipped: Collection[str]) -> Literal["qat", "dynamic"] | UnsetType:
    """How INT8 was made, beyond static, if such a graph is `shipped`: a lean bundle has only one."""
    if findings.quantization == "static":
        return UNSET
    made = DYNAMIC if findings.quantization == "dynamic" else INT8
    return findings.quantization if made in shipped else UNSET


def _dense_model(made: Artifacts) -> TrainedModel:
    """What the next export goes on from."""
    trained = made.trained
    past = past_after(made.log, trained.config)
    return TrainedModel(
        made.models[DENSE], trained.model, made.hyperparameters, past, odds_of(trained.config)
    )


def _training(made: Artifacts, findings: Findings) -> Training:
    return Training(
        source=findings.data.source,
        rows=findings.data.rows,
        clicks=findings.data.clicks,
        window=findings.data.window,
        split=made.log.split,
        negative_sampling_rate=findings.data.negative_sampling_rate,
        epochs=made.trained.epochs,
        seed=made.trained.config.seed,
        missing={field.name: field.missing["train"] for field in findings.data.fields},
    )


def check_out(out: Path, name: str | None) -> None:
    """Checks, before any work is done, that a bundle of this name can be written to `out`.

    Raises BundleError where `out` holds something else, ExportError for the name, OSError where nothing can
    be written beside `out`, since the bundle is put together there.
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
