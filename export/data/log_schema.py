"""The description of a raw click log: where its label, time and fields stand, how each field becomes ids.

A description is a TOML file; those of BUILT_IN, beside this module, are examples. It knows nothing
of the log's content: vocabularies and bins are fitted later, from the training part alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct, structs

from export.data.errors import LogSchemaError
from export.data.time_pattern import fault_of
from export.data.toml_table import TomlTable
from service.bundle.bounds import MAX_CARDINALITY, MAX_COLUMNS, MAX_FIELDS, MAX_NAME_CHARACTERS
from service.bundle.encodings import FIRST_ID
from service.bundle.example_columns import CLICKED, TIME
from service.bundle.schema import Kind, Role
from service.bundle.spelling import DEFAULT_SEPARATOR, Spelling

Format = Literal["tsv", "csv", "parquet"]
LogEncoding = Literal["vocabulary", "hashing", "criteo", "quantile"]
Derive = Literal["hour_of_day", "day_of_week"]
Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1, lt=2**31)]

LOG_FILE: Final = "report/log.json"
"""Where a bundle keeps the description of the log that it was made of."""

BUILT_IN: Final = ("criteo", "avazu", "ipinyou", "twitter")
_SEPARATORS: Final[dict[str, str]] = {"tsv": "\t", "csv": ",", "parquet": ""}
_ENCODINGS: Final[dict[str, tuple[LogEncoding, ...]]] = {
    Kind.CATEGORICAL: ("vocabulary", "hashing"),
    Kind.NUMERIC: ("quantile", "criteo"),
    Kind.SEQUENCE: ("vocabulary", "hashing"),
}


class LogField(Struct, frozen=True, forbid_unknown_fields=True):
    """One field: the column it is read from (or derived from the timestamp) and how its values become ids."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
    kind: Kind
    role: Role
    encoding: LogEncoding | None = None  # by default `vocabulary`; None: a number's, chosen from its values
    column: Text | None = None  # by default `name`; None: derived from the timestamp
    # Training rows a value or a numeric bin needs; a rarer value is out of vocabulary. None: chosen.
    min_count: Count | None = None
    buckets: Annotated[int, Meta(ge=1, le=MAX_CARDINALITY - FIRST_ID)] = 100_000  # hashing
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0  # hashing
    bins: Count = 32  # quantile
    # sequence: ids a row; the last ones are kept
    max_length: Annotated[int, Meta(ge=1, le=MAX_COLUMNS)] = 1
    separator: str = DEFAULT_SEPARATOR  # sequence: between elements of a text cell
    derive: Derive | None = None
    same_values_as: Text | None = None  # the field whose encoding this one has: equal values, equal ids


class Label(Struct, frozen=True, forbid_unknown_fields=True):
    """The label's column and which of its values, as text, mean a click and which do not.

    With `present` any value is a click, and an empty cell is none: such as the time of an event, or nothing.
    """

    column: Text
    click: tuple[str, ...] = ("1",)
    no_click: tuple[str, ...] = ("0",)
    present: bool = False


class Timestamp(Struct, frozen=True, forbid_unknown_fields=True):
    """The time's column and its format: `unix`, `unix_ms`, or a strptime pattern read as UTC."""

    column: Text
    format: str = "unix"


class LogSchema(Struct, frozen=True, forbid_unknown_fields=True):
    """A log as a whole. `columns` names a headerless file's columns in order; otherwise the header does.

    A schema file names a label; `found_in` leaves it out for a file that has none.
    """

    name: Text
    format: Format
    label: Label | None
    separator: str  # by default the format's
    quote: str  # empty: quotes are ordinary characters
    has_header: bool = msgspec.field(default=True, name="header")
    missing: tuple[str, ...] = ()  # texts that mean a missing value, besides the empty cell
    columns: tuple[str, ...] = ()
    timestamp: Timestamp | None = None
    true_pctr: Text | None = (
        None  # the column with the true click probability, where a synthetic log knows it
    )
    fields: tuple[LogField, ...] = msgspec.field(default=(), name="field")

    @property
    def used_columns(self) -> tuple[str, ...]:
        """The columns that are read, each once, in a stable order."""
        names = [self.label.column] if self.label is not None else []
        if self.timestamp is not None:
            names.append(self.timestamp.column)
        if self.true_pctr is not None:
            names.append(self.true_pctr)
        names.extend(field.column for field in self.fields if field.column is not None)
        return tuple(dict.fromkeys(names))

    @property
    def derives(self) -> bool:
        """Whether a field is derived from the time."""
        return any(field.derive is not None for field in self.fields)

    @property
    def is_of_examples(self) -> bool:
        """Whether it is for examples that a service has logged (`of_examples`)."""
        return self.label is not None and self.label.column == CLICKED

    def found_in(self, columns: Sequence[str]) -> LogSchema:
        """This schema for a file with these columns: without a label, a time or a true pCTR that it lacks.

        A time that fields are derived from stays, and is missed where the file is read.
        """
        label, timestamp, true_pctr = self.label, self.timestamp, self.true_pctr
        return structs.replace(
            self,
            label=label if label is not None and label.column in columns else None,
            timestamp=(
                timestamp if timestamp is not None and (self.derives or timestamp.column in columns) else None
            ),
            true_pctr=true_pctr if true_pctr in columns else None,
            columns=tuple(columns) if self.columns else (),
        )

    def for_scores(self) -> LogSchema:
        """This schema without what neither a field nor a score is made of: a malformed one harms no score."""
        return structs.replace(self, timestamp=self.timestamp if self.derives else None, true_pctr=None)

    @property
    def spelling(self) -> Spelling:
        """How the log writes raw values, as far as the bundle keeps it."""
        text = self.format if self.format != "parquet" else None
        return Spelling(
            missing=self.missing,
            separators={field.name: field.separator for field in self.fields if field.kind is Kind.SEQUENCE},
            columns={
                field.name: field.column
                for field in self.fields
                if field.column is not None and field.column != field.name
            },
            format=text,
            delimiter=self.separator if text else None,
            quote=self.quote if text else None,
        )


