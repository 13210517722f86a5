"""Trains a model in several processes of torchrun: rank 0 runs the export, the others wait for jobs.

    torchrun --nproc-per-node 2 -m export run ...

Rank 0 runs the whole export. To train, it sends the model and the config to the others, and all run the same
loop, each on its share of every batch. Each process reads the log itself, so with several machines the log's
folder must be visible to all. It uses plain collectives, not torch's DistributedDataParallel, which cannot
sum sparse gradients with NCCL and gives all processes equal weight although they may hold unequal shares of
the last batch. Batch statistics are computed per process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from export.data.encoded import open_log
from export.errors import ExportError
from export.train.config import TrainConfig
from export.train.loop import Log, Report, train
from export.train.ranks import ALONE, LeaderFailedError, Ranks, is_told
from export.train.result import TrainResult

# The others wait while rank 0 reads a log of any length. A dead process is noticed at once nevertheless.
LONGEST_WAIT = timedelta(days=7)


@dataclass(frozen=True)
class _Job:
    """What the other processes need to train with rank 0; a model that starts anew knows no past.

    `taught` is the file of what teachers say of the training rows.
    """

    model: nn.Module
    log: Path
    starts_anew: bool
    config: TrainConfig
    taught: Path | None


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Joins the processes that torchrun started into one group; yields ALONE without torchrun.

    When rank 0 leaves, `follow` ends in the others. Raises ExportError if the group cannot be formed.
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
            if ranks.is_leader:
                with suppress(ExportError):  # a dead process need not be notified
                    _send(ranks, None)
                    _wait_for_all(ranks)
            dist.destroy_process_group()


def current() -> Ranks:
    """The group of this process."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size())


def train_together(
    model: nn.Module, log: Log, log_folder: Path, config: TrainConfig, *, report: Report = print
) -> TrainResult:
    """As `loop.train`, with all processes of the group. Called on rank 0, whose model is trained in place.

    `log` is the log in `log_folder`, which the others open; what teachers say in it they map from its file.
    """
    ranks = current()
    if ranks.count > 1:
        if config.device not in ("cpu", "cuda"):
            raise ExportError(
                f"'device' must be cpu or cuda with {ranks.count} processes (got {config.device!r}); "
                "each takes the GPU of its own number"
            )
        report(f"training with {ranks.count} processes, {config.batch_size} rows a step in total")
        folder, taught = Path(log_folder).resolve(), _taught_file(log)
        _send(ranks, _Job(model, folder, log.past is None, config, taught))
    try:
        return train(model, log, config, report=report, ranks=ranks)
    except BaseException as error:
        # The others are within a step and would wait for this process.
        if ranks.count > 1 and not is_told(error):
            dist.destroy_process_group()
        raise


def _taught_file(log: Log) -> Path | None:
    """The file of what teachers say of the training rows."""
    taught = log.parts["train"].taught
    if taught is None:
        return None
    if not isinstance(taught, np.memmap) or taught.filename is None:
        raise ValueError("'taught' must be a memory map of a file, which the other processes read")
    return Path(taught.filename).resolve()


def follow(ranks: Ranks) -> None:
    """The loop of every process but rank 0: trains each job that rank 0 sends, until rank 0 leaves."""
    while (job := _receive(ranks)) is not None:
        try:
            log = open_log(job.log)
            if job.starts_anew and log.past is not None:
                log = log.without_past()
            if job.taught is not None:
                log = log.with_taught(np.load(job.taught, mmap_mode="r", allow_pickle=False))
            train(job.model, log, job.config, report=lambda _: None, ranks=ranks)
        except LeaderFailedError:
            continue
    with suppress(ExportError):
        _wait_for_all(ranks)


def _wait_for_all(ranks: Ranks) -> None:
    """A barrier before leaving: a process may abort if its peers leave while it still communicates."""
    with ranks.collective():
        dist.barrier()


def _send(ranks: Ranks, job: _Job | None) -> None:
    with ranks.collective():
        dist.broadcast_object_list([job], src=0, device=torch.device("cpu"))


def _receive(ranks: Ranks) -> _Job | None:
    jobs: list[_Job | None] = [None]
    with ranks.collective():
        dist.broadcast_object_list(jobs, src=0, device=torch.device("cpu"))
    return jobs[0]
