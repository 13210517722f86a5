"""Which models there are: idea, paper, hyperparameters and abilities of each, from its docstring and code."""

from __future__ import annotations

import inspect

from export.cli.abilities import columns_of, described, row_of
from export.data.progress import Bar
from export.report.text_table import aligned
from export.stages.abilities import abilities_of
from export.train.build import check_model, hyperparameters_of
from models import MODELS


def list_models() -> str:
    """A line a model: its name and its idea."""
    width = max(map(len, MODELS))
    return "\n".join(f"{name:{width}}  {_first_line(name)}" for name in MODELS)


def describe_model(name: str) -> str:
    """A model's docstrings, its hyperparameters with their defaults, its abilities. Raises ExportError."""
    check_model(name, {})
    parts = [f"{name}: {_documentation(name)}", inspect.getdoc(MODELS[name]) or ""]
    known = hyperparameters_of(name)
    if known:
        lines = (f"  {hyperparameter}={default!r}" for hyperparameter, default in known.items())
        parts.append("hyperparameters and their defaults:\n" + "\n".join(lines))
    else:
        parts.append("It takes no hyperparameters.")
    parts.append(described(abilities_of(name)))
    return "\n\n".join(part for part in parts if part)


def list_abilities() -> str:
    """A row a model: what can be made smaller of it."""
    rows = []
    with Bar("models", len(MODELS), unit="models", whole=True) as bar:
        for name in MODELS:
            found = abilities_of(name)
            *cells, _ = row_of(found)
            rows.append(cells)
            bar.add(1)
    *heads, _ = columns_of(found)
    return "\n".join([*aligned([heads, *rows]), "`python -m export models NAME` says why not"])


def _first_line(name: str) -> str:
    return _documentation(name).partition("\n")[0]


def _documentation(name: str) -> str:
    """The docstring of the module, which names the paper; the class's own where several share a module."""
    model = MODELS[name]
    module = inspect.getmodule(model)
    shared = sum(inspect.getmodule(other) is module for other in MODELS.values()) > 1
    own = model.__dict__.get("__doc__")
    return inspect.cleandoc((own if shared and own else None) or (module and module.__doc__) or "")