def load_log_schema(name_or_path: str | Path) -> LogSchema:
    """A name of BUILT_IN, the path of a TOML file, or of a bundle -> a LogSchema. Raises LogSchemaError.

    That of a bundle is for examples of its fields (`of_examples`).
    """
    path = Path(name_or_path)
    if str(name_or_path) in BUILT_IN:
        path = Path(__file__).with_name(f"{name_or_path}.toml")
    if path.is_dir():
        return of_examples(_kept_in(path))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LogSchemaError(
            f"'schema' must be one of {', '.join(BUILT_IN)}, a TOML file or a bundle (got "
            f"{str(name_or_path)!r}); "
            f"{error.strerror or 'it cannot be read'}"
        ) from None
    except UnicodeDecodeError:
        raise LogSchemaError(f"{path.name}: must be UTF-8 text; save it as UTF-8") from None
    return parse_log_schema(text, file=path.name)


def of_examples(schema: LogSchema) -> LogSchema:
    """The same fields as they stand in the examples of a service (python -m service.join_examples).

    A column has the name of its field, and what the service was sent: fields that the log derived from the
    time are columns too, and a null or empty cell alone is missing, as in a request.
    """
    fields = [structs.replace(one, column=one.name, derive=None) for one in schema.fields]
    return LogSchema(
        name=schema.name,
        format="parquet",
        label=Label(CLICKED),
        separator=_SEPARATORS["parquet"],
        quote="",
        timestamp=Timestamp(TIME, "unix_ms"),
        fields=tuple(fields),
    )


def _kept_in(bundle: Path) -> LogSchema:
    """The description of its log that a bundle keeps. Raises LogSchemaError."""
    path = bundle / LOG_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=LogSchema)
    except (OSError, msgspec.DecodeError) as error:
        raise LogSchemaError(
            f"'schema' must be a bundle that says how its log was read, or no folder (got {str(bundle)!r}: "
            f"{LOG_FILE}: {getattr(error, 'strerror', None) or error}); name a TOML file"
        ) from None


def parse_log_schema(text: str, file: str = "schema.toml") -> LogSchema:
    """TOML text -> LogSchema. `file` is the name that errors carry. Raises LogSchemaError."""
    root = TomlTable.parse(text, file, example="criteo.toml")
    format_ = root.values.get("format")
    made: dict[str, Any] = {
        "separator": root.values.get("separator", _SEPARATORS.get(str(format_), "")),
        "quote": root.values.get("quote", '"' if format_ == "csv" else ""),
    }
    if (table := root.table("label")) is not None:
        made["label"] = _label(table)
    if (table := root.table("timestamp")) is not None:
        made["timestamp"] = _timestamp(table)
    if tables := root.tables("field"):
        made["field"] = [_field(one, has_timestamp="timestamp" in root.values) for one in tables]
    schema = root.convert(LogSchema, made)
    _check(schema, root)
    by_name = {one.name: one for one in schema.fields}
    fields = tuple(_with_shared(one, by_name, file) for one in schema.fields)
    return structs.replace(schema, fields=fields)


def _label(table: TomlTable) -> Label:
    label = table.convert(Label, {})
    for key in ("click", "no_click"):
        if label.present and key in table.values:
            table.fail(key, "absent with present = true")
    both = sorted(set(label.click) & set(label.no_click))
    if both or not label.click or not label.no_click:
        table.fail("click", "values that differ from those of 'no_click', at least one of each", both)
    return label


