"""The description of a raw click log: where its label, time and fields stand, how each field becomes ids.

A description is a TOML file; those of BUILT_IN, beside this module, are examples. It knows nothing
of the log's content: vocabularies and bins are fitted later, from the training part alone.
"""

import datetime as dt
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, get_args

from export.data.errors import LogSchemaError
from export.data.toml_table import TomlTable
from service.bundle.schema import Kind, Role

Format = Literal["tsv", "csv", "parquet"]
LogEncoding = Literal["vocabulary", "hashing", "criteo", "quantile"]
Derive = Literal["hour_of_day", "day_of_week"]

BUILT_IN: Final = ("criteo", "avazu", "ipinyou", "twitter")
_SEPARATORS: Final[dict[str, str]] = {"tsv": "\t", "csv": ",", "parquet": ""}
_ENCODINGS: Final[dict[Kind, tuple[LogEncoding, ...]]] = {
    Kind.CATEGORICAL: ("vocabulary", "hashing"),
    Kind.NUMERIC: ("criteo", "quantile"),
    Kind.SEQUENCE: ("vocabulary", "hashing"),
}


@dataclass(frozen=True)
class LogField:
    """One field: the column it is read from (or derived from the timestamp) and how its values become ids."""

    name: str
    kind: Kind
    role: Role
    encoding: LogEncoding
    column: str | None  # None: derived from the timestamp
    min_count: int = 8  # training rows a value or a numeric bin needs; a rarer value is out of vocabulary
    buckets: int = 100_000  # hashing
    seed: int = 0  # hashing
    bins: int = 32  # quantile
    max_length: int = 1  # sequence: ids a row; the last ones are kept
    separator: str = "|"  # sequence: between elements of a text cell
    derive: Derive | None = None
    same_values_as: str | None = None  # the field whose encoding this one has: equal values, equal ids


@dataclass(frozen=True)
class Label:
    """The label's column and which of its values, as text, mean a click and which do not.

    With `present` any value is a click, and an empty cell is none: such as the time of an event, or nothing.
    """

    column: str
    click: tuple[str, ...] = ("1",)
    no_click: tuple[str, ...] = ("0",)
    present: bool = False


@dataclass(frozen=True)
class Timestamp:
    """The time's column and its format: `unix`, `unix_ms`, or a strptime pattern read as UTC."""

    column: str
    format: str = "unix"


@dataclass(frozen=True)
class LogSchema:
    """A log as a whole. `columns` names a headerless file's columns in order; otherwise the header does."""

    name: str
    format: Format
    has_header: bool
    separator: str
    quote: str  # empty: quotes are ordinary characters
    missing: tuple[str, ...]  # texts that mean a missing value, besides the empty cell
    columns: tuple[str, ...]
    label: Label
    timestamp: Timestamp | None
    true_pctr: str | None  # the column with the true click probability, where a synthetic log knows it
    fields: tuple[LogField, ...]

    @property
    def used_columns(self) -> tuple[str, ...]:
        """The columns that are read, each once, in a stable order."""
        names = [self.label.column]
        if self.timestamp is not None:
            names.append(self.timestamp.column)
        if self.true_pctr is not None:
            names.append(self.true_pctr)
        names.extend(field.column for field in self.fields if field.column is not None)
        return tuple(dict.fromkeys(names))


def load_log_schema(name_or_path: str | Path) -> LogSchema:
    """A name of BUILT_IN or the path of a TOML file -> its LogSchema. Raises LogSchemaError."""
    path = Path(name_or_path)
    if str(name_or_path) in BUILT_IN:
        path = Path(__file__).with_name(f"{name_or_path}.toml")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LogSchemaError(
            f"'schema' must be one of {', '.join(BUILT_IN)} or a TOML file (got {str(name_or_path)!r}); "
            f"{error.strerror or 'it cannot be read'}"
        ) from None
    except UnicodeDecodeError:
        raise LogSchemaError(f"{path.name}: must be UTF-8 text; save it as UTF-8") from None
    return parse_log_schema(text, file=path.name)


