"""A TOML table -> a typed struct; a mistake is one line with file, table, key, what was expected and found.

msgspec checks the types, this module says them in words. It knows nothing of click logs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from export.data.errors import LogSchemaError

T = TypeVar("T")

_KEY = re.compile(r"(?:field `|\$\.)(?P<key>[^`.\[]+)")


@dataclass(frozen=True)
class TomlTable:
    """A table of a file; `where` is its name in messages, empty for the keys above all tables."""

    file: str
    where: str
    values: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str, file: str, *, example: str) -> TomlTable:
        """The top table of a TOML text. Raises LogSchemaError, which names an example."""
        try:
            return cls(file, "", tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise LogSchemaError(f"{file}: must be TOML ({error}); see {example} for an example") from None

    def fail(self, key: str, expected: str, *found: object) -> NoReturn:
        """Raises LogSchemaError; `found` is the key's value unless another one is given."""
        value = found[0] if found else self.values.get(key)
        where = f"{self.file}: {self.where}: " if self.where else f"{self.file}: "
        got = "nothing" if value is None else repr(value)
        raise LogSchemaError(f"{where}'{key}' must be {expected} (got {got}); correct the schema file")

    def table(self, key: str) -> TomlTable | None:
        """The table [key], or None where there is none; `convert` refuses what is no table."""
        value = self.values.get(key)
        return TomlTable(self.file, f"[{key}]", value) if isinstance(value, dict) else None

    def tables(self, key: str) -> list[TomlTable]:
        """The tables [[key]], named by their `name` or their number."""
        found = self.values.get(key)
        if not isinstance(found, list) or not all(isinstance(values, dict) for values in found):
            return []
        return [
            TomlTable(self.file, f"{key} '{one['name']}'" if "name" in one else f"{key} {number}", one)
            for number, one in enumerate(found, 1)
        ]

    def convert(self, kind: type[T], made: Mapping[str, Any]) -> T:
        """The table as a struct, of its values and of those that are `made` already.

        Raises LogSchemaError for the first key that is wrong, missing or unknown.
        """
        try:
            return msgspec.convert({**self.values, **made}, kind)
        except msgspec.ValidationError as error:
            found = _KEY.search(str(error))
            assert found is not None
            key, info = found["key"], inspect.type_info(kind)
            assert isinstance(info, inspect.StructType)
            known = {field.encode_name: field.type for field in info.fields}
            self.fail(key, _words(known[key], key) if key in known else f"a known key ({', '.join(known)})")


def _words(info: inspect.Type, key: str) -> str:
    """What a value of this type is called in a message."""
    match info:
        case inspect.UnionType():  # of a type and None, which TOML lacks
            return _words(info.types[0], key)
        case inspect.StrType():
            most = f", of at most {info.max_length:,} characters" if info.max_length else ""
            return f"a text, not empty{most}" if info.min_length else "a text"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            most = "" if info.le is None else f" and at most {info.le}"
            return f"an integer of at least {info.ge}{most}"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, info.values))}"
        case inspect.EnumType():
            return f"one of {', '.join(str(one.value) for one in info.cls)}"
        case inspect.VarTupleType(item_type=inspect.StructType()):
            return f"a list of tables [[{key}]]"
        case inspect.VarTupleType():
            return "a list of texts"
    return f"a table [{key}]"
