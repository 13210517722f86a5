"""Which models there are: idea, paper and hyperparameters of each, from its own docstring."""

from __future__ import annotations

import inspect

from export.train.build import check_model, hyperparameters_of
from models import MODELS


def list_models() -> str:
    """A line a model: its name and its idea."""
    width = max(map(len, MODELS))
    return "\n".join(f"{name:{width}}  {_first_line(name)}" for name in MODELS)


def describe_model(name: str) -> str:
    """A model's docstrings, and its hyperparameters with their defaults. Raises ExportError."""
    check_model(name, {})
    parts = [f"{name}: {_documentation(name)}", inspect.getdoc(MODELS[name]) or ""]
    known = hyperparameters_of(name)
    if known:
        lines = (f"  {hyperparameter}={default!r}" for hyperparameter, default in known.items())
        parts.append("hyperparameters and their defaults:\n" + "\n".join(lines))
    else:
        parts.append("It takes no hyperparameters.")
    return "\n\n".join(part for part in parts if part)


def _first_line(name: str) -> str:
    return _documentation(name).partition("\n")[0]


def _documentation(name: str) -> str:
    """The docstring of the module, which names the paper; the class's own where several share a module."""
    model = MODELS[name]
    module = inspect.getmodule(model)
    shared = sum(inspect.getmodule(other) is module for other in MODELS.values()) > 1
    own = model.__dict__.get("__doc__")
    return inspect.cleandoc((own if shared and own else None) or (module and module.__doc__) or "")
