"""What a search varies for one model: axes around its defaults, and the settings that a point on them means.

An axis of training multiplies the default that is fitted to the log and the model, so the point 1 is always
the default itself. It knows no Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from export.train.build import hyperparameters_of, possible_dim
from export.train.choices import TrainChoice
from export.train.config import TrainConfig
from export.train.optimizers import sparse_gradients
from export.trials import Axis, Value, Values, narrowed, point_on
from models.fields import Field, fields_of

SMALLEST_BATCH = 16

OPTIMIZER = Axis("embedding_optimizer", "adam", choices=("adam", "ftrl"))
_ADAM, _FTRL = (OPTIMIZER.name, "adam"), (OPTIMIZER.name, "ftrl")
RATE = Axis("learning_rate_times", 1.0, 1 / 4, 4.0, log=True)
EMBEDDING_L2 = Axis("embedding_l2_times", 1.0, 1 / 32, 8.0, log=True, only_with=_ADAM)
LINEAR_L2 = Axis("linear_l2_times", 1.0, 1 / 10, 10.0, log=True, only_with=_ADAM)
FTRL_ALPHA = Axis("ftrl_alpha", 0.1, 0.02, 0.5, log=True, only_with=_FTRL)
FTRL_L2 = Axis("ftrl_l2", 1.0, 0.1, 10.0, log=True, only_with=_FTRL)
BATCH = Axis("batch_doublings", 0, -1, 2)
DIM = Axis("dim_doublings", 0, -1, 1)
WIDTHS = Axis("width_halvings", 0, 0, 3)

# Of hyperparameters that some models have; the default is each model's own.
HYPERPARAMETERS = (
    Axis("dropout", 0.5, 0.0, 0.7),
    Axis("trees", 200, 25, 400, log=True),
    Axis("depth", 4, 2, 6),
    Axis("cross_layers", 3, 1, 6),
    Axis("exponential_layers", 3, 1, 5),
    Axis("linear_layers", 3, 1, 5),
    Axis("attention_layers", 3, 1, 4),
    Axis("layers", 3, 1, 4),
    Axis("product", "inner", choices=("inner", "outer", "both")),
    Axis("structure", "stacked", choices=("stacked", "parallel")),
    Axis("bilinear", "interaction", choices=("all", "each", "interaction")),
    Axis("second_half", "self_mask", choices=("self_mask", "affine")),
)


@dataclass(frozen=True)
class Space:
    """The axes of one model on one log, and what else decides the settings of a point."""

    model: str
    hyperparameters: Mapping[str, Any]  # that are fixed
    training: TrainChoice  # that is fixed
    rows: int  # of the training part
    clicks: int
    has_weights: bool  # tables of single weights of ids
    fields: tuple[Field, ...]
    axes: tuple[Axis, ...]

    def defaults(self) -> dict[str, Value]:
        """The point that means no settings at all."""
        return point_on(self.axes, lambda axis: axis.default)

    def settings(self, values: Values) -> dict[str, Any]:
        """Hyperparameters and choices of training at a point; what is as by default is left out."""
        return {**self._hyperparameters(values), **self._training(values)}

    def split(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], TrainChoice]:
        """Settings together with those that are fixed, as hyperparameters and as choices of training."""
        known = hyperparameters_of(self.model)
        own = {name: value for name, value in settings.items() if name in known}
        rest = {name: value for name, value in settings.items() if name not in known}
        return {**self.hyperparameters, **own}, self.training.updated(**rest)

    def config(self, settings: Mapping[str, Any]) -> TrainConfig:
        """How a model with these settings is trained."""
        return self.split(settings)[1].config(self.rows, self.clicks, model=self.model)

    def _hyperparameters(self, values: Values) -> dict[str, Any]:
        known = hyperparameters_of(self.model)
        varied = {name: _tidy(value) for name, value in values.items() if name in known}
        found: dict[str, Any] = {name: value for name, value in varied.items() if value != known[name]}
        if doublings := values.get(DIM.name, 0):
            wanted = round(known["dim"] * 2.0 ** int(doublings))
            given = {**self.hyperparameters, **found}
            found["dim"] = possible_dim(self.model, self.fields, given, wanted, least=1, most=2 * wanted)
        widths = known.get("hidden_units", ())
        layers = int(values.get("hidden_layers", len(widths)))
        halvings = int(values.get(WIDTHS.name, 0))
        if (layers, halvings) != (len(widths), 0):
            found["hidden_units"] = narrowed(widths, layers, halvings)
        return found

    def _training(self, values: Values) -> dict[str, Any]:
        names = ("embedding_optimizer", FTRL_ALPHA.name, FTRL_L2.name)
        by_name = {axis.name: axis for axis in self.axes}
        found = {n: _tidy(values[n]) for n in names if n in values and values[n] != by_name[n].default}
        usual = self.config({})
        if doublings := values.get(BATCH.name, 0):
            found["batch_size"] = max(SMALLEST_BATCH, round(usual.batch_size * 2.0 ** int(doublings)))
        fitted = self.config(found)  # to that batch
        for axis in (RATE, EMBEDDING_L2, LINEAR_L2):
            name, times = axis.name.removesuffix("_times"), float(values.get(axis.name, 1.0))
            if times != 1.0:
                found[name] = _tidy(getattr(fitted, name) * times)
        if "embedding_l2" in found and self.has_weights:  # which alone would hold for both
            found.setdefault("linear_l2", fitted.linear_l2)
        return found


def space_of(
    model: str, network: nn.Module, hyperparameters: Mapping[str, Any], training: TrainChoice,
    *, rows: int, clicks: int,
) -> Space:  # fmt: skip
    """The space of a model: `network` is one with its defaults; what is given is fixed, and no axis.

    rows and clicks are those of the training part.
    """
    with sparse_gradients(network) as tables:
        widths = {table.shape[1] for table in tables}
    fields = fields_of(network)
    space = Space(model, hyperparameters, training, rows, clicks, 1 in widths, fields, ())
    axes = (*_training_axes(space, has_vectors=max(widths, default=0) > 1), *_axes_of_model(space))
    return replace(space, axes=axes)


def _training_axes(space: Space, *, has_vectors: bool) -> tuple[Axis, ...]:
    given, usual = space.training.given, space.config({})
    penalties = [
        axis
        for axis, exists in ((EMBEDDING_L2, has_vectors), (LINEAR_L2, space.has_weights))
        if exists and axis.name.removesuffix("_times") not in given
    ]
    steps = [axis for axis in (FTRL_ALPHA, FTRL_L2) if axis.name not in given]
    axes: list[Axis] = []
    if "learning_rate" not in given and "adam" in (usual.optimizer, usual.embedding_optimizer):
        axes.append(RATE)
    if "batch_size" not in given:
        axes.append(BATCH)
    is_open = not {"embedding_optimizer", "embedding_l2", "linear_l2"} & given.keys()
    if is_open and (has_vectors or space.has_weights):
        return (*axes, OPTIMIZER, *penalties, *steps)
    chosen = penalties if usual.embedding_optimizer == "adam" else steps
    return (*axes, *(replace(axis, only_with=()) for axis in chosen))


def _axes_of_model(space: Space) -> tuple[Axis, ...]:
    """Those of hyperparameters that are not given."""
    known = hyperparameters_of(space.model)
    free = {name: value for name, value in known.items() if name not in space.hyperparameters}
    axes = [DIM] if "dim" in free else []
    if "hidden_units" in free:
        axes.append(WIDTHS)
        layers = len(free["hidden_units"])
        axes += [Axis("hidden_layers", layers, 1, layers)] if layers > 1 else []
    axes += [
        replace(axis, default=free[axis.name])
        for axis in HYPERPARAMETERS
        if axis.name in free and axis.holds(free[axis.name])
    ]
    return tuple(axes)


def _tidy(value: Value) -> Value:
    """A number as a person would write it: three digits."""
    return float(f"{value:.3g}") if isinstance(value, float) else value
