"""A CSV or Parquet file -> rows of raw values, streamed; it knows no store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from service.bundle.cell_types import CellType, expected_cells
from service.bundle.delimited import RecordParser, UnreadableText, header_of, parsed_blocks
from service.bundle.errors import show
from service.bundle.schema import Kind
from service.bundle.spelling import TextFormat
from service.features.shape import CellProblem, ColumnProblem, Shape

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

PARQUET_ROWS = 4096
BLOCK_BYTES = 1 << 20
SHOWN_BYTES = 40
_FORMATS: dict[str, TextFormat] = {".csv": "csv", ".tsv": "tsv"}


class FileProblem(Exception):
    """The file cannot be loaded; the message is one line and says where the problem is."""


class Row(NamedTuple):
    """The line of a text file, or the row of a Parquet file; the cell of the key as it stands; the values.

    Values are by field, or by column where that is none: text, numbers, lists; None is missing.
    """

    place: int
    key: Any
    values: dict[str, Any]


def columns_of(path: Path, shape: Shape) -> tuple[str, ...]:
    """The names of all columns, of which those that `shape` keeps can be read. Raises FileProblem."""
    if path.suffix == ".parquet":
        return _parquet_columns(path, shape)
    try:
        names = header_of(path, shape.dialect(_text_format(path)))
    except UnreadableText as error:
        raise FileProblem(str(error)) from None
    except OSError as error:
        raise FileProblem(f"{path}: {error}") from None
    # A bundle's schema has fields of users and of ads, so not all of them are in one file.
    absent = (shape.numbers | shape.lists) - set(names) if shape.kept is None else set()
    if absent:
        raise FileProblem(f"{path.name}, line 1: must have column {min(absent)!r}, which an option names")
    _check_names(f"{path.name}, line 1", names, shape)
    return names


def rows_of(path: Path, shape: Shape, key: str | None = None) -> Iterator[Row]:
    """The rows, `key` being the column of ids. Raises FileProblem."""
    names = columns_of(path, shape)
    if key is not None and key not in names:
        raise FileProblem(f"'--key' must be a column (got {key!r}); {path.name} has {', '.join(names)}")
    read = _parquet_rows if path.suffix == ".parquet" else _text_rows
    return read(path, names, shape, key)


def unit_of(path: Path) -> str:
    """What `Row.place` counts."""
    return "row" if path.suffix == ".parquet" else "line"


def _text_format(path: Path) -> TextFormat:
    found = _FORMATS.get(Path(path.name.removesuffix(".gz")).suffix)
    if found is None:
        raise FileProblem(
            f"'file' must end in .csv, .tsv, .csv.gz, .tsv.gz or .parquet (got {path.name!r}); rename it"
        )
    return found


def _check_names(where: str, names: Sequence[str], shape: Shape) -> None:
    for name in names:
        if names.count(name) > 1:
            raise FileProblem(f"{where}: column {name!r} must occur once; rename one")
    try:
        shape.check_columns(names)
    except ColumnProblem as error:
        raise FileProblem(f"{where}: {error}") from None


def _text_rows(path: Path, names: Sequence[str], shape: Shape, key: str | None) -> Iterator[Row]:
    def reject(line: int, column: str | None, expected: str, found: object) -> NoReturn:
        what = "the row" if column is None else f"column {column!r}"
        shown = found if column is None and expected.endswith("wide") else _shown(found)
        raise FileProblem(f"{path.name}, line {line}: {what} must be {expected} (got {shown}); correct it")

    parser = RecordParser(names, shape.dialect(_text_format(path)), reject)
    kept = [
        (place, name)
        for place, column in enumerate(names)
        if shape.keeps(column)
        for name in shape.fields_of(column)
    ]
    of_key = None if key is None else names.index(key)
    line = 1
    try:
        for records, lines in parsed_blocks(path, BLOCK_BYTES, parser.parse, skip_header=True):
            for cells, line in zip(records, lines, strict=True):
                if cells == [""]:  # an empty line of a file with one column
                    continue
                values = {name: shape.of_text(name, cells[place]) for place, name in kept}
                yield Row(line, None if of_key is None else cells[of_key], values)
    except CellProblem as error:
        raise FileProblem(f"{path.name}, line {line}: {error}") from None
    except UnreadableText as error:
        raise FileProblem(str(error)) from None
    except OSError as error:
        raise FileProblem(f"{path}: {error}") from None


def _shown(found: object) -> str:
    """`found` as a short text; bytes are those of a text file, of which the first tell the place."""
    return repr(found[:SHOWN_BYTES]) if isinstance(found, bytes) else show(found)


def _parquet_columns(path: Path, shape: Shape) -> tuple[str, ...]:
    with _parquet_file(path) as file:
        schema = file.schema_arrow
    _check_names(path.name, schema.names, shape)
    for column in schema.names:
        for name in shape.fields_of(column) if shape.keeps(column) else ():
            _check_type(path, column, schema.field(column).type, shape.kinds.get(name))
    return tuple(schema.names)


def _parquet_rows(path: Path, names: Sequence[str], shape: Shape, key: str | None) -> Iterator[Row]:
    kept = [name for name in names if shape.keeps(name)]
    place = 0
    with _parquet_file(path) as file:
        for batch in file.iter_batches(PARQUET_ROWS, columns=kept):
            columns = {name: _cells(path, name, batch.column(name), place) for name in kept}
            keys = columns[key] if key is not None else [None] * len(batch)
            typed = {
                name: _typed(path, name, cells, shape, place)
                for column, cells in columns.items()
                for name in shape.fields_of(column)
            }
            for of_key, *cells in zip(keys, *typed.values(), strict=True):
                place += 1
                yield Row(place, of_key, dict(zip(typed, cells, strict=True)))


def _cells(path: Path, column: str, array: Any, rows_before: int) -> list[Any]:
    """The cells of a column after `rows_before` rows; a writer of Parquet need not have checked its text."""
    try:
        cells: list[Any] = array.to_pylist()
        return cells
    except UnicodeDecodeError:
        for row, cell in enumerate(array, rows_before + 1):
            try:
                cell.as_py()
            except UnicodeDecodeError as error:
                found = _shown(error.object[error.start : error.end])
                raise FileProblem(
                    f"{path.name}, row {row}: column {column!r} must be valid UTF-8 (got {found}); correct it"
                ) from None
        raise


def _typed(path: Path, name: str, cells: list[Any], shape: Shape, rows_before: int) -> list[Any]:
    """Cells of a column after `rows_before` rows, as raw values."""
    found = []
    for row, cell in enumerate(cells, rows_before + 1):
        try:
            found.append(shape.of_typed(name, cell))
        except CellProblem as error:
            raise FileProblem(f"{path.name}, row {row}: {error}") from None
    return found


@contextmanager
def _parquet_file(path: Path) -> Iterator[ParquetFile]:
    """The open file; what pyarrow raises while it is open becomes FileProblem."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise FileProblem(
            "'pyarrow' must be installed to read Parquet; pip install 'bidlight[parquet]', or use CSV"
        ) from None
    try:
        with ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise FileProblem(f"{path}: {' '.join(str(error).split())}") from None


def _check_type(path: Path, column: str, found: Any, kind: Kind | None) -> None:
    """Raises FileProblem for a column of a type that a field of `kind`, or no field, can have."""
    import pyarrow as pa

    in_lists = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
    cells = _cell_type(found.value_type if in_lists else found, pa.types)
    if kind is not None:
        expected = expected_cells(kind, cells, in_lists=in_lists)
        if expected:
            raise FileProblem(
                f"{path.name}: column {column!r} must be {expected} for a {kind} field (got {found}); cast it"
            )
    elif cells is CellType.OTHER:
        raise FileProblem(
            f"{path.name}: column {column!r} must be of text, numbers or lists of them (got {found}); cast it"
        )


def _cell_type(found: Any, types: Any) -> CellType:
    """The type of cells from pyarrow's."""
    if types.is_dictionary(found):
        found = found.value_type
    if types.is_null(found):
        return CellType.EMPTY
    if types.is_string(found) or types.is_large_string(found) or types.is_string_view(found):
        return CellType.TEXT
    if types.is_integer(found):
        return CellType.INTEGER
    return CellType.NUMBER if types.is_floating(found) or types.is_decimal(found) else CellType.OTHER
