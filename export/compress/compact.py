"""Removes what pruning zeroed: a masked model -> a smaller model of the same class with the same logits.

It knows embeddings, `FieldPairs` and perceptrons, wherever they are in a model, and that a model is built as
`Class(fields, **hyperparameters)`; `export.compress.interactions` knows the layers of single models. Parts
that it cannot verify stay masked, with a note.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.compress.dead_neurons import Perceptron
from export.compress.dimensions import without_dead_dimensions
from export.compress.embedding_rows import merge_zero_rows
from export.compress.interactions.kinds import REMOVALS
from export.compress.parts import units_of
from export.compress.perceptrons import (
    find_perceptrons,
    hidden_widths,
    linear_layers,
    without_dead_neurons,
)
from export.compress.plan import Plan, UnsupportedError, build, layers_of, require_argument
from export.compress.targets import find_targets
from export.compress.whole_units import WholeUnits
from export.train.carry import domain_of
from models.embedding import FeaturesEmbedding
from models.fields import PADDING_ID, Field, fields_of
from models.layers import MLP, FieldPairs

CHECKED_ROWS = 512
ROWS = "zero embedding rows"
TOLERANCE = 1e-5
"""The largest difference of logits that counts as rounding, relative to the largest |logit| or 1."""


@dataclass(frozen=True)
class Compacted:
    """The smaller model and its description; of two counts the masked model's comes first."""

    model: nn.Module  # the masked model itself if nothing could be removed
    hyperparameters: dict[str, Any]  # together with the smaller model's `fields` they rebuild it
    renumberings: dict[str, NDArray[np.int32]]  # for `Schema.renumbered`: fields with merged rows only
    live_neurons: tuple[int, ...]  # by hidden layer; a layer without any has 0 here and width 1
    live_pairs: int
    dead_inputs: int  # first-layer columns without weights; they stay, as inputs are laid out by field
    embedding_rows: tuple[int, int]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    max_abs_diff: float  # of logits, masked against smaller, on random ids
    notes: tuple[str, ...]  # what stayed masked, and why


def compact(model: nn.Module, hyperparameters: Mapping[str, Any]) -> Compacted:
    """A model with exact zeros -> a smaller model with the same logits, in eval mode; `model` is not changed.

    `hyperparameters` are the keyword arguments that the model was built with, beside its fields. After each
    removal (embedding rows and dimensions, field pairs, the neurons of each perceptron, each kind of
    interactions) both models run on random ids. If the logits change, or the class cannot be built that way,
    the part keeps its masked form, with a note. What one removal leaves dead, the next round takes.
    Raises ValueError if the model has no `fields`.
    """
    if not isinstance(fields := getattr(model, "fields", None), tuple):
        raise ValueError(f"'model' must have a tuple of fields as `.fields` (got {type(model).__name__})")
    plan = Plan(fields, dict(hyperparameters), {}, {})
    smaller, difference, changed = model, 0.0, True
    while changed:
        changed, notes = False, []
        waiting = list(_parts_of(smaller).items())
        while waiting:
            part, remove = waiting.pop(0)
            try:
                candidate = remove(smaller, plan)
                if candidate is not plan:
                    smaller, difference = _build_checked(model, smaller, candidate)
                    plan, changed = replace(candidate, tensors={}), True
            except UnsupportedError as reason:
                if part == ROWS and len(one_by_one := _rows_by_field(smaller, plan)) > 1:
                    waiting = [*one_by_one.items(), *waiting]
                else:
                    notes.append(f"{part} stay masked: {reason}")
    perceptrons = [without_dead_neurons(layers) for layers in find_perceptrons(smaller)]
    return Compacted(
        model=smaller,
        hyperparameters=plan.hyperparameters,
        renumberings=plan.renumberings,
        live_neurons=tuple(count for perceptron in perceptrons for count in perceptron.live),
        live_pairs=sum(int(layer.weight.count_nonzero()) for _, layer in layers_of(model, FieldPairs)),
        dead_inputs=sum(perceptron.dead_inputs for perceptron in perceptrons),
        embedding_rows=(_embedding_rows(model), _embedding_rows(smaller)),
        parameters=(_parameters(model), _parameters(smaller)),
        bytes=(_bytes(model), _bytes(smaller)),
        max_abs_diff=difference,
        notes=tuple(notes),
    )


