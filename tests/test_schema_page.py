"""docs/schema.md has every key of schema files that the reader takes: type, default and an example."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Struct, inspect, structs

from export.data.errors import LogSchemaError
from export.data.log_schema import Label, LogField, LogSchema, Timestamp, parse_log_schema
from tests.pages import Page

SCHEMA = Page("docs/schema.md")

CLASSES: dict[str, type[Struct]] = {
    "log": LogSchema,
    "label": Label,
    "timestamp": Timestamp,
    "field": LogField,
}
HEADS = {"log": "", "label": "[label]", "timestamp": "[timestamp]", "field": "[[field]]"}
# A schema file by its tables.
SECTIONS = {
    "log": {"name": '"log"', "format": '"csv"'},
    "label": {"column": '"y"'},
    "timestamp": {"column": '"t"'},
    "field": {"name": '"x"', "kind": '"sequence"', "role": '"context"'},
}
OTHER = '[[field]]\nname = "ad_id"\nkind = "categorical"\nrole = "candidate"\n'
# What an example needs beside it: other values of its own table, or of another one.
BESIDE: dict[str, dict[str, dict[str, str]]] = {
    "columns": {"log": {"header": "false"}, "label": {"column": '"click"'}, "field": {"column": '"page"'}},
    "header": {"log": {"columns": '["y", "t", "x", "ad_id"]'}},
    "derive": {"field": {"kind": '"categorical"'}},
    "encoding": {"field": {"kind": '"categorical"'}},
    "buckets": {"field": {"encoding": '"hashing"'}},
    "seed": {"field": {"encoding": '"hashing"'}},
    "bins": {"field": {"kind": '"numeric"'}},
}


def rows(table: str) -> list[tuple[str, ...]]:
    """key, type, default, meaning and example of each row of a table."""
    return [tuple(cell.replace("\\|", "|") for cell in row) for row in SCHEMA.rows(f"keys: {table}")]


def every_row() -> Iterator[Any]:
    for table in SECTIONS:
        for row in rows(table):
            yield pytest.param(table, *row, id=f"{table}: {row[0]}")


def schema_file(table: str = "", key: str = "", value: str | None = None) -> str:
    """A schema file with a key of one table, or without it; a `value` may be a table itself."""
    beside = BESIDE.get(key, {})
    text = ""
    for name, required in SECTIONS.items():
        values = required | beside.get(name, {})
        if name == table and value is None:
            values.pop(key, None)
        elif name == table and value is not None:
            values[key] = value
        elif table == "log" and name == key:
            continue  # which `value` is
        if table == "log" and key == "columns" and name == "timestamp":
            continue
        text += "\n".join([HEADS[name], *(f"{one} = {said}" for one, said in values.items()), ""])
    return text if key in ("columns", "field") else text + OTHER


@pytest.mark.parametrize("table", SECTIONS)
def test_the_page_has_the_keys_that_the_reader_takes_and_no_other(table: str) -> None:
    known = [field.encode_name for field in structs.fields(CLASSES[table])]
    documented = [row[0].strip("`") for row in rows(table)]
    assert sorted(documented) == sorted(known)


@pytest.mark.parametrize("table", SECTIONS)
def test_a_known_key_is_refused_for_its_value_and_an_unknown_one_for_its_name(table: str) -> None:
    for key in [*(row[0].strip("`") for row in rows(table)), "nonsense"]:
        with pytest.raises(LogSchemaError) as refusal:
            parse_log_schema(schema_file(table, key, "1979-05-27"))
        is_unknown = re.search("known key|unknown", str(refusal.value)) is not None
        assert is_unknown == (key == "nonsense"), refusal.value


@pytest.mark.parametrize(("table", "key", "type_", "default", "meaning", "example"), list(every_row()))
def test_each_key_has_its_type_its_default_and_an_example_that_is_read(
    table: str, key: str, type_: str, default: str, meaning: str, example: str
) -> None:
    key = key.strip("`")
    (field,) = (one for one in structs.fields(CLASSES[table]) if one.encode_name == key)
    assert type_ == word_of(inspect.type_info(field.type))
    assert meaning
    found = read(table, field.name, schema_file())
    if (literal := re.fullmatch(r"`(.*)`", default)) is not None:
        assert as_toml(found) == literal[1]
    if default == "required":
        with pytest.raises(LogSchemaError, match=f"'{key}' must be"):
            parse_log_schema(schema_file(table, key, None))
    assert example.startswith(f"`{key} = ")
    written = schema_file(table, key, example.strip("`").partition(" = ")[2])
    assert tomllib.loads(written)
    is_other = read(table, field.name, written) != found
    assert is_other or default == "required" or key in ("timestamp", "encoding")


def read(table: str, attribute: str, text: str) -> Any:
    """What a schema file says, or means, by a key."""
    schema = parse_log_schema(text)
    owner = {"log": schema, "label": schema.label, "timestamp": schema.timestamp, "field": schema.fields[0]}
    return getattr(owner[table], attribute)


def as_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{one}"' for one in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def word_of(info: inspect.Type) -> str:
    match info:
        case inspect.UnionType():
            return word_of(next(one for one in info.types if not isinstance(one, inspect.NoneType)))
        case inspect.IntType():
            return "integer"
        case inspect.BoolType():
            return "true or false"
        case inspect.StructType():
            return "table"
        case inspect.VarTupleType(item_type=inspect.StructType()):
            return "list of tables"
        case inspect.VarTupleType():
            return "list of texts"
    return "text"
