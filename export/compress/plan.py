"""A smaller model before it is built, and what every removal asks of the model that it makes smaller."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.fields import Field


@dataclass(frozen=True)
class Plan:
    """Constructor arguments, and the tensors that differ from the model's, by name in the state dict."""

    fields: tuple[Field, ...]
    hyperparameters: dict[str, Any]
    tensors: dict[str, Tensor]
    renumberings: dict[str, NDArray[np.int32]]

    def changed(self, tensors: Mapping[str, Tensor], **hyperparameters: Any) -> Plan:
        """This plan with further tensors and arguments."""
        return replace(
            self,
            hyperparameters={**self.hyperparameters, **hyperparameters},
            tensors={**self.tensors, **tensors},
        )


class UnsupportedError(Exception):
    """A part of a model cannot be made smaller; the message is the reason."""


def layers_of(model: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> list[tuple[str, Any]]:
    """The layers of a kind, with their paths."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, kind)]


def require_argument(model: nn.Module, argument: str) -> None:
    """Raises UnsupportedError unless the model's constructor takes this argument."""
    if argument not in inspect.signature(type(model)).parameters:
        name = type(model).__name__
        raise UnsupportedError(f"{name} takes no '{argument}' that could size a smaller one")


def build(model: nn.Module, plan: Plan) -> nn.Module:
    """A model of the same class as planned, with initial weights."""
    try:
        with torch.random.fork_rng(devices=[]):  # they must not advance the caller's random state
            return type(model)(plan.fields, **plan.hyperparameters)
    except (TypeError, ValueError) as error:
        raise UnsupportedError(f"a smaller {type(model).__name__} could not be built: {error}") from error
