"""Tells which fields some schemas have and others lack: a client that suits one may starve the other."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from service.bundle.schema import Schema

logger = logging.getLogger("bidlight")

FIELDS_NAMED = 10


def warn_of_unlike_arms(schemas: Mapping[str, Schema], before: Mapping[str, Schema] | None = None) -> None:
    """Log how the schemas of arms differ from each other, and from those that they had `before` a reload."""
    _warn({f"arm {name}": schema for name, schema in schemas.items()})
    for name, old in (before or {}).items():
        if name in schemas:
            _warn({f"arm {name}": schemas[name], "its bundle before": old})


def _warn(schemas: Mapping[str, Schema]) -> None:
    """Log what each lacks that another one has, in one line. `schemas` are by what they are called there.

    Fields of one name that differ in kind or role are two: no request can suit both.
    """
    fields = {
        called: dict.fromkeys(f"{field.name!r} ({field.kind}, {field.role})" for field in schema.fields)
        for called, schema in schemas.items()
    }
    every = dict.fromkeys(name for names in fields.values() for name in names)
    lacking = {called: [name for name in every if name not in names] for called, names in fields.items()}
    if not any(lacking.values()):
        return
    if not set.intersection(*map(set, fields.values())):
        logger.warning("%s have no field in common; see whether they are of one log", " and ".join(fields))
        return
    told = [f"{called} has no {_shortened(names)}" for called, names in lacking.items() if names]
    logger.warning(
        "%s are of unlike schemas: %s; requests must suit all", " and ".join(fields), "; ".join(told)
    )


def _shortened(names: list[str]) -> str:
    more = len(names) - FIELDS_NAMED
    return ", ".join(names[:FIELDS_NAMED]) + (f" and {more} more" if more > 0 else "")
