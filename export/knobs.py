"""How a knob is declared, once: a dataclass field with its type, default, meaning, limits, unit and users.

    epochs: int = knob(10, "passes over the training part, at most", AT_LEAST_ONE)

Everything else is derived from the field: the check of its range (`check`), the refusal of a knob that
nothing chosen uses (`choose`), its option on the command line (`export.cli.knob_options`, `as_options`) and
its type in a settings file (`convert`). This module knows no particular knob and no parser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from export.errors import ExportError

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """The range of a number, or of each number of a tuple."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether a number is in the range; NaN and the infinities never are."""
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        ends = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {end:g}" for word, end in ends.items() if end is not None)


AT_LEAST_ONE = Limits(at_least=1)
POSITIVE = Limits(above=0)
NOT_NEGATIVE = Limits(at_least=0)
POSITIVE_SHARE = Limits(above=0, at_most=1)
SHARE = Limits(at_least=0, at_most=1)
SHARE_BELOW_ONE = Limits(at_least=0, below=1)
INNER_SHARE = Limits(above=0, below=1)


@dataclass(frozen=True)
class OneOf:
    """The names that a text, or each text of a tuple, may be; a Literal says the same by itself."""

    names: tuple[str, ...]

    def hold(self, value: str) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Rule:
    """What must hold for a tuple as a whole, and its words in messages."""

    expected: str
    hold: Callable[[Any], bool]


@dataclass(frozen=True)
class UsedBy:
    """The knob has an effect where one of these choices has one of these values, or, without any, is set.

    A choice is a field of the same dataclass, or a property of it; a field must have an effect itself.
    `unless` is how a message says that it is not so, where names and values would not tell a person.
    """

    choices: tuple[str, ...]
    values: tuple[str, ...] = ()
    unless: str = ""

    def holds(self, value: Any) -> bool:
        """Whether a choice of this value uses the knob."""
        return str(value) in self.values if self.values else bool(value)

    @property
    def flags(self) -> str:
        """The choices as options of the command line."""
        return " or ".join(map(flag_of, self.choices))

    def refusal(self, made: Any, name: str) -> str:
        """Why the knob must be left out, and what uses it."""
        value = getattr(made, name)
        if self.unless:
            return f"'{name}' must be left out {self.unless} (got {value!r}); leave out one of the two"
        if not self.values:
            return f"'{name}' must be left out without {self.flags} (got {value!r}); give both or none"
        chosen = " and ".join(str(getattr(made, choice)) for choice in self.choices)
        return (
            f"'{name}' must be left out with {' and '.join(self.choices)} {chosen} "
            f"(got {value!r}); it is for {' or '.join(self.values)}"
        )


@dataclass(frozen=True)
class Knob:
    """What a field says beside its name, type and default.

    about      what it means, as the help says it; None makes it no option of the command line
    unit       what stands for its value in the help; by default what its type and limits suggest
    otherwise  for the help, what it is where it is not given, if that is no fixed default
    used_by    without it the knob always has an effect
    """

    about: str | None = None
    limits: Limits | OneOf | None = None
    unit: str | None = None
    otherwise: str | None = None
    used_by: UsedBy | None = None
    rule: Rule | None = None


def flag_of(name: str) -> str:
    """The option of a field on the command line."""
    return f"--{name.replace('_', '-')}"


def knob(
    default: T,
    about: str | None,
    limits: Limits | OneOf | None = None,
    unit: str | None = None,
    *,
    otherwise: str | None = None,
    used_by: UsedBy | None = None,
    rule: Rule | None = None,
) -> T:
    """A dataclass field with this default and what `Knob` holds."""
    said = described(about, limits, unit, otherwise=otherwise, used_by=used_by, rule=rule)
    return field(default=default, metadata=said)


def described(about: str | None, *said: Any, **named: Any) -> Mapping[str, Knob]:
    """The metadata of a field that has no default, or a factory of it; arguments are those of `Knob`."""
    return {"knob": Knob(about, *said, **named)}


