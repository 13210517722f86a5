"""A TOML table read key by key, so that a wrong or an unknown key is one line that names it.

It knows nothing of click logs.
"""

from typing import Any, NoReturn

from export.data.errors import LogSchemaError


class TomlTable:
    """A TOML table that is emptied key by key; what is left over at the end is an unknown key."""

    def __init__(self, file: str, where: str, values: dict[str, Any]) -> None:
        self.file = file
        self.where = where
        self.values = dict(values)
        self.known: list[str] = []

    def fail(self, key: str, expected: str, found: object) -> NoReturn:
        where = f"{self.file}: {self.where}: " if self.where else f"{self.file}: "
        got = "nothing" if found is None else repr(found)
        raise LogSchemaError(f"{where}'{key}' must be {expected} (got {got}); correct the schema file")

    def take(self, key: str) -> Any:
        self.known.append(key)
        return self.values.pop(key, None)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.take(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (not value and default is None):
            self.fail(key, "a text", value)
        return str(value)

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(key, "a list of texts", value)
        return tuple(value)

    def choice(self, key: str, choices: tuple[Any, ...], default: str | None = None) -> Any:
        value = self.take(key)
        if value is None and default is not None:
            return default
        if value not in choices:
            self.fail(key, f"one of {', '.join(choices)}", value)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(key, "true or false", value)
        return bool(value)

    def number(self, key: str, default: int, applies: bool, otherwise: str, least: int = 1) -> int:
        value = self.take(key)
        if value is None:
            return default
        if not applies:
            self.fail(key, f"absent with {otherwise}", value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
            self.fail(key, f"an integer of at least {least}", value)
        return int(value)

    def table(self, key: str) -> "TomlTable":
        table = self.table_or_none(key)
        if table is None:
            self.fail(key, f"a table [{key}]", None)
        return table

    def table_or_none(self, key: str) -> "TomlTable | None":
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(key, f"a table [{key}]", value)
        return TomlTable(self.file, f"[{key}]", value)

    def tables(self, key: str) -> "list[TomlTable]":
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fail(key, f"a list of tables [[{key}]]", value)
        return [TomlTable(self.file, f"field {number}", item) for number, item in enumerate(value, 1)]

    def finish(self) -> None:
        if self.values:
            unknown = min(self.values)
            self.fail(unknown, f"a known key ({', '.join(self.known)})", self.values[unknown])