@torch.no_grad()
def can_shrink(model: nn.Module, hyperparameters: Mapping[str, Any]) -> bool:
    """Whether zeros make a model of this form smaller: whether `compact` can remove all that may be pruned.

    `hyperparameters` are as in `compact`; `model` is not changed.
    """
    bare = copy.deepcopy(model)
    for target in find_targets(bare):
        for weights in target.weights:
            # A row stays, so the embeddings keep their dimensions, of which no weight's rate takes any out.
            weights[target.part == "embedding" :].zero_()
    masked, smaller = compact(bare, hyperparameters).bytes
    return smaller < masked


def can_lose(model: nn.Module, hyperparameters: Mapping[str, Any], part: str, share: float) -> bool:
    """Whether a model of this form has units of a part, and of dimensions can lose such a share of them.

    Other units go wherever they are found. Which dimension a layer reads is its own affair: this tries.
    """
    if part != "dimensions" or not units_of(model, part):
        return bool(units_of(model, part))
    bare = copy.deepcopy(model)
    (units,) = found = units_of(bare, part)
    WholeUnits(found).silence(lambda _: share)
    left = int(units.importance().count_nonzero())
    return left == units.count or compact(bare, hyperparameters).hyperparameters.get("dim") == left


def _merge_rows(model: nn.Module, plan: Plan, *, only: str | None = None) -> Plan:
    """Merges the zero rows of all fields, or of one, of a model that has the planned fields."""
    layers = layers_of(model, FeaturesEmbedding)
    _check_tables(model, plan.fields, layers)
    among = None if only is None else {only}
    merged = merge_zero_rows(plan.fields, [layer for _, layer in layers], among)
    if not merged.renumberings:
        return plan
    tables = {f"{path}.table.weight": table for (path, _), table in zip(layers, merged.tables, strict=True)}
    earlier = plan.renumberings
    renumberings = {
        name: new[earlier[name]] if name in earlier else new for name, new in merged.renumberings.items()
    }
    return replace(
        plan,
        fields=merged.fields,
        hyperparameters={**plan.hyperparameters, **_settled(model)},
        tensors={**plan.tensors, **tables},
        renumberings={**plan.renumberings, **renumberings},
    )


def _settled(model: nn.Module) -> dict[str, Any]:
    """The domain's field by name: a model that was told none takes the one with the fewest ids."""
    domain = domain_of(model)
    takes_one = "domain" in inspect.signature(type(model)).parameters
    return {"domain": domain} if domain is not None and takes_one else {}


def _check_tables(
    model: nn.Module, fields: Sequence[Field], layers: Sequence[tuple[str, FeaturesEmbedding]]
) -> None:
    """Raises UnsupportedError for a table that is none of these layers', or reads fields of its own."""
    known = {id(table) for _, layer in layers for table in layer.children()}
    strangers = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and id(module) not in known
    ]
    strangers += [path for path, layer in layers if not set(layer.fields) <= set(fields)]
    if strangers:
        raise UnsupportedError(f"'{strangers[0]}' is not a table over fields of the model, as it has them")


def _drop_pairs(model: nn.Module, plan: Plan) -> Plan:
    layers = layers_of(model, FieldPairs)
    if all(layer.weight.all() for _, layer in layers):
        return plan
    path, layer = _only(model, layers, "pairs")
    live = layer.weight.detach() != 0
    pairs = tuple(pair for pair, alive in zip(layer.pairs, live.tolist(), strict=True) if alive)
    return plan.changed({f"{path}.weight": layer.weight.detach()[live]}, pairs=pairs)


def _drop_neurons(model: nn.Module, plan: Plan, *, path: str) -> Plan:
    """Narrows the perceptron at `path` by the argument that sizes it and no other."""
    perceptrons = _perceptrons(model)
    mlp = dict(perceptrons)[path]
    if (layers := linear_layers(mlp)) is None:
        raise UnsupportedError("it has parts other than linear layers with biases")
    small = without_dead_neurons(layers)
    if small.widths == hidden_widths(layers):
        return plan
    argument = _units_argument(model, path)
    _only(model, [one for one in perceptrons if _units_argument(model, one[0]) == argument], argument)
    return plan.changed(_tensors_of(small, path, mlp.has_output), **{argument: small.widths})


def _perceptrons(model: nn.Module) -> list[tuple[str, MLP]]:
    """The perceptrons with hidden layers, with their paths."""
    return [(path, mlp) for path, mlp in layers_of(model, MLP) if len(mlp.hidden)]


