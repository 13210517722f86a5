"""Which hyperparameters and training choices a model gets, from those for all models and those for it alone.

It checks names, and leaves values to the model's constructor and to TrainChoice.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.compare.plan import Overrides
from export.errors import ExportError
from export.knobs import knobs
from export.train.build import hyperparameters_of
from export.train.choices import TrainChoice
from export.train.config import TrainConfig
from models import MODELS

# Each model is trained with the same seeds, on the same device.
CHOICES = tuple(name for name in knobs(TrainConfig) if name not in ("seed", "device", "threads"))


def read_overrides(file: Path | None, given: Sequence[tuple[str, Any]]) -> Overrides:
    """Those of a TOML file, then those of the command line: ("dim", 8) for all, ("fwfm.dim", 8) for one.

    In the file keys at the top are for all models, those of a table [fwfm] for that one. Raises ExportError
    for a file that is no TOML; `check_overrides` checks names.
    """
    content = {} if file is None else _read(file)
    shared = {name: value for name, value in content.items() if not isinstance(value, dict)}
    own = {name: dict(table) for name, table in content.items() if isinstance(table, dict)}
    for words, value in given:
        model, dot, name = words.rpartition(".")
        if dot:
            own.setdefault(model, {})[name] = value
        else:
            shared[name] = value
    return Overrides(shared, own)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExportError(
            f"'{file}' must be TOML with a table for each model (got: {error}); correct it"
        ) from None


def check_overrides(overrides: Overrides, models: Sequence[str]) -> None:
    """Raises ExportError for a name that no model, or not the one it is meant for, takes."""
    for model, table in overrides.own.items():
        if model not in MODELS:
            raise ExportError(
                f"an override must be for one of {', '.join(MODELS)} (got {model!r}); "
                "`python -m export models` tells what each is"
            )
        for name in table:
            _check_name(name, hyperparameters_of(model), f"model '{model}'")
    known = {name: None for model in models for name in hyperparameters_of(model)}
    for name in overrides.shared:
        _check_name(name, known, "the models")


def _check_name(name: str, hyperparameters: Mapping[str, Any], whose: str) -> None:
    if name not in hyperparameters and name not in CHOICES:
        raise ExportError(
            f"an override of {whose} must be a hyperparameter ({', '.join(hyperparameters) or 'none'}) "
            f"or a choice of training ({', '.join(CHOICES)}) (got {name!r}); "
            "`python -m export models NAME` tells more"
        )


def settle(
    model: str, common: Mapping[str, Any], overrides: Overrides, training: TrainChoice
) -> tuple[dict[str, Any], TrainChoice]:
    """The hyperparameters of one model, and how it is trained.

    Overrides of the model alone win over those of all models. Raises ExportError for a choice of training of
    a wrong type.
    """
    known = hyperparameters_of(model)
    of_all = {**common, **overrides.shared}
    given = {name: value for name, value in of_all.items() if name in known or name in CHOICES}
    given |= overrides.own.get(model, {})
    hyperparameters = {name: value for name, value in given.items() if name in known}
    choices = {name: value for name, value in given.items() if name not in known}
    try:
        return hyperparameters, training.updated(**choices)
    except ExportError as error:
        raise ExportError(f"an override of model '{model}' cannot be used: {error}; correct it") from None
