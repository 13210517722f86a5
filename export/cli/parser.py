"""What the command line is made of: argparse, with errors of one line and a help that shows each default."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from export.knobs import UsedBy

WIDTH = 100


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the way to the help on it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of descriptions, and lines wide enough for an option and its default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=WIDTH)


@dataclass(frozen=True)
class Option:
    """One option: its words, and what it is where it is not given.

    kind       text -> value, or the names it may be
    used_by    what has to be chosen for it to have an effect
    otherwise  what the help says in brackets; by default the default
    """

    flag: str
    about: str
    kind: Callable[[str], Any] | tuple[str, ...] = str
    default: Any = None
    metavar: str | None = None
    required: bool = False
    repeated: bool = False  # may be given several times: a list
    several: bool = False  # takes one value or more: a list
    switch: bool = False  # has no value: it is given or not
    otherwise: str | None = None
    used_by: UsedBy | None = None

    @property
    def name(self) -> str:
        """Its attribute among the parsed options."""
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def help(self) -> str:
        otherwise = (
            str(self.default) if self.otherwise is None and self.default is not None else self.otherwise
        )
        return self.about if otherwise is None else f"{self.about} [{otherwise}]"

    def add_to(self, group: Any) -> None:
        if self.switch:
            group.add_argument(self.flag, help=self.help, action="store_true")
            return
        choice = {"choices": self.kind} if isinstance(self.kind, tuple) else {"type": self.kind}
        # Without dashes it is a word that stands alone.
        place: dict[str, Any] = (
            {"required": self.required, "nargs": "+" if self.several else None}
            if self.flag.startswith("-")
            else {"nargs": None if self.required else "?"}
        )
        group.add_argument(
            self.flag,
            help=self.help.replace("%", "%%"),
            default=self.default,
            metavar=self.metavar,
            action="append" if self.repeated else "store",
            **choice,
            **place,
        )
