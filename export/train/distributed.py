"""Several processes started by torchrun, for one training: rank 0 runs the export, the others wait for work.

    torchrun --nproc-per-node 2 -m export run ...

Rank 0 does everything that an export does; when it comes to training it sends the others the model and the
config, and all go through the same loop, each with its share of every batch. They read the log themselves:
on several machines its folder must be one that all of them see. Plain collectives, not torch's
DistributedDataParallel: that one cannot add up sparse gradients with NCCL, and averages over processes where
a batch's last rows may be unevenly shared. Batch statistics, where a model has them, are each process's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from export.data.encoded import open_log
from export.errors import ExportError
from export.train.config import TrainConfig
from export.train.loop import Log, Report, TrainResult, train
from export.train.ranks import ALONE, LeaderFailedError, Ranks

# Others wait while rank 0 reads a log of any length; a process that dies is noticed at once all the same.
LONGEST_WAIT = timedelta(days=7)


@dataclass(frozen=True)
class _Order:
    """What the other processes must know to train with rank 0."""

    model: nn.Module
    log: Path
    config: TrainConfig


@contextmanager
def joined() -> Iterator[Ranks]:
    """Makes the processes that torchrun started one group; alone without torchrun.

    When rank 0 leaves, the others' `follow` ends. Raises ExportError where they cannot meet.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"several processes must be started by torchrun (got {reason!r}); "
            "see `torchrun --nproc-per-node 2 -m export --help`"
        ) from None
    ranks = current()
    try:
        yield ranks
    finally:
        if dist.is_initialized():
            if ranks.leads:
                with suppress(ExportError):  # who is gone need not be told
                    _send(ranks, None)
                    _part(ranks)
            dist.destroy_process_group()


def current() -> Ranks:
    """The group that this process has joined."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size())


def train_together(
    model: nn.Module, log: Log, log_folder: Path, config: TrainConfig, *, report: Report = print
) -> TrainResult:
    """As `loop.train`, with all processes of the group; called on rank 0, where the model ends up trained.

    `log` is that of `log_folder`, which the others open.
    """
    ranks = current()
    if ranks.count > 1:
        if config.device not in ("cpu", "cuda"):
            raise ExportError(
                f"'device' must be cpu or cuda with {ranks.count} processes (got {config.device!r}); "
                "each takes the GPU of its own number"
            )
        report(f"training with {ranks.count} processes, {config.batch_size} rows a step together")
        _send(ranks, _Order(model, Path(log_folder).resolve(), config))
    try:
        return train(model, log, config, report=report, ranks=ranks)
    except ExportError:
        raise
    except BaseException:
        # The others are in the midst of a step and would wait for this process there.
        if ranks.count > 1:
            dist.destroy_process_group()
        raise


def follow(ranks: Ranks) -> None:
    """What every process but rank 0 does: train along whenever it is told to, until rank 0 is done."""
    while (order := _received(ranks)) is not None:
        try:
            train(order.model, open_log(order.log), order.config, report=lambda _: None, ranks=ranks)
        except LeaderFailedError:
            continue
    with suppress(ExportError):
        _part(ranks)


def _part(ranks: Ranks) -> None:
    """Meet once more: a process whose peers leave while it still talks to them may abort at its end."""
    with ranks.meeting():
        dist.barrier()


def _send(ranks: Ranks, order: _Order | None) -> None:
    with ranks.meeting():
        dist.broadcast_object_list([order], src=0, device=torch.device("cpu"))


def _received(ranks: Ranks) -> _Order | None:
    orders: list[_Order | None] = [None]
    with ranks.meeting():
        dist.broadcast_object_list(orders, src=0, device=torch.device("cpu"))
    return orders[0]