def _timestamp(table: TomlTable) -> Timestamp:
    timestamp = table.convert(Timestamp, {})
    if timestamp.format not in {"unix", "unix_ms"} and (expected := fault_of(timestamp.format)):
        table.fail("format", expected, timestamp.format)
    return timestamp


def _field(table: TomlTable, *, has_timestamp: bool) -> LogField:
    kind = str(table.values.get("kind"))
    encodings = _ENCODINGS.get(kind, get_args(LogEncoding))
    encoding = table.values.get("encoding", _default_encoding(table, kind, encodings))
    if encoding is not None and encoding not in encodings:
        table.fail("encoding", f"one of {', '.join(encodings)}")
    made = {
        "encoding": encoding,
        "column": table.values.get("column", None if "derive" in table.values else table.values.get("name")),
        "max_length": table.values.get("max_length", 20 if kind == Kind.SEQUENCE else 1),
    }
    field = table.convert(LogField, made)
    for key, expected in _misplaced(field, has_timestamp):
        if key in table.values:
            table.fail(key, expected)
    return field


def _default_encoding(table: TomlTable, kind: str, encodings: tuple[LogEncoding, ...]) -> LogEncoding | None:
    """That of a field which names none; None: the values decide between the encodings of numbers."""
    if kind == Kind.NUMERIC:
        return "quantile" if "bins" in table.values else None
    return encodings[0]


def _misplaced(field: LogField, has_timestamp: bool) -> Iterator[tuple[str, str]]:
    """The keys that a field's other keys rule out, with what they must be."""
    encoding = field.encoding or "quantile"
    if field.kind is Kind.NUMERIC:
        yield "same_values_as", "absent in a numeric field"
    if field.same_values_as is not None:
        for key in ("encoding", "min_count", "buckets", "seed"):
            yield key, f"absent, it is that of '{field.same_values_as}'"
    if not has_timestamp:
        yield "derive", "used with a [timestamp] table"
    if field.kind is not Kind.CATEGORICAL or field.role is not Role.CONTEXT:
        yield "derive", "used in a categorical context field"
    if field.derive is not None:
        yield "column", "absent with derive"
    for key in ("min_count",) if field.encoding == "hashing" else ("buckets", "seed"):
        yield key, f'absent with encoding = "{encoding}"'
    if encoding != "quantile":
        yield "bins", f'absent with encoding = "{encoding}"'
    if field.kind is not Kind.SEQUENCE:
        for key in ("max_length", "separator"):
            yield key, f'absent with kind = "{field.kind}"'


def _with_shared(field: LogField, by_name: Mapping[str, LogField], file: str) -> LogField:
    """The field, where it has `same_values_as` with the encoding of the field that it names."""
    if field.same_values_as is None:
        return field
    owner = by_name.get(field.same_values_as)
    if owner is None or owner.same_values_as is not None or owner.kind is Kind.NUMERIC:
        expected = "another field, not numeric, with values of its own"
        TomlTable(file, f"field '{field.name}'", {}).fail("same_values_as", expected, field.same_values_as)
    return structs.replace(
        field, encoding=owner.encoding, min_count=owner.min_count, buckets=owner.buckets, seed=owner.seed
    )


def _check(schema: LogSchema, root: TomlTable) -> None:
    """What several keys decide together."""
    columns = list(schema.columns)
    if schema.format != "parquet":
        if len(schema.separator.encode()) != 1 or schema.separator in "\r\n":
            root.fail("separator", "one ASCII character")
        if schema.quote and (len(schema.quote.encode()) != 1 or schema.quote == schema.separator):
            root.fail("quote", "one ASCII character other than the separator, or empty")
        if schema.has_header == bool(columns):
            expected = "absent, the header names the columns" if schema.has_header else "the columns in order"
            root.fail("columns", expected, columns)
    elif columns:
        root.fail("columns", "absent, a Parquet file names its columns")
    for key, names in (("field", [field.name for field in schema.fields]), ("columns", columns)):
        if twice := sorted(name for name, times in Counter(names).items() if times > 1):
            root.fail(key, "names that occur once", twice[0])
    if not schema.fields:
        root.fail("field", "at least one [[field]] table", None)
    if len(schema.fields) > MAX_FIELDS:
        root.fail("field", f"at most {MAX_FIELDS:,} [[field]] tables", len(schema.fields))
    if (columns_a_row := sum(field.max_length for field in schema.fields)) > MAX_COLUMNS:
        root.fail("field", f"of at most {MAX_COLUMNS:,} ids a row together, by 'max_length'", columns_a_row)
    outcomes = {schema.label.column if schema.label is not None else None, schema.true_pctr} - {None}
    for field in schema.fields:
        if field.column in outcomes:
            root.fail("field", "no column that tells the label or the true pCTR", field.name)
    known = set(columns)
    absent = [name for name in schema.used_columns if columns and name not in known]
    if absent:
        root.fail("columns", f"a list with '{absent[0]}', which is used below", columns)
