"""The training loop: batches of an encoded log in, the weights that were best on the validation part out.

It knows models as functions from ids to logits, and nothing of a schema, a file or of what a hook prunes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from export.data.encoded import Part, batches
from export.errors import ExportError
from export.train.config import TrainConfig
from export.train.metrics import auc, logloss, sigmoid
from export.train.row_adam import RowAdam
from export.train.schedule import learning_rate

Report = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0


class Log(Protocol):
    """What of an encoded log the loop reads: its parts `train` and `validation`."""

    @property
    def parts(self) -> Mapping[str, Part]: ...


@dataclass(frozen=True)
class Evaluation:
    """One look at the validation part, with what happened in training since the look before it."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    rows_per_second: float
    logloss: float
    auc: float


@dataclass(frozen=True)
class TrainResult:
    """How a training went. The model holds the weights of `best`, or the last ones where `best` is None."""

    best: Evaluation | None
    history: tuple[Evaluation, ...]
    steps: int
    stopped_early: bool

    @property
    def best_epoch(self) -> int:
        """The epoch, counted from 1, whose weights the model holds."""
        return self.best.epoch if self.best else self.history[-1].epoch


def train(
    model: nn.Module,
    log: Log,
    config: TrainConfig,
    *,
    after_step: Callable[[int], None] | None = None,
    report: Report = print,
) -> TrainResult:
    """Train on log.parts["train"], judge on log.parts["validation"]; the best weights end up in the model.

    after_step(step) runs after each update, before any evaluation, with steps counted from 1: it may change
    weights in place. The same seed, log and number of threads on the CPU give bit-equal weights. The model
    comes back on the CPU, in evaluation mode. Raises ExportError when the loss stops being finite.
    """
    part, validation = log.parts["train"], log.parts["validation"]
    steps_per_epoch = -(-len(part.labels) // config.batch_size)
    if steps_per_epoch == 0 or len(validation.labels) == 0:
        raise ExportError("the parts 'train' and 'validation' must hold rows (got none); give a longer log")
    with _settings(config), _sparse_gradients(model) as tables:
        model.to(config.device)
        run = _Run(model, _optimizers(model, tables, config), config, validation, report)
        looks = _evaluation_steps(steps_per_epoch, config.evaluations_per_epoch)
        for epoch in range(1, config.epochs + 1):
            for within, (ids, labels) in enumerate(
                batches(part, config.batch_size, seed=config.seed + epoch), 1
            ):
                run.update(ids, labels)
                if after_step is not None:
                    after_step(run.step)
                if within in looks:
                    run.evaluate(epoch, within / steps_per_epoch)
                    if run.patience_is_over():
                        return run.finish(stopped_early=True)
        return run.finish(stopped_early=False)


def predict_logits(
    model: nn.Module, ids: NDArray[np.integer[Any]], batch_size: int = 8192, device: str | None = None
) -> NDArray[np.float32]:
    """ids [n, columns] -> logits float32 [n], dropout off; moves the model to `device` where one is named."""
    if device is not None:
        model.to(device)
    place = next(model.parameters()).device
    was_training = model.training
    model.eval()
    logits = np.empty(len(ids), dtype=np.float32)
    try:
        with torch.inference_mode():
            for start in range(0, len(ids), batch_size):
                rows = slice(start, start + batch_size)
                logits[rows] = model(_tensor(ids[rows], place)).float().cpu().numpy()
    finally:
        model.train(was_training)
    return logits


class _Run:
    """One training under way: the counters, the best weights so far, and the steps between two looks."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        config: TrainConfig,
        validation: Part,
        report: Report,
    ) -> None:
        self.model, self.optimizers, self.config = model, optimizers, config
        self.validation, self.report = validation, report
        self.step = 0
        self.rate = 0.0
        self.history: list[Evaluation] = []
        self.best: Evaluation | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.looks_since_best = 0
        self._begin_stretch()

    def _begin_stretch(self) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.rows = 0
        self.started = self.told = time.perf_counter()

    def update(self, ids: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]) -> None:
        """One step of Adam on a batch: ids [batch, columns], labels [batch]."""
        self.step += 1
        config = self.config
        self.rate = learning_rate(
            self.step,
            base=config.learning_rate,
            warmup_steps=config.warmup_steps,
            decay_rate=config.decay_rate,
            decay_steps=config.decay_steps,
        )
        self.model.train()
        targets = torch.from_numpy(np.asarray(labels, dtype=np.float32)).to(config.device)
        loss = F.binary_cross_entropy_with_logits(self.model(_tensor(ids, config.device)), targets)
        torch.autograd.backward(loss)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.loss_sum = self.loss_sum.to(loss.device) + loss.detach() * len(labels)
        self.rows += len(labels)
        self._tell_progress()

    def _tell_progress(self) -> None:
        """A line now and then, where the looks are far apart."""
        now = time.perf_counter()
        if now - self.told >= SECONDS_BETWEEN_LINES:
            self.told = now
            self.report(
                f"step {self.step}  loss {float(self.loss_sum) / self.rows:.5f}  "
                f"{self.rows / (now - self.started):,.0f} rows/s"
            )

    def evaluate(self, epoch: int, share_of_epoch: float) -> None:
        """Judge the weights as they are, remember them when they are the best, print one line."""
        seconds = time.perf_counter() - self.started
        train_loss = float(self.loss_sum) / self.rows
        if not np.isfinite(train_loss):
            raise ExportError(
                f"the training loss must stay finite (got {train_loss} by step {self.step}); "
                f"lower 'learning_rate' ({self.config.learning_rate:g}) or raise 'warmup_steps'"
            )
        pctr = sigmoid(predict_logits(self.model, self.validation.ids))
        look = Evaluation(
            epoch=epoch,
            step=self.step,
            learning_rate=self.rate,
            train_loss=train_loss,
            rows_per_second=self.rows / max(seconds, 1e-9),
            logloss=logloss(self.validation.labels, pctr),
            auc=auc(self.validation.labels, pctr),
        )
        self.history.append(look)
        improved = self.step >= self.config.best_from_step and self._improves(look)
        if improved:
            self.best, self.looks_since_best = look, 0
            self.best_weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        elif self.best is not None:
            self.looks_since_best += 1
        mark = " *" if improved else ""
        self.report(
            f"epoch {epoch - 1 + share_of_epoch:.2f}/{self.config.epochs}  step {self.step}  "
            f"loss {train_loss:.5f}  validation logloss {look.logloss:.5f} AUC {look.auc:.5f}{mark}  "
            f"{look.rows_per_second:,.0f} rows/s"
        )
        self._begin_stretch()

    def _improves(self, look: Evaluation) -> bool:
        if self.best is None:
            return True
        return look.auc > self.best.auc if self.config.metric == "auc" else look.logloss < self.best.logloss

    def patience_is_over(self) -> bool:
        """Whether as many looks in a row as the config has patience for brought nothing better."""
        return self.config.patience is not None and self.looks_since_best >= self.config.patience

    def finish(self, *, stopped_early: bool) -> TrainResult:
        """Put the best weights back, hand the model back in evaluation mode on the CPU."""
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        self.model.cpu().eval()
        return TrainResult(self.best, tuple(self.history), self.step, stopped_early)


def _evaluation_steps(steps_per_epoch: int, evaluations_per_epoch: int) -> frozenset[int]:
    """After which steps of an epoch to look, counted from 1; the last one always."""
    count = min(evaluations_per_epoch, steps_per_epoch)
    return frozenset(round(steps_per_epoch * (look + 1) / count) for look in range(count))


def _optimizers(
    model: nn.Module, tables: Iterable[Tensor], config: TrainConfig
) -> list[torch.optim.Optimizer]:
    """Adam that moves rows for the embedding tables, fused Adam for all else."""
    tables = list(tables)
    ids_of_tables = {id(table) for table in tables}
    rest = [weights for weights in model.parameters() if id(weights) not in ids_of_tables]
    optimizers: list[torch.optim.Optimizer] = []
    if tables:
        optimizers.append(RowAdam(tables, config.learning_rate, l2=config.embedding_l2))
    if rest:
        optimizers.append(torch.optim.Adam(rest, config.learning_rate, weight_decay=config.l2, fused=True))
    return optimizers


def _tensor(ids: NDArray[np.integer[Any]], device: str | torch.device) -> Tensor:
    """A batch of ids as a tensor; copied where it is a view of a read-only memory map."""
    return torch.from_numpy(np.require(ids, requirements=["C", "W"])).to(device)


@contextlib.contextmanager
def _sparse_gradients(model: nn.Module) -> Iterator[list[Tensor]]:
    """The embedding tables of a model, whose gradients hold only the rows looked up while this lasts."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    before = [embedding.sparse for embedding in embeddings]
    try:
        for embedding in embeddings:
            embedding.sparse = True
        yield [embedding.weight for embedding in embeddings]
    finally:
        for embedding, sparse in zip(embeddings, before, strict=True):
            embedding.sparse = sparse


@contextlib.contextmanager
def _settings(config: TrainConfig) -> Iterator[None]:
    """The config's seed and threads while this lasts; the caller's random state comes back after."""
    threads = torch.get_num_threads()
    on_cuda = torch.device(config.device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_cuda else []):
        torch.manual_seed(config.seed)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
