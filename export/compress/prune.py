"""Algorithm 1 of DeepLight: training continues while a growing share of the smallest weights is zeroed.

It uses the training loop's `after_step` hook, and finds a model's weights by `export.compress.targets`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from export.compress.config import PruneConfig
from export.compress.magnitude import apply_mask, largest_mask, zero_smallest
from export.compress.parts import find_units
from export.compress.perceptrons import dead_neuron_rate
from export.compress.recipes import Recipe
from export.compress.schedule import RESIDUAL, is_pruning_step, pruning_interval, sparse_rate
from export.compress.targets import Target, find_targets, zero_rates
from export.compress.whole_units import WholeUnits, dead_unit_rate
from export.train.config import TrainConfig
from export.train.loop import Log, Report, train
from export.train.result import TrainResult
from export.train.sampling import steps_an_epoch


@dataclass(frozen=True)
class PruneResult:
    """The requested `rates` and those `reached`, for the parts the model has, and the training's result.

    Rates are shares of exact zeros. Those of `neurons`, `interactions` and `dimensions`, present if whole
    ones are pruned, are the shares of dead ones.
    """

    rates: dict[str, float]
    reached: dict[str, float]
    training: TrainResult


class Pruner:
    """Changes the weights after each training step: not at all, by a pruning, or by applying masks.

    Steps count from 1. Pruning starts after step `start` and takes `steps` steps. After every `every`-th of
    them, and after the last, the smallest weights are set to zero at the scheduled rate. No mask holds them:
    the optimizer may restore a weight that was pruned by mistake, and the next pruning considers it again.
    The last pruning fixes masks, which are applied after every later step, so that updates from the
    optimizer's moments do not reach the next forward pass. With very many weights (the embeddings of a large
    log) the rates before the last pruning are approximate, and the last is exact. Whole units are pruned
    the same way, see `export.compress.whole_units`.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps: int,
        *,
        start: int = 0,
        every: int = 10,
        residual: float = RESIDUAL,
    ) -> None:
        self.targets = [target for target in find_targets(model) if recipe.rates[target.part] > 0.0]
        self.units = WholeUnits(find_units(model, recipe))
        self.recipe, self.start, self.steps = recipe, start, steps
        self.every, self.residual = pruning_interval(steps, every), residual
        self.masks: list[tuple[Tensor, Tensor]] = []
        """Each pruned tensor with its mask; empty until the last pruning."""
        self._random = torch.Generator()  # separate, so dropout's random numbers stay the same
        self._random.manual_seed(0)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Prunes or applies the masks, as the step requires; changes the model's weights in place."""
        step -= self.start
        if step == self.steps:
            self._prune_finally()
        elif is_pruning_step(step, self.steps, self.every):
            self.units.silence(lambda part: self._rate(part, step))
            for target in self.targets:
                self._zero_smallest(target, self._rate(target.part, step))
        for weight, kept in self.masks:
            apply_mask(weight, kept)

    def _prune_finally(self) -> None:
        """Prunes units first, so their weights count among the zeros of the weights' rates."""
        self.units.silence(lambda part: self.recipe.rates[part])
        self.masks = self.units.masks()
        for weight, kept in self.masks:
            apply_mask(weight, kept)
        for target in self.targets:
            masks = largest_mask(target.weights, self.recipe.rates[target.part])
            self.masks += zip(target.weights, masks, strict=True)

    def _rate(self, part: str, step: int) -> float:
        return sparse_rate(getattr(self.recipe, part), step, self.steps, self.residual)

    def _zero_smallest(self, target: Target, rate: float) -> None:
        """A silenced neuron keeps its input weights, so it can be restored; they count as pruned."""
        silent = self.units.silent(target.weights[0])
        if silent is None:
            zero_smallest(target.weights, rate, self._random)
        else:
            (weight,) = target.weights
            (kept,) = largest_mask([weight * ~silent], rate)
            apply_mask(weight, kept | silent)


def prune(
    model: nn.Module,
    log: Log,
    recipe: Recipe,
    config: TrainConfig,
    report: Report = print,
    *,
    schedule: PruneConfig,
) -> PruneResult:
    """Warms up, prunes and fine-tunes: the model ends exactly sparse, on the CPU, in evaluation mode.

    `config` is the training configuration; `schedule` overrides its `epochs`. The best weights are chosen
    among evaluations after the last pruning, because earlier weights are not sparse. Raises ExportError as
    `train` does.
    """
    stretch = stretch_of(schedule, steps_an_epoch(log.parts["train"], config))
    start, steps = stretch.start, stretch.steps
    pruner = Pruner(model, recipe, steps, start=start, every=schedule.prune_every, residual=schedule.residual)
    result = train(
        model,
        log,
        dataclasses.replace(config, epochs=stretch.epochs, best_from_step=start + steps),
        after_step=_announced(pruner, model, recipe, start + steps, report),
        report=report,
    )
    reached = _reached(model, recipe)
    return PruneResult({part: recipe.rates[part] for part in reached}, reached, result)


def train_dense_twin(
    model: nn.Module, log: Log, config: TrainConfig, report: Report = print, *, schedule: PruneConfig
) -> TrainResult:
    """Trains as `prune` does, with the same batches for as long, and prunes nothing.

    What a pruned model gains over the model it started from may be the further training alone; this one shows
    how much. Raises ExportError as `train` does.
    """
    stretch = stretch_of(schedule, steps_an_epoch(log.parts["train"], config))
    return train(model, log, dataclasses.replace(config, epochs=stretch.epochs), report=report)


class Stretch(NamedTuple):
    """The training steps before the first pruning, those of pruning, and the epochs of the whole."""

    start: int
    steps: int
    epochs: int


def stretch_of(schedule: PruneConfig, steps_per_epoch: int) -> Stretch:
    """The stretches of a pruning, in training steps."""
    start = round(schedule.warmup_epochs * steps_per_epoch)
    steps = max(1, round(schedule.prune_epochs * steps_per_epoch))
    end = start + steps + max(1, round(schedule.finetune_epochs * steps_per_epoch))
    return Stretch(start, steps, max(1, math.ceil(end / max(1, steps_per_epoch))))


def _reached(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    """`PruneResult.reached` of the model."""
    rates = zero_rates(model)
    units = find_units(model, recipe)
    for part in dict.fromkeys(one.part for one in units):
        own = [one for one in units if one.part == part]
        rates[part] = dead_neuron_rate(model) if part == "neurons" else dead_unit_rate(own)
    return rates


def _announced(
    pruner: Pruner, model: nn.Module, recipe: Recipe, last: int, report: Report
) -> Callable[[int], None]:
    """The pruner's hook, which also reports the rates after the last pruning."""

    def after_step(step: int) -> None:
        pruner.after_step(step)
        if step == last:
            rates = ", ".join(f"{part} {rate:.1%}" for part, rate in _reached(model, recipe).items())
            report(f"step {step}: pruned {rates}; the masks are held from here")

    return after_step
