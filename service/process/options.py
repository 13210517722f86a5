"""The command line: an option for every setting, with the errors of both in one line; it starts nothing."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from service.errors import BadConfiguration
from service.settings import ENV_PREFIX, Settings

# The option has the name of the setting, except for settings given by repeating an option.
_REPEATED = {"arms": "--arm", "shadows": "--shadow"}
_METAVARS = {"arms": "NAME=FOLDER[:WEIGHT]", "shadows": "NAME=ARM:SHARE"}


def read_settings(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> Settings:
    """The settings of the command line and the environment; exits with status 2 if they are invalid."""
    settings = settings_of(parser, vars(parser.parse_args(arguments)))
    if not settings.arms:
        parser.error("'--arm' must name a bundle (got none); for example control=artifacts/demo")
    return settings


def settings_of(parser: argparse.ArgumentParser, given: dict[str, Any]) -> Settings:
    """These settings, and else those of the environment; exits with status 2 if they are invalid."""
    try:
        return Settings(**given)
    except ValidationError as error:
        parser.error("; ".join(_one_line(detail) for detail in error.errors()))
    except BadConfiguration as error:
        parser.error(str(error))


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Variables with the prefix of a setting and the name of none, such as a mistyped bid cap."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in environment if name.startswith(ENV_PREFIX) and name not in known)


def build_parser() -> argparse.ArgumentParser:
    """A parser with an option for every setting; the result holds only the options given."""
    parser = PlainParser(
        prog="python -m service",
        description="Serve bundles: POST /predict returns the click probability and bid of each candidate.",
        epilog="Example: python -m service --arm control=artifacts/A:90 --arm treatment=artifacts/B:10",
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
    )
    for name, field in Settings.model_fields.items():
        option: dict[str, Any] = {"dest": name, "help": _help(name, field)}
        if get_origin(field.annotation) is Literal:
            option["choices"] = get_args(field.annotation)
        elif name in _REPEATED:
            option.update(action="append", metavar=_METAVARS[name])
        else:
            option["metavar"] = "TEXT" if field.annotation is str else "N"
        parser.add_argument(_option(name), **option)
    return parser


class PlainParser(argparse.ArgumentParser):
    """Reports an error in one line; --help shows the usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def _option(name: str) -> str:
    return _REPEATED.get(name, "--" + name.replace("_", "-"))


def _help(name: str, field: FieldInfo) -> str:
    default = "" if field.default in ((), "", None) else f"default {field.default}; "
    separator = ", separated by commas" if name in _REPEATED else ""
    return f"{field.description} [{default}{ENV_PREFIX}{name.upper()}{separator}]".replace("%", "%%")


def _one_line(detail: ErrorDetails) -> str:
    """One invalid setting, named by its option."""
    reason = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return reason
    name = str(detail["loc"][0])
    reason = reason.replace("Input should be", "must be")
    return f"'{_option(name)}' {reason} (got {detail['input']!r}); also read from {ENV_PREFIX}{name.upper()}"
