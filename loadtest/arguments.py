"""What command lines that measure share: numbers, paths, and errors of one line. It measures nothing.

Whatever is wrong with what a person gave ends a command with status 2 and one line: a wrong number or name
where it is parsed, a path that is not there after that, and what is found in a file later by `ended`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

WRONG_ARGUMENTS = 2


@dataclass(frozen=True)
class PathTo:
    """The type of an argument: a path, and what has to be there once all is parsed."""

    expected: str
    holds: Callable[[Path], bool]
    remedy: str = "name another"

    def __call__(self, text: str) -> Path:
        return Path(text)

    def check(self, name: str, path: Path) -> None:
        """Raises ArgumentTypeError for what is not there, or is something else."""
        if not self.holds(path):
            found = "" if path.exists() else ", which is not there"
            raise argparse.ArgumentTypeError(
                f"'{name}' must be {self.expected} (got '{path}'{found}); {self.remedy}"
            )


def _is_checkout(path: Path) -> bool:
    return (path / "service" / "__init__.py").is_file()


def _can_be_folder(path: Path) -> bool:
    return path.is_dir() or not any(above.exists() and not above.is_dir() for above in (path, *path.parents))


def _can_be_file(path: Path) -> bool:
    return not path.is_dir() and _can_be_folder(path.parent)


a_file = PathTo("a file", Path.is_file)
a_folder = PathTo("a folder", Path.is_dir)
a_log = PathTo("a log", Path.exists)
a_bundle = PathTo("a bundle", lambda path: (path / "manifest.json").is_file(), "`make demo` writes one")
a_checkout = PathTo("a checkout of Bidlight", _is_checkout)
a_file_to_write = PathTo("a file that can be written", _can_be_file)
a_folder_to_write = PathTo("a folder, or the name of a new one", _can_be_folder)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and looks for the paths that were given."""

    only_tells = ""
    """The option with which the command tells something and uses no path, by its name in the namespace."""

    def error(self, message: str) -> NoReturn:
        """What is wrong; exit status 2."""
        self.exit(
            WRONG_ARGUMENTS,
            f"{self.prog}: error: {' '.join(message.split())}; see {self.prog} --help\n",
        )

    def parse_args(self, *given: Any) -> argparse.Namespace:  # type: ignore[override]
        """As ever, and then every path has to be what its type says; defaults too."""
        options: argparse.Namespace = super().parse_args(*given)
        if self.only_tells and getattr(options, self.only_tells):
            return options
        for action in self._actions:
            if isinstance(action.type, PathTo):
                value = getattr(options, action.dest)
                self._check(action.type, "/".join(action.option_strings) or action.dest, value)
        return options

    def _check(self, kind: PathTo, name: str, value: Path | Sequence[Path] | None) -> None:
        paths = [] if value is None else [value] if isinstance(value, Path) else value
        try:
            for path in paths:
                kind.check(name, path)
        except argparse.ArgumentTypeError as error:
            self.error(str(error))


def ended(
    main: Callable[[Sequence[str] | None], int | None],
    arguments: Sequence[str] | None = None,
    *,
    correctable: tuple[type[Exception], ...] = (),
) -> int:
    """The exit status of a command: that of `main`, or 2 with one line for what a person can correct.

    That is an error of these kinds, or a file or folder that cannot be used.
    """
    try:
        return main(arguments) or 0
    except correctable as error:
        return failed(_program(main), error, WRONG_ARGUMENTS)
    except OSError as error:
        if error.filename is None:
            raise
        return failed(_program(main), f"'{error.filename}': {error.strerror or error}", WRONG_ARGUMENTS)


def _program(main: Callable[..., object]) -> str:
    name = main.__module__
    if name == "__main__" and (spec := sys.modules[name].__spec__) is not None:
        name = spec.name
    return f"python -m {name.removesuffix('.__main__')}"


def failed(program: str, message: object, status: int = 1) -> int:
    """Print why a program ends, in one line; the exit status."""
    print(f"{program}: error: {' '.join(str(message).split())}", file=sys.stderr)
    return status


def whole(least: int) -> Callable[[str], int]:
    """The type of an argument: a whole number, `least` or more."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} (got {text!r})")
        return int(text)

    return read


at_least_one = whole(1)


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 in one argument, with spaces or commas between. Raises ArgumentTypeError."""
    found = tuple(at_least_one(part) for part in text.replace(",", " ").split())
    if not found:
        raise argparse.ArgumentTypeError(f"must be whole numbers from 1 (got {text!r}); for example '1 100'")
    return found


def positive(text: str) -> float:
    """The type of an argument: a finite number above 0. Raises ArgumentTypeError."""
    value = number(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0 (got {text!r})")
    return value


def positive_or_endless(text: str) -> float:
    """The type of an argument: a number above 0, or `inf`. Raises ArgumentTypeError."""
    return math.inf if text == "inf" else positive(text)


def number(text: str) -> float:
    """The type of an argument: any number. Raises ArgumentTypeError."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number (got {text!r})") from None
