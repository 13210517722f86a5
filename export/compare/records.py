"""What a comparison records: each model's result as soon as there is one, and the whole at the end."""

from __future__ import annotations

from typing import Any

import msgspec

from export.judge.bootstrap import Delta
from export.stages.records import LogSummary
from export.train.config import TrainConfig
from service.bundle.manifest import Metrics, Parity


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One model, trained with one seed and exported; metrics are calibrated, on the test part, by variant.

    `key` is a hash of its inputs. `seconds_an_epoch` is of training steps alone,
    `seconds` of everything from the first step to the last figure.
    """

    key: str
    model: str
    seed: int
    hyperparameters: dict[str, Any]
    config: TrainConfig
    parameters: int
    epochs: int
    best_epoch: int
    seconds_an_epoch: float | None
    seconds: float
    graph_bytes: dict[str, int]
    calibration: dict[str, str]
    metrics: dict[str, Metrics]
    parity: tuple[Parity, ...]


class Failure(msgspec.Struct, frozen=True):
    """A model without a result: in which stage it failed, and why."""

    model: str
    seed: int
    stage: str
    reason: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the table: the graph that serves, mean quality of the seeds, speed of the first seed."""

    model: str
    seeds: tuple[int, ...]
    hyperparameters: dict[str, Any]
    config: TrainConfig
    parameters: int
    variant: str
    kept_out: dict[str, str]
    graph_bytes: int
    auc: float
    auc_by_seed: tuple[float, ...]
    auc_sd: float | None
    auc_interval: tuple[float, float]
    against_best: Delta  # of AUC on the same rows
    against_reference: Delta | None
    logloss: float
    prauc: float
    rce: float
    ece: float
    pcoc: float
    calibration: str
    seconds_an_epoch: float | None
    epochs: int
    best_epoch: int
    seconds: float
    microseconds_a_row: dict[str, float]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The content of compare.json, from which tables and page are made; best row first."""

    created_at: str
    machine: str
    versions: dict[str, str]
    options: dict[str, Any]
    log: LogSummary
    auc_of_true_pctr: float | None
    best: str | None
    reference: str | None
    resamples: int
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
