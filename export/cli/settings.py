"""Which model, hyperparameters and training the options and a settings file name together."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from export.errors import ExportError
from export.stages.plan import Plan
from export.train.choices import TrainChoice

Chosen = tuple[str, Mapping[str, Any], TrainChoice]


def with_settings(options: Namespace, hyperparameters: Mapping[str, Any], given: Mapping[str, Any]) -> Chosen:
    """Model, hyperparameters and training of the command line, over those of the file of --settings.

    The file is as `compare` takes it; without --model its one table names the model. Raises ExportError, with
    the file and the key, for what the model does not take.
    """
    if options.settings is None:
        return options.model or Plan.model, hyperparameters, TrainChoice(**given)
    from export.compare.overrides import check_overrides, read_overrides, settle

    overrides = read_overrides(options.settings, ())
    model = options.model or (next(iter(overrides.own)) if len(overrides.own) == 1 else Plan.model)
    if overrides.own and model not in overrides.own:
        raise ExportError(
            f"'{options.settings}' must have a table for the model {model} (got "
            f"{', '.join(f'[{name}]' for name in overrides.own)}); name another with --model"
        )
    try:
        check_overrides(overrides, (model,))
        of_file, training = settle(model, {}, overrides, TrainChoice())
        training.config(rows=1, model=model)
    except ExportError as error:
        raise ExportError(f"'{options.settings}': {error}") from None
    return model, {**of_file, **hyperparameters}, training.updated(**given)