@dataclass(frozen=True)
class Declared:
    """A field as it is declared; `kind` is its type without None, `default` is MISSING where it has none."""

    name: str
    kind: Any
    default: Any
    knob: Knob = Knob()
    optional: bool = False

    @property
    def type(self) -> Any:
        """The type of the field."""
        return self.kind | None if self.optional else self.kind

    @property
    def flag(self) -> str:
        """Its option on the command line."""
        return flag_of(self.name)

    @property
    def is_tuple(self) -> bool:
        return get_origin(self.kind) is tuple

    @property
    def element(self) -> Any:
        """The type of one element of a tuple, or of the value itself."""
        return get_args(self.kind)[0] if self.is_tuple else self.kind

    @cached_property
    def limits(self) -> Limits | OneOf | None:
        """The range of a value, or of each element of a tuple."""
        if get_origin(self.element) is Literal:
            return OneOf(get_args(self.element))
        return self.knob.limits

    @property
    def is_required(self) -> bool:
        """Whether a person must give it: it has no default, fixed or not."""
        return self.default is MISSING and self.knob.otherwise is None

    @property
    def range(self) -> str:
        """The range in words: `at least 1`; empty where every value of the type will do."""
        if self.knob.rule is not None:
            return self.knob.rule.expected
        return f"{self.limits or ''}{', or None' if self.optional else ''}"

    @property
    def expected(self) -> str:
        """Type and range of a value, or of each element of a tuple: `a whole number of at least 1`."""
        noun = {int: "a whole number", float: "a number", str: "a text"}.get(self.element)
        if noun is None or isinstance(self.limits, OneOf):
            return str(self.limits or "a value")
        if self.limits is None:
            return noun
        return f"{noun} {'' if self.limits.at_least is None else 'of '}{self.limits}"

    def holds(self, value: Any) -> bool:
        """Whether a value of the right type is in the range."""
        if value is None:
            return self.optional
        elements: Sequence[Any] = value if self.is_tuple else (value,)
        return (self.limits is None or all(map(self.limits.hold, elements))) and (
            self.knob.rule is None or self.knob.rule.hold(value)
        )


def declared(kind: Any) -> Mapping[str, Declared]:
    """The fields of a dataclass by name, in order."""
    return _read_fields(kind)


@cache
def _read_fields(kind: Any) -> Mapping[str, Declared]:
    hints = get_type_hints(kind)
    return {one.name: _declared(one, hints[one.name]) for one in fields(kind)}


def _declared(one: Field[Any], hint: Any) -> Declared:
    optional = get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)
    if optional:
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    default = one.default if one.default_factory is MISSING else one.default_factory()
    return Declared(one.name, hint, default, one.metadata.get("knob", Knob()), optional)


def knobs(kind: type) -> Mapping[str, Declared]:
    """Those of its fields that are options of the command line."""
    return {name: one for name, one in declared(kind).items() if one.knob.about is not None}


def as_options(made: Any, kind: type, *names: str) -> tuple[str, ...]:
    """The words of a command line that give knobs of `kind`, all or the named ones, the values of `made`.

    What is as by default is left out.
    """
    known = knobs(kind)
    values = {name: getattr(made, name) for name in names or known}
    return tuple(
        word
        for name, value in values.items()
        if value != known[name].default
        for word in (known[name].flag, ",".join(map(str, value)) if known[name].is_tuple else str(value))
    )


def check(made: Any, error: type[ExportError] = ExportError) -> None:
    """Raises an error for the first field that is out of its range. For a dataclass's `__post_init__`."""
    for name, one in declared(type(made)).items():
        value = getattr(made, name)
        if not one.holds(value):
            raise error(f"'{name}' must be {one.range} (got {value!r}); see {type(made).__name__}")


def choose(kind: type[T], given: Mapping[str, Any], default: T | None = None) -> T:
    """A dataclass made of the knobs that were given; the rest are those of `default`, or the fields' own.

    Raises ExportError for a knob that nothing chosen uses: it would have no effect.
    """
    made = kind(**given) if default is None else replace(default, **given)  # type: ignore[type-var]
    check_effects(made, given)
    return made


def check_effects(made: Any, names: Iterable[str]) -> None:
    """Raises ExportError for the first of these knobs of `made` that would have no effect."""
    for name in names:
        missing = lacking(made, name)
        if missing is not None:
            raise ExportError(missing.refusal(made, name))


def lacking(made: Any, name: str) -> UsedBy | None:
    """What a knob of `made` needs and lacks, itself or a choice that uses it; None where it has an effect."""
    known = declared(type(made))
    used_by = known[name].knob.used_by if name in known else None
    if used_by is None:
        return None
    users = [choice for choice in used_by.choices if used_by.holds(getattr(made, choice))]
    reasons = [lacking(made, choice) for choice in users]
    return None if None in reasons else next(iter(reasons), used_by)


def convert(one: Declared, value: Any) -> Any:
    """A value of JSON or TOML as the type of a field. Raises ExportError."""
    try:
        return msgspec.convert(value, one.type)
    except msgspec.ValidationError:
        raise ExportError(f"'{one.name}' must be {one.expected} (got {value!r})") from None