def parse_log_schema(text: str, file: str = "schema.toml") -> LogSchema:
    """TOML text -> LogSchema. `file` is the name that errors carry. Raises LogSchemaError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LogSchemaError(f"{file}: must be TOML ({error}); see criteo.toml for an example") from None
    table = TomlTable(file, "", document)
    format_ = table.choice("format", get_args(Format))
    label = table.table("label")
    timestamp = table.table_or_none("timestamp")
    schema = LogSchema(
        name=table.text("name"),
        format=format_,
        has_header=table.flag("header", True),
        separator=table.text("separator", _SEPARATORS[format_]),
        quote=table.text("quote", '"' if format_ == "csv" else ""),
        missing=table.texts("missing", ()),
        columns=table.texts("columns", ()),
        label=_label(label),
        timestamp=None if timestamp is None else _timestamp(timestamp),
        true_pctr=table.text("true_pctr", "") or None,
        fields=_with_shared(
            tuple(_field(entry, timestamp is not None) for entry in table.tables("field")), file
        ),
    )
    table.finish()
    _check(schema, file)
    return schema


def _label(table: TomlTable) -> Label:
    column, present = table.text("column"), table.flag("present", False)
    for key in ("click", "no_click"):
        if present and key in table.values:
            table.fail(key, "absent with present = true", table.values[key])
    label = Label(column, table.texts("click", ("1",)), table.texts("no_click", ("0",)), present)
    table.finish()
    both = sorted(set(label.click) & set(label.no_click))
    if both or not label.click or not label.no_click:
        table.fail("click", "values that differ from those of 'no_click', at least one of each", both)
    return label


def _timestamp(table: TomlTable) -> Timestamp:
    timestamp = Timestamp(table.text("column"), table.text("format", "unix"))
    table.finish()
    if timestamp.format not in {"unix", "unix_ms"}:
        moment = dt.datetime(2014, 10, 21, 13, tzinfo=dt.UTC)
        try:
            dt.datetime.strptime(moment.strftime(timestamp.format), timestamp.format)
        except ValueError:
            table.fail(
                "format", "'unix', 'unix_ms' or a strptime pattern such as '%y%m%d%H'", timestamp.format
            )
        if "%" not in timestamp.format:
            table.fail(
                "format", "'unix', 'unix_ms' or a strptime pattern such as '%y%m%d%H'", timestamp.format
            )
    return timestamp


def _field(table: TomlTable, has_timestamp: bool) -> LogField:
    name = table.text("name")
    table.where = f"field '{name}'"
    kind = Kind(table.choice("kind", tuple(str(kind) for kind in Kind)))
    role = Role(table.choice("role", tuple(str(role) for role in Role)))
    same_values_as = table.text("same_values_as", "") or None
    if same_values_as and kind is Kind.NUMERIC:
        table.fail("same_values_as", "absent in a numeric field", same_values_as)
    for key in ("encoding", "min_count", "buckets", "seed"):
        if same_values_as and key in table.values:
            table.fail(key, f"absent, it is that of '{same_values_as}'", table.values[key])
    encoding = table.choice("encoding", _ENCODINGS[kind], _ENCODINGS[kind][0])
    derive = table.choice("derive", get_args(Derive), "") or None
    column = None if derive else table.text("column", name)
    if derive and not has_timestamp:
        table.fail("derive", "used with a [timestamp] table", derive)
    if derive and (kind is not Kind.CATEGORICAL or role is not Role.CONTEXT):
        table.fail("derive", "used in a categorical context field", f"{kind} {role}")
    is_sequence = kind is Kind.SEQUENCE
    field = LogField(
        name=name,
        kind=kind,
        role=role,
        encoding=encoding,
        column=column,
        min_count=table.number("min_count", 8, encoding != "hashing", 'encoding = "hashing"'),
        buckets=table.number("buckets", 100_000, encoding == "hashing", f'encoding = "{encoding}"'),
        seed=table.number("seed", 0, encoding == "hashing", f'encoding = "{encoding}"', least=0),
        bins=table.number("bins", 32, encoding == "quantile", f'encoding = "{encoding}"'),
        max_length=table.number("max_length", 20 if is_sequence else 1, is_sequence, f'kind = "{kind}"'),
        separator=table.text("separator", "|") if is_sequence else "|",
        derive=derive,
        same_values_as=same_values_as,
    )
    table.finish()
    return field


def _with_shared(fields: tuple[LogField, ...], file: str) -> tuple[LogField, ...]:
    """Gives every field with `same_values_as` the encoding of the field it names."""
    by_name = {field.name: field for field in fields}
    found = []
    for field in fields:
        if field.same_values_as is not None:
            owner = by_name.get(field.same_values_as)
            if owner is None or owner.same_values_as is not None or owner.kind is Kind.NUMERIC:
                expected = "another field, not numeric, with values of its own"
                TomlTable(file, f"field '{field.name}'", {}).fail(
                    "same_values_as", expected, field.same_values_as
                )
            field = replace(
                field,
                encoding=owner.encoding,
                min_count=owner.min_count,
                buckets=owner.buckets,
                seed=owner.seed,
            )
        found.append(field)
    return tuple(found)


def _check(schema: LogSchema, file: str) -> None:
    """What several keys decide together."""
    root = TomlTable(file, "", {})
    if schema.format != "parquet":
        if len(schema.separator.encode()) != 1 or schema.separator in "\r\n":
            root.fail("separator", "one ASCII character", schema.separator)
        if schema.quote and (len(schema.quote.encode()) != 1 or schema.quote == schema.separator):
            root.fail("quote", "one ASCII character other than the separator, or empty", schema.quote)
        if schema.has_header == bool(schema.columns):
            expected = "absent, the header names the columns" if schema.has_header else "the columns in order"
            root.fail("columns", expected, list(schema.columns))
    elif schema.columns:
        root.fail("columns", "absent, a Parquet file names its columns", list(schema.columns))
    for key, names in (("field", [field.name for field in schema.fields]), ("columns", list(schema.columns))):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            root.fail(key, "names that occur once", twice[0])
    if not schema.fields:
        root.fail("field", "at least one [[field]] table", None)
    outcomes = {schema.label.column, schema.true_pctr} - {None}
    for field in schema.fields:
        if field.column in outcomes:
            root.fail("field", "no column that tells the label or the true pCTR", field.name)
    absent = [name for name in schema.used_columns if schema.columns and name not in schema.columns]
    if absent:
        root.fail("columns", f"a list with '{absent[0]}', which is used below", list(schema.columns))
