"""Models trained on a synthetic log, for benchmarks that need an AUC; made once and kept in a work folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.data.encoded import open_log
from export.data.log_schema import load_log_schema
from export.data.readers import stamp_of
from export.data.synthetic import SyntheticConfig
from export.data.synthetic_file import write_synthetic_log
from export.errors import ExportError
from export.stages.fit_schema import fit_schema
from export.stages.plan import LogPlan
from export.stages.to_onnx import to_onnx
from export.stages.train import train
from export.stages.variants import DENSE, graph_name
from export.stages.work import Work, hash_of
from export.train.choices import TrainChoice


def check_same_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Ends the benchmark where `folder` holds models of another log or another training; else makes it."""
    file, content = folder / "options.json", json.dumps(dict(options))
    if file.exists() and file.read_text() != content:
        raise ExportError(
            f"'work' must be a new folder, or one of the same options (got {folder}, made with "
            f"{file.read_text()}); name another with --work"
        )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def check_same_log(folder: Path, data: Path, schema: str) -> None:
    """Ends the benchmark where `folder` holds models of what a log or its schema file was before.

    A folder that says nothing of its log yet, as those of earlier benchmarks, is taken as made of this one.
    """
    file = folder / "log.key"
    key = hash_of([stamp_of(data), repr(load_log_schema(schema))])
    if file.exists() and file.read_text() != key:
        raise ExportError(
            f"'{data}' and its schema '{schema}' must be as they were when the models in {folder} were made "
            "(one of them has changed since); name another --work"
        )
    file.write_text(key)


def make_log(work: Work, config: SyntheticConfig) -> None:
    """WORK/log, unless it is there."""
    if not work.has("fit-schema.json"):
        log = work.folder.with_name("log") / "clicks.parquet"
        schema = write_synthetic_log(config, log)
        fit_schema(work, LogPlan(data=log, schema=str(schema)))


def train_dense(
    work: Work, model: str, choice: TrainChoice, hyperparameters: Mapping[str, Any] | None = None
) -> None:
    """WORK/log -> WORK/dense.pt."""
    part = open_log(work.path("log")).parts["train"]
    train(work, model, hyperparameters or {}, choice.config(len(part), part.clicks, model=model))


def float_graph(work: Work, model: str, choice: TrainChoice) -> bytes:
    """The float32 graph of a model trained on WORK/log, kept beside the work folder."""
    file = work.folder.with_name(f"{model}.onnx")
    if not file.exists():
        train_dense(work, model, choice)
        to_onnx(work)
        file.write_bytes(work.path(graph_name(DENSE)).read_bytes())
    return file.read_bytes()
