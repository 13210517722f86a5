"""From the results of all models to the rows of the table: which graph serves, how fast, with what certainty.

It trains nothing and writes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from export.compare.contender import Contender, read_pctr
from export.compare.records import Result, Row
from export.data.encoded import Part, open_log
from export.graph.runtime import BATCHES, Scorer, graph_scorer, microseconds_a_row, own_rows_scorer
from export.judge.bootstrap import Delta, interval, resampled_aucs
from export.stages.evaluate import choose_serving, shipped_variants
from export.stages.records import Graphs
from export.stages.variants import Variant, read_variants
from service.bundle.manifest import Latency

REFERENCE = "lr"
RESAMPLES = 400
# Graphs that are open together while they are timed: past this their tables would fill the memory.
BYTES_OPEN_TOGETHER = 4_000_000_000

Results = Mapping[str, Sequence[tuple[Contender, Result]]]  # by model, one a seed


@dataclass(frozen=True)
class Served:
    """The graph of a model that serves; the first seed decides."""

    variant: str
    kept_out: dict[str, str]
    microseconds_a_row: dict[str, float]


def time_and_choose(results: Results, rows: Part) -> dict[str, Served]:
    """Times both graphs of each model's first seed, all interleaved, and chooses which one serves."""
    ids = np.array(rows.ids[: max(BATCHES)])
    found: dict[str, Served] = {}
    for models in _sets(results):
        graphs = {model: _graphs(results[model]) for model in models}
        times = microseconds_a_row(
            {
                f"{model} {name}": _scorer(variant, ids)
                for model in models
                for name, variant in graphs[model].items()
            },
            ids,
        )
        for model in models:
            latency = tuple(Latency(name, times[f"{model} {name}"]) for name in graphs[model])
            variant, kept_out = choose_serving(graphs[model], latency)
            refused = results[model][0][0].work.read_record("quantize", Graphs).refused
            found[model] = Served(variant, refused | kept_out, times[f"{model} {variant}"])
    return found


def _sets(results: Results) -> list[list[str]]:
    """The models in sets whose graphs may be open together."""
    sets: list[list[str]] = []
    open_bytes = BYTES_OPEN_TOGETHER
    for model, of_seeds in results.items():
        size = sum(of_seeds[0][1].graph_bytes.values())
        if open_bytes + size > BYTES_OPEN_TOGETHER:
            sets.append([])
            open_bytes = 0
        sets[-1].append(model)
        open_bytes += size
    return sets


def _graphs(of_seeds: Sequence[tuple[Contender, Result]]) -> dict[str, Variant]:
    """The graphs of the first seed that may serve, of the variants that every seed has."""
    work = of_seeds[0][0].work
    variants = read_variants(work, open_log(work.path("log")).schema)
    return {
        name: variants[name]
        for name in shipped_variants(variants)
        if all(name in result.metrics for _, result in of_seeds)
    }


def _scorer(variant: Variant, log_ids: NDArray[np.int32]) -> Scorer:
    """A scorer that takes rows of any graph's ids and scores as many rows of the variant's own ids."""
    if not variant.renumberings:
        return graph_scorer(variant.graph)
    return own_rows_scorer(variant.graph, variant.ids(log_ids))


def judge(results: Results, served: Mapping[str, Served], labels: NDArray[np.uint8]) -> tuple[Row, ...]:
    """The rows of the table, best AUC first, each compared with the best model and with lr on the same rows.

    A model's AUC is the mean over its seeds. Its differences are resampled over the test rows, the same rows
    for all models. Their intervals leave out the variation between seeds, which `auc_sd` shows.
    """
    models = list(results)
    scores = [read_pctr(one.work, served[model].variant) for model in models for one, _ in results[model]]
    of_seeds = resampled_aucs(labels, scores, resamples=RESAMPLES)
    ends = np.cumsum([len(results[model]) for model in models])
    by_seed = dict(zip(models, np.split(of_seeds, ends[:-1]), strict=True))
    aucs = {model: block.mean(axis=0) for model, block in by_seed.items()}
    best = max(models, key=lambda model: float(aucs[model][0]))
    rows = []
    for model in models:
        against = Delta.of(aucs[model] - aucs[REFERENCE]) if REFERENCE in aucs else None
        rows.append(
            _row(
                results[model],
                served[model],
                by_seed[model],
                against_best=Delta.of(aucs[model] - aucs[best]),
                against_reference=against,
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.auc))


def _row(
    of_seeds: Sequence[tuple[Contender, Result]],
    served: Served,
    aucs: NDArray[np.float64],
    *,
    against_best: Delta,
    against_reference: Delta | None,
) -> Row:
    """aucs [seeds, 1 + resamples]."""
    results = [result for _, result in of_seeds]
    first = results[0]
    metrics = [result.metrics[served.variant] for result in results]
    epochs = [result.seconds_an_epoch for result in results if result.seconds_an_epoch is not None]
    by_seed = tuple(float(auc) for auc in aucs[:, 0])
    return Row(
        model=first.model,
        seeds=tuple(result.seed for result in results),
        hyperparameters=first.hyperparameters,
        config=first.config,
        parameters=first.parameters,
        variant=served.variant,
        kept_out=served.kept_out,
        graph_bytes=first.graph_bytes[served.variant],
        auc=statistics.fmean(by_seed),
        auc_by_seed=by_seed,
        auc_sd=statistics.stdev(by_seed) if len(by_seed) > 1 else None,
        auc_interval=interval(aucs.mean(axis=0)[1:]),
        against_best=against_best,
        against_reference=against_reference,
        **{
            name: statistics.fmean(getattr(one, name) for one in metrics)
            for name in ("logloss", "prauc", "rce", "ece", "pcoc")
        },
        calibration=first.calibration[served.variant],
        seconds_an_epoch=statistics.fmean(epochs) if epochs else None,
        epochs=first.epochs,
        best_epoch=first.best_epoch,
        seconds=sum(result.seconds for result in results),
        microseconds_a_row=served.microseconds_a_row,
    )


def versions() -> dict[str, str]:
    """Of the libraries that decide what is measured."""
    return {name: version(name) for name in ("torch", "onnxruntime", "numpy")}
