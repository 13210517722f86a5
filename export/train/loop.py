"""The training loop: batches of an encoded log in, the weights with the best validation metric out.

It knows models as functions from ids to logits, not schemas, files, or what a hook prunes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.data.encoded import Batch, Part
from export.data.past import Past
from export.data.progress import Bar, shown
from export.errors import ExportError
from export.judge.metrics import auc, logloss, sigmoid
from export.train.averaging import Average
from export.train.config import TrainConfig
from export.train.id_counts import IdCounts
from export.train.losses import TaughtLoss, distilled, loss_of
from export.train.optimizers import Optimizers, sparse_gradients
from export.train.prior import corrected_logits
from export.train.ranks import ALONE, Ranks
from export.train.result import Evaluation, TrainResult
from export.train.sampling import epoch_batches, steps_an_epoch
from export.train.schedule import scheduled_rate
from export.train.unseen import stronger_penalty
from export.train.untrained import UntrainedRows
from models.fields import fields_of

Report = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0

# So often the average takes the weights in. After each step it would cost more than the step itself.
UPDATES_AN_EPOCH = 48
# So often rows move by the momentum that waits for a lookup: as often as evaluations by default, and not by
# their number, since an evaluation changes nothing.
SETTLED_AN_EPOCH = 4


class Log(Protocol):
    """The parts of an encoded log that the loop reads, `train` and `validation`, and what came before."""

    @property
    def parts(self) -> Mapping[str, Part]: ...

    @property
    def past(self) -> Past | None: ...


def train(
    model: nn.Module,
    log: Log,
    config: TrainConfig,
    *,
    after_step: Callable[[int], None] | None = None,
    after_evaluation: Callable[[Evaluation], None] | None = None,
    taught_loss: TaughtLoss = distilled,
    report: Report = print,
    ranks: Ranks = ALONE,
    seconds_between_lines: float = SECONDS_BETWEEN_LINES,
) -> TrainResult:
    """Trains on log.parts["train"], evaluates on log.parts["validation"], and keeps the best weights.

    Evaluated and kept is the moving average of the weights (`export.train.averaging`), unless
    `config.averaging` is 0. Embeddings have a stronger penalty in fields where the validation part has unseen
    values (`export.train.unseen`). Each evaluation chooses what stands for values that training does not
    meet (`export.train.untrained`). What a log's `past` counts, training has met. Where the training part
    says what teachers say (`taught`), the loss is `taught_loss`; evaluations know labels alone.

    after_step(step) runs after each update and before an evaluation, with steps counted from 1; it may change
    weights in place. The same seed, log and number of threads on the CPU give bit-equal weights. The model
    ends on the CPU, in evaluation mode. With several `ranks` each process calls this with the same arguments;
    only rank 0 evaluates, reports and ends with the best weights. Progress lines are at least
    `seconds_between_lines` apart. Raises ExportError if the loss is not finite.

    after_evaluation(evaluation) may raise, which ends a training that is not worth its time.
    """
    part, validation = log.parts["train"], log.parts["validation"]
    steps = steps_an_epoch(part, config)
    if steps == 0 or len(validation.labels) == 0:
        raise ExportError("the parts 'train' and 'validation' must hold rows (got none); give a longer log")
    with _settings(config, ranks), sparse_gradients(model) as tables:
        model.to(config.device)
        earlier = {} if log.past is None else log.past.counts
        counts = IdCounts.of(fields_of(model), part, validation, earlier)
        stronger = stronger_penalty(model, counts, config.unseen_l2)
        optimizers = Optimizers(model, tables, config, stronger.by_table)
        told = stronger.told()
        if told is not None and config.embedding_optimizer == "adam" and ranks.is_leader:
            report(told)
        # No step looks them up.
        untrained = UntrainedRows(model, counts) if ranks.is_leader else None
        run = _Run(model, optimizers, config, validation, report, ranks, seconds_between_lines)
        run.taught_loss = taught_loss
        run.after_evaluation, run.untrained = after_evaluation, untrained
        evaluated = _evenly_spaced(steps, config.evaluations_per_epoch)
        averaged = _evenly_spaced(steps, UPDATES_AN_EPOCH)
        settled = _evenly_spaced(steps, SETTLED_AN_EPOCH)
        filled = averaged | evaluated
        if ranks.is_leader and config.averaging > 0:
            run.average = Average(model, config.averaging * len(averaged))
        with Bar("training", config.epochs * steps, unit="steps") as bar:
            for epoch in range(1, config.epochs + 1):
                for within, batch in enumerate(epoch_batches(part, config, epoch), 1):
                    run.update(batch)
                    bar.add(1, run.how_it_goes)
                    if within in settled:
                        optimizers.settle()
                    if within in filled and untrained is not None:
                        untrained.fill()
                    if after_step is not None:
                        after_step(run.step)
                    if within in averaged and run.average is not None:
                        run.average.update()
                    if within in evaluated and run.evaluate(epoch, within, steps):
                        return run.finish(steps, stopped_early=True)
            return run.finish(steps, stopped_early=False)


def predict_logits(
    model: nn.Module, ids: NDArray[np.integer[Any]], batch_size: int = 8192, device: str | None = None
) -> NDArray[np.float32]:
    """ids [n, columns] -> logits float32 [n], without dropout; moves the model to `device` if given."""
    if device is not None:
        model.to(device)
    model_device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    logits = np.empty(len(ids), dtype=np.float32)
    try:
        with torch.inference_mode():
            for start in range(0, len(ids), batch_size):
                rows = slice(start, start + batch_size)
                logits[rows] = model(_tensor(ids[rows], model_device)).float().cpu().numpy()
    finally:
        model.train(was_training)
    return logits


class _Run:
    """A running training: counters, best weights so far, and figures since the last evaluation."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        config: TrainConfig,
        validation: Part,
        report: Report,
        ranks: Ranks,
        seconds_between_lines: float,
    ) -> None:
        self.model, self.optimizers, self.config = model, optimizers, config
        self.validation, self.report, self.ranks = validation, report, ranks
        self.seconds_between_lines = seconds_between_lines
        self.loss = loss_of(config, ranks.mean)
        self.taught_loss: TaughtLoss = distilled
        self.step = 0
        self.rate = 0.0
        self.seconds = 0.0
        self.history: list[Evaluation] = []
        self.average: Average | None = None
        self.best: Evaluation | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.evaluations_since_best = 0
        self.after_evaluation: Callable[[Evaluation], None] | None = None
        self.untrained: UntrainedRows | None = None
        self._reset_figures()

    def _reset_figures(self) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.rows = 0.0  # of this process
        self.started = self.last_line = time.perf_counter()

    def update(self, batch: Batch) -> None:
        """One step on a batch of all processes."""
        self.step += 1
        self.rate = scheduled_rate(self.step, self.config)
        self.model.train()
        size = len(batch.labels)
        weight = self.ranks.weight(size)
        loss = self._loss(batch.rows(self.ranks.share(size)))
        torch.autograd.backward(loss * weight)
        self.ranks.sum_gradients(self.optimizers.weights)
        self.optimizers.step(self.rate, size)
        rows = weight * size
        self.loss_sum = self.loss_sum.to(loss.device) + loss.detach() * rows
        self.rows += rows
        self._report_progress()

    def _loss(self, batch: Batch) -> Tensor:
        """The loss of these rows plus the model's penalty."""
        config, device = self.config, self.config.device
        labels = torch.from_numpy(np.asarray(batch.labels, dtype=np.float32)).to(device)
        logits = self.model(_tensor(batch.ids, device))
        if batch.taught is None:
            loss = self.loss(logits, labels)
        else:
            taught = _tensor(batch.taught, device)
            alpha, temperature = config.distill_alpha, config.distill_temperature
            loss = self.taught_loss(self.loss, logits, labels, taught, alpha=alpha, temperature=temperature)
        penalty = getattr(self.model, "penalty", None)
        return loss if penalty is None else loss + penalty

    def _report_progress(self) -> None:
        """Reports a line if the last one is long ago, where lines are what is shown."""
        now = time.perf_counter()
        if now - self.last_line >= self.seconds_between_lines:
            self.last_line = now
            if shown() == "lines":
                self.report(f"step {self.step}  {self.how_it_goes()}")

    def how_it_goes(self) -> str:
        """The loss and the rate since the last evaluation; there is neither right after it."""
        if not self.rows:
            return ""
        rate = self.ranks.count * self.rows / (time.perf_counter() - self.started)
        return f"loss {float(self.loss_sum) / self.rows:.5f}  {rate:,.0f} rows/s"

    def evaluate(self, epoch: int, within: int, steps_per_epoch: int) -> bool:
        """Evaluates the weights after a step of an epoch. Returns whether training ends."""
        loss, rows = self.ranks.total(torch.stack([self.loss_sum, self.loss_sum.new_tensor(self.rows)]))
        seconds = time.perf_counter() - self.started
        self.seconds += seconds
        train_loss, rate = float(loss / rows), float(rows) / max(seconds, 1e-9)

        def judge() -> bool:
            with self.average.in_use() if self.average is not None else contextlib.nullcontext():
                line = self._evaluate(epoch, epoch - 1 + within / steps_per_epoch, train_loss, rate)
            took = f"  {self._seconds_an_epoch(steps_per_epoch):.1f} s an epoch"
            self.report(line + took if within == steps_per_epoch else line)
            return self._patience_is_used_up()

        over = self.ranks.decide(judge)
        self._reset_figures()
        return over

    def _evaluate(self, epoch: int, epochs: float, train_loss: float, rows_per_second: float) -> str:
        """Evaluates on the validation part, copies the weights if they are best, returns a report line."""
        if not np.isfinite(train_loss):
            raise ExportError(
                f"the training loss must stay finite (got {train_loss} by step {self.step}); "
                f"lower 'learning_rate' ({self.config.learning_rate:g}; of a pruning, 'prune_learning_rate') "
                "or raise 'warmup_steps'"
            )
        pctr = self._validation_pctr()
        evaluation = Evaluation(
            epoch=epoch,
            step=self.step,
            learning_rate=self.rate,
            train_loss=train_loss,
            rows_per_second=rows_per_second,
            logloss=logloss(self.validation.labels, pctr),
            auc=auc(self.validation.labels, pctr),
        )
        self.history.append(evaluation)
        improved = self.step >= self.config.best_from_step and self._improves(evaluation)
        if improved:
            self.best, self.evaluations_since_best = evaluation, 0
            self.best_weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        elif self.best is not None:
            self.evaluations_since_best += 1
        if self.after_evaluation is not None:
            self.after_evaluation(evaluation)
        mark = " *" if improved else ""
        return (
            f"epoch {epochs:.2f}/{self.config.epochs}  step {self.step}  "
            f"loss {train_loss:.5f}  validation logloss {evaluation.logloss:.5f} "
            f"AUC {evaluation.auc:.5f}{mark}  "
            f"{rows_per_second:,.0f} rows/s"
        )

    def _validation_pctr(self) -> NDArray[np.float64]:
        """pCTRs [n] of the validation part, which first chooses what stands for values without a row."""
        found: list[NDArray[np.float64]] = []

        def judge() -> float:
            logits = predict_logits(self.model, self.validation.ids)
            found.append(sigmoid(corrected_logits(logits, self.config)))
            return logloss(self.validation.labels, found[-1])

        if self.untrained is None:
            judge()
            return found[0]
        return found[1] if self.untrained.choose(judge) else found[0]

    def _improves(self, new: Evaluation) -> bool:
        if self.best is None:
            return True
        if self.config.stopping_metric == "auc":
            return new.auc > self.best.auc
        return new.logloss < self.best.logloss

    def _patience_is_used_up(self) -> bool:
        """Whether `patience` evaluations in a row were not better than the best."""
        return self.config.patience is not None and self.evaluations_since_best >= self.config.patience

    def finish(self, steps_per_epoch: int, *, stopped_early: bool) -> TrainResult:
        """Restores the best weights and moves the model to the CPU in evaluation mode."""
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        self.model.cpu().eval()
        seconds = self._seconds_an_epoch(steps_per_epoch)
        return TrainResult(self.best, tuple(self.history), self.step, stopped_early, seconds, steps_per_epoch)

    def _seconds_an_epoch(self, steps_per_epoch: int) -> float:
        return self.seconds / self.step * steps_per_epoch


def _evenly_spaced(steps_per_epoch: int, count: int) -> frozenset[int]:
    """So many steps of an epoch, from 1, or all of them if it has fewer; always including the last."""
    count = min(count, steps_per_epoch)
    return frozenset(round(steps_per_epoch * number / count) for number in range(1, count + 1))


def _tensor(rows: NDArray[Any], device: str | torch.device) -> Tensor:
    """A batch's ids or numbers as a tensor, copied if they are a view of a read-only memory map."""
    return torch.from_numpy(np.require(rows, requirements=["C", "W"])).to(device)


@contextlib.contextmanager
def _settings(config: TrainConfig, ranks: Ranks) -> Iterator[None]:
    """Sets the config's seed and threads within the context and restores the caller's random state after.

    Each process has its own seed for dropout.
    """
    threads = torch.get_num_threads()
    on_cuda = torch.device(config.device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_cuda else []):
        torch.manual_seed(config.seed * ranks.count + ranks.rank)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
