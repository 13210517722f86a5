"""Algorithm 1 of DeepLight: a model is trained on while ever more of its smallest weights are set to zero.

It knows the training loop by its `after_step` hook and models by `export.compress.targets`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.compress.config import PruneConfig
from export.compress.magnitude import hold, largest, zero_smallest
from export.compress.perceptrons import dead_neuron_rate, find_perceptrons
from export.compress.recipes import Recipe
from export.compress.schedule import RESIDUAL, is_pruning_step, pruning_interval, sparse_rate
from export.compress.targets import Target, find_targets, zero_rates
from export.compress.whole_neurons import WholeNeurons
from export.train.config import TrainConfig
from export.train.loop import Log, Report, TrainResult, train
from export.train.sampling import steps_an_epoch


@dataclass(frozen=True)
class PruneResult:
    """`rates` asked for and `reached`, by part the model has; how training went.

    They are shares of exact zeros, and of `neurons`, where whole ones were to go, the share that is dead.
    """

    rates: dict[str, float]
    reached: dict[str, float]
    training: TrainResult


class Pruner:
    """What happens to the weights after each training step: nothing, a pruning, or the masks held.

    Steps count from 1. After each `every` of the `steps` that follow `start`, and after the last of them,
    the smallest weights are set to zero, at the rate that the schedule has come to. Until then nothing
    holds them there: the optimizer may bring a weight back that was pruned by mistake, and the next pruning
    judges it anew. The last pruning leaves masks, and from then on they are laid on after every step:
    whatever the optimizer's moments still add to a pruned weight is gone before the next forward pass. Of
    very many weights (the embeddings of a large log) the prunings before the last hit the rate to a tenth
    of a point; the last is exact. Whole neurons go in the same way, see `export.compress.whole_neurons`.
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
        self.neurons = WholeNeurons(find_perceptrons(model) if recipe.neurons > 0.0 else ())
        self.recipe, self.start, self.steps = recipe, start, steps
        self.every, self.residual = pruning_interval(steps, every), residual
        self.masks: list[tuple[Tensor, Tensor]] = []
        """Each pruned tensor with what of it stays; empty until the last pruning."""
        self._random = torch.Generator()  # its own: pruning shall not change what dropout draws
        self._random.manual_seed(0)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Prune or hold, as the step demands; changes the model's weights in place."""
        step -= self.start
        if step == self.steps:
            self._prune_for_good()
        elif is_pruning_step(step, self.steps, self.every):
            self.neurons.silence(self._rate("neurons", step))
            for target in self.targets:
                self._zero_smallest(target, self._rate(target.part, step))
        for weight, kept in self.masks:
            hold(weight, kept)

    def _prune_for_good(self) -> None:
        """Neurons first: their weights are among the zeros when the smallest weights are counted."""
        self.neurons.silence(self.recipe.neurons)
        self.masks = self.neurons.masks()
        for weight, kept in self.masks:
            hold(weight, kept)
        for target in self.targets:
            masks = largest(target.weights, self.recipe.rates[target.part])
            self.masks += zip(target.weights, masks, strict=True)

    def _rate(self, part: str, step: int) -> float:
        return sparse_rate(getattr(self.recipe, part), step, self.steps, self.residual)

    def _zero_smallest(self, target: Target, rate: float) -> None:
        """A neuron that is silent keeps the weights it would come back with; they count as gone already."""
        silent = self.neurons.silent_rows(target.weights[0])
        if silent is None:
            zero_smallest(target.weights, rate, self._random)
        else:
            (weight,) = target.weights
            (kept,) = largest([weight * ~silent], rate)
            hold(weight, kept | silent)


def prune(
    model: nn.Module,
    log: Log,
    recipe: Recipe,
    config: TrainConfig,
    report: Report = print,
    *,
    schedule: PruneConfig,
) -> PruneResult:
    """Warm up, prune, fine-tune: the model is left exactly sparse, on the CPU, in evaluation mode.

    `config` is that of training, but for its `epochs`, which `schedule` sets. The weights kept are the best
    of those seen once the masks were final, right after the last pruning or later: weights from before are
    not sparse, however good. Raises ExportError as `train` does.
    """
    steps_per_epoch = steps_an_epoch(log.parts["train"], config)
    start = round(schedule.warmup_epochs * steps_per_epoch)
    steps = max(1, round(schedule.prune_epochs * steps_per_epoch))
    pruner = Pruner(model, recipe, steps, start=start, every=schedule.prune_every, residual=schedule.residual)
    end = start + steps + max(1, round(schedule.finetune_epochs * steps_per_epoch))
    epochs = max(1, math.ceil(end / max(1, steps_per_epoch)))
    result = train(
        model,
        log,
        dataclasses.replace(config, epochs=epochs, best_from_step=start + steps),
        after_step=_announced(pruner, model, recipe, start + steps, report),
        report=report,
    )
    reached = _reached(model, recipe)
    return PruneResult({part: recipe.rates[part] for part in reached}, reached, result)


def _reached(model: nn.Module, recipe: Recipe) -> dict[str, float]:
    """See PruneResult."""
    rates = zero_rates(model)
    if recipe.neurons > 0.0 and find_perceptrons(model):
        rates["neurons"] = dead_neuron_rate(model)
    return rates


def _announced(
    pruner: Pruner, model: nn.Module, recipe: Recipe, last: int, report: Report
) -> Callable[[int], None]:
    """The pruner's hook, with a line when the rates are reached."""

    def after_step(step: int) -> None:
        pruner.after_step(step)
        if step == last:
            rates = ", ".join(f"{part} {rate:.1%}" for part, rate in _reached(model, recipe).items())
            report(f"step {step}: pruned {rates}; the masks are held from here")

    return after_step
