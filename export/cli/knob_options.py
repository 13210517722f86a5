"""Options made of the knobs of dataclasses, and the knobs that were given among the parsed options."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from export.cli.parser import Option
from export.cli.values import reader
from export.knobs import Declared, Limits, OneOf, UsedBy, knobs


def options_of(
    kind: type, *names: str, default: Any = None, others: Mapping[str, Any] | None = None
) -> tuple[Option, ...]:
    """An option for each knob of a dataclass, or for the named ones; a subclass's own come first.

    Defaults are those of the fields, or of the object `default`; `others` are objects whose values the help
    names where they differ. What is not given is None: the dataclass knows its defaults.
    """
    found = knobs(kind)
    inherited = {
        one.name for base in kind.__bases__ if hasattr(base, "__dataclass_fields__") for one in fields(base)
    }
    ordered = names or sorted(found, key=lambda name: name in inherited)
    return tuple(_option(found[name], default, others or {}) for name in ordered)


def given_of(kind: type, options: Namespace) -> dict[str, Any]:
    """The knobs of a dataclass that were given."""
    named = {name: getattr(options, name, None) for name in knobs(kind)}
    return {name: value for name, value in named.items() if value is not None}


def _option(one: Declared, default: Any, others: Mapping[str, Any]) -> Option:
    value = one.default if default is None else getattr(default, one.name)
    users = one.knob.used_by
    is_own = default is not None and value != one.default
    choices = one.limits.names if isinstance(one.limits, OneOf) and not one.is_tuple else None
    return Option(
        flag=one.flag,
        about=f"{_said(users)}{one.knob.about}",
        kind=choices or reader(one),
        metavar=one.knob.unit or (None if choices else _unit(one)),
        required=one.is_required,
        otherwise=(None if is_own else one.knob.otherwise) or _shown(one.name, value, others),
        used_by=users,
    )


def _shown(name: str, value: Any, others: Mapping[str, Any]) -> str | None:
    """A default as the help says it: `100000; zoo: 4000`."""
    if value is MISSING or value is None:
        return None
    differing = {other: getattr(made, name) for other, made in others.items() if getattr(made, name) != value}
    return "; ".join([_text(value), *(f"{other}: {_text(one)}" for other, one in differing.items())])


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unit(one: Declared) -> str:
    """What stands for a value where the knob says nothing else."""
    if one.element is int:
        return "N"
    if one.element is float:
        return (
            "SHARE" if isinstance(one.limits, Limits) and 1 in (one.limits.at_most, one.limits.below) else "X"
        )
    return "PATH" if one.element is Path else "TEXT"


def _said(users: UsedBy | None) -> str:
    """What has to be chosen for it, before what it means."""
    if users is None or users.unless:
        return ""
    if not users.values:
        return f"with {users.flags}: "
    return f"of {_listed(users.values)}: "


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
