"""Trains small models in all ways that processes must agree on and saves the weights; run by a test.

torchrun --nproc-per-node 2 several_processes.py FOLDER      (or plain python: the same in one process)
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.cli.main import exit_with
from export.data.encoded import Part
from export.errors import ExportError
from export.train.config import TrainConfig
from export.train.distributed import current, follow, process_group
from export.train.loop import train
from export.train.ranks import LeaderFailedError
from models.embedding import FeaturesEmbedding, LinearTerm
from models.fields import Field
from models.layers import MLP
from tests.export.memory_log import MemoryLog

FIELDS = (Field("ad", 40, storage="qr", collisions=4), Field("site", 30), Field("history", 20, width=3))
# 301 rows in batches of 50: the last one has a single row, fewer than processes.
CONFIG = TrainConfig(
    epochs=2,
    batch_size=50,
    learning_rate=0.02,
    warmup_steps=3,
    evaluations_per_epoch=2,
    patience=None,
    threads=1,
)
FTRL = replace(CONFIG, optimizer="ftrl", ftrl_l1=0.05)
WAYS = {
    "adam": CONFIG,
    "ftrl": replace(FTRL, embedding_optimizer="ftrl"),
    "group-lasso": replace(FTRL, embedding_optimizer="group-lasso-ftrl", group_lasso=0.2),
    "calibration-aware": replace(CONFIG, loss="calibration-aware", calibration_weight=20.0),
    "weighted": replace(CONFIG, loss="weighted-bce", click_weight=4.0, negative_rate=0.6),
    "stops-early": replace(CONFIG, epochs=30, learning_rate=0.1, patience=1),
}


class Penalised(nn.Module):
    """A model with several tables and a penalty, part of it on the rows, part on the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = FIELDS
        self.embedding = FeaturesEmbedding(FIELDS, dim=4)
        self.wide = LinearTerm(FIELDS)
        self.mlp = MLP(12, (8,), dropout=0.0)
        self.penalty: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """ids [batch, columns] -> logits [batch]."""
        deep = self.mlp(self.embedding(ids).flatten(1))
        first: Any = self.mlp.hidden[0]
        on_weights = first.weight.square().sum()
        self.penalty = 0.1 * deep.square().mean() + 0.01 * on_weights if self.training else None
        logits: Tensor = self.wide(ids) + deep
        return logits


def a_log() -> MemoryLog:
    draw = np.random.default_rng(0)
    parts = {}
    for name, rows in (("train", 301), ("validation", 200)):
        ids = np.stack([draw.integers(0, size, rows) for size in (40, 30, 20, 20, 20)], axis=1).astype(
            np.int32
        )
        labels = (draw.random(rows) < np.where(ids[:, 0] % 3 == 0, 0.7, 0.2)).astype(np.uint8)
        parts[name] = Part(ids=ids, labels=labels, true_pctr=None, timestamps=None)
    return MemoryLog(parts)


def blow_up(rank: int) -> None:
    """A training that fails on rank 0 only: it ends on all ranks, which can then train again."""
    expected = LeaderFailedError if rank else ExportError
    try:
        config = replace(CONFIG, learning_rate=1e30, schedule="constant")
        train(Penalised(), a_log(), config, report=lambda _: None, ranks=current())
    except ExportError as error:
        if type(error) is expected:
            return
    raise SystemExit(f"rank {rank} must end with {expected.__name__}")


def main(folder: Path) -> None:
    with process_group() as ranks:
        blow_up(ranks.rank)
        for name, config in WAYS.items():
            torch.manual_seed(0)
            model = Penalised()
            lines: list[str] = []
            result = train(model, a_log(), config, report=lines.append, ranks=current())
            if ranks.is_leader:
                losses = [evaluation.train_loss for evaluation in result.history]
                kept = {
                    "weights": model.state_dict(),
                    "losses": losses,
                    "steps": result.steps,
                    "lines": len(lines),
                }
                torch.save(kept, folder / f"{name}.pt")
            elif lines or result.history:
                raise SystemExit(f"rank {ranks.rank} must be silent (got {lines})")
        if not ranks.is_leader:
            follow(ranks)  # until rank 0 leaves: a process that leaves earlier breaks its last broadcast


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    exit_with(0)  # torch's threads now and then abort an orderly end