def _units_argument(model: nn.Module, path: str) -> str:
    """The argument that sizes the hidden layers at `path`: for `bottom` it is `bottom_units`."""
    own = f"{path}_units"
    return own if own in inspect.signature(type(model)).parameters else "hidden_units"


def _tensors_of(perceptron: Perceptron, path: str, has_output: bool) -> dict[str, Tensor]:
    """The perceptron's tensors by name in the state dict of the model that has it at `path`."""
    n_hidden = len(perceptron.weights) - has_output
    names = [f"{path}.hidden.{layer}" for layer in range(n_hidden)] + [f"{path}.output"] * has_output
    arrays = {f"{name}.weight": W for name, W in zip(names, perceptron.weights, strict=True)}
    arrays |= {f"{name}.bias": b for name, b in zip(names, perceptron.biases, strict=True)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _parts_of(model: nn.Module) -> dict[str, Callable[[nn.Module, Plan], Plan]]:
    """The removals in order; each perceptron is a part of its own, so an unsupported one affects no other."""
    neurons = {
        f"dead neurons of '{path}'": partial(_drop_neurons, path=path) for path, _ in _perceptrons(model)
    }
    return {
        ROWS: _merge_rows,
        "zero embedding dimensions": without_dead_dimensions,
        "pruned pairs": _drop_pairs,
        **neurons,
        **REMOVALS,
    }


def _rows_by_field(model: nn.Module, plan: Plan) -> dict[str, Callable[[nn.Module, Plan], Plan]]:
    """The removal of rows field by field, for a model that needs all ids of some; empty if none could go."""
    try:
        merged = _merge_rows(model, plan)
    except UnsupportedError:
        return {}
    return {
        f"{ROWS} of '{field.name}'": partial(_merge_rows, only=field.name)
        for field in plan.fields
        if field.same_values_as is None and field.name in merged.renumberings
    }


def _only(model: nn.Module, layers: list[tuple[str, Any]], argument: str) -> tuple[str, Any]:
    """The one layer that this argument of the model's constructor sizes, with its path."""
    require_argument(model, argument)
    if len(layers) > 1:
        raise UnsupportedError(
            f"{type(model).__name__} uses one '{argument}' for {', '.join(path for path, _ in layers)}"
        )
    return layers[0]


def _build_checked(masked: nn.Module, model: nn.Module, plan: Plan) -> tuple[nn.Module, float]:
    """`model` as planned, in eval mode, and its largest difference of logits from `masked` on random ids."""
    smaller = build(model, plan)
    state = {**model.state_dict(), **plan.tensors}
    for name, tensor in smaller.state_dict().items():
        if name not in state or state[name].shape != tensor.shape:
            found = tuple(state[name].shape) if name in state else "none"
            raise UnsupportedError(
                f"'{name}' of the smaller model is of shape {tuple(tensor.shape)}, not {found}"
            )
    smaller.load_state_dict({name: state[name] for name in smaller.state_dict()})
    smaller = smaller.to(next(model.parameters()).device).eval()
    return smaller, _difference(masked, smaller, plan)


def _difference(model: nn.Module, smaller: nn.Module, plan: Plan) -> float:
    fields = fields_of(model)
    rng = np.random.default_rng(0)
    ids = [rng.integers(field.cardinality, size=(CHECKED_ROWS, field.width)) for field in fields]
    for column in ids:  # padding is frequent in sequences
        column[rng.random(column.shape) < 0.2] = PADDING_ID
    names = [field.name for field in fields]
    new_ids = [
        plan.renumberings[name][column] if name in plan.renumberings else column
        for name, column in zip(names, ids, strict=True)
    ]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        expected = model(torch.from_numpy(np.concatenate(ids, axis=1)).to(device))
        try:
            found = smaller(torch.from_numpy(np.concatenate(new_ids, axis=1)).to(device))
        except (IndexError, RuntimeError) as error:
            raise UnsupportedError(f"a smaller {type(model).__name__} does not run: {error}") from error
    model.train(was_training)
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise UnsupportedError(
            f"a smaller {type(model).__name__} differs by {difference:.2g} in the logit; "
            "some layer uses this part in an unsupported way"
        )
    return difference


def _embedding_rows(model: nn.Module) -> int:
    return sum(layer.table.num_embeddings for _, layer in layers_of(model, FeaturesEmbedding))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
