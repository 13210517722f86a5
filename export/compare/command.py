"""`python -m export compare`: from its options to a comparison, or to the tables of finished ones."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from export.compare.compare import chosen_models, compare, read_comparison
from export.compare.overrides import read_overrides
from export.compare.plan import ComparePlan
from export.compare.tables import FORMATS
from export.compress.choice import PruneChoice
from export.errors import ExportError
from export.stages.plan import default_work
from export.stages.work import Say
from export.train.choices import EmbeddingChoice, TrainChoice


def run_command(
    options: Namespace,
    *,
    common: Mapping[str, Any],
    training: TrainChoice,
    pruning: PruneChoice,
    embedding: EmbeddingChoice,
    say: Say,
) -> None:
    """Prints the comparisons of `--show`, else compares."""
    if options.show:
        for name in ("data", "schema", "out"):
            if (given := getattr(options, name)) is not None:
                raise ExportError(
                    f"'--{name}' must be left out with --show, which compares nothing (got {str(given)!r}); "
                    "leave out one of the two"
                )
        for folder in options.show:
            say(FORMATS[options.format](read_comparison(folder)))
            say("")
        return
    for name in ("data", "schema", "out"):
        if getattr(options, name) is None:
            raise ExportError(f"'--{name}' must be given to compare models (got nothing); see compare --help")
    compare(
        ComparePlan(
            data=options.data,
            schema=options.schema,
            out=options.out,
            work=options.work or default_work(options.out),
            models=options.models,
            split=options.split,
            on_malformed=options.on_malformed,
            min_count=options.min_count,
            common=common,
            overrides=read_overrides(options.settings, options.hyperparameter or ()),
            embedding=embedding,
            training=training,
            pruning=pruning,
            quantization_rows=options.quantization_rows,
            sampling_rate=options.sampling_rate,
            methods=options.calibration_methods,
            seeds=options.seeds,
            jobs=options.jobs,
            again=chosen_models(options.again),
        ),
        say=say,
    )
