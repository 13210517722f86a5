"""JSON in the files of a bundle: indented for people, read back strictly; it knows no format."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from service.bundle.errors import EXPORT_AGAIN, BundleError

T = TypeVar("T")


def encode_json(value: object, indent: int = 2) -> bytes:
    """`value` as indented JSON that ends with a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=indent) + b"\n"


def decode_json(file: str, data: bytes, type: type[T]) -> T:  # noqa: A002
    """`data` as a value of `type`. Raises BundleError with `file` and the place in it."""
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(file, "JSON of the contract's form", str(error), EXPORT_AGAIN) from error
