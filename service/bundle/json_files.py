"""JSON in the files of a bundle: indented for people, read back strictly; it knows no format."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from service.bundle.errors import EXPORT_AGAIN, BundleError, show

T = TypeVar("T")
_STEP = re.compile(r"\.([^.\[]+)|\[([0-9]+)\]")


def encode_json(value: object, indent: int = 2) -> bytes:
    """`value` as indented JSON that ends with a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent) + b"\n"


def decode_json(file: str, data: bytes, type: type[T]) -> T:  # noqa: A002
    """`data` as a value of `type`. Raises BundleError with `file`, the place in it and what is there."""
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.ValidationError as error:
        found = f"{error}{_value_at(str(error), data)}"
        raise BundleError(file, "JSON of the contract's form", found, EXPORT_AGAIN) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(file, "JSON of the contract's form", str(error), EXPORT_AGAIN) from error


def _value_at(message: str, data: bytes) -> str:
    """The value that a message of msgspec names by its path; empty where the path leaves a key open."""
    path = re.search(r"at `\$(\S*)`$", message)
    if path is None or "..." in path[1]:
        return ""
    try:
        value: Any = msgspec.json.decode(data)
        for name, index in _STEP.findall(path[1]):
            value = value[name] if name else value[int(index)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return ""  # the message tells what is missing
    return f", and not {show(value)}"
