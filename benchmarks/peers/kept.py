"""Fitted models in a folder, each under a key of all that it depends on: none is fitted twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.peers.contender import Contender, Fitted, Floats, Settings
from export.data.encoded import EncodedLog
from export.judge.metrics import auc, logloss
from export.stages.work import hash_of
from service.bundle.folders import replacing
from service.bundle.json_files import encode_json

PARTS = ("validation", "test")


class Kept(msgspec.Struct, frozen=True):
    """One fitted model; its pCTRs are in a file beside this record, whose name is the key."""

    by: str
    model: str
    settings: dict[str, Any]
    seed: int
    version: str
    auc: dict[str, float]  # by part
    logloss: dict[str, float]
    epoch_seconds: float | None
    epochs: float


@dataclass(frozen=True)
class Run:
    """A kept model with its pCTRs [n] of the test part."""

    kept: Kept
    test: Floats


@dataclass(frozen=True)
class Cabinet:
    """The folder, for one log: `log_digest` is part of every key."""

    folder: Path
    log_digest: str

    def run(
        self, contender: Contender, log: EncodedLog, settings: Settings, seed: int, say: Callable[[str], None]
    ) -> Run:
        """The model from the folder, or fitted now and kept."""
        key = self.key(contender, settings, seed)
        record, arrays = self.folder / f"{key}.json", self.folder / f"{key}.npz"
        if not record.exists():
            fitted = contender.fit(log, settings, seed)
            kept = _kept(contender, settings, seed, fitted, log)
            say(
                f"{contender.name}, seed {seed}, {shown(settings)}: "
                f"validation LogLoss {kept.logloss['validation']:.5f}"
            )
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(arrays) as incoming, incoming.open("wb") as file:
                np.savez(file, test=fitted.test.astype(np.float32))
            with replacing(record) as incoming:  # last of all: a model with a record is whole
                incoming.write_bytes(encode_json(kept))
        with np.load(arrays, allow_pickle=False) as found:
            test = np.asarray(found["test"], np.float64)
        return Run(msgspec.json.decode(record.read_bytes(), type=Kept), test)

    def key(self, contender: Contender, settings: Settings, seed: int) -> str:
        """A digest of the log, of who fits what and by which code, and of the settings and the seed."""
        inputs = [self.log_digest, contender.by, contender.model, contender.version, dict(settings), seed]
        return hash_of(inputs)[:24]


def digest_of(log: EncodedLog) -> str:
    """A digest of the rows that models are fitted and judged on."""
    digest = hashlib.sha256()
    for name in ("train", *PARTS):
        part = log.parts[name]
        digest.update(np.ascontiguousarray(part.ids).tobytes())
        digest.update(np.ascontiguousarray(part.labels).tobytes())
    return digest.hexdigest()[:24]


def shown(settings: Settings) -> str:
    """Settings in one line, without what the table's head says of all."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= value if isinstance(value, dict) else {name: value}
    told = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in flat.items()
        if name not in ("model", "dim", "hidden_units", "hidden", "batch_size")
    ]
    return ", ".join(told) or "defaults"


def _kept(contender: Contender, settings: Settings, seed: int, fitted: Fitted, log: EncodedLog) -> Kept:
    pctr = {"validation": fitted.validation, "test": fitted.test}
    labels = {name: np.asarray(log.parts[name].labels) for name in PARTS}
    return Kept(
        by=contender.by,
        model=contender.model,
        settings=dict(settings),
        seed=seed,
        version=contender.version,
        auc={name: auc(labels[name], pctr[name]) for name in PARTS},
        logloss={name: logloss(labels[name], pctr[name]) for name in PARTS},
        epoch_seconds=fitted.epoch_seconds,
        epochs=fitted.epochs,
    )
